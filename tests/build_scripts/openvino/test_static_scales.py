"""Static SmoothQuant W8A8 of a tiny random checkpoint's text graph."""

from __future__ import annotations

import logging
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import rich
from openvino import Type
from tiny_checkpoint import projections, tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from build_scripts.openvino import static_scales
from build_scripts.openvino.static_scales import Inputs, smooth_quantized
from engines.checkpoint import Checkpoint, TextConfig
from engines.local.context import Context
from engines.local.forward_openvino import INPUTS, OUTPUTS, build_graph
from engines.local.head_openvino import HeadRuntime, build_head_graph
from engines.local.runtime import GRAPH, Runtime
from engines.local.tree import Tree, pass_inputs

LINEAR = set(projections(tiny_config()))
BOUND = 0.05
"""Of `Tiny.drift`: twice what its own calibration gives (0.028), an eighth of what foreign ones give."""


def random_input(config: TextConfig, seed: int, *, scale: float = 1.0) -> Inputs:
    """Two random texts behind a random prefix, whose states are `scale` wide."""
    random = np.random.default_rng(seed)
    prefix, length = (int(random.integers(6, 14)) for _ in range(2))
    state = (2, config.num_hidden_layers, config.num_key_value_heads, prefix, config.head_dim)
    context = Context(prefix, *(scale * random.standard_normal(state, np.float32)))
    trees = [Tree(tuple(random.integers(0, config.vocab_size, length).tolist())) for _ in range(2)]
    inputs = pass_inputs(context, trees, candidates=range(8), image_token=-1)
    slots = np.full(inputs["ids"].shape, -1, np.int32)
    return {**inputs, "slots": slots, "features": np.zeros((1, config.hidden_size), np.float32)}


class Tiny:
    """A float graph, and what it is calibrated on."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = Checkpoint.open(write_checkpoint(folder, tiny_config()))
        self.config = self.checkpoint.text_config
        self.graph = build_graph(self.checkpoint)
        self.inputs = [random_input(self.config, seed) for seed in range(6)]

    def drift(self, quantized: ov.Model) -> float:
        """Of the logits on the calibration inputs: mean error over the logits' standard deviation."""
        exact, rounded = (
            np.concatenate([runtime.run(**item)[0].ravel().copy() for item in self.inputs])
            for runtime in (Runtime(graph, precision="f32") for graph in (self.graph, quantized))
        )
        return float(np.abs(exact - rounded).mean() / exact.std())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("static") / "checkpoint")


@pytest.fixture(scope="module")
def whole(tiny: Tiny) -> ov.Model:
    return smooth_quantized(tiny.graph, tiny.inputs)


def products(graph: ov.Model) -> dict[str, Any]:
    return {node.get_friendly_name(): node for node in graph.get_ops() if node.get_type_name() == "MatMul"}


def behind(value: Any, steps: int) -> list[Any]:
    """The nodes along first inputs, nearest first."""
    node = value.get_node()
    return [node, *(behind(node.input_value(0), steps - 1) if steps and node.get_input_size() else [])]


def is_rounded(value: Any, steps: int = 3) -> bool:
    """By a FakeQuantize of constant ranges, with layout changes behind it, or with none (steps 0)."""
    chain = takewhile(lambda node: node.get_type_name() != "MatMul", behind(value, steps))
    rounding = [node for node in chain if node.get_type_name() == "FakeQuantize"]
    return bool(rounding) and all(
        rounding[0].input_value(port).get_node().get_type_name() == "Constant" for port in (1, 2, 3, 4)
    )


def has_int8_weight(product: Any) -> bool:
    return bool(behind(product.input_value(1), 9)[-1].get_element_type() == Type.i8)


def constants(graph: ov.Model) -> list[tuple[str, bytes]]:
    nodes = (node for node in graph.get_ops() if node.get_type_name() == "Constant")
    return sorted((str(node.get_element_type()), node.data.tobytes()) for node in nodes)


def test_inputs_and_outputs_stay_the_same(tiny: Tiny, whole: ov.Model) -> None:
    for before, after, names in (
        (tiny.graph.inputs, whole.inputs, INPUTS),
        (tiny.graph.outputs, whole.outputs, OUTPUTS),
    ):
        assert tuple(node.get_any_name() for node in after) == names
        for old, new in zip(before, after, strict=True):
            assert (new.get_element_type(), new.get_partial_shape()) == (
                old.get_element_type(),
                old.get_partial_shape(),
            )


def test_every_linear_layer_is_int8_and_nothing_else(whole: ov.Model) -> None:
    found = products(whole)
    assert {name for name, node in found.items() if has_int8_weight(node)} == LINEAR
    assert all(is_rounded(found[name].input_value(0), 0) for name in LINEAR)
    others = [node for name, node in found.items() if name not in LINEAR]
    assert len(others) > 1, "attention and logits"
    assert not [node for node in others for port in (0, 1) if is_rounded(node.input_value(port))]


def test_the_logits_are_computed_in_float_and_prefixes_are_read_as_they_are(whole: ov.Model) -> None:
    logits = whole.output("logits").get_node().input_value(0).get_node()
    assert logits.get_type_name() == "MatMul"
    assert not is_rounded(logits.input_value(0))
    assert not is_rounded(logits.input_value(1))
    for state in (node for node in whole.get_parameters() if node.get_friendly_name().startswith("prefix")):
        readers = {target.get_node().get_type_name() for target in state.output(0).get_target_inputs()}
        assert "FakeQuantize" not in readers, state.get_friendly_name()


def test_the_saved_graph_is_compact_and_holds_the_embedding_as_it_was(
    tiny: Tiny, whole: ov.Model, tmp_path: Path
) -> None:
    for graph, name in ((whole, GRAPH), (build_head_graph(tiny.checkpoint), "head.xml")):
        ov.save_model(graph, tmp_path / name, compress_to_fp16=False)
    hidden = np.random.default_rng(1).standard_normal((4, tiny.config.hidden_size)).astype(np.float32)
    expected = hidden @ tiny.checkpoint.text("embed_tokens.weight").T
    ids, logits = HeadRuntime.load(tmp_path, precision="f32").best(hidden)
    np.testing.assert_array_equal(ids, expected.argmax(1))
    np.testing.assert_allclose(logits, expected.max(1), rtol=1e-5)
    weights = sum(rows * columns for rows, columns in projections(tiny_config()).values())
    embedding = 2 * tiny.config.vocab_size * tiny.config.hidden_size
    assert (tmp_path / "graph.bin").stat().st_size < 1.8 * weights + embedding  # small tensors are most of the rest


def test_it_follows_the_float_graph_if_calibrated_on_what_it_meets(tiny: Tiny, whole: ov.Model) -> None:
    assert tiny.drift(whole) < BOUND
    for scale in (0.01, 30.0):
        elsewhere = [random_input(tiny.config, seed, scale=scale) for seed in range(6)]
        assert tiny.drift(smooth_quantized(tiny.graph, elsewhere)) > BOUND


def test_two_runs_give_the_same_constants_and_leave_the_float_graph_as_it_was(tiny: Tiny, whole: ov.Model) -> None:
    before = constants(tiny.graph)
    assert constants(smooth_quantized(tiny.graph, tiny.inputs)) == constants(whole)
    assert constants(tiny.graph) == before
    assert products(tiny.graph).keys() > LINEAR


def test_named_layers_stay_in_float_with_their_stored_weights(tiny: Tiny) -> None:
    kept = {name for name in LINEAR if name.endswith("down_proj")} | {"layers.1.self_attn.q_proj"}
    quantized = smooth_quantized(tiny.graph, tiny.inputs, linear_in_float=kept.__contains__)
    found = products(quantized)
    assert {name for name, node in found.items() if has_int8_weight(node)} == LINEAR - kept
    for name in kept:
        weight = behind(found[name].input_value(1), 9)[-1]
        assert weight.get_element_type() == Type.bf16
        np.testing.assert_array_equal(weight.data.view(np.uint16), tiny.checkpoint.stored(f"{name}.weight"))
        assert not is_rounded(found[name].input_value(0), 0)
    assert tiny.drift(quantized) < BOUND


def test_progress_is_told_and_nothing_else_is_shown(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    level = logging.getLogger("nncf").level
    smooth_quantized(tiny.graph, tiny.inputs, on_progress=lambda done, total: told.append((done, total)))
    total = 2 * len(tiny.inputs)
    assert told == [(done, total) for done in range(total + 1)]
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger("nncf").level, rich.get_console().quiet) == (level, False)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ids", lambda ids: ids.astype(np.int64), "input 1: ids is int64"),
        ("visible", lambda seen: seen.astype(np.float32), "visible is float32"),
        ("positions", lambda places: places[None], "positions is int32"),
        ("features", lambda rows: rows[:, :-1], "features is float32"),
        ("past_keys", lambda keys: keys * np.float32("nan"), "past_keys is not finite"),
        ("visible", lambda seen: seen[:, :-1], "can't be run"),
        ("slots", lambda slots: slots[:-1], "can't be run"),
    ],
)
def test_inputs_that_do_not_fit_the_graph_are_refused(tiny: Tiny, name: str, change: Any, message: str) -> None:
    inputs = [tiny.inputs[0], {**tiny.inputs[1], name: change(tiny.inputs[1][name])}]
    with pytest.raises(BundleError, match=message):
        smooth_quantized(tiny.graph, inputs)


def test_missing_and_unknown_inputs_are_named(tiny: Tiny) -> None:
    item = {"mask" if name == "visible" else name: value for name, value in tiny.inputs[0].items()}
    with pytest.raises(BundleError, match="input 0: missing or unknown: mask, visible"):
        smooth_quantized(tiny.graph, [item])


def test_without_inputs_or_layers_or_with_a_senseless_alpha_it_refuses(tiny: Tiny) -> None:
    with pytest.raises(BundleError, match="no calibration inputs"):
        smooth_quantized(tiny.graph, [])
    with pytest.raises(BundleError, match="all layers are to stay in float"):
        smooth_quantized(tiny.graph, tiny.inputs, linear_in_float=lambda name: True)
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(BundleError, match="alpha"):
            smooth_quantized(tiny.graph, tiny.inputs, alpha=alpha)


def test_without_nncf_it_says_what_to_install(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(BundleError, match=r"needs nncf.*tritonguard-server\[quantize\]"):
        smooth_quantized(tiny.graph, tiny.inputs)


def test_telemetry_is_hidden_from_nncf_and_put_back() -> None:
    before = sys.modules.get("openvino_telemetry", "absent")
    static_scales._nncf()
    assert sys.modules.get("openvino_telemetry", "absent") is before
