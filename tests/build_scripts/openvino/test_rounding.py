"""Rounding by inputs: products stay nearer than with the nearest values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import projections, tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from build_scripts.openvino.rounding import rounded, second_moments
from engines.checkpoint import Checkpoint, FloatArray
from engines.local.context import Context
from engines.local.forward_openvino import build_graph
from engines.local.graph_nodes import Int8Matrix, int8_matrix
from engines.local.tree import Tree, pass_inputs

LAYERS = list(projections(tiny_config()))


def exact(matrix: Int8Matrix) -> FloatArray:
    assert matrix.zeros is not None
    return np.asarray((matrix.values.astype(np.float32) - matrix.zeros) * matrix.scales)


def correlated(rows: int, columns: int, seed: int = 0) -> FloatArray:
    """Inputs that a few directions explain, with channels of very different size."""
    random = np.random.default_rng(seed)
    few = random.standard_normal((rows, 6)) @ random.standard_normal((6, columns))
    noise = 0.1 * random.standard_normal((rows, columns))
    return ((few + noise) * np.exp(random.standard_normal(columns))).astype(np.float32)


def moment(inputs: FloatArray) -> FloatArray:
    return np.asarray(inputs.T @ inputs / len(inputs))


def inputs(checkpoint: Checkpoint, seed: int) -> dict[str, Any]:
    config = checkpoint.text_config
    random = np.random.default_rng(seed)
    trees = [Tree(tuple(random.integers(0, config.vocab_size, 12).tolist()))]
    # Without a prefix: one of another graph's making would not be a smoothed graph's own.
    found = pass_inputs(Context.empty(config), trees, candidates=[3, 4], image_token=-1)
    slots, features = np.full(found["ids"].shape, -1, np.int32), np.zeros((1, config.hidden_size), np.float32)
    return {**found, "slots": slots, "features": features}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(write_checkpoint(tmp_path_factory.mktemp("tiny") / "c", tiny_config()))


def test_products_stay_nearer_than_with_the_nearest_values() -> None:
    weights = np.random.default_rng(1).standard_normal((40, 150)).astype(np.float32)
    seen, others = correlated(400, 150), correlated(400, 150, seed=0)[::-1]
    by_inputs, nearest = rounded(weights, moment(seen)), int8_matrix(weights, symmetric=False)
    np.testing.assert_array_equal(by_inputs.scales, nearest.scales)
    errors = [float(np.abs(others @ (exact(one) - weights).T).mean()) for one in (by_inputs, nearest)]
    assert errors[0] < 0.6 * errors[1]
    assert by_inputs.values.dtype == np.uint8
    assert np.abs(exact(by_inputs) - weights).max() < 12 * float(nearest.scales.max())


def test_where_no_channel_says_anything_about_another_the_nearest_values_are_best() -> None:
    weights = np.random.default_rng(2).standard_normal((8, 70)).astype(np.float32)
    alone = np.diag(np.linspace(1, 2, 70)).astype(np.float32)
    np.testing.assert_array_equal(rounded(weights, alone).values, int8_matrix(weights, symmetric=False).values)


def test_channels_that_were_never_excited_are_rounded_to_the_nearest() -> None:
    weights = np.random.default_rng(3).standard_normal((8, 70)).astype(np.float32)
    found = rounded(weights, np.zeros((70, 70), np.float32))
    np.testing.assert_array_equal(found.values, int8_matrix(weights, symmetric=False).values)
    with pytest.raises(BundleError, match="not finite"):
        rounded(weights, np.full((70, 70), np.nan, np.float32))


def test_inputs_are_those_that_the_layers_read(checkpoint: Checkpoint) -> None:
    asked = [inputs(checkpoint, seed) for seed in range(3)]
    graph = build_graph(checkpoint)
    seen = second_moments(graph, LAYERS, asked)
    assert set(seen) == set(LAYERS)
    embedding = checkpoint.text("embed_tokens.weight")
    ids = np.concatenate([item["ids"].ravel() for item in asked])
    x = embedding[np.minimum(ids, len(embedding) - 1)] * np.float32(checkpoint.text_config.hidden_size**0.5)
    rms = np.sqrt((x * x).mean(1, keepdims=True) + checkpoint.text_config.rms_norm_eps)
    read = x / rms * (checkpoint.text("layers.0.input_layernorm.weight") + 1)
    for part in "qkv":
        np.testing.assert_allclose(seen[f"layers.0.self_attn.{part}_proj"], moment(read), rtol=1e-3, atol=1e-4)
    assert len(graph.outputs) == 4
    with pytest.raises(BundleError, match="no calibration inputs"):
        second_moments(graph, LAYERS, [])
    with pytest.raises(BundleError, match=r"no layer layers\.9"):
        second_moments(graph, ["layers.9"], asked)
