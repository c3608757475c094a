"""The text model of a checkpoint folder as transformers builds it, without `from_pretrained`."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from engines.checkpoint import TEXT_PREFIX, Checkpoint


def text_config(checkpoint: Checkpoint) -> Any:
    """Gemma3TextConfig of a 4.57-form config.json. Raises AssertionError when its RoPE is read otherwise."""
    ours = checkpoint.text_config
    theirs: Any = Gemma3TextConfig(**checkpoint.config["text_config"])
    theirs._attn_implementation = "eager"
    full, sliding = (theirs.rope_parameters[f"{kind}_attention"] for kind in ("full", "sliding"))
    assert (full["rope_theta"], full.get("factor", 1.0)) == (ours.rope_theta, ours.rope_factor)
    assert (sliding["rope_theta"], sliding.get("factor", 1.0)) == (ours.rope_local_base_freq, 1.0)
    kinds = enumerate(theirs.layer_types)
    assert {index for index, kind in kinds if kind == "full_attention"} == ours.full_attention_layers
    return theirs


def text_state(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights by their name below `language_model.model.`."""
    names = [key.removeprefix(TEXT_PREFIX) for key in checkpoint.files if key.startswith(TEXT_PREFIX)]
    return {name: torch.from_numpy(checkpoint.text(name)).to(dtype) for name in names}


def load_twin(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """Gemma3ForCausalLM with every weight of the checkpoint's text model, in eval mode."""
    model: Any = Gemma3ForCausalLM(text_config(checkpoint))
    model = model.to(dtype).eval()
    model.model.load_state_dict(text_state(checkpoint, dtype), strict=True)
    model.tie_weights()
    return model
