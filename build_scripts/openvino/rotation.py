"""Inputs of int8 layers, rotated so that no channel stands out: in float the model stays what it is.

A token's values share one scale, so its largest one says how coarsely all are rounded. A Hadamard matrix over blocks of
channels spreads each value over its block (QuaRot, arXiv 2404.00456): x H H^T W^T = x W^T, since H is orthogonal.
The inputs are multiplied by H in each pass, which costs BLOCK multiplications a value; the weights are multiplied by it
once, and are rounded more finely then, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cache

import numpy as np
import openvino as ov
from openvino import opset13 as op

from engines.checkpoint import FloatArray
from engines.local.graph_nodes import Node, floats, ints

BLOCK = 32
"""Channels that are rotated together."""


def rotated(matrix: FloatArray) -> FloatArray:
    """Weights [out, in] for inputs that are rotated; float32."""
    blocks = matrix.reshape(len(matrix), -1, _block(matrix.shape[1]))
    return (blocks @ hadamard(blocks.shape[2])).reshape(matrix.shape)


def rotate_inputs(graph: ov.Model, layers: Collection[str]) -> None:
    """Rotate what these layers read, in place. Their weights are to be `rotated`."""
    for product in graph.get_ordered_ops():
        if product.get_friendly_name() in layers:
            product.input(0).replace_source_output(_rotated_inputs(product.input_value(0)).output(0))


def _rotated_inputs(x: Node) -> Node:
    """[B, S, in] -> the same, each block of channels multiplied by the matrix."""
    width = x.get_partial_shape()[2].get_length()
    block = _block(width)
    blocks = op.reshape(x, ints([0, 0, width // block, block]), True)
    return op.reshape(op.matmul(blocks, floats(hadamard(block)), False, False), ints([0, 0, width]), True)


@cache
def hadamard(size: int) -> FloatArray:
    """Sylvester's matrix [size, size] of a power of two, symmetric, with rows of length 1: its own inverse."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix / np.float32(math.sqrt(size))).astype(np.float32)


def _block(width: int) -> int:
    """The largest power of two up to BLOCK that divides it."""
    return math.gcd(width, BLOCK)
