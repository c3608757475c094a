"""Rounding that knows the layer's inputs: int8 weights whose products, not whose values, stay near.

GPTQ (arXiv 2210.17323, algorithm 1): columns are rounded one after the other, and what a column's rounding does to the
products is made up for in the columns that are still to come, as far as the inputs let it. With X the inputs seen in
calibration [n, in] and H = X^T X / n, the row w is changed so that (w - q) H (w - q)^T becomes small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from tritonguard.errors import BundleError

from build_scripts.openvino.layer_inputs import folded
from engines.checkpoint import FloatArray
from engines.local.graph_nodes import Int8Matrix, Stored, float_rows, int8_matrix

DAMPING = 0.01
"""Of the mean of H's diagonal, added to it: columns that calibration did not excite are rounded to the nearest."""
_BLOCK = 64  # columns whose corrections are applied to the rest in one product


def second_moments(
    graph: ov.Model, layers: Sequence[str], inputs: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> dict[str, FloatArray]:
    """{layer: H, float32 [in, in]} of the linear layers of these names, over all tokens of all inputs; see `folded`,
    and what it raises."""

    def added(total: FloatArray | None, seen: FloatArray) -> FloatArray:
        return seen.T @ seen if total is None else np.add(total, seen.T @ seen, out=total)

    sums, tokens = folded(graph, layers, inputs, added)
    by_array = {id(total): total / tokens for total in sums.values()}
    return {name: by_array[id(total)] for name, total in sums.items()}


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
