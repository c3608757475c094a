"""The names of `tensorrt_llm/inputs/__init__.py` about prompts and their processors."""

from tensorrt_llm.inputs.data import PromptInputs, TextPrompt, TokensPrompt, prompt_inputs
from tensorrt_llm.inputs.registry import (
    ExtraProcessedInputs,
    InputProcessor,
    create_input_processor,
    create_input_processor_with_hash,
)

__all__ = [
    "ExtraProcessedInputs",
    "InputProcessor",
    "PromptInputs",
    "TextPrompt",
    "TokensPrompt",
    "create_input_processor",
    "create_input_processor_with_hash",
    "prompt_inputs",
]
