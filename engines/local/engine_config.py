"""engine.yaml: how the graphs of a bundle are run. The same name as the file of a TensorRT-LLM bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml
from tritonguard.errors import BundleError

ENGINE_CONFIG = "engine.yaml"
PRECISIONS = ("f32", "bf16")
RUNTIMES = OPENVINO_RUNTIME, ONNX_RUNTIME = ("openvino", "onnxruntime")
"""By the names of their packages."""
PER_TOKEN = 2**64 - 1
"""As a group size: one scale for all of a token's values. OpenVINO's fused MLP asks for it by this number."""
STREAMS_VARIABLE = "TRITONGUARD_STREAMS"
"""Environment variable: in the place of the bundle's `streams`; empty or not set: the bundle's."""
_TEXT = """\
# How the graphs of this bundle are run; written by build_scripts/openvino/compile.py, covered by the manifest's hash.

# Of all that is not int8: sums of int8 products, norms, attention. bf16 only on a CPU that multiplies it itself.
arithmetic: {arithmetic}

# Inputs of a layer with int8 weights are quantized in each pass, this many values to a scale. 0: they stay float.
# 18446744073709551615: a scale for each token.
dynamic_quantization_group_size: {dynamic_quantization_group_size}

# What computes the text forward: openvino, or onnxruntime, which multiplies int8 on CPUs without VNNI.
runtime: {runtime}

# 2: a pass of several rows is cut in two that run at once, each on half of the cores; it takes the graph's memory once
# more. 1: no pass is cut.
streams: {streams}
"""


@dataclass(frozen=True)
class EngineConfig:
    """arithmetic: one of PRECISIONS. dynamic_quantization_group_size: OpenVINO's property, for the text graph. runtime:
    one of RUNTIMES, of the text graph. streams: 1, or 2 to cut passes of several rows in two that run at once."""

    arithmetic: str
    dynamic_quantization_group_size: int = 0
    streams: int = 2
    runtime: str = OPENVINO_RUNTIME

    def __post_init__(self) -> None:
        if self.arithmetic not in PRECISIONS:
            raise BundleError(f"arithmetic {self.arithmetic!r} is not one of: {', '.join(PRECISIONS)}")
        size = self.dynamic_quantization_group_size
        if type(size) is not int or size < 0:
            raise BundleError("dynamic_quantization_group_size is not a whole number of at least 0")
        if self.runtime not in RUNTIMES:
            raise BundleError(f"runtime {self.runtime!r} is not one of: {', '.join(RUNTIMES)}")
        if type(self.streams) is not int or self.streams not in (1, 2):
            raise BundleError("streams is 1 or 2")

    def told_by(self, environ: Mapping[str, str]) -> EngineConfig:
        """With the streams that STREAMS_VARIABLE names, if it does. Raises ValueError for what is not 1 or 2."""
        text = environ.get(STREAMS_VARIABLE, "")
        if text not in ("", "1", "2"):
            raise ValueError(f"the environment variable {STREAMS_VARIABLE} is not 1 or 2")
        return replace(self, streams=int(text)) if text else self

    @classmethod
    def read(cls, folder: Path) -> EngineConfig:
        """Raises BundleError where the file is missing, or says what this release does not know."""
        try:
            values = yaml.safe_load((folder / ENGINE_CONFIG).read_text(encoding="utf-8"))
            return cls(**values)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
            raise BundleError(f"{folder.name} has no readable {ENGINE_CONFIG}: compile it again") from error

    def write(self, folder: Path) -> None:
        (folder / ENGINE_CONFIG).write_text(_TEXT.format(**asdict(self)), encoding="utf-8")
