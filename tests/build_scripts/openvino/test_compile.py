"""What a bundle says of its vision tower, and what becomes of the tower on the way into it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from tiny_checkpoint import (
    PROCESSOR_FILES,
    TEXT_FORMS,
    adapter_config,
    low_rank,
    prefixed,
    projections,
    tiny_config,
    write_adapter,
    write_checkpoint,
)
from tritonguard.errors import BundleError

from build_scripts import embedded_vision, sources
from build_scripts.merge_lora import merge
from build_scripts.openvino import compile as compile_script
from build_scripts.openvino.compile import compile_bundle
from build_scripts.openvino.profiles import PROFILES
from build_scripts.openvino.quantize import quantize
from engines.bundle import Bundle
from engines.checkpoint import PROJECTOR_PREFIX, Checkpoint, FloatArray, write_tensors
from engines.local import runtime
from engines.local.context import Context
from engines.local.engine_config import EngineConfig
from engines.local.head_openvino import HEAD_GRAPH, HeadRuntime
from engines.local.runtime import GRAPH, VISION_GRAPH, Runtime, VisionRuntime, core
from engines.local.tree import Tree, pass_inputs
from engines.local.vision_openvino import build_vision_graph
from engines.manifest import read_manifest, write_manifest


def checkpoint(folder: Path, *, tower: bool = True, **manifest: Any) -> Path:
    config = {name: value for name, value in tiny_config().items() if tower or name != "vision_config"}
    write_checkpoint(folder, config)
    write_manifest(folder, kind="checkpoint", inputs={}, **manifest)
    return folder


def compiled(source: Path, out: Path) -> Bundle:
    return Bundle.open(compile_bundle(source, out, precision="f32"))


@pytest.mark.parametrize(
    ("manifest", "tower", "vision"),
    [
        ({"vision": "untrained"}, True, "untrained"),
        ({"vision": "trained"}, True, "trained"),
        ({}, True, "trained"),
        ({}, False, "none"),
    ],
)
def test_the_bundle_says_what_its_vision_tower_is(
    tmp_path: Path, manifest: dict[str, Any], tower: bool, vision: str
) -> None:
    bundle = compiled(checkpoint(tmp_path / "c", tower=tower, **manifest), tmp_path / "b")
    assert bundle.capabilities.vision == vision
    for name in (VISION_GRAPH, "vision.bin", *PROCESSOR_FILES):
        assert (bundle.folder / name).is_file() == tower, name


def test_the_graphs_of_a_bundle_answer(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "c", vision="untrained")
    folder = compiled(source, tmp_path / "b").folder
    assert (folder / HEAD_GRAPH).is_file()
    embedding = Checkpoint.open(source).text("embed_tokens.weight")
    hidden = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    ids, _ = HeadRuntime.load(folder, precision="f32").best(hidden)
    np.testing.assert_array_equal(ids, (hidden @ embedding.T).argmax(axis=1))
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    assert VisionRuntime.load(folder, precision="f32").features(pixels).shape == (2, 4, 32)


def wide_bundle(folder: Path, form: str) -> Path:
    """form: float32, bfloat16, or int8 weights whose inputs are quantized too."""
    source = write_checkpoint(folder / "c", tiny_config(hidden_size=64, intermediate_size=64))
    write_manifest(source, kind="checkpoint", inputs={})
    if form == "int8":
        graph = quantize(source, folder / "int8", replace(PROFILES["int8-dynamic"], rounding="nearest"))
        return compile_bundle(source, folder / "b", quantized=graph, precision="f32")
    return compile_bundle(source, folder / "b", precision=form)


def outputs(folder: Path, *, streams: int = 1) -> list[FloatArray]:
    """Of one pass over two trees of different length, run as the bundle says."""
    how = EngineConfig.read(folder)
    group_size = how.dynamic_quantization_group_size
    loaded = Runtime.load(folder, precision=how.arithmetic, group_size=group_size, streams=streams)
    context = Context.empty(Checkpoint.read_config(folder))
    trees = [Tree((5, 6, 7, 8)), Tree((9, 10))]
    inputs = pass_inputs(context, trees, candidates=[7, 8], image_token=-1)
    return [part.copy() for part in loaded.run(**inputs)]


@pytest.mark.parametrize(
    ("form", "name"),
    [("f32", "graph.f32-g0.blob"), ("bf16", "graph.bf16-g0.blob"), ("int8", "graph.f32-g64.blob")],
)
def test_the_compiled_graph_is_read_and_answers_as_the_graph_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, form: str, name: str
) -> None:
    folder = wide_bundle(tmp_path, form)
    blob = folder / name
    halves = name.replace(".blob", "-s2.blob")
    # One thread may not compute bf16 on every CPU.
    cut = EngineConfig.read(folder).streams
    assert cut == 2 or form == "bf16"
    assert {path.name for path in folder.glob("*.blob")} == {name, *([halves] if cut == 2 else [])}
    asked = Mock(wraps=core())
    monkeypatch.setattr(runtime, "core", lambda: asked)
    imported = outputs(folder)
    for part, same in zip(outputs(folder, streams=cut), imported, strict=True):
        np.testing.assert_allclose(part, same, atol=1e-4)
    asked.compile_model.assert_not_called()
    assert caplog.messages == []
    whole = blob.read_bytes()
    # As another CPU or another OpenVINO would find it; and what is none.
    for number, found in enumerate((whole.replace(b";isa=", b";isa=other "), b"", whole[: len(whole) // 2]), 1):
        blob.write_bytes(found)
        for part, same in zip(outputs(folder), imported, strict=True):
            np.testing.assert_array_equal(part, same)
        assert asked.compile_model.call_count == number
        assert len(caplog.messages) == number
    assert caplog.messages[0] == f"{name} can't be used here, so {GRAPH} is compiled: the start takes longer"


def test_the_compiled_graph_holds_no_weights(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "c", tiny_config(vocab_size=20_000))
    write_manifest(source, kind="checkpoint", inputs={})
    folder = compiled(source, tmp_path / "b").folder
    assert (folder / "graph.f32-g0.blob").stat().st_size < (folder / "graph.bin").stat().st_size / 2


@pytest.mark.parametrize(("precision", "group_size"), [("f32", 32), ("bf16", 64), ("bf16", 0)])
def test_a_compiled_graph_of_other_numbers_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, group_size: int
) -> None:
    folder = wide_bundle(tmp_path, "int8")
    asked = Mock(wraps=core())
    monkeypatch.setattr(runtime, "core", lambda: asked)
    Runtime.load(folder, precision=precision, group_size=group_size)
    asked.import_model.assert_not_called()
    Runtime.load(folder, precision="f32", group_size=64)
    asked.import_model.assert_called_once()


def test_no_prompt_of_the_length_served_is_a_typed_error(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "c")
    (source / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    write_manifest(source, kind="checkpoint", inputs={})
    with pytest.raises(BundleError, match=r"example text has no prompt.*at most 1"):
        compile_bundle(source, tmp_path / "b", precision="f32", max_tokens=1)
    assert not (tmp_path / "b").exists()


def test_a_manifest_that_calls_the_tower_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("none", "yes"):
        with pytest.raises(BundleError, match="vision tower"):
            compile_bundle(checkpoint(tmp_path / name, vision=name), tmp_path / "b", precision="f32")


@pytest.mark.parametrize(
    "change", [{"size": {"height": 32, "width": 16}}, {"image_mean": [0.4, 0.5, 0.5]}, {"rescale_factor": 1.0}, None]
)
def test_preprocessing_that_the_graph_does_not_compute_is_refused(
    tmp_path: Path, change: dict[str, Any] | None
) -> None:
    source = checkpoint(tmp_path / "c")
    path = source / "preprocessor_config.json"
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    write_manifest(source, kind="checkpoint", inputs={})
    with pytest.raises(BundleError, match=r"preprocessor_config\.json"):
        compile_bundle(source, tmp_path / "b", precision="f32")
    assert not (tmp_path / "b").exists()


def test_a_changed_graph_builder_or_vision_state_makes_a_bundle_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint(tmp_path / "c", vision="untrained")
    bundle = compile_bundle(source, tmp_path / "b", precision="f32")
    (bundle / "manifest.json").touch()
    before = (bundle / "manifest.json").stat().st_mtime_ns
    assert (compile_bundle(source, bundle, precision="f32") / "manifest.json").stat().st_mtime_ns == before
    write_manifest(source, kind="checkpoint", inputs={}, vision="trained")
    compile_bundle(source, bundle, precision="f32")
    assert Bundle.open(bundle).capabilities.vision == "trained"
    inputs = read_manifest(bundle)["inputs"]
    graph, answers = inputs["graph_source_sha256"], inputs["answers_source_sha256"]
    builders = {"attention_openvino", "float_products", "forward_openvino", "vision_openvino", "head_openvino"}
    assert set(graph) == {*builders, "graph_nodes", "onnx_graph", "onnx_runtime", "runtime"}
    assert set(answers) == {"answers", "answer_text", "program", "prompt", "stage"}
    for changed in (*graph, *answers):
        before = read_manifest(bundle)["inputs"]
        with monkeypatch.context() as patch:
            patch.setattr(sources, "sha256_file", lambda path, name=changed: f"{path.stem == name}")
            compile_bundle(source, bundle, precision="f32")
        assert read_manifest(bundle)["inputs"] != before, changed


@pytest.mark.parametrize("manifest", [{"vision": "untrained"}, {}])
def test_a_merge_carries_tower_processor_files_and_what_is_said_of_them(
    tmp_path: Path, manifest: dict[str, str]
) -> None:
    base = checkpoint(tmp_path / "base", **manifest)
    matrices = prefixed(TEXT_FORMS["4.52 and later"], low_rank(projections(tiny_config())))
    merged = merge(base=base, adapter=write_adapter(tmp_path / "a", matrices, adapter_config()), out=tmp_path / "m")
    before, after = Checkpoint.open(base), Checkpoint.open(merged)
    for key in before.files:
        if not key.startswith("language_model."):
            assert before.files[key].stored_bytes(key).tobytes() == after.files[key].stored_bytes(key).tobytes(), key
    for name in PROCESSOR_FILES:
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    assert read_manifest(merged).get("vision") == manifest.get("vision")


def test_the_embedded_tower_is_the_same_at_every_build_and_fits_beside_words(tmp_path: Path) -> None:
    shapes = embedded_vision.vision_shapes(32)
    first, second = (list(embedded_vision.vision_values(32)) for _ in range(2))
    for ours, again, shape in zip(first, second, shapes.values(), strict=True):
        assert ours.shape == shape
        np.testing.assert_array_equal(ours, again)
    write_tensors(tmp_path / "model.safetensors", {key: ("BF16", shape) for key, shape in shapes.items()}, first)
    tokens, vision = embedded_vision.TOKENS, embedded_vision.vision_config()
    (tmp_path / "config.json").write_text(json.dumps({"mm_tokens_per_image": tokens, "vision_config": vision}))
    opened = Checkpoint.open(tmp_path)
    assert opened.float32(f"{PROJECTOR_PREFIX}mm_input_projection_weight").shape == (embedded_vision.HIDDEN, 32)
    size = embedded_vision.preprocessor_config()["size"]["height"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
    features = VisionRuntime(build_vision_graph(opened), precision="f32").features(pixels)
    assert features.shape == (2, tokens, 32)
    assert 0.7 < float(np.sqrt((features**2).mean())) < 1.4  # a scaled word embedding's is 1.03
    assert np.abs(features[0] - features[1]).max() > 0.01


@pytest.mark.parametrize(("gain", "streams"), [(1.2, 2), (1.02, 1)])
def test_batches_are_cut_where_that_is_faster_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, streams: int
) -> None:
    source = write_checkpoint(tmp_path / "c", tiny_config())
    write_manifest(source, kind="checkpoint", inputs={})
    monkeypatch.setattr(compile_script, "measure_halves", lambda folder, how: gain)
    folder = compile_bundle(source, tmp_path / "b", precision="f32", streams=None)
    assert EngineConfig.read(folder).streams == streams
    assert len(list(folder.glob("*.blob"))) == streams
    assert read_manifest(folder)["halves_gain"] == gain
