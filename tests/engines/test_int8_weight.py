"""A matrix as int8: each value within half a step, zero exact, and what becomes of a layer's inputs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from openvino import Type
from openvino import opset13 as op
from tiny_checkpoint import projections, tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from engines.checkpoint import Checkpoint, FloatArray, bfloat16_to_float32, float32_to_bfloat16
from engines.local import graph_nodes
from engines.local.forward_openvino import build_graph
from engines.local.graph_nodes import Node, Stored, int8_matrix, model, weight
from engines.local.runtime import infer_request

BOTH = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "with a zero point"])
CPU_FLAGS = Path("/proc/cpuinfo").read_text().split()


def random(*shape: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def evaluated(node: Node) -> FloatArray:
    """What the plugin makes of a node without inputs."""
    request = infer_request(model({}, {"value": node}, "constant"), precision="f32")
    request.infer({})
    value: FloatArray = request.get_tensor("value").data.copy()
    return value


def steps(values: FloatArray, *, symmetric: bool) -> FloatArray:
    """The distance between neighbours that int8 holds, a row: float32 [rows, 1]."""
    low, high = np.minimum(values.min(1, keepdims=True), 0), np.maximum(values.max(1, keepdims=True), 0)
    result: FloatArray = np.maximum(high, -low) / 127 if symmetric else (high - low) / 255
    return result


def check(stored: Stored, values: FloatArray, *, symmetric: bool) -> FloatArray:
    found = evaluated(int8_matrix(stored, symmetric=symmetric).node)
    assert found.dtype == np.float32
    limit = steps(values, symmetric=symmetric) * (0.5 + 1e-4)  # what float32 adds to the half
    assert (np.abs(found - values) <= limit).all()
    assert (found[values == 0] == 0).all()
    return found


@BOTH
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_every_value_is_within_half_a_step(dtype: str, symmetric: bool) -> None:
    values = random(20, 48) * np.geomspace(1e-4, 1e4, 20, dtype=np.float32)[:, None]
    values[:, 5] = 0
    stored: npt.NDArray[Any] = float32_to_bfloat16(values) if dtype == "BF16" else values
    if dtype == "F16":
        stored = values.astype(np.float16)
    whole = bfloat16_to_float32(stored) if dtype == "BF16" else stored.astype(np.float32)
    check(stored, whole, symmetric=symmetric)


@BOTH
@pytest.mark.parametrize(
    "row",
    [
        [0.0, 0.0, 0.0, 0.0],
        [3.0, 3.0, 3.0, 3.0],
        [-3.0, -3.0, -3.0, -3.0],
        [0.25, 1.0, 2.0, 200.0],
        [-0.25, -1.0, -2.0, -200.0],
        [1e-20, -1e-20, 0.0, 0.0],
        [1e30, -1e30, 0.0, 1.0],
        [-0.003, 0.0, 1.0, 0.5],
    ],
)
def test_rows_of_every_kind_keep_their_values_and_their_zero(row: list[float], symmetric: bool) -> None:
    values = np.array([row, [1.0, -2.0, 0.0, 0.5]], np.float32)
    found = check(values, values, symmetric=symmetric)
    if len(set(row)) == 1:
        np.testing.assert_allclose(found[0], values[0], rtol=1e-6)


def test_where_both_ends_round_up_the_highest_stays_the_highest() -> None:
    # Scale 1, 127.5 to 128 at either end: 256 steps, of which uint8 holds 255.
    values = np.array([[-127.5, 127.5, 0.0, 1.0]], np.float32)
    found = check(values, values, symmetric=False)
    np.testing.assert_array_equal(found, [[-128.0, 127.0, 0.0, 1.0]])


@BOTH
def test_a_zero_point_follows_a_row_that_lies_to_one_side(symmetric: bool) -> None:
    values = np.abs(random(4, 256))
    error = np.abs(check(values, values, symmetric=symmetric) - values).max()
    step = (values.max() / 255).item()
    assert (error <= 0.51 * step) == (not symmetric)


@BOTH
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(symmetric: bool, wrong: float) -> None:
    values = random(3, 8)
    values[1, 2] = wrong
    with pytest.raises(BundleError, match="not a finite number"):
        int8_matrix(values, symmetric=symmetric)


@BOTH
def test_a_matrix_of_many_rows_is_the_same_in_parts(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    values = random(7, 16) + np.arange(7, dtype=np.float32)[:, None]
    # The parts first: rows that are left out must not find the whole's in the memory that they are given.
    with monkeypatch.context() as patch:
        patch.setattr(graph_nodes, "_ROWS", 3)
        parts = evaluated(int8_matrix(values, symmetric=symmetric).node)
    np.testing.assert_array_equal(parts, evaluated(int8_matrix(values, symmetric=symmetric).node))


def product(stored: Stored, x: FloatArray, *, symmetric: bool, group_size: int) -> tuple[FloatArray, int]:
    """x [rows, in] times the matrix [out, in], and the group size that the plugin says it took."""
    hidden = op.parameter([-1, stored.shape[1]], Type.f32, name="x")
    graph = model(
        {"x": hidden}, {"y": op.matmul(hidden, int8_matrix(stored, symmetric=symmetric).node, False, True)}, "p"
    )
    request = infer_request(graph, precision="f32", group_size=group_size)
    request.infer({"x": x})
    taken = request.get_compiled_model().get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")
    return request.get_tensor("y").data.copy(), taken


@BOTH
def test_inputs_stay_float_where_no_group_is_said(symmetric: bool) -> None:
    values, x = random(48, 64), random(5, 64, seed=1)
    found, taken = product(values, x, symmetric=symmetric, group_size=0)
    assert taken == 0
    np.testing.assert_allclose(found, x @ evaluated(int8_matrix(values, symmetric=symmetric).node).T, atol=1e-4)


@BOTH
@pytest.mark.skipif(
    not {"avx512_vnni", "avx_vnni"} & set(CPU_FLAGS), reason="the plugin quantizes inputs only where the CPU has VNNI"
)
def test_inputs_are_quantized_in_groups_where_one_is_said(symmetric: bool) -> None:
    values, x = random(48, 128), random(5, 128, seed=1)
    x[:, 3] = 100.0  # an outlier coarsens its own group of 64 and leaves the other alone
    whole = x @ evaluated(int8_matrix(values, symmetric=symmetric).node).T
    found, taken = product(values, x, symmetric=symmetric, group_size=64)
    assert taken == 64
    error = np.sqrt(((found - whole) ** 2).mean())
    rounding = 100 / 127 / np.sqrt(12)  # of one input: a uniform error over a step, root mean square
    assert 0.1 * rounding * np.sqrt(64) < error < 2 * rounding * np.sqrt(64)
    coarser, _ = product(values, x, symmetric=symmetric, group_size=128)
    assert np.sqrt(((coarser - whole) ** 2).mean()) > 1.1 * error


def test_a_graphs_linear_layers_and_nothing_else_are_asked_for_by_name(tmp_path: Path) -> None:
    config = tiny_config()
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "c", config))
    asked: dict[str, tuple[int, ...]] = {}

    def weights(name: str, stored: Stored) -> Node:
        asked[name] = stored.shape
        return weight(stored)

    graph = build_graph(checkpoint, weights)
    assert asked == projections(config)
    products = {node.get_friendly_name() for node in graph.get_ops() if node.get_type_name() == "MatMul"}
    assert set(asked) <= products
