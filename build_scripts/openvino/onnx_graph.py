"""The text graph for ONNX Runtime: what `forward_openvino` wrote, operation by operation.

On a CPU without VNNI, ONNX Runtime multiplies int8 faster than float32, and OpenVINO does not. The graph has no weights
of its own: they stay where OpenVINO's file has them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import openvino as ov
from onnx import TensorProto, helper
from tritonguard.errors import BundleError

from engines.local.graph_nodes import Node
from engines.local.onnx_runtime import ONNX_GRAPH
from engines.local.runtime import GRAPH, core

_OPSETS = {"": 20, "com.microsoft": 1}
_IR_VERSION = 9
_MICROSOFT = "com.microsoft"
_MOST_INLINE = 4096
"""Bytes of a constant that is written into the graph itself."""
_CONSTANT = re.compile(r'<layer id="\d+" name="([^"]*)" type="Const"[^>]*>\s*<data [^>]*offset="(\d+)" size="(\d+)"')
"""(name, offset, bytes) as OpenVINO writes them."""
_TYPES = {
    "f32": TensorProto.FLOAT,
    "bf16": TensorProto.BFLOAT16,
    "i8": TensorProto.INT8,
    "i32": TensorProto.INT32,
    "boolean": TensorProto.BOOL,
}
_ALIKE = {
    "Add": "Add",
    "Cos": "Cos",
    "Divide": "Div",
    "GreaterEqual": "GreaterOrEqual",
    "Less": "Less",
    "LogicalAnd": "And",
    "Maximum": "Max",
    "Minimum": "Min",
    "Multiply": "Mul",
    "Range": "Range",
    "Select": "Where",
    "Sin": "Sin",
    "Sqrt": "Sqrt",
    "Subtract": "Sub",
}
"""Operations that differ in their name alone."""


def save_onnx(folder: Path) -> None:
    """Write ONNX_GRAPH beside a saved text graph. Raises BundleError where that can't be read, or has an operation that
    is not known here."""
    try:
        graph = core().read_model(str(folder / GRAPH))
        places = _places(folder / GRAPH, graph)
    except (RuntimeError, OSError, ValueError) as error:
        raise BundleError(f"{folder.name}/{GRAPH} can't be read") from error
    (folder / ONNX_GRAPH).write_bytes(to_onnx(graph, places).SerializeToString())


@dataclass(frozen=True)
class Place:
    """Of a constant in the file of the weights: bytes."""

    file: str
    offset: int
    length: int


def _places(xml: Path, graph: ov.Model) -> dict[str, Place]:
    """Of the large constants of a saved graph, by their names. Raises BundleError where the file holds something else
    at one's place."""
    file = xml.with_suffix(".bin")
    stored = np.memmap(file, np.uint8, mode="r")
    said = {name: Place(file.name, int(at), int(size)) for name, at, size in _CONSTANT.findall(xml.read_text("utf-8"))}
    found = {}
    for node in graph.get_ops():
        if node.get_type_name() == "Constant" and node.data.nbytes > _MOST_INLINE:
            place = said.get(node.get_friendly_name(), Place(file.name, 0, 0))
            values = np.ascontiguousarray(node.data).reshape(-1).view(np.uint8)
            if not np.array_equal(stored[place.offset : place.offset + place.length], values):
                raise BundleError(f"{file.name} does not hold {node.get_friendly_name()} where {xml.name} says")
            found[node.get_friendly_name()] = place
    return found


def to_onnx(graph: ov.Model, places: Mapping[str, Place]) -> onnx.ModelProto:
    """The same inputs and outputs, by their names. Inputs of int8 matrices, which have no zero points, are quantized in
    each pass, a scale a token.

    places: of constants that are left in their file; all others are written into the graph. Raises BundleError for an
    operation that is not known here.
    """
    writer = _Writer(places)
    for node in graph.get_ordered_ops():
        writer.add(node)
    inputs = [_value(node.output(0), node.get_friendly_name()) for node in graph.get_parameters()]
    outputs = []
    for result in graph.get_results():
        (name,) = result.output(0).get_names() | result.input_value(0).get_names()
        writer.end(result.input_value(0), name)
        outputs.append(_value(result.output(0), name))
    nodes, constants = writer.needed(outputs)
    made = helper.make_graph(nodes, graph.get_friendly_name(), inputs, outputs, constants)
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    return helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION)


def _value(output: Node, name: str) -> onnx.ValueInfoProto:
    shape = [None if size.is_dynamic else size.get_length() for size in output.get_partial_shape()]
    return helper.make_tensor_value_info(name, _TYPES[output.get_element_type().get_type_name()], shape)


class _Writer:
    """Writes down each operation once, also where the graph has it several times: layers that read the same input
    quantize it together."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places
        self._nodes: dict[tuple[Any, ...], onnx.NodeProto] = {}
        self._constants: dict[str, TensorProto] = {}
        self._names: dict[tuple[str, int], str] = {}

    def add(self, node: Node) -> None:
        kind = node.get_type_name()
        if kind in ("Constant", "Result"):
            return
        names = [node.get_friendly_name()] if kind == "Parameter" else self._written(node, kind)
        for index, name in enumerate(names):
            self._names[node.get_friendly_name(), index] = name

    def end(self, output: Node, name: str) -> None:
        node = helper.make_node("Identity", [self._name(output)], [name])
        self._nodes["Identity", name] = node

    def needed(self, outputs: Sequence[onnx.ValueInfoProto]) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
        """What the outputs are made of: nothing reads the parts of what was written as one operation."""
        read = {each.name for each in outputs}
        nodes = []
        for node in reversed(self._nodes.values()):
            if read & set(node.output):
                read.update(node.input)
                nodes.append(node)
        return nodes[::-1], [constant for name, constant in self._constants.items() if name in read]

    def _written(self, node: Node, kind: str) -> Sequence[str]:
        sources = [node.input_value(index) for index in range(node.get_input_size())]
        attributes = node.get_attributes()
        if kind == "Multiply" and (normed := _norm(node)):
            x, epsilon, scale = normed
            scales = self._inline(np.ravel(scale))
            return self._put("SimplifiedLayerNormalization", [self._name(x), scales], axis=-1, epsilon=epsilon)
        if kind == "MatMul":
            return self._product(*sources, transposed=attributes["transpose_b"])
        x = self._name(sources[0])
        if kind in _ALIKE:
            return self._put(_ALIKE[kind], [x, *map(self._name, sources[1:])])
        if kind == "Gelu":
            return self._put("FastGelu", [x], domain=_MICROSOFT)
        if kind in ("Concat", "Softmax"):
            return self._put(kind, [x, *map(self._name, sources[1:])], axis=attributes["axis"])
        if kind == "Gather":
            return self._rows(*sources[:2], axis=int(_known(sources[2])))
        if kind == "Convert":
            return self._put("Cast", [x], to=_TYPES[attributes["destination_type"]])
        if kind == "ShapeOf":
            return self._put("Cast", self._put("Shape", [x]), to=TensorProto.INT32)
        if kind in ("Broadcast", "Squeeze", "Unsqueeze"):
            return self._put("Expand" if kind == "Broadcast" else kind, [x, self._int64(sources[1])])
        if kind == "Reshape":
            # 0: as long as before, or with nothing in it.
            return self._put(kind, [x, self._int64(sources[1])], allowzero=int(not attributes["special_zero"]))
        if kind == "ReduceMean":
            return self._put("ReduceMean", [x, self._int64(sources[1])], keepdims=int(attributes["keep_dims"]))
        if kind == "Transpose":
            return self._put("Transpose", [x], perm=[int(axis) for axis in _known(sources[1])])
        if kind == "Slice":
            start, stop, step, axis = (self._int64(each) for each in sources[1:])
            return self._put("Slice", [x, start, stop, axis, step])
        if kind == "VariadicSplit":
            lengths = [output.get_partial_shape()[int(_known(sources[1]))].get_length() for output in node.outputs()]
            sizes = self._inline(np.array(lengths, np.int64))
            return self._put("Split", [x, sizes], outputs=len(lengths), axis=int(_known(sources[1])))
        raise BundleError(f"ONNX Runtime's graph has no {kind} yet")

    def _rows(self, table: Node, places: Node, *, axis: int) -> Sequence[str]:
        if (stored := _source(table, "Convert", 0)) is None or stored.get_node().get_type_name() != "Constant":
            return self._put("Gather", [self._name(table), self._name(places)], axis=axis)
        # Converted behind: of a constant the runtime would do so once, and keep the whole vocabulary as floats.
        rows = self._put("Gather", [self._name(stored), self._name(places)], axis=axis)
        return self._put("Cast", rows, to=_TYPES[table.get_element_type().get_type_name()])

    def _product(self, x: Node, matrix: Node, *, transposed: bool) -> Sequence[str]:
        if (int8 := _int8(matrix)) is not None:
            values, scales = int8
            return self._int8_product(self._name(x), self._turned(values), np.ravel(scales))
        return self._put("MatMul", [self._name(x), self._turned(matrix) if transposed else self._name(matrix)])

    def _int8_product(self, x: str, values: str, scales: npt.NDArray[np.float32]) -> Sequence[str]:
        """x float [1, M, in], values int8 [in, out]: x is rounded to 255 steps, the largest magnitude of a token being
        127 of them. A token without a number stays without one."""
        axes = self._inline(np.array([0, 2], np.int64))
        [highest] = self._put("ReduceMax", [x, axes], keepdims=0)
        [lowest] = self._put("ReduceMin", [x, axes], keepdims=0)
        [magnitude] = self._put("Max", [highest, *self._put("Neg", [lowest]), self._inline(np.float32(1e-20))])
        [steps] = self._put("Mul", [magnitude, self._inline(np.float32(1 / 127))])
        middle = self._inline(np.uint8(128))
        zeros = self._put("Expand", [self._inline(np.array([128], np.uint8)), *self._put("Shape", [steps])])
        [rounded] = self._put("QuantizeLinear", [x, steps, *zeros], axis=1)
        [sums] = self._put(
            "MatMulIntegerToFloat",
            [rounded, values, self._inline(np.float32(1)), self._inline(scales), middle],
            domain=_MICROSOFT,
        )
        return self._put("Mul", [sums, *self._put("Unsqueeze", [steps, self._inline(np.array([0, 2], np.int64))])])

    def _turned(self, output: Node) -> str:
        """The last two axes exchanged; of a constant the runtime does so once."""
        axes = list(range(len(output.get_partial_shape())))
        axes[-2:] = axes[-1], axes[-2]
        return self._put("Transpose", [self._name(output)], perm=axes)[0]

    def _put(
        self, kind: str, inputs: Sequence[str], *, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> list[str]:
        key = (kind, domain, tuple(inputs), repr(attributes))
        if key not in self._nodes:
            names = [f"{kind}_{len(self._nodes)}{f'_{index}' if index else ''}" for index in range(outputs)]
            self._nodes[key] = helper.make_node(kind, inputs, names, domain=domain, **attributes)
        return [str(name) for name in self._nodes[key].output]

    def _name(self, output: Node) -> str:
        node = output.get_node()
        if node.get_type_name() != "Constant":
            return self._names[node.get_friendly_name(), output.get_index()]
        place = self._places.get(node.get_friendly_name())
        if place is None:
            data = np.ascontiguousarray(node.data)
            return self._written_in(_TYPES[node.get_element_type().get_type_name()], node.get_shape(), data)
        name = str(node.get_friendly_name())
        constant = TensorProto(
            name=name,
            data_type=_TYPES[node.get_element_type().get_type_name()],
            dims=list(node.get_shape()),
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (("location", place.file), ("offset", place.offset), ("length", place.length)):
            constant.external_data.add(key=key, value=str(value))
        self._constants[name] = constant
        return name

    def _int64(self, output: Node) -> str:
        """Sizes and axes, which OpenVINO has as int32."""
        if output.get_node().get_type_name() == "Constant":
            return self._inline(np.atleast_1d(_known(output)).astype(np.int64))
        return self._put("Cast", [self._name(output)], to=TensorProto.INT64)[0]

    def _inline(self, value: Any) -> str:
        array = np.asarray(value)
        return self._written_in(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array)

    def _written_in(self, kind: int, shape: Sequence[int], data: npt.NDArray[Any]) -> str:
        """Equal constants are one, so that what is made of them is the same operation."""
        raw = data.tobytes()
        name = f"constant_{kind}_{'x'.join(map(str, shape))}_{hashlib.sha256(raw).hexdigest()[:32]}"
        if name not in self._constants:
            self._constants[name] = helper.make_tensor(name, kind, list(shape), raw, raw=True)
        return name


def _known(output: Node) -> npt.NDArray[Any]:
    """The values of a constant."""
    values: npt.NDArray[Any] = output.get_node().data
    return values


def _int8(matrix: Node) -> tuple[Node, npt.NDArray[np.float32]] | None:
    """(int8 values [out, in], scales [out, 1]) of what `Int8Matrix.node` writes without zero points."""
    converted = _source(matrix, "Multiply", 0)
    values = _source(converted, "Convert", 0)
    if values is None or values.get_element_type() != ov.Type.i8:
        return None
    return values, _known(matrix.get_node().input_value(1))


def _norm(node: Node) -> tuple[Node, float, npt.NDArray[np.float32]] | None:
    """(x, epsilon, scale) of x / sqrt(mean(x * x) + epsilon) * scale."""
    normed = node.input_value(0)
    added = _source(_source(_source(normed, "Multiply", 1), "Divide", 1), "Sqrt", 0)
    if added is None or _source(_source(added, "Add", 0), "ReduceMean", 0) is None:
        return None
    epsilon = added.get_node().input_value(1)
    return normed.get_node().input_value(0), float(_known(epsilon)), _known(node.input_value(1))


def _source(output: Node | None, kind: str, port: int) -> Node | None:
    """What stands at a port of the operation that gives `output`, if it is of that kind."""
    if output is None or output.get_node().get_type_name() != kind:
        return None
    return output.get_node().input_value(port)
