"""A compiled OpenVINO graph as a function from named arrays to (logits, keys, values)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from tritonguard.errors import BundleError

from engines.checkpoint import FloatArray
from engines.local.forward_openvino import INPUTS, OUTPUTS

GRAPH = "graph.xml"
PRECISIONS = ("f32", "bf16")


def native_precisions() -> tuple[str, ...]:
    """Those of PRECISIONS that this CPU computes in itself; a hint for another one falls back to f32."""
    has = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name in PRECISIONS if name == "f32" or name.upper() in has)


class Runtime:
    """Not thread-safe: one infer request. What `run` returns is overwritten by the next call."""

    def __init__(self, model: ov.Model | Path, *, precision: str) -> None:
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
        }
        core = ov.Core()
        compiled = core.compile_model(model if isinstance(model, ov.Model) else str(model), "CPU", options)
        self._request = compiled.create_infer_request()

    @classmethod
    def load(cls, folder: Path, *, precision: str) -> Runtime:
        """Raises BundleError for an unknown precision, or a graph that can't be read or compiled."""
        if precision not in PRECISIONS:
            raise BundleError(f"precision {precision!r} is not one of: {', '.join(PRECISIONS)}")
        try:
            return cls(folder / GRAPH, precision=precision)
        except RuntimeError as error:
            raise BundleError(f"{folder.name}/{GRAPH} can't be compiled for this CPU") from error

    def run(self, **inputs: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """logits float32 [B, N, C]; keys and values float32 [layers, B, kv heads, S, head dim]."""
        assert inputs.keys() == set(INPUTS), sorted(inputs)
        self._request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()})
        logits, keys, values = (self._request.get_tensor(name).data for name in OUTPUTS)
        return logits, keys, values
