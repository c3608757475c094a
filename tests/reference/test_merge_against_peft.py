"""merge_lora against PEFT's merge_and_unload: at most 1 bf16 ulp, in at most 1 of 1e6 elements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_checkpoint import projections, tiny_config, write_checkpoint
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers_twin import load_twin, text_config, text_state

from build_scripts.merge_lora import merge
from engines.checkpoint import TEXT_PREFIX, Checkpoint

CONFIG = tiny_config(
    hidden_size=640,
    intermediate_size=2048,
    head_dim=128,
    num_attention_heads=4,
    num_key_value_heads=1,
    num_hidden_layers=3,
    sliding_window_pattern=3,
    vocab_size=512,
)
TARGETS = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
VISION = {
    "hidden_size": 32,
    "image_size": 28,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("merge") / "base", CONFIG, scale=0.03)


def text_only(checkpoint: Checkpoint) -> Any:
    return load_twin(checkpoint, torch.bfloat16)


def vision_language(checkpoint: Checkpoint) -> Any:
    """The whole published architecture; its tiny vision tower is random and gets no adapter."""
    config = Gemma3Config(text_config=text_config(checkpoint), vision_config=VISION, mm_tokens_per_image=4)
    model: Any = Gemma3ForConditionalGeneration(config)
    model = model.to(torch.bfloat16).eval()
    model.model.language_model.load_state_dict(text_state(checkpoint, torch.bfloat16), strict=True)
    return model


def language_model(model: Any) -> Any:
    return model.model.language_model if hasattr(model.model, "language_model") else model.model


def steps_apart(ours: npt.NDArray[np.uint16], theirs: torch.Tensor) -> npt.NDArray[np.int64]:
    """Distance in bfloat16 ulps, element by element."""

    def ordered(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
        signed = bits.view(np.int16).astype(np.int64)
        return np.where(signed < 0, -(signed & 0x7FFF), signed)

    return np.asarray(np.abs(ordered(ours) - ordered(theirs.contiguous().view(torch.uint16).numpy())))


@pytest.mark.parametrize("build", [text_only, vision_language])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "lora_alpha": 8},
        {"rank_pattern": {"mlp.up_proj": 8}, "alpha_pattern": {r"layers\.1\..*": 5, "q_proj": 64}},
    ],
    ids=["plain", "rslora", "patterns"],
)
def test_the_merge_equals_peft(base: Path, tmp_path: Path, build: Any, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    checkpoint = Checkpoint.open(base)
    targets = TARGETS if build is text_only else ".*language_model" + TARGETS
    settings = {"lora_alpha": 32, **settings}
    config = LoraConfig(r=16, target_modules=targets, init_lora_weights=False, **settings)
    model = get_peft_model(build(checkpoint), config)
    with torch.no_grad():
        # Updates of a trained adapter's size, a few percent of the weights. What is left to differ is the float32
        # product's own rounding (BLAS libraries sum in different orders); it grows with the update, and where
        # update and weight cancel it is more than a bfloat16 step.
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.03)
    model.save_pretrained(str(tmp_path / "adapter"))
    theirs = language_model(model.merge_and_unload()).state_dict()
    merged = Checkpoint.open(merge(base=base, adapter=tmp_path / "adapter", out=tmp_path / "merged"))

    total, changed, different = 0, 0, 0
    for module in projections(CONFIG):
        key = f"{TEXT_PREFIX}{module}.weight"
        ours = merged.files[key].raw(key)
        steps = steps_apart(ours, theirs[f"{module}.weight"])
        assert steps.max() <= 1, module
        total += steps.size
        different += int((steps > 0).sum())
        changed += int((ours != checkpoint.files[key].raw(key)).sum())
    assert total > 10_000_000
    assert changed > 0.8 * total
    assert different <= total / 1e6, f"{different} of {total} elements differ"
    print(f"{different} of {total} elements differ, {changed} were updated")
