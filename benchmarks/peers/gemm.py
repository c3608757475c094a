"""Child: what this machine multiplies at most, at the model's shapes, in the peers' environment.

Through OpenVINO (a graph of one product, in float; with int8 weights and inputs that are quantized at run time; with
inputs at fixed scales), through torch (`mm`, and `_int_mm` of int8) and through ONNX Runtime (uint8 inputs by int8
weights). Each figure is the best of some repeats.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.peers.protocol import serve

REPEATS = 5
LEAST_S, MOST_S = 0.2, 3.0
"""Of one repeat, and of all of them: int8 without instructions of its own is slow enough for one repeat to do."""


def rate(once: Callable[[], Any], operations: int) -> float:
    """Operations a second of the best repeat."""
    started = time.perf_counter()
    once()
    best = 0.0
    for _ in range(REPEATS):
        if best and time.perf_counter() - started > MOST_S:
            break
        count, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < LEAST_S or not count:
            once()
            count += 1
        best = max(best, count * operations / spent)
    return best


def measure(message: Mapping[str, Any]) -> dict[str, Any]:
    """shapes: [[rows, inputs, outputs], ..]; precisions: floats that the CPU multiplies itself. Returns {"peaks": {way:
    {arithmetic: operations a second}}}, of all shapes together as the model does them one after the other; what a way
    can't do is left out, and said in "refused"."""
    peaks: dict[str, dict[str, float]] = {}
    refused: dict[str, str] = {}
    shapes = [tuple(shape) for shape in message["shapes"]]
    total = sum(2 * rows * inputs * outputs for rows, inputs, outputs in shapes)
    for way, arithmetic, make in ways(message["precisions"]):
        try:
            seconds = 0.0
            for rows, inputs, outputs in shapes:
                operations = 2 * rows * inputs * outputs
                seconds += operations / rate(make(rows, inputs, outputs), operations)
            peaks.setdefault(way, {})[arithmetic] = total / seconds
        except Exception as error:
            refused[f"{way} {arithmetic}"] = f"{type(error).__name__}: {str(error)[:200]}"
    return {"peaks": peaks, "refused": refused}


Make = Callable[[int, int, int], Callable[[], Any]]


def ways(precisions: list[str]) -> Iterator[tuple[str, str, Make]]:
    """(way, arithmetic, maker of one product from rows, inputs and outputs)."""
    for precision in precisions:
        yield "openvino", precision, lambda *shape, hint=precision: openvino_product(shape, hint, "float")
        yield "torch", precision, lambda *shape, hint=precision: torch_product(shape, hint)
    yield "openvino, scales at run time", "int8", lambda *shape: openvino_product(shape, precisions[-1], "run time")
    yield "openvino, fixed scales", "int8", lambda *shape: openvino_product(shape, precisions[-1], "fixed")
    yield "onnxruntime", "int8", lambda *shape: onnxruntime_product(shape)
    yield "torch", "int8", lambda *shape: torch_product(shape, "int8")


def openvino_product(shape: tuple[int, ...], hint: str, numbers: str) -> Callable[[], Any]:
    """numbers: "float"; "run time": int8 weights, inputs quantized in the pass; "fixed": inputs at one known scale."""
    rows, inputs, outputs = shape
    ov = importlib.import_module("openvino")
    ops = importlib.import_module("openvino.opset13")
    random = np.random.default_rng(0)
    values = ops.parameter([rows, inputs], np.float32)
    if numbers == "float":
        weights = ops.constant(random.standard_normal((outputs, inputs)).astype(np.float32))
    else:
        stored = ops.constant(random.integers(-127, 128, (outputs, inputs)).astype(np.int8))
        scales = ops.constant(np.full((outputs, 1), 0.01, np.float32))
        weights = ops.multiply(ops.convert(stored, np.float32), scales)
    read: Any = values
    if numbers == "fixed":
        low, high = (ops.constant(np.array(edge, np.float32)) for edge in (-4.0, 4.0 * 127 / 128))
        read = ops.fake_quantize(values, low, high, low, high, 256)
    product = ops.matmul(read, weights, False, True)
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 64 if numbers == "run time" else 0,
    }
    model = ov.Model([product], [values])
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(random.standard_normal((rows, inputs)).astype(np.float32)))
    infer: Callable[[], Any] = request.infer
    return infer


def onnxruntime_product(shape: tuple[int, ...]) -> Callable[[], Any]:
    rows, inputs, outputs = shape
    helper, numpy_helper = (importlib.import_module(f"onnx.{name}") for name in ("helper", "numpy_helper"))
    kinds = importlib.import_module("onnx").TensorProto
    runtime = importlib.import_module("onnxruntime")
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kinds.UINT8, [rows, inputs])],
        [helper.make_tensor_value_info("y", kinds.INT32, [rows, outputs])],
        [
            numpy_helper.from_array(random.integers(-64, 65, (inputs, outputs)).astype(np.int8), "w"),
            numpy_helper.from_array(np.array(128, np.uint8), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = runtime.SessionOptions()
    # The cores are everyone's in turn: threads that spin would take them from the next way.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    asked = {"x": random.integers(0, 256, (rows, inputs)).astype(np.uint8)}
    return lambda: session.run(None, asked)


def torch_product(shape: tuple[int, ...], arithmetic: str) -> Callable[[], Any]:
    rows, inputs, outputs = shape
    torch = importlib.import_module("torch")
    if arithmetic == "int8":
        left, right = (torch.randint(-127, 127, size, dtype=torch.int8) for size in ((rows, inputs), (inputs, outputs)))
        return lambda: torch._int_mm(left, right)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[arithmetic]
    left, right = (torch.randn(size).to(dtype) for size in ((rows, inputs), (inputs, outputs)))
    return lambda: torch.mm(left, right)


if __name__ == "__main__":
    serve({"run": measure})
