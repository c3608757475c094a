"""The nodes that every OpenVINO graph of this folder is written with: constants, stored weights, layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import Type
from openvino import opset13 as op

from engines.checkpoint import FloatArray

Node = Any  # openvino's Python wheel has no types for graph nodes


def ints(value: int | Sequence[int]) -> Node:
    return op.constant(np.asarray(value, dtype=np.int32))


def floats(value: float | FloatArray) -> Node:
    return op.constant(np.asarray(value, dtype=np.float32))


def weight(stored: npt.NDArray[Any], *, name: str | None = None) -> Node:
    """A tensor as a checkpoint stores it (uint16: bfloat16 bits), with a conversion that the plugin folds.

    The constant is a view of `stored`: keep that for as long as the graph. `name` finds it in a saved graph.
    """
    if stored.dtype == np.uint16:
        constant = op.constant(ov.Tensor(stored.view(np.float16), stored.shape, Type.bf16))
    else:
        constant = op.constant(stored)
    if name is not None:
        constant.set_friendly_name(name)
    return constant if stored.dtype == np.float32 else op.convert(constant, Type.f32)


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
