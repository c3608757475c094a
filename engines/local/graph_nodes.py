"""The nodes that every OpenVINO graph of this folder is written with: constants, stored weights, layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import Type
from openvino import opset13 as op
from tritonguard.errors import BundleError

from engines.checkpoint import FloatArray, bfloat16_to_float32

Node = Any  # openvino's Python wheel has no types for graph nodes
Stored = npt.NDArray[Any]
"""A tensor as a checkpoint stores it: float32, float16, or bfloat16 as its uint16 bits."""

_ROWS = 16384
"""Rows quantized at a time: bounds the memory of a build."""


def ints(value: int | Sequence[int]) -> Node:
    return op.constant(np.asarray(value, dtype=np.int32))


def floats(value: float | FloatArray) -> Node:
    return op.constant(np.asarray(value, dtype=np.float32))


def weight(stored: Stored, *, name: str | None = None) -> Node:
    """The tensor itself, with a conversion that the plugin folds.

    The constant is a view of `stored`: keep that for as long as the graph. `name` finds it in a saved graph.
    """
    if stored.dtype == np.uint16:
        constant = op.constant(ov.Tensor(stored.view(np.float16), stored.shape, Type.bf16))
    else:
        constant = op.constant(stored)
    if name is not None:
        constant.set_friendly_name(name)
    return constant if stored.dtype == np.float32 else op.convert(constant, Type.f32)


@dataclass(frozen=True)
class Int8Matrix:
    """(values - zeros) * scales of a matrix [rows, columns]: values int8, or uint8 with zeros; scales float32 and
    zeros uint8 [rows, 1]. zeros None: all 0."""

    values: npt.NDArray[Any]
    scales: FloatArray
    zeros: npt.NDArray[np.uint8] | None = None

    @property
    def node(self) -> Node:
        """The matrix as float32, in the form that the plugin takes into its int8 products."""
        node = op.convert(op.constant(self.values), Type.f32)
        if self.zeros is not None:
            node = op.subtract(node, op.convert(op.constant(self.zeros), Type.f32))
        return op.multiply(node, floats(self.scales))


def int8_matrix(stored: Stored, *, symmetric: bool = True) -> Int8Matrix:
    """A scale a row, each value rounded to the nearest; 0 is exact.

    symmetric: scale = largest magnitude / 127, int8; else scale = (highest - lowest) / 255 with a zero point, uint8.
    Raises BundleError for values that are not finite.
    """
    values = np.empty(stored.shape, np.int8 if symmetric else np.uint8)
    scales, zeros = (np.empty((len(stored), 1), np.float32) for _ in range(2))
    for start in range(0, len(stored), _ROWS):
        part = slice(start, start + _ROWS)
        exact = float_rows(stored[part])
        if not np.isfinite(exact).all():
            raise BundleError("a weight is not a finite number")
        low, high = np.minimum(exact.min(1, keepdims=True), 0), np.maximum(exact.max(1, keepdims=True), 0)
        span = np.maximum(high, -low) / 127 if symmetric else (high - low) / 255
        scales[part] = np.maximum(span, 1e-30)
        zeros[part] = 0 if symmetric else np.rint(-low / scales[part])
        # Both ends may be rounded up: 256 steps of 255.
        values[part] = np.minimum(np.rint(exact / scales[part]) + zeros[part], 127 if symmetric else 255)
    return Int8Matrix(values, scales, None if symmetric else zeros.astype(np.uint8))


def float_rows(stored: Stored) -> FloatArray:
    """As float32, exactly."""
    return bfloat16_to_float32(stored) if stored.dtype == np.uint16 else stored.astype(np.float32)


def split_heads(x: Node, heads: int, dim: int) -> Node:
    """[B, S, heads * dim] -> [B, S, heads, dim]."""
    return op.reshape(x, ints([0, 0, heads, dim]), True)


def swap(x: Node, first: int, second: int) -> Node:
    """Exchange two of four axes."""
    order = [0, 1, 2, 3]
    order[first], order[second] = second, first
    return op.transpose(x, ints(order))


def model(inputs: dict[str, Node], outputs: dict[str, Node], name: str) -> ov.Model:
    """The graph of these parameters and results, each found by its name."""
    for key, node in inputs.items():
        node.output(0).set_names({key})
    results = [op.result(node) for node in outputs.values()]
    for key, result in zip(outputs, results, strict=True):
        result.output(0).set_names({key})
    return ov.Model(results, list(inputs.values()), name)
