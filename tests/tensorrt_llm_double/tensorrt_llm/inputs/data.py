from __future__ import annotations

from typing import Any, TypedDict


class TextPrompt(TypedDict, total=False):
    prompt: str
    multi_modal_data: dict[str, Any]
    multi_modal_embeddings: dict[str, Any]
    mm_processor_kwargs: dict[str, Any]


class TokensPrompt(TypedDict, total=False):
    prompt_token_ids: list[int]
    multi_modal_data: dict[str, Any]
    multi_modal_embeddings: dict[str, Any]
    mm_processor_kwargs: dict[str, Any]


PromptInputs = str | list[int] | TextPrompt | TokensPrompt


def prompt_inputs(inputs: Any) -> Any:
    """A string or a list of ids as the dict of its kind. Raises TypeError for anything else."""
    if isinstance(inputs, str):
        return TextPrompt(prompt=inputs)
    if isinstance(inputs, list) and all(isinstance(id, int) for id in inputs):
        return TokensPrompt(prompt_token_ids=inputs)
    if isinstance(inputs, dict) and {"prompt", "prompt_token_ids"} & inputs.keys():
        return inputs
    raise TypeError(f"The inputs must be type str, list of int or a prompt, but got {type(inputs)}")
