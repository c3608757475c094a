"""The double's own `LLM`, for tests that use it wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from tiny_bundle import EOS, NARROW, Tiny

Test = TypeVar("Test", bound=Callable[..., Any])
AS_SERVED = {
    "attn_backend": "FLASHINFER",
    "kv_cache_config": {"enable_block_reuse": False, "enable_partial_reuse": False},
    "cuda_graph_config": None,
    "max_num_tokens": 128,
    "max_seq_len": 128,
    "max_batch_size": 8,
}


def shows(*names: str) -> Callable[[Test], Test]:
    """The entries of `behaviour.json` that a test is about."""
    return lambda test: test


def controls_of(llm: Any) -> Any:
    return llm._controls


def params(**values: Any) -> Any:
    from tensorrt_llm import SamplingParams

    return SamplingParams(**{"max_tokens": 4, "end_id": EOS, "logprobs": NARROW, **values})


def image_prompt(tiny: Tiny, length: int = 20, **values: Any) -> dict[str, Any]:
    import torch

    pixels = np.ascontiguousarray(tiny.pixels(1).transpose(0, 3, 1, 2))
    levels = torch.from_numpy((pixels / np.float32(255)).astype(np.float32))
    return {"multi_modal_data": {"image": levels}, **values}


def together(llm: Any, prompts: list[Any], sampling: list[Any]) -> list[Any]:
    """Results, or errors, of requests that share their first step."""
    controls_of(llm).hold()
    running = [llm.generate_async(prompt, each) for prompt, each in zip(prompts, sampling, strict=True)]
    controls_of(llm).release()
    results: list[Any] = []
    for each in running:
        try:
            results.append(each.result())
        except RuntimeError as error:
            results.append(error)
    return results
