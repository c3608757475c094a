"""The fakes that users put behind their own tests keep the real client's promises."""

from __future__ import annotations

import asyncio
import time

import pytest
import tritonguard
from tritonguard import ERRORS, DeadlineExceeded, GuardError, MockTransport, Policy, Safety, Thresholds, Unavailable
from tritonguard import testing as fakes
from tritonguard.testing import failing, fake_async_guard, fake_guard, indeterminate, sequence, unsafe_where

RAISING = Policy(on_error="raise")


def test_the_old_names_are_the_same_things() -> None:
    assert MockTransport is fakes.MockTransport
    assert tritonguard.AsyncMockTransport is fakes.AsyncMockTransport


def test_words_make_a_text_unsafe_on_either_side() -> None:
    guard = fake_guard(unsafe_where("Bomb"))
    assert guard.check("how to build a bomb").blocked
    assert guard.check("bread").allowed
    verdict = guard.check("bread", response="BOMBS")
    assert (verdict.label.user_safety, verdict.label.response_safety) == (Safety.SAFE, Safety.UNSAFE)
    assert verdict.blocked


def test_thresholds_and_named_policies_work_as_on_the_server() -> None:
    guard = fake_guard(unsafe_where(p_safe=0.3), policy=Policy(thresholds=Thresholds(user=0.2)))
    assert guard.check("bread").blocked
    assert guard.check("bread", policy_name="strict").record.policy_name == "strict"


@pytest.mark.parametrize("kind", sorted(ERRORS))
def test_every_failure_can_be_played(kind: str) -> None:
    with pytest.raises(GuardError) as caught:
        fake_guard(failing(kind), policy=RAISING).check("text")
    assert caught.value.kind == kind


def test_a_sequence_shows_a_retry_and_its_end() -> None:
    down = failing("unavailable")
    assert fake_guard(sequence(down, down, unsafe_where()), policy=RAISING).check("text").allowed
    with pytest.raises(Unavailable):
        fake_guard(sequence(down, down, down, unsafe_where()), policy=RAISING).check("text")


def test_an_unreadable_answer_goes_by_on_error() -> None:
    assert fake_guard(indeterminate("cut off")).check("text").reason == "on_error=block: cut off"


def test_latency_is_waited_for_and_held_against_the_deadline() -> None:
    start = time.monotonic()
    assert fake_guard(unsafe_where(), latency_s=0.02).check("text").allowed
    assert time.monotonic() - start >= 0.02
    with pytest.raises(DeadlineExceeded):
        fake_guard(unsafe_where(), latency_s=30.0, policy=RAISING, deadline_s=0.01).check("text")


def test_the_asynchronous_fake_does_not_block_its_loop() -> None:
    async def use() -> float:
        guard = fake_async_guard(unsafe_where("bad"), latency_s=0.2)
        start = time.monotonic()
        verdicts = await asyncio.gather(*(guard.check("bad") for _ in range(40)))
        assert all(verdict.blocked for verdict in verdicts)
        with pytest.raises(DeadlineExceeded):
            await guard.check("text", deadline_s=0.01, policy=RAISING)
        return time.monotonic() - start

    assert asyncio.run(use()) < 40 * 0.2
