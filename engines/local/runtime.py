"""A bundle's OpenVINO graphs, compiled for this CPU: arrays in, arrays out."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from tritonguard.errors import BundleError

from engines.checkpoint import FloatArray
from engines.local.forward_openvino import INPUTS, OUTPUTS
from engines.local.vision_openvino import FEATURES, PIXELS

GRAPH = "graph.xml"
VISION_GRAPH = "vision.xml"
PRECISIONS = ("f32", "bf16")


_KEPT_KERNELS = "200"
"""The plugin keeps kernels by shape, and every length of a text is one. Its own limit of 5,000 let memory grow for
thousands of requests (800 MB and more); with this it stays the same after some hundred, and passes are no slower."""


@cache
def core() -> ov.Core:
    """The one OpenVINO core of this process, kept to its end.

    Its CPU plugin sets an alternate signal stack and puts back the one before it when it goes. Two of them that go
    in the wrong order leave a freed stack behind, and the next signal is a segmentation fault.
    """
    return ov.Core()


def native_precisions() -> tuple[str, ...]:
    """Those of PRECISIONS that this CPU computes in itself; a hint for another one falls back to f32."""
    has = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name in PRECISIONS if name == "f32" or name.upper() in has)


def infer_request(model: ov.Model | Path, *, precision: str, **options: Any) -> Any:
    """A graph or a saved graph's file, compiled for latency. Raises BundleError for an unknown precision, or a
    graph that can't be read or compiled.
    """
    if precision not in PRECISIONS:
        raise BundleError(f"precision {precision!r} is not one of: {', '.join(PRECISIONS)}")
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
        "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_KERNELS,
        **options,
    }
    try:
        compiled = core().compile_model(model if isinstance(model, ov.Model) else str(model), "CPU", settings)
    except RuntimeError as error:
        name = f"{model.parent.name}/{model.name}" if isinstance(model, Path) else model.get_friendly_name()
        raise BundleError(f"{name} can't be compiled for this CPU") from error
    return compiled.create_infer_request()


class Runtime:
    """The text forward. Not thread-safe: one infer request."""

    def __init__(self, model: ov.Model | Path, *, precision: str) -> None:
        self._request = infer_request(model, precision=precision)
        hidden = self._request.get_compiled_model().input("features").partial_shape[1].get_length()
        self._no_features: FloatArray = np.zeros((1, hidden), np.float32)

    @classmethod
    def load(cls, folder: Path, *, precision: str) -> Runtime:
        """Raises BundleError for an unknown precision, or a graph that can't be read or compiled."""
        return cls(folder / GRAPH, precision=precision)

    def run(self, **inputs: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """The inputs of `build_graph`; without an image, slots and features may be left out.

        Returns logits float32 [B, N, C], keys and values float32 [layers, B, kv heads, S, head dim], hidden
        float32 [B, N, hidden]. The next call overwrites them.
        """
        if not inputs.keys() & {"slots", "features"}:
            inputs |= {"slots": np.full(inputs["ids"].shape, -1, np.int32), "features": self._no_features}
        assert inputs.keys() == set(INPUTS), sorted(inputs)
        self._request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()})
        logits, keys, values, hidden = (self._request.get_tensor(name).data for name in OUTPUTS)
        return logits, keys, values, hidden


class VisionRuntime:
    """The vision tower and projector. Not thread-safe: one infer request."""

    def __init__(self, model: ov.Model | Path, *, precision: str) -> None:
        self._request = infer_request(model, precision=precision)

    @classmethod
    def load(cls, folder: Path, *, precision: str) -> VisionRuntime:
        """Raises BundleError for an unknown precision, or a graph that can't be read or compiled."""
        return cls(folder / VISION_GRAPH, precision=precision)

    def features(self, pixels: npt.NDArray[np.uint8]) -> FloatArray:
        """pixels [N, size, size, 3], RGB -> features [N, tokens per image, text hidden size], a copy."""
        self._request.infer({PIXELS: np.ascontiguousarray(pixels, np.uint8)})
        features: FloatArray = self._request.get_tensor(FEATURES).data.copy()
        return features
