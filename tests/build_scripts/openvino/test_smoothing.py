"""Smoothed weights: the same model in float, whose layers' inputs have fewer outliers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import projections, tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from build_scripts.openvino.smoothing import Smoothing, input_sizes
from engines.checkpoint import TEXT_PREFIX, Checkpoint, FloatArray
from engines.local.context import Context
from engines.local.forward_openvino import build_graph
from engines.local.runtime import Runtime
from engines.local.tree import Tree, pass_inputs

TWO_VALUE_HEADS = tiny_config(num_attention_heads=4, num_key_value_heads=2)
LAYERS = list(projections(TWO_VALUE_HEADS))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """With outliers: a few channels of both norms are large."""
    opened = Checkpoint.open(write_checkpoint(tmp_path_factory.mktemp("tiny") / "c", TWO_VALUE_HEADS))
    values = {}
    for layer in range(opened.text_config.num_hidden_layers):
        for norm in ("input_layernorm", "pre_feedforward_layernorm"):
            key = f"layers.{layer}.{norm}.weight"
            values[TEXT_PREFIX + key] = opened.text(key).copy()
            values[TEXT_PREFIX + key][3 * layer :: 11] += 30
    return replace(opened, values=values)


def inputs(checkpoint: Checkpoint, seed: int) -> dict[str, Any]:
    config = checkpoint.text_config
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, 20).tolist()
    found = pass_inputs(Context.empty(config), [Tree(tuple(ids))], candidates=[3, 4, 5, 6], image_token=-1)
    slots, features = np.full(found["ids"].shape, -1, np.int32), np.zeros((1, config.hidden_size), np.float32)
    return {**found, "slots": slots, "features": features}


def seen(checkpoint: Checkpoint) -> dict[str, FloatArray]:
    return input_sizes(build_graph(checkpoint), LAYERS, [inputs(checkpoint, seed) for seed in range(4)])


def changed(checkpoint: Checkpoint, smoothing: Smoothing) -> Checkpoint:
    """With the smoothed weights, in float."""
    matrices = {
        f"{TEXT_PREFIX}{layer}.weight": smoothing.matrix(layer, checkpoint.stored(f"{layer}.weight"))
        for layer in LAYERS
    }
    return replace(checkpoint, values={**checkpoint.values, **smoothing.norms, **matrices})


def test_in_float_the_model_stays_what_it_is(checkpoint: Checkpoint) -> None:
    smoothing = Smoothing.of(checkpoint, seen(checkpoint), 0.5)
    assert set(smoothing.columns) == set(LAYERS)
    assert {name.rsplit(".", 1)[1] for name in smoothing.rows} == {"v_proj", "up_proj"}
    asked = inputs(checkpoint, 9)
    plain, smooth = (
        Runtime(build_graph(one), precision="f32").run(**asked)[0].copy()
        for one in (checkpoint, changed(checkpoint, smoothing))
    )
    np.testing.assert_allclose(smooth, plain, rtol=0, atol=1e-4 * float(np.abs(plain).max()))
    assert float(np.abs(smooth - plain).max()) > 0


def test_outliers_leave_the_inputs(checkpoint: Checkpoint) -> None:
    """Largest over mean channel, layer by layer."""
    before = seen(checkpoint)
    after = seen(changed(checkpoint, Smoothing.of(checkpoint, before, 0.5)))
    spread = [{name: float(one.max() / one.mean()) for name, one in each.items()} for each in (before, after)]
    assert spread[0]["layers.0.self_attn.q_proj"] > 5
    assert all(spread[1][name] < 0.6 * spread[0][name] for name in LAYERS if name.endswith(("q_proj", "gate_proj")))
    assert np.mean(list(spread[1].values())) < np.mean(list(spread[0].values()))


def test_layers_that_read_one_input_share_their_factors_and_heads_those_of_their_value_head(
    checkpoint: Checkpoint,
) -> None:
    smoothing, dim = Smoothing.of(checkpoint, seen(checkpoint), 0.5), checkpoint.text_config.head_dim
    of_layer = {name.rsplit(".", 1)[1]: factors for name, factors in smoothing.columns.items() if ".0." in name}
    assert of_layer["q_proj"] is of_layer["k_proj"] is of_layer["v_proj"]
    assert of_layer["gate_proj"] is of_layer["up_proj"]
    heads = of_layer["o_proj"].reshape(2, 2, dim)
    np.testing.assert_array_equal(heads[:, 0], heads[:, 1])
    np.testing.assert_array_equal(heads[:, 0].ravel(), smoothing.rows["layers.0.self_attn.v_proj"])


def test_a_group_with_a_layer_in_float_is_left_as_it_is(checkpoint: Checkpoint) -> None:
    sizes = {name: each for name, each in seen(checkpoint).items() if name != "layers.0.self_attn.v_proj"}
    smoothing = Smoothing.of(checkpoint, sizes, 0.5)
    left = {"layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.o_proj"}
    assert set(smoothing.columns) == set(LAYERS) - left - {"layers.0.self_attn.v_proj"}
    assert f"{TEXT_PREFIX}layers.0.input_layernorm.weight" not in smoothing.norms
    stored = checkpoint.stored("layers.0.self_attn.o_proj.weight")
    np.testing.assert_array_equal(
        smoothing.matrix("layers.0.self_attn.o_proj", stored), checkpoint.text("layers.0.self_attn.o_proj.weight")
    )


def test_a_channel_that_calibration_did_not_excite_keeps_a_size(checkpoint: Checkpoint) -> None:
    sizes = seen(checkpoint)
    sizes["layers.0.mlp.gate_proj"] = np.zeros_like(sizes["layers.0.mlp.gate_proj"])
    factors = Smoothing.of(checkpoint, sizes, 0.5).columns["layers.0.mlp.gate_proj"]
    assert np.isfinite(factors).all()
    assert factors.min() > 0
    sizes["layers.0.mlp.gate_proj"][0] = np.nan
    with pytest.raises(BundleError, match="not finite"):
        Smoothing.of(checkpoint, sizes, 0.5)


def test_without_inputs_nothing_is_smoothed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no calibration inputs"):
        input_sizes(build_graph(checkpoint), LAYERS, [])
    nothing = Smoothing()
    stored = checkpoint.stored(f"{LAYERS[0]}.weight")
    np.testing.assert_array_equal(nothing.matrix(LAYERS[0], stored), checkpoint.text(f"{LAYERS[0]}.weight"))
