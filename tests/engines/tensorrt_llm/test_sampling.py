"""Every request is greedy, has an end, and asks for the same number of likeliest tokens."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from engines.tensorrt_llm.sampling import LIKELIEST, Ends, sampling_params
from engines.tensorrt_llm.walk import CATEGORIES, FORWARD, THINK, Request


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(SamplingParams=lambda **given: SimpleNamespace(**given))
    monkeypatch.setitem(sys.modules, "tensorrt_llm", module)


def of(request: Request) -> Any:
    return sampling_params(request, Ends(eos=1, turn=106))


REQUESTS = [
    Request((), 1, FORWARD),
    Request((5,), 64, CATEGORIES),
    Request((5,), 128, THINK, (7, 106)),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_of_every_kind(request_: Request) -> None:
    params = of(request_)
    assert params.max_tokens == request_.most
    assert params.logprobs == LIKELIEST == 20
    assert (params.top_k, params.temperature) == (1, 1.0)
    assert params.end_id == 1
    assert 106 in params.stop_token_ids
    assert params.include_stop_str_in_output
    assert not params.detokenize
    assert not params.add_special_tokens
    assert not {"prompt_logprobs", "return_generation_logits", "return_context_logits"} & vars(params).keys()


def test_reasoning_stops_at_its_end_too_and_no_id_stands_twice() -> None:
    assert of(REQUESTS[2]).stop_token_ids == [7, 106]


def test_each_request_has_an_object_of_its_own() -> None:
    assert of(REQUESTS[0]) is not of(REQUESTS[0])
