"""A reply of the package is a draft of exactly what was asked, or an error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from drafting_llm import ENDS, reply
from tritonguard.errors import GuardError, InternalError, PromptTooLong, Unavailable

from engines.tensorrt_llm.replies import read_reply, typed
from engines.tensorrt_llm.sampling import Ends
from engines.tensorrt_llm.walk import FORWARD, Request

EOS, TURN = ENDS
PROMPT = (9,)


def read(output: Any, *, most: int = 4, stops: tuple[int, ...] = ()) -> list[int]:
    draft = read_reply(output, PROMPT, Request((), most, FORWARD, stops), Ends(EOS, TURN))
    return [step.id for step in draft]


def test_tokens_come_with_their_lists() -> None:
    (step,) = read_reply(reply([5]), PROMPT, Request((), 1, FORWARD), Ends(EOS, TURN))
    assert (step.id, step.known) == (5, {5: -0.1})


@pytest.mark.parametrize("prompt", [(), (9, 9), (8,), (2, 9)])
def test_another_prompt_than_the_one_asked_is_an_error(prompt: tuple[int, ...]) -> None:
    with pytest.raises(InternalError, match="another prompt"):
        read(reply([5], prompt))


@pytest.mark.parametrize("end", [EOS, TURN, 6])
def test_what_ended_a_draft_is_its_last_step(end: int) -> None:
    assert read(reply([5, end], reason="stop", stop=end), stops=(6,)) == [5, end]


def test_an_end_that_was_taken_off_is_put_back() -> None:
    """Whether its list of log-probabilities was left behind or not."""
    left = {"logprobs": [{5: SimpleNamespace(logprob=-0.1)}, {TURN: SimpleNamespace(logprob=-0.2)}]}
    assert read(reply([5], reason="stop", stop=TURN, **left)) == [5, TURN]
    assert read(reply([5], reason="stop", stop=None)) == [5, EOS]
    assert read(reply([], reason="stop", stop=None)) == [EOS]


@pytest.mark.parametrize("reason", ["cancelled", "timeout", None, "error"])
def test_a_request_that_did_not_end_by_itself_is_an_error(reason: str) -> None:
    with pytest.raises(InternalError):
        read(reply([5], reason=reason))


@pytest.mark.parametrize(
    "changes",
    [
        {"logprobs": None},
        {"logprobs": []},
        {"logprobs": [-0.1]},
        {"logprobs": [{5: -0.1}]},
        {"logprobs": [{}, {}]},
        {"token_ids": None},
        {"token_ids": ["5x"]},
    ],
)
def test_a_reply_of_another_form_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(InternalError):
        read(reply([5], **changes))


def test_more_tokens_than_were_asked_for_are_an_error() -> None:
    with pytest.raises(InternalError):
        read(reply([5, 5, 5]), most=1)


def test_more_than_one_answer_is_an_error() -> None:
    output = reply([5])
    output.outputs *= 2
    with pytest.raises(InternalError):
        read(output)


class RequestError(RuntimeError):
    """The package's, by its name."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RequestError("The sum of prompt length (4097) should not exceed max_num_tokens (4096)"), PromptTooLong),
        (RequestError("CUDA error in a request"), InternalError),
        (RuntimeError("LLM is shutting down"), Unavailable),
        (RuntimeError("CUDA error: an illegal memory access"), Unavailable),
        (NotImplementedError("no embeddings"), InternalError),
        (ValueError("LLM got invalid argument"), InternalError),
        (AssertionError("logprobs length: 1 != output.length: 2"), InternalError),
    ],
)
def test_an_error_of_the_package_becomes_one_of_ours_with_its_cause(
    error: Exception, expected: type[GuardError]
) -> None:
    known = typed(error)
    assert type(known) is expected
    assert known.__cause__ is error
    assert str(error) not in known.message


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = PromptTooLong("too long")
    assert typed(error) is error
