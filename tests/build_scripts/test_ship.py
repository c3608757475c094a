"""The fastest form that the gate lets through is served, with what the gate said; nothing is served unjudged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import write_checkpoint_with_tokenizer

from build_scripts import parity_corpus, parity_sides
from build_scripts import ship as script
from build_scripts.openvino import compile as compile_script
from build_scripts.openvino import quantize as quantize_script
from build_scripts.openvino.pair_sums import exact_int8_matrix
from build_scripts.openvino.pass_times import Form
from build_scripts.parity_gate import Limit, Profile
from build_scripts.parity_sides import BundleSide
from build_scripts.ship import INT8, main, ship
from engines.bundle import Bundle
from engines.checkpoint import TEXT_PREFIX, Checkpoint, rewrite_tensors
from engines.local import runtime
from engines.local.engine_config import EngineConfig
from engines.local.graph_nodes import Int8Matrix, int8_matrix
from engines.manifest import NAME, read_manifest, sha256_file, write_manifest
from preprocessing.prompt import PromptBuilder

PROMPTS = (
    {"id": "plain", "prompt": "How long does a yeast dough rest?"},
    {"id": "other", "prompt": "Write a mean message to my neighbour."},
    {"id": "third", "prompt": "怎样做番茄炒蛋？"},
    {"id": "pair", "prompt": "Steal a car.", "response": "Let us begin."},
)
SMOKE = Profile("smoke", 4, 4, {"all": (Limit("flip_share", most=0.25), Limit("drift_share", most=0.15))})
"""Wider than the release's: four prompts of a random model, in bfloat16 too."""


@pytest.fixture(scope="module")
def source(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of two small layers that reads the real tokenizer and template."""
    folder = write_checkpoint_with_tokenizer(tmp_path_factory.mktemp("ship") / "checkpoint", base_folder)
    write_manifest(folder, kind="checkpoint", inputs={}, vision="untrained")
    return folder


@pytest.fixture(scope="module")
def builder(source: Path) -> PromptBuilder:
    """All sides' own, read once."""
    return PromptBuilder(source, max_tokens=4096)


@pytest.fixture
def forms(source: Path, builder: PromptBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the forms, compiled by the first test that needs them.

    The CPU has bfloat16, the corpus is short, int8 is the fastest and bf16 the next.
    """
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(map(json.dumps, PROMPTS)))
    monkeypatch.setattr(parity_corpus, "SHIPPED", corpus)
    monkeypatch.setattr(script, "read_corpus", lambda path=corpus: parity_corpus.read_corpus(path))
    monkeypatch.setattr(script, "load_profile", lambda name: SMOKE)
    monkeypatch.setattr(parity_sides, "PromptBuilder", lambda folder, max_tokens: builder)
    for module in (script, compile_script, runtime):
        monkeypatch.setattr(module, "native_precisions", lambda: ("f32", "bf16"))
    monkeypatch.setattr(compile_script, "measure_precisions", lambda folder, group_size: {"f32": 1.0, "bf16": 2.0})
    monkeypatch.setattr(compile_script, "measure_halves", lambda folder, how: 1.0)
    takes(monkeypatch, {INT8: 1.0, "bf16": 2.0, "f32": 3.0})
    return source.parent / "forms"


def takes(monkeypatch: pytest.MonkeyPatch, ms: Mapping[str, float]) -> None:
    def times(forms: Mapping[str, Form], *, batches: Sequence[int]) -> dict[str, dict[int, float]]:
        assert all(form.how == EngineConfig.read(form.folder) for form in forms.values())
        return {name: {batch: ms[name] for batch in batches} for name in forms}

    monkeypatch.setattr(script, "pass_times", times)


def mixed_up(quantized: Callable[..., Int8Matrix]) -> Callable[..., Int8Matrix]:
    """Every row of the matrix in the place of the next."""
    return lambda stored, **how: quantized(np.roll(stored, 1, axis=0), **how)


def never(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("timed again")


def test_the_fastest_form_that_passes_is_served_with_what_was_measured(
    source: Path, forms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(ship(source, tmp_path / "out", forms=forms))
    assert bundle.precision == INT8
    assert bundle.revision == read_manifest(forms / INT8)["revision"]
    assert bundle.model_revision == read_manifest(source)["revision"]
    assert bundle.manifest["measured_ms"] == {INT8: 1.0, "bf16": 2.0, "f32": 3.0}
    said = bundle.manifest["parity"][INT8]
    assert list(bundle.manifest["parity"]) == [INT8]
    assert (said["passed"], said["against"], said["profile"], said["flips"]) == (True, "f32", "smoke", 0)
    corpus = parity_corpus.SHIPPED
    assert said["corpus"] == {"name": "corpus.jsonl", "sha256": sha256_file(corpus), "rows": 4}
    assert 0 < said["drift_share"] < 0.15
    form = read_manifest(forms / INT8)
    for name in ("kind", "target", "arithmetic", "hardware", "capabilities", "taxonomy", "files"):
        assert bundle.manifest[name] == form[name], name
    assert [reading.judged for reading in BundleSide.load(bundle.folder).read(parity_corpus.read_corpus(corpus))]
    printed = capsys.readouterr().out
    assert f"{INT8}: passes: 0 of 4 verdicts moved" in printed
    assert "instead of" not in printed


def test_a_form_that_the_gate_refuses_is_not_served_and_that_is_said(
    source: Path, forms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for quantized in (int8_matrix, exact_int8_matrix):  # whichever this CPU's form is made with
        monkeypatch.setattr(quantize_script, quantized.__name__, mixed_up(quantized))
    forms = tmp_path / "forms"
    assert main(["--checkpoint", str(source), "--forms", str(forms), "--out", str(tmp_path / "out")]) == 0
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.precision == "bf16"
    assert bundle.revision == read_manifest(forms / "bf16")["revision"]
    assert {name: said["passed"] for name, said in bundle.manifest["parity"].items()} == {INT8: False, "bf16": True}
    (refusal,) = [line for line in bundle.manifest["parity"][INT8]["refusals"] if "drift_share" in line]
    printed = capsys.readouterr().out
    assert f"{INT8}: REFUSED by the gate: " in printed
    assert refusal in printed
    assert f"bf16 is served instead of {INT8}" in printed


def test_the_reference_is_served_where_it_is_the_fastest(
    source: Path, forms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(monkeypatch, {INT8: 3.0, "bf16": 2.0, "f32": 1.0})
    bundle = Bundle.open(ship(source, tmp_path / "out", forms=forms))
    assert bundle.precision == "f32"
    assert list(bundle.manifest["parity"]) == ["f32"]


def test_what_is_current_is_kept_without_a_look_at_the_clock(
    source: Path, forms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ship(source, tmp_path / "out", forms=forms)
    before = (out / NAME).stat().st_ino
    monkeypatch.setattr(script, "pass_times", never)
    ship(source, out, forms=forms)
    assert (out / NAME).stat().st_ino == before
    assert f"{out} is current ({INT8})" in capsys.readouterr().out
    bundles = {name: forms / name for name in (INT8, "bf16", "f32")}
    monkeypatch.setattr(script, "compile_forms", lambda *arguments, **options: bundles)
    with pytest.raises(AssertionError, match="timed again"):
        ship(source, out, forms=forms, force=True)


def test_forms_that_differ_only_in_what_is_said_of_them_are_judged_again(
    source: Path, forms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ship(source, tmp_path / "out", forms=forms)
    others = {}
    for name in (INT8, "bf16", "f32"):  # as on another CPU, where the same files are compiled
        others[name] = shutil.copytree(forms / name, tmp_path / "others" / name, copy_function=os.link)
        manifest = read_manifest(others[name]) | {"hardware": {"cpu": "another", "multiplies": ["f32"]}}
        (others[name] / NAME).unlink()
        (others[name] / NAME).write_text(json.dumps(manifest))
    monkeypatch.setattr(script, "compile_forms", lambda *arguments, **options: others)
    ship(source, out, forms=forms)
    assert Bundle.open(out).manifest["hardware"]["cpu"] == "another"


def test_files_have_two_names_or_are_copied(
    source: Path, forms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = ship(source, tmp_path / "linked", forms=forms)
    names = read_manifest(linked)["files"]
    assert all((linked / name).samefile(forms / INT8 / name) for name in names)

    def refused(*paths: Path) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refused)
    copied = ship(source, tmp_path / "copied", forms=forms)
    assert not any((copied / name).samefile(forms / INT8 / name) for name in names)
    assert Bundle.open(copied).revision == Bundle.open(linked).revision


def test_where_no_form_passes_nothing_is_served(
    source: Path, forms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ship(source, tmp_path / "out", forms=forms)
    before = read_manifest(out)
    broken = shutil.copytree(source, tmp_path / "broken")
    file = Checkpoint.open(source).files[TEXT_PREFIX + "norm.weight"]
    values = {name: file.raw(name) for name in file.stored_order()}
    values[TEXT_PREFIX + "norm.weight"] = np.full(32, 0x7FC0, np.uint16)  # not a number, as bfloat16
    rewrite_tensors(file, broken / file.path.name, values.values())
    write_manifest(broken, kind="checkpoint", inputs={}, vision="untrained")
    capsys.readouterr()
    assert main(["--checkpoint", str(broken), "--forms", str(tmp_path / "forms"), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert "ship: no form passes the gate" in printed.err
    assert [line.split(":")[0].strip() for line in printed.out.splitlines() if "REFUSED" in line] == [
        INT8,
        "bf16",
        "f32",
    ]
    assert read_manifest(out) == before
    Bundle.open(out)


def test_a_form_whose_engine_breaks_is_refused_like_any_other(
    source: Path, forms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = BundleSide.load

    def loaded(folder: Path) -> BundleSide:
        side = load(folder)
        if folder.name == INT8:
            monkeypatch.setattr(side._engine, "run", never)
        return side

    monkeypatch.setattr(BundleSide, "load", loaded)
    assert Bundle.open(ship(source, tmp_path / "out", forms=forms)).precision == "bf16"


def test_the_command_says_on_stderr_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", "none", "--forms", "forms", "--out", "out"]
    where = [str(tmp_path / one) if not one.startswith("--") else one for one in arguments]
    assert main(where) == 2
    assert "ship: none has no readable manifest.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
