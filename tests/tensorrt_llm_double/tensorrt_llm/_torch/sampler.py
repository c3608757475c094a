"""From a step's logits to tokens: `_torch/pyexecutor/sampler.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorrt_llm._behaviour import behaviour
from tensorrt_llm._controls import Logits
from tensorrt_llm._torch.request import LlmRequest
from tensorrt_llm.executor.result import Logprob


def sample(requests: Sequence[LlmRequest], logits: Sequence[Logits]) -> None:
    """Appends one token to each request, with its log-probabilities, and says whether that ended it.

    behaviour: mixed_logprobs. The largest K of a step is looked for among all its requests, None included.
    """
    counts = [request.params.logprobs for request in requests]
    if any(counts):
        most = max(counts)  # type: ignore[type-var]  # a TypeError of the package's own
        assert most is not None
        for request, row in zip(requests, logits, strict=True):
            if request.params.logprobs:
                request.log_probs.append(_likeliest(row, most, request.params.logprobs))
    for request, row in zip(requests, logits, strict=True):
        request.tokens.append(_drawn(request, row))
        request.reason = _reason(request)


def log_softmax(row: Logits) -> Logits:
    """behaviour: logprobs_full_vocabulary_fp32, logprobs_before_temperature."""
    shifted = row - row.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), np.float32)


def _drawn(request: LlmRequest, row: Logits) -> int:
    """The likeliest token; or any by its probability, where that is not what was asked for."""
    if request.params._greedy_decoding:
        return int(np.argmax(row))
    values = np.exp(log_softmax(row / (request.params.temperature or 1.0)).astype(float))
    return int(np.random.default_rng(len(request.tokens)).choice(len(row), p=values / values.sum()))


def _likeliest(row: Logits, most: int, count: int) -> dict[int, Logprob]:
    """behaviour: logprobs_shape, chosen_token_in_logprobs."""
    values = log_softmax(row)
    best = np.argsort(-values, kind="stable")[:most][:count]
    return {int(id): Logprob(float(values[id]), rank) for rank, id in enumerate(best, 1)}


def _reason(request: LlmRequest) -> str | None:
    """behaviour: finish_precedence. The last of these that holds."""
    ended = {
        "stop_words": any(
            request.tokens[-len(ids) :] == ids for _, ids in request.params._get_stop_reasons_and_words()
        ),
        "length": len(request.tokens) >= request.max_tokens,
        "end_id": not request.params.ignore_eos and request.tokens[-1] == request.params.end_id,
    }
    return next((name for name in behaviour("finish_precedence") if ended[name]), None)
