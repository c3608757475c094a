"""The forms that a text graph can be given for the OpenVINO target, by name.

Which layers stay in float is measured, not guessed: `python -m benchmarks.sensitivity`, and the table in
docs/quantization.md. Embedding, norms, softmax and the choice's own logits are float in every form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from engines.local.engine_config import ONNX_RUNTIME, OPENVINO_RUNTIME, PER_TOKEN

KIND = "quantized"
"""Of the manifest of a folder with such a graph."""

DYNAMIC_GROUP, SMOOTH_GROUP = 64, 128
"""Values of a layer's input to a scale: smaller groups follow outliers closer, larger ones are faster. Where outliers
are smoothed, groups of twice the size round as finely."""

SMOOTH_ALPHA = 0.6
"""Of 0.3 to 0.9, where the products of the MLPs over calibration inputs stay nearest."""


@dataclass(frozen=True)
class Profile:
    """weights: of the linear layers. rounding: of int8 weights: to the nearest, or so that products of the inputs that
    calibration saw stay near (`rounding`). symmetric: they have no zero points, as OpenVINO's fused MLP wants them.
    activations: their inputs: float, quantized in each pass, or with scales that calibration fixed. The products of
    attention are float in every form. float_layers: name patterns of layers that are left as stored. smooth: outliers
    of inputs that are quantized in each pass are moved into the weights first (`smoothing`). alpha: how far SmoothQuant
    moves them (arXiv 2211.10438, formula 4). rotate: inputs of int8 layers are rotated in each pass (`rotation`), and
    weights are rounded so that their products are exact without VNNI (`pair_sums`). arithmetic: None: what is fastest
    where it is compiled. runtime: what computes it, of RUNTIMES.
    """

    name: str
    summary: str
    weights: Literal["stored", "int8"] = "stored"
    activations: Literal["float", "dynamic", "static"] = "float"
    rounding: Literal["nearest", "by inputs"] = "nearest"
    float_layers: tuple[str, ...] = ()
    symmetric: bool = False
    smooth: bool = False
    alpha: float = 0.5
    dynamic_group: int = DYNAMIC_GROUP
    rotate: bool = False
    arithmetic: str | None = None
    runtime: str = OPENVINO_RUNTIME

    def is_int8(self, layer: str) -> bool:
        """Whether the linear layer of this name ("layers.0.mlp.down_proj") gets int8 weights."""
        return self.weights == "int8" and not any(fnmatchcase(layer, pattern) for pattern in self.float_layers)

    @property
    def is_calibrated(self) -> bool:
        """Whether it depends on calibration prompts."""
        return self.activations == "static" or self.rounding == "by inputs" or self.smooth

    @property
    def group_size(self) -> int:
        """Of the engine: `EngineConfig.dynamic_quantization_group_size`."""
        return self.dynamic_group if self.activations == "dynamic" else 0


_ALL = (
    Profile("f32", "weights as stored, float32 arithmetic: the reference", arithmetic="f32"),
    Profile("bf16", "weights as stored, bfloat16 arithmetic", arithmetic="bf16"),
    Profile("int8-weight-only", "int8 weights, a scale a row; inputs stay float", weights="int8"),
    Profile(
        "int8-dynamic",
        "int8 weights, a scale a row; inputs quantized per token in each pass",
        weights="int8",
        activations="dynamic",
    ),
    Profile(
        "int8-dynamic-smooth",
        "the same behind SmoothQuant's change of scales, with larger groups",
        weights="int8",
        activations="dynamic",
        smooth=True,
        alpha=SMOOTH_ALPHA,
        dynamic_group=SMOOTH_GROUP,
    ),
    Profile(
        "int8-mlp-smooth",
        "the MLPs alone in int8, their inputs with a scale a token, smoothed: what AMX multiplies as int8",
        weights="int8",
        activations="dynamic",
        float_layers=("*.self_attn.*", "layers.[0-2].mlp.*"),
        symmetric=True,
        smooth=True,
        alpha=SMOOTH_ALPHA,
        dynamic_group=PER_TOKEN,
    ),
    Profile(
        "int8-rotated",
        "int8 weights and inputs, a scale a token, smoothed and rotated: for CPUs without VNNI, by ONNX Runtime",
        weights="int8",
        activations="dynamic",
        symmetric=True,
        smooth=True,
        alpha=SMOOTH_ALPHA,
        dynamic_group=PER_TOKEN,
        rotate=True,
        arithmetic="f32",
        runtime=ONNX_RUNTIME,
    ),
    Profile(
        "int8-dynamic-gptq",
        "int8-dynamic with weights rounded for the inputs that calibration saw",
        weights="int8",
        rounding="by inputs",
        activations="dynamic",
    ),
    Profile(
        "int8-sq",
        "SmoothQuant W8A8: int8 weights and inputs, scales fixed by calibration",
        weights="int8",
        activations="static",
    ),
    Profile(
        "int8-static",
        "int8-sq without smoothing: outliers stay in the inputs",
        weights="int8",
        activations="static",
        alpha=0.0,
    ),
)
PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in _ALL}
