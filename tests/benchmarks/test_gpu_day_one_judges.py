"""From what a probe saw to its answer: each answer, and what can't be told from what was seen."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.gpu_day_one import judge_logprobs as logprobs
from benchmarks.gpu_day_one import judge_requests as requests
from benchmarks.gpu_day_one.package import Failure, Reply, Result

Row = dict[int, float]
HUNG = Failure("TimeoutError", "OSError", "", 120.0, hung=True)


def said(*rows: Row, ids: tuple[int, ...] | None = None, prompt: tuple[int, ...] = (2, 9), **changes: Any) -> Reply:
    """A reply whose tokens are the likeliest of its rows."""
    tokens = ids if ids is not None else tuple(max(row, key=lambda id: row[id]) for row in rows)
    return Reply(prompt, tokens, rows, changes.get("finish_reason", "length"), changes.get("seconds", 0.1))


def failed(error: str = "RequestError", message: str = "no", base: str = "RuntimeError") -> Failure:
    return Failure(error, base, message, 0.1)


def row(*shares: float) -> Row:
    """Log-probabilities of tokens 0, 1, ..."""
    return {id: math.log(share) for id, share in enumerate(shares)}


FLAT = row(0.3, 0.2, 0.1, 0.1)
OVER_TWO = row(0.6, 0.4)


@pytest.mark.parametrize(
    ("few", "many", "value"),
    [
        (said(row(0.3, 0.2)), said(FLAT), True),
        (said(OVER_TWO), said(FLAT), False),
        (said(row(0.9, 0.5)), said(row(0.9, 0.5, 0.4)), False),
        (said(row(0.9996, 0.0002)), said(row(0.9996, 0.0002, 0.0001)), None),
        (said({7: -0.1}), said(FLAT), None),
        (failed(), said(FLAT), None),
        (said(), said(FLAT), None),
    ],
    ids=["same", "over the two", "more than 1", "too sure", "no token shared", "refused", "no row"],
)
def test_over_what_log_probabilities_are_taken(few: Result, many: Result, value: bool | None) -> None:
    assert logprobs.over_the_whole_vocabulary(few, many)[0] is value


def test_the_most_that_came_back_whole() -> None:
    results: dict[int, Result] = {2: said(row(0.5, 0.2)), 20: failed(message="at most 8"), 3: said(row(0.5, 0.2))}
    value, says = logprobs.most_accepted(results)
    assert value == 2
    assert says == "up to 2 came back; 20 was refused (RequestError: at most 8)"
    assert logprobs.most_accepted({2: failed()})[0] is None


@pytest.mark.parametrize(
    ("other", "value"),
    [(said(FLAT), False), (said(row(0.4, 0.2)), True), (said({0: -math.inf}), None), (failed(), None)],
)
def test_whether_something_changes_values(other: Result, value: bool | None) -> None:
    assert logprobs.changes_with(said(FLAT), other, "a temperature")[0] is value


def test_a_generated_token_that_is_not_listed() -> None:
    assert logprobs.chosen_is_listed([said(FLAT), failed()])[0] is True
    assert logprobs.chosen_is_listed([said(FLAT, FLAT, ids=(0, 77))]) == (
        False,
        "1 of 2 generated tokens are not in their own list",
    )
    assert logprobs.chosen_is_listed([failed()])[0] is None


def test_both_options_of_a_choice() -> None:
    assert logprobs.both_listed([said(FLAT), said(FLAT)], 0, 3)[0] is True
    value, says = logprobs.both_listed([said(FLAT), said(OVER_TWO)], 0, 3)
    assert value is False
    assert says.startswith("for 1 of 2 examples")
    assert logprobs.both_listed([said(FLAT), failed(message="gone")], 0, 3) == (None, "RequestError: gone")


@pytest.mark.parametrize(
    ("other", "value"),
    [
        (FLAT, True),
        (row(0.32, 0.19, 0.1), True),
        (row(0.2, 0.3), False),
        ({0: -1.2, 5: -1.7}, True),
        ({5: -0.1}, False),
    ],
    ids=["same", "near", "turned", "the second is not listed", "another place"],
)
def test_the_same_places(other: Row, value: bool) -> None:
    assert logprobs.same_rows([(FLAT, other)], 0.15)[0] is value


def test_places_without_anything_are_not_the_same() -> None:
    assert logprobs.same_rows([(FLAT, {})], 1.0)[0] is None
    assert logprobs.same_rows([], 1.0)[0] is None


def test_drafts_are_compared_up_to_their_first_difference() -> None:
    one = [said(FLAT, row(0.5, 0.4), row(0.9, 0.05))]
    tie = [said(FLAT, row(0.44, 0.46), row(0.1, 0.2))]
    assert logprobs.same_drafts(one, tie, 0.3)[0] is True
    assert logprobs.same_drafts(one, tie, 0.1)[0] is False
    assert logprobs.same_drafts(one, [failed()], 0.1)[0] is None


@pytest.mark.parametrize(
    ("result", "value"),
    [(said(prompt=(2, 9)), True), (said(prompt=(2, 2, 9)), False), (said(prompt=(2,)), False), (failed(), None)],
)
def test_whether_ids_are_kept(result: Result, value: bool | None) -> None:
    assert requests.ids_are_kept((2, 9), result)[0] is value


def test_ids_that_were_decoded_reach_our_processor_as_a_text() -> None:
    assert requests.reencoded((2, 9), failed("InternalError"))[0] is True
    assert requests.reencoded((2, 9), said(prompt=(2, 9)))[0] is False
    assert requests.reencoded((2, 9), said(prompt=(2, 2, 9)))[0] is True
    assert requests.reencoded((2, 9), failed("ValueError"))[0] is None


def test_whether_an_image_is_seen() -> None:
    assert requests.both_pictures(said(FLAT), said(row(0.4, 0.2)))[0] is True
    assert requests.both_pictures(said(FLAT), said(dict(FLAT)))[0] is False
    assert requests.both_pictures(said(FLAT), failed())[0] is None


@pytest.mark.parametrize(
    ("results", "value", "who"),
    [
        ([said(FLAT)] * 2, "answered", None),
        (
            [failed(message="'>' not supported between instances of 'NoneType' and 'int'")] * 2,
            "TypeError",
            "RequestError",
        ),
        ([failed("TypeError", "bad", "Exception"), said(FLAT)], "TypeError", "some of the batch"),
        ([failed("CudaError", "illegal", "Exception")] * 2, "CudaError", "CudaError"),
        ([HUNG, said(FLAT)], "hangs", "some of the batch"),
    ],
    ids=["answered", "a TypeError's text", "some", "another error", "hangs"],
)
def test_a_mixed_batch(results: list[Result], value: str, who: str | None) -> None:
    assert requests.mixed_batch(results)[0] == value
    assert requests.who_fails(results)[0] == who


def step(prefills: int, decodes: int) -> dict[str, Any]:
    return {"iter": 1, "inflightBatchingStats": {"numContextRequests": prefills, "numGenRequests": decodes}}


def test_requests_in_a_step() -> None:
    steps = [step(1, 0), step(3, 2), step(0, 0), {}]
    assert requests.most_in_a_step(steps) == 5
    assert requests.steps(steps) == 2
    assert requests.most_in_a_step([{}]) is None
    assert requests.steps_of([2, 2, 1])[0] == 2
    assert requests.steps_of([0, 0])[0] is None


@pytest.mark.parametrize(
    ("without", "with_it", "value"), [(1, 4, True), (4, 4, False), (1, 1, None), (None, 4, None), (1, None, None)]
)
def test_whether_requests_run_one_by_one(without: int | None, with_it: int | None, value: bool | None) -> None:
    assert requests.run_one_by_one(without, with_it)[0] is value


@pytest.mark.parametrize(
    ("aborted", "following", "value"),
    [
        (said(finish_reason="cancelled"), said(FLAT), True),
        (said(FLAT), said(FLAT), True),
        (HUNG, said(FLAT), "the request hangs"),
        (said(FLAT), HUNG, "the engine is lost"),
        (said(FLAT), failed(), "the engine is lost"),
    ],
)
def test_an_abort(aborted: Result, following: Result, value: object) -> None:
    assert requests.abort_is_clean(aborted, said(FLAT), following)[0] == value


def test_what_a_request_is_refused_with() -> None:
    assert requests.error_of(failed("ValueError"))[0] == "ValueError"
    assert requests.error_of(HUNG) == ("hangs", "it never came back")
    assert requests.error_of(said(FLAT))[0] == "answered"


@pytest.mark.parametrize(
    ("second", "added", "value"), [(0.2, 0, True), (60.0, 0, True), (60.0, 12, False), (5.0, 1, True)]
)
def test_whether_kernels_are_found(second: float, added: int, value: bool) -> None:
    assert requests.cache_is_used(90.0, second, added)[0] is value
