"""Rounding that knows the layer's inputs: int8 weights whose products, not whose values, stay near.

GPTQ (arXiv 2210.17323, algorithm 1): columns are rounded one after the other, and what a column's rounding does to the
products is made up for in the columns that are still to come, as far as the inputs let it. With X the inputs seen in
calibration [n, in] and H = X^T X / n, the row w is changed so that (w - q) H (w - q)^T becomes small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as op
from tritonguard.errors import BundleError

from engines.checkpoint import FloatArray
from engines.local.graph_nodes import Int8Matrix, Stored, float_rows, int8_matrix
from engines.local.runtime import infer_request

DAMPING = 0.01
"""Of the mean of H's diagonal, added to it: columns that calibration did not excite are rounded to the nearest."""
_BLOCK = 64  # columns whose corrections are applied to the rest in one product


def second_moments(
    graph: ov.Model, layers: Sequence[str], inputs: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> dict[str, FloatArray]:
    """{layer: H, float32 [in, in]} of the linear layers of these names, over all tokens of all inputs.

    graph: float, of `build_graph`. Layers that read the same input share one array. Raises BundleError without
    inputs, or where a layer is not in the graph.
    """
    observed = graph.clone()
    products = {node.get_friendly_name(): node for node in observed.get_ops() if node.get_type_name() == "MatMul"}
    readers: dict[tuple[str, int], list[str]] = defaultdict(list)
    sources: dict[tuple[str, int], Any] = {}
    for name in layers:
        if name not in products:
            raise BundleError(f"the graph has no layer {name}")
        source = products[name].input_value(0)
        key = source.get_node().get_friendly_name(), source.get_index()
        readers[key].append(name)
        sources[key] = source
    results = [op.result(source) for source in sources.values()]
    observed.add_results(results)
    request = infer_request(observed, precision="f32")
    first = len(graph.outputs)
    sums: list[FloatArray | None] = [None] * len(results)
    tokens = 0
    for item in inputs:
        request.infer(dict(item))
        for index in range(len(results)):
            seen = request.get_output_tensor(first + index).data
            seen = seen.reshape(-1, seen.shape[-1])
            total = sums[index]
            sums[index] = seen.T @ seen if total is None else np.add(total, seen.T @ seen, out=total)
            tokens += len(seen) if index == 0 else 0  # each reads the same ones
    if results and not tokens:
        raise BundleError("there are no calibration inputs")
    moments = [total / tokens for total in sums if total is not None]
    return {name: moment for names, moment in zip(readers.values(), moments, strict=True) for name in names}


def rounded(stored: Stored, moment: FloatArray) -> Int8Matrix:
    """The matrix [out, in] in int8 with the scales and zero points of `int8_matrix` (not symmetric), its values
    rounded for inputs of this second moment [in, in]. Raises BundleError where that is not finite.
    """
    nearest = int8_matrix(stored, symmetric=False)
    assert nearest.zeros is not None
    factor, order = _factor(moment)
    weights = float_rows(stored)[:, order]
    scales, zeros = nearest.scales[:, 0], nearest.zeros[:, 0].astype(np.float32)
    values = np.empty(weights.shape, np.uint8)
    columns = weights.shape[1]
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        block, errors = weights[:, start:end], np.empty((len(weights), end - start), np.float32)
        for index in range(end - start):
            column = start + index
            chosen = np.clip(np.rint(block[:, index] / scales + zeros), 0, 255)
            values[:, column] = chosen
            errors[:, index] = (block[:, index] - (chosen - zeros) * scales) / factor[column, column]
            block[:, index + 1 :] -= np.outer(errors[:, index], factor[column, column + 1 : end])
        weights[:, end:] -= errors @ factor[start:end, end:]
    back = np.empty_like(values)
    back[:, order] = values
    return Int8Matrix(back, nearest.scales, nearest.zeros)


def _factor(moment: FloatArray) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """(U float32 [in, in], upper, U^T U = inverse of the damped H in that order; order of the columns: those with the
    largest inputs first, while all others can still make up for them)."""
    if not np.isfinite(moment).all():
        raise BundleError("calibration gave inputs that are not finite")
    diagonal = np.diag(moment).astype(np.float64)
    order = np.argsort(-diagonal, kind="stable")
    damped = moment[np.ix_(order, order)].astype(np.float64)
    damped[np.diag_indices_from(damped)] += max(DAMPING * float(diagonal.mean()), 1e-12)
    inverse = np.linalg.inv(damped)
    return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32), order
