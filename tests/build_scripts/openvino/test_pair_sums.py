"""Products of uint8 and these int8 weights are exact in ONNX Runtime, also where a CPU adds them in 16 bits."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper
from tritonguard.errors import BundleError

from build_scripts.openvino.pair_sums import exact_int8_matrix

MATRICES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.floats(-9, 9, width=32))


@given(MATRICES)
@settings(max_examples=300, deadline=None)
def test_no_neighbours_of_one_sign_come_to_more_than_128(matrix: np.ndarray) -> None:
    made = exact_int8_matrix(matrix)
    values = made.values.astype(np.int32)
    pairs = values[:, : values.shape[1] // 2 * 2].reshape(len(values), -1, 2)
    assert (np.maximum(pairs, 0).sum(2) <= 128).all()
    assert (np.maximum(-pairs, 0).sum(2) <= 128).all()
    assert np.abs(values).max() <= 127
    # Where a pair was rounded up twice, one of the two is rounded down instead.
    assert (np.abs(values * made.scales - matrix) <= made.scales * 1.0001).all()


def test_rows_use_the_finest_scale_under_the_bound() -> None:
    made = exact_int8_matrix(np.array([[1.0, -1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], np.float32))
    assert made.values.tolist() == [[127, -127], [127, 0], [64, 64], [0, 0]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(BundleError, match="not a finite number"):
        exact_int8_matrix(np.array([[1.0, value]], np.float32))


def test_sums_of_the_largest_inputs_are_exact() -> None:
    generator = np.random.default_rng(0)
    drawn = exact_int8_matrix(generator.standard_normal((40, 640), np.float32)).values
    worst = np.array([np.tile((first, 128 - first), 320) for first in (1, 64, 127)], np.int8)
    values = np.concatenate([drawn, worst, -worst])
    inputs = np.concatenate(
        [np.full((1, 640), 255), np.zeros((1, 640)), generator.integers(0, 256, (30, 640))],
        dtype=np.uint8,
        casting="unsafe",
    )
    exact = (inputs.astype(np.int64) - 128) @ values.T.astype(np.int64)
    np.testing.assert_array_equal(products(inputs, values), exact)


def products(inputs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """As the graph of a form multiplies them: inputs with zero point 128."""
    node = helper.make_node("MatMulIntegerToFloat", ["x", "w", "one", "ones", "zero"], ["y"], domain="com.microsoft")
    constants = {"w": values.T, "one": np.float32(1), "ones": np.ones(len(values), np.float32), "zero": np.uint8(128)}
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [None, inputs.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, len(values)])],
        [
            numpy_helper.from_array(np.ascontiguousarray(each) if np.ndim(each) else np.asarray(each), name)
            for name, each in constants.items()
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": inputs})
    return np.asarray(found)
