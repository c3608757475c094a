"""A bundle of a quantized text graph: what it says, what it refuses, and verdicts near the float bundle's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import tiny_config, write_checkpoint
from tiny_engine import PAIR, job

from build_scripts.openvino import compile as script
from build_scripts.openvino.compile import compile_bundle
from build_scripts.openvino.profiles import PROFILES
from build_scripts.openvino.quantize import quantize
from engines.bundle import Bundle, open_engine
from engines.checkpoint import FloatArray
from engines.local.engine_config import EngineConfig
from engines.local.runtime import GRAPH, cpu_name, native_precisions
from engines.manifest import NAME, read_manifest, write_manifest
from engines.protocol import Answer

INT8 = PROFILES["int8-dynamic"]
CONFIG = tiny_config(hidden_size=64, intermediate_size=64)  # a whole group of the inputs


def checkpoint(folder: Path, *, seed: int = 0) -> Path:
    write_checkpoint(folder, CONFIG, seed=seed)
    write_manifest(folder, kind="checkpoint", inputs={}, vision="untrained")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("compile") / "checkpoint")


@pytest.fixture(scope="module")
def int8(source: Path) -> Path:
    return quantize(source, source.parent / "int8", INT8)


def written_at(folder: Path) -> int:
    return (folder / NAME).stat().st_ino


def test_a_bundle_says_form_arithmetic_and_machine(source: Path, int8: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(compile_bundle(source, tmp_path / "b", quantized=int8, precision="f32"))
    assert bundle.precision == "int8-dynamic"
    assert bundle.manifest["arithmetic"] == "f32"
    assert bundle.manifest["hardware"] == {"cpu": cpu_name(), "multiplies": list(native_precisions())}
    assert bundle.manifest["calibration"] is None
    assert bundle.manifest["inputs"]["quantized_revision"] == read_manifest(int8)["revision"]
    assert EngineConfig.read(bundle.folder) == EngineConfig("f32", INT8.group_size)
    assert (bundle.folder / GRAPH).read_bytes() == (int8 / GRAPH).read_bytes()


def test_the_arithmetic_is_measured_where_the_form_names_none(source: Path, int8: Path, tmp_path: Path) -> None:
    manifest = read_manifest(compile_bundle(source, tmp_path / "b", quantized=int8))
    measured = manifest["measured_ms"]
    assert set(measured) == set(native_precisions())
    assert measured[manifest["arithmetic"]] == min(measured.values())  # rounded, two may be equal
    assert EngineConfig.read(tmp_path / "b").arithmetic == manifest["arithmetic"]


def test_a_form_of_stored_weights_is_the_bundle_that_was_always_compiled(source: Path, tmp_path: Path) -> None:
    form = quantize(source, tmp_path / "f32", PROFILES["f32"])
    one = Bundle.open(compile_bundle(source, tmp_path / "one", quantized=form))
    other = Bundle.open(compile_bundle(source, tmp_path / "other", precision="f32"))
    assert (one.precision, one.manifest["arithmetic"], one.manifest["measured_ms"]) == ("f32", "f32", {})
    for name in ("graph.bin", "head.bin", "vision.bin", "engine.yaml"):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name


def test_what_calibrated_a_form_is_in_the_bundle(source: Path, int8: Path, tmp_path: Path) -> None:
    form = shutil.copytree(int8, tmp_path / "form")
    manifest = read_manifest(form)
    inputs = manifest["inputs"] | {"calibration": {"file": "c.jsonl", "rows": 3}}
    write_manifest(form, kind=manifest["kind"], inputs=inputs, engine=manifest["engine"])
    bundle = compile_bundle(source, tmp_path / "b", quantized=form, precision="f32")
    assert read_manifest(bundle)["calibration"] == {"file": "c.jsonl", "rows": 3}


def test_on_another_cpu_or_of_another_form_a_bundle_is_compiled_again(
    source: Path, int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = compile_bundle(source, tmp_path / "b", quantized=int8, precision="f32")
    first = written_at(out)
    assert written_at(compile_bundle(source, out, quantized=int8, precision="f32")) == first
    monkeypatch.setattr(script, "cpu_name", lambda: "another CPU")
    second = written_at(compile_bundle(source, out, quantized=int8, precision="f32"))
    assert second != first
    assert read_manifest(out)["hardware"]["cpu"] == "another CPU"
    assert written_at(compile_bundle(source, out, precision="f32")) != second
    assert Bundle.open(out).precision == "f32"


def test_a_graph_has_two_names_or_is_copied_where_it_can_have_only_one(
    source: Path, int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = compile_bundle(source, int8.parent / "linked", quantized=int8, precision="f32")
    assert (linked / "graph.bin").samefile(int8 / "graph.bin")

    def refused(*paths: Path) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refused)
    copied = compile_bundle(source, tmp_path / "copied", quantized=int8, precision="f32")
    assert not (copied / "graph.bin").samefile(int8 / "graph.bin")
    for name in (GRAPH, "graph.bin"):
        assert (copied / name).read_bytes() == (linked / name).read_bytes(), name


def margins(folder: Path) -> FloatArray:
    """log P(unsafe) - log P(safe) of both choices of some prompts, float32 [prompts, 2]."""
    answers = open_engine(Bundle.open(folder)).run([job(40, seed=seed, program=PAIR) for seed in range(16)])
    found = [answer.choice_logprobs for answer in answers if isinstance(answer, Answer)]
    result: FloatArray = np.subtract(*np.moveaxis(np.stack(found), 2, 0)[::-1])
    return result


def test_the_int8_bundles_verdicts_are_near_the_float_bundles(source: Path, int8: Path, tmp_path: Path) -> None:
    whole = margins(compile_bundle(source, tmp_path / "f32", precision="f32"))
    found = margins(compile_bundle(source, tmp_path / "int8", quantized=int8, precision="f32"))
    assert whole.shape == (16, 2)
    drift = np.abs(found - whole)
    assert drift.max() > 0
    assert drift.mean() < 0.1 * whole.std()
