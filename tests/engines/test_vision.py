"""The vision tower, the way of its features into the text forward, and the head, on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from tiny_checkpoint import IMAGE_TOKENS, tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from engines.checkpoint import (
    TEXT_PREFIX,
    Checkpoint,
    TensorFile,
    bfloat16_to_float32,
    float32_to_bfloat16,
    rewrite_tensors,
)
from engines.local.context import Context
from engines.local.forward_openvino import build_graph
from engines.local.head_openvino import HEAD_GRAPH, HeadRuntime, build_head_graph
from engines.local.runtime import GRAPH, VISION_GRAPH, Runtime, VisionRuntime
from engines.local.tree import Tree, pass_inputs
from engines.local.vision_openvino import build_vision_graph
from engines.vision_config import VisionConfig

CONFIG = tiny_config()
HIDDEN, VOCABULARY = CONFIG["text_config"]["hidden_size"], CONFIG["text_config"]["vocab_size"]
IMAGE = CONFIG["image_token_index"]
Inputs = dict[str, npt.NDArray[Any]]


class Tiny:
    def __init__(self, folder: Path) -> None:
        self.checkpoint = Checkpoint.open(write_checkpoint(folder, CONFIG, scale=0.3))
        self.text = Runtime(build_graph(self.checkpoint), precision="f32")
        self.vision = VisionRuntime(build_vision_graph(self.checkpoint), precision="f32")
        self.embedding = self.checkpoint.text("embed_tokens.weight")

    def inputs(self, ids: npt.NDArray[np.int32]) -> Inputs:
        """A causal pass over one row of text that reads every position against the whole vocabulary."""
        empty = Context.empty(self.checkpoint.text_config)
        inputs = pass_inputs(empty, [Tree(tuple(ids.tolist()))], candidates=range(VOCABULARY), image_token=-1)
        return inputs | {"rows": np.arange(len(ids), dtype=np.int32)[None]}

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        return self.text.run(**inputs)[0][0].copy()

    def hidden(self, count: int) -> npt.NDArray[np.float32]:
        return self.text.run(**self.inputs(random_ids(count)))[3][0].copy()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("vision") / "tiny")


def random_ids(count: int, *, seed: int = 0) -> npt.NDArray[np.int32]:
    return np.random.default_rng(seed).integers(4, VOCABULARY, count).astype(np.int32)


def images(count: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)


def test_each_image_becomes_its_own_tokens_alone_or_in_a_batch(tiny: Tiny) -> None:
    pixels = images(3)
    features = tiny.vision.features(pixels)
    assert (features.shape, features.dtype) == ((3, IMAGE_TOKENS, HIDDEN), np.float32)
    for one, together in zip(pixels, features, strict=True):
        np.testing.assert_allclose(tiny.vision.features(one[None])[0], together, atol=1e-5)
    assert np.abs(features[0] - features[1]).max() > 0.01
    np.testing.assert_array_equal(features, tiny.vision.features(pixels))


def test_a_part_of_the_image_moves_its_own_token_most(tiny: Tiny) -> None:
    pixels = images(1)
    changed = pixels.copy()
    changed[0, :8, 8:] = 255 - changed[0, :8, 8:]  # the upper right quarter: token 1
    moved = np.abs(tiny.vision.features(changed) - tiny.vision.features(pixels))[0].max(axis=1)
    assert moved.argmax() == 1


def test_a_features_row_stands_where_its_slot_says_as_it_is(tiny: Tiny) -> None:
    """An image token that carries a word's scaled embedding is that word, whatever its own id."""
    ids = random_ids(9)
    words = np.array([40, 41, 42], np.int32)
    meant = ids.copy()
    meant[[2, 3, 7]] = words[[2, 0, 1]]
    inputs = tiny.inputs(meant)
    wanted = tiny.logits(inputs)
    slots = np.full(9, -1, np.int32)
    slots[[2, 3, 7]] = [2, 0, 1]
    inputs["ids"] = inputs["ids"].copy()
    inputs["ids"][[2, 3, 7]] = IMAGE  # beyond the embedding's rows
    got = tiny.logits(inputs | {"slots": slots, "features": tiny.embedding[words] * np.float32(HIDDEN**0.5)})
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_without_image_tokens_features_change_nothing(tiny: Tiny) -> None:
    inputs = tiny.inputs(random_ids(9))
    slots = np.full(9, -1, np.int32)
    features = np.full((2, HIDDEN), 1e3, np.float32)
    np.testing.assert_array_equal(tiny.logits(inputs), tiny.logits(inputs | {"slots": slots, "features": features}))


def test_hidden_is_what_the_logits_are_read_from(tiny: Tiny) -> None:
    logits, _, _, hidden = tiny.text.run(**tiny.inputs(random_ids(9)))
    assert (hidden.shape, hidden.dtype) == ((1, 9, HIDDEN), np.float32)
    np.testing.assert_allclose(hidden @ tiny.embedding.T, logits, atol=1e-4)


def test_the_head_finds_the_highest_logit_of_the_vocabulary(tiny: Tiny) -> None:
    head = HeadRuntime.of(tiny.checkpoint, precision="f32")
    hidden = tiny.hidden(200)
    ids, logits = head.best(hidden)
    wanted = hidden @ tiny.embedding.T
    np.testing.assert_array_equal(ids, wanted.argmax(axis=1))
    np.testing.assert_allclose(logits, wanted.max(axis=1), rtol=1e-5)


def test_the_head_decides_by_the_embeddings_own_values_and_ties_by_the_lowest_id(tmp_path: Path) -> None:
    """Eight rows that int8 can't tell apart, two of which are equal and the best by less than its step."""
    embedding = np.tile(np.linspace(-1, 1, HIDDEN, dtype=np.float32), (VOCABULARY, 1))
    embedding[:, 3] = 0.001
    embedding[[3, 6], 3] = 0.002
    embedding[8:] *= 0.1
    first, second = write_checkpoint(tmp_path / "first", CONFIG), tmp_path / "second"
    second.mkdir()
    (second / "config.json").write_bytes((first / "config.json").read_bytes())
    file = TensorFile.open(first / "model.safetensors")
    key = f"{TEXT_PREFIX}embed_tokens.weight"
    stored = float32_to_bfloat16(embedding)
    values = (stored if name == key else file.stored_bytes(name) for name in file.stored_order())
    rewrite_tensors(file, second / "model.safetensors", values)
    hidden = np.ones((1, HIDDEN), np.float32)
    hidden[0, :3] = 0
    ids, logits = HeadRuntime.of(Checkpoint.open(second), precision="f32").best(hidden)
    assert ids.tolist() == [3]
    np.testing.assert_allclose(logits, (hidden @ bfloat16_to_float32(stored).T).max(axis=1), rtol=1e-6)


def test_a_state_that_is_no_number_keeps_a_logit_that_is_none(tiny: Tiny) -> None:
    head = HeadRuntime.of(tiny.checkpoint, precision="f32")
    _, logits = head.best(np.full((1, HIDDEN), np.nan, np.float32))
    assert np.isnan(logits).all()


def test_saved_graphs_answer_as_those_in_memory(tiny: Tiny, tmp_path: Path) -> None:
    for graph, name in (
        (build_graph(tiny.checkpoint), GRAPH),
        (build_head_graph(tiny.checkpoint), HEAD_GRAPH),
        (build_vision_graph(tiny.checkpoint), VISION_GRAPH),
    ):
        ov.save_model(graph, tmp_path / name, compress_to_fp16=False)
    hidden, pixels = tiny.hidden(20), images(1)
    best = HeadRuntime.load(tmp_path, precision="f32").best(hidden)
    for ours, theirs in zip(best, HeadRuntime.of(tiny.checkpoint, precision="f32").best(hidden), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    features = VisionRuntime.load(tmp_path, precision="f32").features(pixels)
    np.testing.assert_allclose(features, tiny.vision.features(pixels), atol=1e-6)


def test_missing_graphs_are_refused_with_a_typed_error(tmp_path: Path) -> None:
    for load in (Runtime.load, VisionRuntime.load, HeadRuntime.load):
        with pytest.raises(BundleError):
            load(tmp_path, precision="f32")


def test_a_checkpoint_without_a_tower_has_no_vision_graph(tmp_path: Path) -> None:
    config = {name: value for name, value in CONFIG.items() if name != "vision_config"}
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "text", config))
    assert checkpoint.vision_config is None
    with pytest.raises(BundleError, match="no vision tower"):
        build_vision_graph(checkpoint)


def test_what_a_published_config_leaves_out_is_transformers_default() -> None:
    published = {"hidden_size": 1152, "image_size": 896, "num_attention_heads": 16, "patch_size": 14}
    config = VisionConfig.read({"vision_config": published})
    assert config is not None
    assert (config.num_hidden_layers, config.intermediate_size, config.layer_norm_eps) == (12, 3072, 1e-6)
    assert (config.patches_per_side, config.tokens_per_side, config.mm_tokens_per_image) == (64, 16, 256)


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 5},
        {"num_attention_heads": 5},
        {"hidden_act": "relu"},
        {"num_channels": 1},
        {"image_size": 12},  # 3 x 3 patches for 2 x 2 tokens
    ],
)
def test_a_tower_of_another_kind_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        VisionConfig.read({**CONFIG, "vision_config": {**CONFIG["vision_config"], **change}})


def test_a_number_of_tokens_that_is_no_square_is_refused() -> None:
    with pytest.raises(BundleError):
        VisionConfig.read({**CONFIG, "mm_tokens_per_image": 8})
