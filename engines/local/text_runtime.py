"""What computes a bundle's text forward, as its engine.yaml says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from engines.checkpoint import FloatArray
from engines.local.engine_config import ONNX_RUNTIME, EngineConfig
from engines.local.runtime import Runtime


class TextRuntime(Protocol):
    """Not thread-safe."""

    def run(self, **inputs: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """The inputs of `build_graph` -> logits, keys, values, hidden: see `Runtime.run`."""

    def beside(self) -> TextRuntime:
        """Another one, which may run at the same time."""


def load_text_runtime(folder: Path, how: EngineConfig, *, streams: int = 1) -> TextRuntime:
    """streams: how many are to run at the same time, each on its share of the cores. Raises BundleError for a graph
    that can't be read or compiled."""
    if how.runtime == ONNX_RUNTIME:
        # Only there: a bundle for OpenVINO does without the package.
        from engines.local.onnx_runtime import OnnxRuntime

        return OnnxRuntime.load(folder, streams=streams)
    return Runtime.load(
        folder, precision=how.arithmetic, group_size=how.dynamic_quantization_group_size, streams=streams
    )
