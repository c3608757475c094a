"""Runs of quantize that are watched: logits before and with ModelOpt's quantizers, and what the projector gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from build_scripts import calibration
from build_scripts.tensorrt_llm import modelopt_export
from build_scripts.tensorrt_llm import quantize as script
from build_scripts.tensorrt_llm.calibration_inputs import Calibration, ModelPrompt, model_prompts, shipped_images
from build_scripts.tensorrt_llm.profiles import PROFILES
from engines.checkpoint import Checkpoint

ALL_POSITIONS = 0
LAYER = "model.language_model.layers.1."


@dataclass
class Export:
    """folder: what came out. prompts: what calibrated it. plain, fake: float32 logits [n, vocabulary] of each prompt
    before quantizing, and with the quantizers that simulate it. projected: shapes of the projector's outputs while
    ModelOpt calibrated. quantizers: those that were on. linear: {module: (input, output)} of LAYER's linear modules for
    the first prompt, simulated.
    """

    folder: Path
    prompts: list[ModelPrompt]
    plain: list[Tensor] = field(default_factory=list)
    fake: list[Tensor] = field(default_factory=list)
    projected: list[tuple[int, ...]] = field(default_factory=list)
    quantizers: list[str] = field(default_factory=list)
    linear: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def logits(model: Any, prompts: list[ModelPrompt]) -> list[Tensor]:
    return [modelopt_export.forward(model, prompt, logits_to_keep=ALL_POSITIONS)[0].float() for prompt in prompts]


def _note(into: dict[str, tuple[Tensor, Tensor]], name: str, module: Any, inputs: Any, output: Tensor) -> None:
    into[name] = (inputs[0].clone(), output.clone())


def run_quantize(guard: Path, corpus: Path, out: Path, profile: str, dtype: str = "bfloat16") -> Export:
    """The command's own function, with the model in `dtype`; in float32 the checks for bfloat16 files are left out."""
    drawn = Calibration(calibration.draw(corpus), shipped_images())
    vision = Checkpoint.read_vision_config(guard)
    assert vision is not None
    export = Export(out, model_prompts(drawn, guard, image_size=vision.image_size))
    load, quantize_text = modelopt_export.load_model, modelopt_export.quantize_text

    def loaded(folder: Path) -> Any:
        model = load(folder, dtype)
        export.plain = logits(model, export.prompts)
        return model

    def quantized(model: Any, *arguments: Any) -> None:
        def note(module: Any, inputs: Any, output: Tensor) -> None:
            export.projected.append(tuple(output.shape))

        hook = model.model.multi_modal_projector.register_forward_hook(note)
        quantize_text(model, *arguments)
        hook.remove()
        export.quantizers = modelopt_export.enabled_quantizers(model)
        export.fake = logits(model, export.prompts)
        hooks = []
        for name, module in model.named_modules():
            if name.startswith(LAYER) and name.endswith("_proj"):
                noted = partial(_note, export.linear, name)
                hooks.append(module.register_forward_hook(noted))
        modelopt_export.forward(model, export.prompts[0])
        for hook in hooks:
            hook.remove()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modelopt_export, "load_model", loaded)
        patch.setattr(modelopt_export, "quantize_text", quantized)
        if dtype != "bfloat16":
            patch.setattr(script, "check_export", lambda *_: 0)
        script.quantize(guard, out, PROFILES[profile], calibrated_on=drawn)
    return export
