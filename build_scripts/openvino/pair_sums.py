"""Int8 weights whose products with uint8 inputs are exact on every CPU.

A CPU without VNNI multiplies uint8 by int8 with `vpmaddubsw`, which adds two neighbouring products in 16 bits and cuts
off what is more. So no two neighbours of one sign may come to more than 128: 255 * 128 = 32,640 < 32,767.
"""

from __future__ import annotations

import numpy as np
from tritonguard.errors import BundleError

from engines.checkpoint import FloatArray
from engines.local.graph_nodes import Int8Matrix

_LARGEST, _LARGEST_PAIR = 127, 128


def exact_int8_matrix(matrix: FloatArray) -> Int8Matrix:
    """float32 [out, in] -> int8 values, the finest scale a row under that bound, no zero points. Where `in` is odd, the
    last column has no neighbour. Raises BundleError for values that are not finite."""
    if not np.isfinite(matrix).all():
        raise BundleError("a weight is not a finite number")
    scales = np.maximum(np.abs(matrix).max(1), 1e-30) / _LARGEST
    scales = np.maximum(scales, _pairs(matrix).max(1, initial=0.0) / _LARGEST_PAIR).astype(np.float32)[:, None]
    values = np.rint(matrix / scales)
    # Two neighbours may both be rounded up. The one that was rounded up more goes back.
    for sign in (1, -1):
        over = _pairs(values, sign) > _LARGEST_PAIR
        for row, pair in np.argwhere(over):
            place = slice(2 * pair, 2 * pair + 2)
            excess = sign * (values[row, place] - matrix[row, place] / scales[row])
            values[row, 2 * pair + int(np.argmax(excess))] -= sign
    return Int8Matrix(values.astype(np.int8), scales)


def _pairs(matrix: FloatArray, sign: int = 0) -> FloatArray:
    """[out, in] -> [out, in // 2]: what neighbours of one sign come to; the larger of both signs where none is said."""
    if not sign:
        return np.maximum(_pairs(matrix, 1), _pairs(matrix, -1))
    parts = np.maximum(sign * matrix[:, : matrix.shape[1] // 2 * 2], 0)
    sums: FloatArray = parts[:, 0::2] + parts[:, 1::2]
    return sums
