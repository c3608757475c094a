"""How a request is sampled: greedily, with the K likeliest tokens of each place, and always with an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engines.tensorrt_llm.walk import Request

LIKELIEST = 20
"""K. One for every request of a server, reasoning too: a batch that mixes K with none raises TypeError in the
package's sampler (review of TensorRT-LLM #7756)."""


@dataclass(frozen=True)
class Ends:
    """Ids of `<eos>` and of `<end_of_turn>`: either ends what the model writes."""

    eos: int
    turn: int


def sampling_params(request: Request, ends: Ends) -> Any:
    """`tensorrt_llm.SamplingParams` for a request; one of its own, since the package writes into it."""
    from tensorrt_llm import SamplingParams

    return SamplingParams(
        # Without it Gemma 3 on FlashInfer runs one request after another (TensorRT-LLM #9412).
        max_tokens=request.most,
        # Unset, the package takes them from generation_config.json.
        end_id=ends.eos,
        stop_token_ids=list(dict.fromkeys((*request.stops, ends.turn))),
        # Otherwise what ended a draft is missing in its ids, and not in its log-probabilities (result.py).
        include_stop_str_in_output=True,
        # Greedy; with a temperature of 1, log-probabilities are the same before it and behind it.
        top_k=1,
        temperature=1.0,
        # Of the whole vocabulary, before top_k. Never prompt_logprobs: it keeps a row of logits for each prompt token.
        logprobs=LIKELIEST,
        detokenize=False,
        add_special_tokens=False,
    )
