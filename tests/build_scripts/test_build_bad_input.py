"""Damaged or incomplete inputs of quantize, compile and ship: a reason on stderr, exit status 2, nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import tiny_config, write_checkpoint

from build_scripts import ship
from build_scripts.openvino import compile as compile_script
from build_scripts.openvino import quantize as quantize_script
from build_scripts.openvino.quantized import QuantizedGraph
from engines.manifest import NAME, read_manifest, write_manifest

Damage = Callable[[Path], object]
SHARD = "model-00002-of-00003.safetensors"
CONFIG = "config.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `checkpoint` in three shards, its text graph `quantized`, and a `bundle`."""
    folder = tmp_path_factory.mktemp("good")
    source = write_checkpoint(folder / "checkpoint", tiny_config(), shards=3)
    write_manifest(source, kind="checkpoint", inputs={}, vision="untrained")
    quantized = quantize_script.quantize(source, folder / "quantized", quantize_script.PROFILES["int8-dynamic"])
    compile_script.compile_bundle(source, folder / "bundle", quantized=quantized, precision="f32")
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "folder")


def refused(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, main: Callable[[list[str]], int], *own: str
) -> str:
    """The reason, said for a new folder and for an older result alike, which is left as it was."""
    before = content(folder)
    source, reasons = str(folder / "checkpoint"), set()
    for out in ("new", "quantized" if command == "quantize" else "bundle"):
        capsys.readouterr()
        assert main(["--checkpoint", source, "--out", str(folder / out), "--force", *own]) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert content(folder) == before
        reasons.add(said.splitlines()[-1])
    (reason,) = reasons
    assert reason.startswith(f"{command}: ")
    return reason


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(name: str) -> Damage:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 2)


def change(name: str) -> Damage:
    """The last byte."""

    def changed(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    return changed


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def rename_tensor(old: str, new: str) -> Damage:
    """Of the same length, in whichever shard it is."""

    def renamed(folder: Path) -> None:
        for path in folder.glob("*.safetensors"):
            path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))

    return renamed


def without(*keys: str) -> Damage:
    """A manifest that lacks what lies under these keys."""

    def taken(folder: Path) -> None:
        manifest = json.loads((folder / NAME).read_text())
        holder = manifest
        for key in keys[:-1]:
            holder = holder[key]
        del holder[keys[-1]]
        (folder / NAME).write_text(json.dumps(manifest))

    return taken


def declared(damage: Damage) -> Damage:
    """As if it had been so from the start: with a manifest of what is there."""

    def damaged(folder: Path) -> None:
        manifest = read_manifest(folder)
        damage(folder)
        extra = {name: manifest[name] for name in ("engine", "vision") if name in manifest}
        write_manifest(folder, kind=manifest["kind"], inputs=manifest["inputs"], **extra)

    return damaged


CHECKPOINT: list[tuple[Damage, str]] = [
    (cut(SHARD), f"{SHARD} is not the file that was built"),
    (change(SHARD), f"{SHARD} is not the file that was built"),
    (remove(SHARD), f"{SHARD} is missing"),
    (write("stray.json", "{}"), "stray.json is not in the manifest"),
    (change(CONFIG), f"{CONFIG} is not the file that was built"),
    (remove(NAME), f"no readable {NAME}"),
    (write(NAME, '{"format": 1,'), f"no readable {NAME}"),
    (write(NAME, "[]"), "has format None"),
    (without("revision"), "has no 'revision'"),
    (without("files"), "has no 'files'"),
    (without("files", SHARD), f"{SHARD} is not in the manifest"),
    (declared(cut(SHARD)), f"{SHARD} is truncated"),
    (declared(write(SHARD, "")), f"{SHARD} can't be read as safetensors"),
    (declared(write(CONFIG, "{")), f"no readable {CONFIG}"),
    (declared(remove(CONFIG)), f"no readable {CONFIG}"),
    (declared(write(CONFIG, "{}")), "describes no Gemma 3 text model"),
    (declared(rename_tensor("model.norm.weight", "model.norn.weight")), "no tensor language_model.model.norm.weight"),
]
COMMANDS = {"quantize": quantize_script.main, "compile": compile_script.main, "ship": ship.main}


@pytest.mark.parametrize(("damage", "reason"), CHECKPOINT)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_checkpoint_is_refused_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, damage: Damage, reason: str
) -> None:
    damage(folder / "checkpoint")
    own = {"quantize": ["--profile", "int8-dynamic"], "compile": [], "ship": ["--forms", str(folder / "forms")]}
    assert reason in refused(folder, capsys, command, COMMANDS[command], *own[command])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (declared(remove("tokenizer.json")), "has no tokenizer.json"),
        (declared(write("tokenizer.json", "{")), "tokenizer"),
        (declared(remove("preprocessor_config.json")), "has no readable preprocessor_config.json"),
        (declared(rename_tensor("vision_model.post_layernorm.bias", "vision_model.post_layernorn.bias")), "no tensor"),
    ],
)
def test_what_only_a_bundle_needs_is_missed_by_compile(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Damage, reason: str
) -> None:
    damage(folder / "checkpoint")
    assert reason in refused(folder, capsys, "compile", compile_script.main, "--precision", "f32")


def set_input(name: str, value: Any) -> Damage:
    def changed(folder: Path) -> None:
        manifest = read_manifest(folder)
        inputs = manifest["inputs"] | {name: value}
        write_manifest(folder, kind=manifest["kind"], inputs=inputs, engine=manifest["engine"])

    return changed


SAID = ("target", "checkpoint_revision", "profile", "calibration", "openvino", "source_sha256")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut("graph.bin"), "graph.bin is not the file that was built"),
        (change("graph.bin"), "graph.bin is not the file that was built"),
        (change("graph.xml"), "graph.xml is not the file that was built"),
        (remove("graph.bin"), "graph.bin is missing"),
        (write("stray.bin", ""), "stray.bin is not in the manifest"),
        (remove(NAME), f"no readable {NAME}"),
        (without("inputs"), "has no 'inputs'"),
        *((without("inputs", name), "does not say how it was made") for name in SAID),
        (without("inputs", "profile", "arithmetic"), "does not say how it was made"),
        (without("engine"), "does not say how it was made"),
        (set_input("profile", "int8"), "does not say how it was made"),
        (set_input("target", "tensorrt-llm"), "was quantized for tensorrt-llm"),
        (set_input("openvino", "2024.0.0"), "was quantized by OpenVINO 2024.0.0, this is "),
        (set_input("source_sha256", {}), "was quantized by other code than this release's: quantize again"),
        (set_input("checkpoint_revision", "0" * 64), "was quantized from another checkpoint: quantize this one again"),
    ],
)
def test_a_damaged_or_older_quantized_graph_is_refused_with_the_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Damage, reason: str
) -> None:
    damage(folder / "quantized")
    source, quantized = folder / "checkpoint", folder / "quantized"
    said = refused(folder, capsys, "compile", compile_script.main, "--quantized", str(quantized))
    assert reason in said
    remedy = ["--force"] if said.endswith("quantize again with --force") else []
    again = ["--checkpoint", str(source), "--profile", "int8-dynamic", "--out", str(quantized), *remedy]
    assert quantize_script.main(again) == 0
    QuantizedGraph.open(quantized, checkpoint_revision=read_manifest(source)["revision"])


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_a_folder_of_another_kind_is_no_quantized_graph(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    quantized = str(folder / kind)
    reason = refused(folder, capsys, "compile", compile_script.main, "--quantized", quantized)
    assert reason == f"compile: {kind} is a {kind}, no quantized graph"
