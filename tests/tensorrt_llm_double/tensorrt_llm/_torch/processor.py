"""The stock processor of Gemma 3, `Gemma3InputProcessor` of `_torch/models/modeling_gemma3vl.py`, and HF's below it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tensorrt_llm._torch.tokenizer import Tokenizer
from tensorrt_llm.inputs.data import TextPrompt
from tensorrt_llm.inputs.registry import InputProcessor, Processed
from tensorrt_llm.sampling_params import SamplingParams

IMAGE_MARK, IMAGE_TOKEN, IMAGE_END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"


class Gemma3InputProcessor(InputProcessor):
    def __init__(self, model_path: Path, config: dict[str, Any], tokenizer: Tokenizer) -> None:
        self.model_path = model_path
        self.model_config = config
        self.tokenizer = tokenizer
        self.multimodal_hashing_supported: bool | None = None
        self._tokens_per_image = json.loads((model_path / "processor_config.json").read_text())["image_seq_length"]

    def get_mm_token_ids(self) -> list[int]:
        return [self.model_config["image_token_index"]]

    def attach_multimodal_embeddings(self, *_: Any) -> Processed:
        """behaviour: image_features_not_taken."""
        raise NotImplementedError("Gemma3InputProcessor takes no multimodal embeddings")

    def __call__(self, inputs: TextPrompt, sampling_params: SamplingParams) -> Processed:
        """behaviour: double_bos, image_mark_in_text. `sampling_params.add_special_tokens` is not looked at."""
        data = inputs.get("multi_modal_data") or {}
        if data and "image" not in data:
            raise KeyError("Expected image data in multimodal data for Gemma3.")
        text, images = inputs["prompt"], data.get("image")
        if images is None or len(images) == 0:
            return self.tokenizer.encode(text), None
        marks = text.count(IMAGE_MARK)
        if marks != len(images):
            raise ValueError(f"Prompt contained {marks} image tokens but received {len(images)} images.")
        whole = f"\n\n{IMAGE_MARK}{IMAGE_TOKEN * self._tokens_per_image}{IMAGE_END}\n\n"
        pixels = torch.from_numpy(np.stack([2 * image.float().numpy() - 1 for image in images]))
        values = pixels.to(torch.bfloat16)
        return self.tokenizer.encode(text.replace(IMAGE_MARK, whole)), {
            "multimodal_data": {"image": {"pixel_values": values}}
        }
