"""Float32 products by themselves, as OpenVINO's CPU plugin multiplies them fastest."""

from __future__ import annotations

import openvino as ov
from openvino import Type
from openvino import opset13 as op

from engines.local.graph_nodes import Node, ints


def without_activations(graph: ov.Model) -> ov.Model:
    """A text graph that computes the same, in which the plugin finds no activation to take into a product of floats.

    With its activation a product runs in oneDNN's kernels, by itself in MLAS's, which are faster at float32. So a
    factor stands between the two: one, but told by an input, so that the plugin can't leave it out. It takes the
    factor, the activation and what comes behind for one operation. `graph` is left as it is, and both share their
    constants.
    """
    graph = graph.clone()
    activations = [
        node for node in graph.get_ops() if node.get_type_name() == "Gelu" and _is_of_floats(_source(node, 0))
    ]
    if activations:
        columns = next(node for node in graph.get_parameters() if "columns" in node.output(0).get_names())
        one = op.convert(op.greater_equal(columns, ints(0)), Type.f32)
        for node in activations:
            node.input(0).replace_source_output(op.multiply(node.input_value(0), one).output(0))
    return graph


def _is_of_floats(node: Node) -> bool:
    """Whether it is a product with a matrix that is stored as floats."""
    if node.get_type_name() != "MatMul":
        return False
    matrix = _source(node, 1)
    stored = _source(matrix, 0) if matrix.get_type_name() == "Convert" else matrix
    return bool(stored.get_type_name() == "Constant" and stored.get_output_element_type(0).is_real())


def _source(node: Node, port: int) -> Node:
    return node.input_value(port).get_node()
