"""The plan of tries, driven here with a clock and a die of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tritonguard.verdict as verdicts
from answers import answer
from hypothesis import given
from hypothesis import strategies as st
from tritonguard import (
    ERRORS,
    DeadlineExceeded,
    GuardError,
    GuardRequest,
    IndeterminateVerdict,
    InternalError,
    InvalidRequest,
    Policy,
    Retries,
    Unavailable,
    Unimplemented,
    Verdict,
)
from tritonguard.endpoints import Endpoints
from tritonguard.request import from_tensors
from tritonguard.retries import attempts
from tritonguard.steps import Send, Wait

RAISING = Policy(on_error="raise")
FINAL_KINDS = sorted(set(ERRORS) - {"unavailable"})


class World:
    """Time passes only by waiting and by being answered."""

    def __init__(self, outcomes: Sequence[GuardError | None], *, seconds: float = 0.0, endpoints: int = 1) -> None:
        self.now = 50.0
        self.outcomes = list(outcomes)
        self.seconds = seconds
        self.sends: list[Send] = []
        self.waits: list[float] = []
        self.sent_at: list[float] = []
        self.endpoints = Endpoints(endpoints, clock=lambda: self.now)

    def run(self, request: GuardRequest, retries: Retries, draw: Callable[[], float] = lambda: 1.0) -> Verdict:
        steps = attempts(request, self.endpoints, retries, clock=lambda: self.now, draw=draw)
        answer_of: Callable[[Any], Any] = steps.send
        value: Any = None
        while True:
            try:
                step = answer_of(value)
            except StopIteration as end:
                verdict: Verdict = end.value
                return verdict
            answer_of, value = steps.send, None
            if isinstance(step, Wait):
                self.waits.append(step.seconds)
                self.now += step.seconds
                continue
            assert isinstance(step, Send)
            self.sends.append(step)
            self.sent_at.append(self.now)
            self.now += self.seconds
            outcome = self.outcomes.pop(0)
            if outcome is None:
                value = verdicts.to_tensors(answer(from_tensors(step.tensors), 0.1))
            else:
                answer_of, value = steps.throw, outcome


def request(deadline_s: float = 10.0) -> GuardRequest:
    return GuardRequest(prompt="text", deadline_s=deadline_s, policy=RAISING, request_id="r1")


def down(count: int) -> list[GuardError | None]:
    return [Unavailable("told") for _ in range(count)]


def build(kind: str) -> GuardError:
    return Unimplemented("told", field="x") if kind == "unimplemented" else ERRORS[kind].error("told")


def test_an_unavailable_server_is_tried_again_with_growing_waits() -> None:
    world = World([*down(4), None])
    assert world.run(request(), Retries(attempts=5, first_s=0.1, most_s=0.5)).allowed
    assert world.waits == pytest.approx([0.1, 0.2, 0.4, 0.5])
    assert [send.request_id for send in world.sends] == ["r1"] * 5


@pytest.mark.parametrize("kind", FINAL_KINDS)
def test_nothing_else_is_tried_again(kind: str) -> None:
    world = World([build(kind), None])
    with pytest.raises(ERRORS[kind].error):
        world.run(request(), Retries(attempts=5))
    assert (len(world.sends), world.waits) == (1, [])


def test_a_reply_that_breaks_the_contract_is_not_asked_for_again() -> None:
    steps = attempts(request(), Endpoints(1), Retries())
    assert isinstance(next(steps), Send)
    with pytest.raises(InternalError):
        steps.send({})


def test_an_indeterminate_verdict_is_an_answer() -> None:
    steps = attempts(request(), Endpoints(1), Retries())
    next(steps)
    with pytest.raises(IndeterminateVerdict):
        steps.send(verdicts.to_tensors(answer(request(), None)))


@pytest.mark.parametrize("most", [1, 2, 3])
def test_attempts_counts_all_tries(most: int) -> None:
    world = World(down(9))
    with pytest.raises(Unavailable, match="told"):
        world.run(request(), Retries(attempts=most))
    assert len(world.sends) == most


def test_a_refused_handshake_is_tried_elsewhere_and_not_again() -> None:
    world = World([Unavailable("tls", retryable=False), None])
    with pytest.raises(Unavailable, match="tls"):
        world.run(request(), Retries(attempts=5))
    assert (len(world.sends), world.waits) == (1, [])
    world = World([Unavailable("tls", retryable=False), None], endpoints=2)
    assert world.run(request(), Retries(attempts=5)).allowed
    assert ([send.endpoint for send in world.sends], world.waits) == ([0, 1], [])


def test_another_endpoint_is_tried_at_once_and_a_second_round_waits() -> None:
    world = World([*down(3), None], endpoints=3)
    assert world.run(request(), Retries(attempts=4, first_s=0.1)).allowed
    assert sorted(send.endpoint for send in world.sends[:3]) == [0, 1, 2]
    assert world.waits == pytest.approx([0.4])


def test_no_time_for_the_wait_gives_the_failure_itself() -> None:
    world = World([*down(1), None])
    with pytest.raises(Unavailable, match="told"):
        world.run(request(1.0), Retries(first_s=2.0, most_s=2.0))
    assert world.waits == []


@pytest.mark.parametrize("second", [Unavailable("told"), DeadlineExceeded("told")])
def test_time_that_runs_out_after_a_failed_try_says_so(second: GuardError) -> None:
    world = World([*down(1), second, None], seconds=0.6)
    with pytest.raises((DeadlineExceeded, Unavailable)) as caught:
        world.run(request(1.0), Retries(first_s=0.0))
    assert len(world.sends) == 2
    if isinstance(second, DeadlineExceeded):
        assert (caught.value.kind, caught.value.request_id) == ("deadline_exceeded", "r1")
        assert "after a try" in caught.value.message
        assert caught.value.__cause__ is second


def test_the_time_left_is_checked_after_the_wait_too() -> None:
    failure = Unavailable("told")
    world = World([failure, None], seconds=0.5)
    with pytest.raises(DeadlineExceeded) as caught:
        world.run(request(1.0), Retries(first_s=0.4999, most_s=0.4999))
    assert caught.value.__cause__ is failure
    assert len(world.sends) == 1


def test_a_cancelled_call_gives_its_endpoint_back_and_says_nothing_of_it() -> None:
    endpoints = Endpoints(2)
    steps = attempts(request(), endpoints, Retries())
    next(steps)
    steps.close()
    assert sorted(endpoints.take() for _ in range(4)) == [0, 0, 1, 1]


@given(
    st.lists(st.sampled_from([None, *sorted(ERRORS)]), min_size=8, max_size=8),
    st.floats(0.001, 5.0),
    st.floats(0.0, 2.0),
    st.integers(1, 8),
    st.integers(1, 3),
    st.floats(0.0, 1.0, exclude_max=True),
)
def test_whatever_happens_tries_keep_to_number_and_time(
    kinds: list[str | None], deadline_s: float, seconds: float, most: int, endpoints: int, die: float
) -> None:
    asked = request(deadline_s)
    world = World([(kind and build(kind)) or None for kind in kinds], seconds=seconds, endpoints=endpoints)
    start = world.now
    first_final = next((n for n, kind in enumerate(kinds) if kind != "unavailable"), len(kinds))
    try:
        verdict: Verdict | GuardError = world.run(asked, Retries(attempts=most), lambda: die)
    except GuardError as error:
        verdict = error
    assert 1 <= len(world.sends) <= min(most, first_final + 1)
    for at, send in zip(world.sent_at, world.sends, strict=True):
        left = asked.deadline_s - (at - start)
        assert 0 < send.deadline_s <= left + 1e-9
        assert int(send.tensors["DEADLINE_MS"].item()) == round(send.deadline_s * 1000)
    assert all(0 <= wait <= 1.0 for wait in world.waits)
    if isinstance(verdict, Verdict):
        assert kinds[len(world.sends) - 1] is None


@given(st.integers(1, 5000), st.floats(0.0, 1.0, exclude_max=True))
def test_waits_are_jittered_over_the_whole_range_and_bounded(failures: int, die: float) -> None:
    retries = Retries(first_s=0.1, most_s=2.0)
    assert 0 <= retries.wait_s(failures, lambda: die) <= min(2.0, 0.1 * 2.0 ** min(failures - 1, 60))
    assert retries.wait_s(failures, lambda: 0.0) == 0.0


@pytest.mark.parametrize(
    "values",
    [
        {"attempts": 0},
        {"attempts": True},
        {"attempts": 1.5},
        {"first_s": -1.0},
        {"first_s": 2.0, "most_s": 1.0},
        {"most_s": float("inf")},
        {"first_s": float("nan")},
    ],
)
def test_retries_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        Retries(**values)
