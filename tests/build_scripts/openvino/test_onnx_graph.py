"""The graph for ONNX Runtime computes what OpenVINO's does, from the same file of weights."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
from openvino import opset13 as op
from tiny_checkpoint import tiny_config, write_checkpoint
from tiny_engine import PAIR, job
from tritonguard.errors import BundleError

from build_scripts.openvino import onnx_graph
from build_scripts.openvino.compile import compile_bundle
from build_scripts.openvino.onnx_graph import save_onnx, to_onnx
from build_scripts.openvino.pair_sums import exact_int8_matrix
from build_scripts.openvino.profiles import PROFILES
from build_scripts.openvino.quantize import quantize
from engines.bundle import Bundle, open_engine
from engines.checkpoint import Checkpoint
from engines.local.context import Context
from engines.local.engine_config import ONNX_RUNTIME, PER_TOKEN, EngineConfig
from engines.local.graph_nodes import model
from engines.local.onnx_runtime import ONNX_GRAPH, OnnxRuntime
from engines.local.runtime import GRAPH, Runtime
from engines.local.tree import Tree, pass_inputs
from engines.manifest import read_manifest, write_manifest
from engines.protocol import Answer

ROTATED = replace(PROFILES["int8-rotated"], smooth=False)  # a tiny checkpoint has no tokenizer to calibrate with
FORMS = {"f32": PROFILES["f32"], "int8": ROTATED}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("onnx") / "checkpoint", tiny_config())
    write_manifest(folder, kind="checkpoint", inputs={}, vision="untrained")
    return folder


@pytest.fixture(scope="module")
def forms(source: Path) -> dict[str, Path]:
    """Folders of text graphs, each with its graph for ONNX Runtime."""
    folders = {name: quantize(source, source.parent / name, profile) for name, profile in FORMS.items()}
    for folder in folders.values():
        save_onnx(folder)
    return folders


def asked(source: Path, *, past: int = 0) -> dict[str, np.ndarray]:
    """Rows of several lengths with branches, behind a past, whose keys and values are kept."""
    config = Checkpoint.read_config(source)
    states = np.random.default_rng(1).standard_normal(
        (2, config.num_hidden_layers, config.num_key_value_heads, past, config.head_dim), np.float32
    )
    context = Context(past, *states) if past else Context.empty(config)
    trees = [Tree(tuple(range(5, 25))), Tree((9, 10)), Tree((11,), last=True)]
    return pass_inputs(context, trees, candidates=[3, 4, 7], image_token=96, padded=True)


@pytest.mark.parametrize("past", [0, 11])
def test_in_float_both_compute_the_same(source: Path, forms: dict[str, Path], past: int) -> None:
    inputs = asked(source, past=past)
    expected = Runtime.load(forms["f32"], precision="f32").run(**inputs)
    for got, exact in zip(OnnxRuntime.load(forms["f32"]).run(**inputs), expected, strict=True):
        np.testing.assert_allclose(got, exact, atol=2e-5)


def test_int8_inputs_are_near_float_ones(source: Path, forms: dict[str, Path]) -> None:
    inputs = asked(source, past=11)
    exact = Runtime.load(forms["f32"], precision="f32").run(**inputs)[0].copy()
    weights_alone = Runtime.load(forms["int8"], precision="f32").run(**inputs)[0]
    rounded = OnnxRuntime.load(forms["int8"]).run(**inputs)[0]
    spread = exact.std()
    assert 0 < np.abs(rounded - weights_alone).mean() < 0.05 * spread
    assert np.abs(rounded - exact).mean() < 0.05 * spread


def test_a_tokens_scale_is_its_own() -> None:
    generator = np.random.default_rng(2)
    matrix = exact_int8_matrix(generator.standard_normal((24, 32), np.float32))
    x = op.parameter([1, -1, 32], ov.Type.f32, name="x")
    graph = to_onnx(model({"x": x}, {"y": op.matmul(x, matrix.node, False, True)}, "product"), {})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    tokens = generator.standard_normal((1, 3, 32), np.float32) * np.array([[[1e-4], [0.0], [1e4]]], np.float32)
    (together,) = session.run(None, {"x": tokens})
    (alone,) = session.run(None, {"x": tokens[:, :1]})
    np.testing.assert_array_equal(together[:, :1], alone)
    exact = tokens @ (matrix.values * matrix.scales).T
    assert (np.abs(together - exact).max(2) <= 0.02 * np.abs(exact).max(2)).all()


@pytest.mark.parametrize("channel", range(16))
def test_what_is_no_number_stays_none(source: Path, forms: dict[str, Path], channel: int) -> None:
    inputs = asked(source, past=11)
    inputs["past_values"] = inputs["past_values"].copy()
    inputs["past_values"][0, 0, 0, 5, channel] = np.nan
    assert np.isnan(OnnxRuntime.load(forms["int8"]).run(**inputs)[0]).all()


def test_weights_stay_in_the_file_that_openvino_reads(source: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    write_checkpoint(wide, tiny_config(hidden_size=64, intermediate_size=128))
    write_manifest(wide, kind="checkpoint", inputs={}, vision="untrained")
    folder = quantize(wide, tmp_path / "int8", ROTATED)
    save_onnx(folder)
    graph = onnx.load(folder / ONNX_GRAPH, load_external_data=False).graph
    elsewhere = [each for each in graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
    assert {each.external_data[0].value for each in elsewhere} == {Path(GRAPH).with_suffix(".bin").name}
    # What is large: the embedding, three matrices of each MLP, and the identity that ends the residual stream.
    assert len(elsewhere) == 1 + 2 * 3 + 1
    # No operation makes floats of the vocabulary: what reads its file takes rows of it.
    assert {node.op_type for node in graph.node if "embed_tokens" in node.input} == {"Gather"}


def test_weights_that_are_not_found_in_the_file_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = quantize(source, tmp_path / "f32", PROFILES["f32"])
    monkeypatch.setattr(onnx_graph, "_CONSTANT", re.compile(r'name="([^"]*)" no (\d+) such (\d+) line'))
    with pytest.raises(BundleError, match=r"graph\.bin does not hold embed_tokens where graph\.xml says"):
        save_onnx(folder)


def test_operations_that_are_not_known_are_refused(tmp_path: Path) -> None:
    x = op.parameter([-1], ov.Type.f32, name="x")
    result = op.result(op.erf(x))
    with pytest.raises(BundleError, match="no Erf"):
        to_onnx(ov.Model([result], [x], "graph"), {})
    with pytest.raises(BundleError, match=r"graph\.xml can't be read"):
        save_onnx(tmp_path)


def test_a_bundle_of_the_form_says_its_runtime_and_answers(
    source: Path, forms: dict[str, Path], tmp_path: Path
) -> None:
    form = quantize(source, tmp_path / "form", ROTATED)
    bundle = compile_bundle(source, tmp_path / "b", quantized=form, streams=2)
    assert EngineConfig.read(bundle) == EngineConfig(
        "f32", PER_TOKEN, min(2, len(os.sched_getaffinity(0))), ONNX_RUNTIME
    )
    assert read_manifest(bundle)["precision"] == "int8-rotated"
    assert ONNX_GRAPH in read_manifest(bundle)["files"]
    assert not list(bundle.glob("*.blob"))
    exact = compile_bundle(source, tmp_path / "f32", precision="f32")
    whole, found = margins(exact), margins(bundle)
    drift = np.abs(found - whole)
    assert drift.max() > 0
    assert drift.mean() < 0.1 * whole.std()


def margins(folder: Path) -> np.ndarray:
    """log P(unsafe) - log P(safe) of both choices of some prompts, which the queue puts into batches."""
    answers = open_engine(Bundle.open(folder)).run([job(40, seed=seed, program=PAIR) for seed in range(16)])
    found = [answer.choice_logprobs for answer in answers if isinstance(answer, Answer)]
    assert len(found) == 16
    return np.asarray(np.subtract(*np.moveaxis(np.stack(found), 2, 0)[::-1]))


def test_two_run_beside_each_other(source: Path, forms: dict[str, Path]) -> None:
    first = OnnxRuntime.load(forms["int8"], streams=2)
    second = first.beside()
    inputs = asked(source)
    for one, other in zip(first.run(**inputs), second.run(**inputs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_graph_that_is_not_whole_is_refused(forms: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"graph\.onnx can't be loaded"):
        OnnxRuntime.load(tmp_path)
    broken = shutil.copytree(forms["int8"], tmp_path / "broken")
    (broken / ONNX_GRAPH).write_bytes((broken / ONNX_GRAPH).read_bytes()[:500])
    with pytest.raises(BundleError, match=r"broken/graph\.onnx can't be loaded"):
        OnnxRuntime.load(broken)
