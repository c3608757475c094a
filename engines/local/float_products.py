"""Float32 products by themselves, as OpenVINO's CPU plugin multiplies them fastest."""

from __future__ import annotations

import math

import openvino as ov
from openvino import opset13 as op

from engines.local.graph_nodes import Node, floats, ints


def without_activations(graph: ov.Model) -> ov.Model:
    """A text graph that computes the same, in which the plugin finds no activation to take into a product of floats.

    With its activation a product runs in oneDNN's kernels, by itself in MLAS's, which are faster at float32. So the
    activation is written out, in the form that the plugin takes for one operation with what comes behind. `graph` is
    left as it is, and both share their constants.
    """
    graph = graph.clone()
    for node in graph.get_ops():
        if node.get_type_name() == "Gelu" and _is_of_floats(_source(node, 0)):
            written_out = _gelu(node.input_value(0)).output(0)
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(written_out)
    return graph


def _gelu(x: Node) -> Node:
    """GELU by tanh (Hendrycks and Gimpel, arXiv 1606.08415) of x [A, B, N], as x * sigmoid(2 * sqrt(2 / pi) * (x +
    0.044715 * x^3)): (1 + tanh(u)) / 2 is sigmoid(2 * u), and the sigmoid costs less.

    What reads the same tensor is not taken together, so x has a name for each reader.
    """
    same = ints([0, -1, x.get_partial_shape()[2].get_length()])
    second = op.reshape(x, same, True)
    third = op.reshape(second, same, True)
    steep = 2 * math.sqrt(2 / math.pi)
    slope = op.add(op.multiply(op.power(x, floats(2.0)), floats(0.044715 * steep)), floats(steep))
    return op.multiply(op.sigmoid(op.multiply(slope, second)), third)


def _is_of_floats(node: Node) -> bool:
    """Whether it is a product with a matrix that is stored as floats."""
    if node.get_type_name() != "MatMul":
        return False
    matrix = _source(node, 1)
    stored = _source(matrix, 0) if matrix.get_type_name() == "Convert" else matrix
    return bool(stored.get_type_name() == "Constant" and stored.get_output_element_type(0).is_real())


def _source(node: Node, port: int) -> Node:
    return node.input_value(port).get_node()
