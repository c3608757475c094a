"""Input processors: a prompt in, token ids and what the model needs beside them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tensorrt_llm._torch.tokenizer import Tokenizer
from tensorrt_llm.inputs.data import TextPrompt
from tensorrt_llm.sampling_params import SamplingParams

ExtraProcessedInputs = dict[str, Any]
Processed = tuple[list[int], ExtraProcessedInputs | None]


class InputProcessor(Protocol):
    model_path: Any
    model_config: Any
    tokenizer: Any

    def __call__(self, inputs: TextPrompt, sampling_params: SamplingParams) -> Processed: ...


class DefaultInputProcessor(InputProcessor):
    """Text only. What is not one of these is taken to tokenise for itself (behaviour: ids_with_image_reencoded)."""

    def __init__(
        self, model_path: Any, model_config: Any, tokenizer: Tokenizer, trust_remote_code: bool = True
    ) -> None:
        self.model_path = model_path
        self.model_config = model_config
        self.tokenizer = tokenizer
        self.multimodal_hashing_supported: bool | None = None

    def __call__(self, inputs: TextPrompt, sampling_params: SamplingParams) -> Processed:
        return self.tokenizer.encode(inputs["prompt"], add_special_tokens=sampling_params.add_special_tokens), None


def create_input_processor(model_path: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> InputProcessor:
    """The processor registered for the checkpoint's architecture."""
    from tensorrt_llm._torch.processor import Gemma3InputProcessor

    if config.get("architectures") == ["Gemma3ForConditionalGeneration"]:
        return Gemma3InputProcessor(model_path, config, tokenizer)
    return DefaultInputProcessor(model_path, config, tokenizer)


def create_input_processor_with_hash(
    input_processor: Any, hash_lib: Any = None
) -> Callable[[TextPrompt, SamplingParams], Processed]:
    """A processor that hashes images for the reuse of their blocks, where the one given lets it."""

    def hashed(inputs: TextPrompt, sampling_params: SamplingParams) -> Processed:
        ids, extra = input_processor(inputs, sampling_params)
        image = input_processor.get_mm_token_ids()
        if extra is None or not any(id in image for id in ids):
            raise ValueError("the prompt holds no image tokens")
        return ids, {**extra, "multimodal_input": {"hashes": hash(str(inputs["multi_modal_data"]))}}

    def process(inputs: TextPrompt, sampling_params: SamplingParams) -> Processed:
        # behaviour: hashing_flag_read_outside_try. A processor without the attribute fails here, not below.
        supported = input_processor.multimodal_hashing_supported
        if len(inputs.get("multi_modal_data", {})) == 1 and supported is not False:
            try:
                processed = hashed(inputs, sampling_params)
                input_processor.multimodal_hashing_supported = True
                return processed
            except Exception:
                if supported:
                    raise
                input_processor.multimodal_hashing_supported = False
        processed_plainly: Processed = input_processor(inputs, sampling_params)
        return processed_plainly

    return process
