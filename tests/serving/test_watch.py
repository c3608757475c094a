"""When a server counts as dead, and how often it is started again; the clock is in the test."""

from __future__ import annotations

import pytest
from tritonguard import (
    CANARY,
    CanaryResult,
    DeadlineExceeded,
    GuardError,
    Health,
    IndeterminateVerdict,
    InternalError,
    Overloaded,
    Readiness,
    Unavailable,
    Verdict,
)
from tritonguard.testing import fake_guard, unsafe_where

from serving.watch import Death, Restarts, Sign, Watch, WatchSettings, sign_of

READY = Readiness(live=True, ready=True, model_ready=True)
SETTINGS = WatchSettings(every_s=2.0, failures=3, failing_s=3.0, hung_s=60.0)


def verdict(*, right: bool, index: int) -> Verdict:
    unsafe = (index == 1) is right
    return fake_guard(unsafe_where("" if unsafe else "never-there")).check(CANARY[index].prompt)


def health(*results: bool | GuardError) -> Health:
    """True: a right verdict. False: a wrong one."""
    return Health(
        READY,
        tuple(
            CanaryResult(CANARY[index], 1.0, None, result)
            if isinstance(result, GuardError)
            else CanaryResult(CANARY[index], 1.0, verdict(right=result, index=index), None)
            for index, result in enumerate(results)
        ),
    )


@pytest.mark.parametrize(
    ("results", "sign"),
    [
        ((True, True), Sign.RIGHT),
        ((True, Overloaded("")), Sign.RIGHT),
        ((DeadlineExceeded(""), True), Sign.RIGHT),
        ((Overloaded(""), DeadlineExceeded("")), Sign.BUSY),
        ((DeadlineExceeded(""), DeadlineExceeded("")), Sign.SILENT),
        ((), Sign.SILENT),
        ((True, False), Sign.BROKEN),
        ((False, False), Sign.BROKEN),
        ((InternalError(), InternalError()), Sign.BROKEN),
        ((Unavailable(""), Unavailable("")), Sign.BROKEN),
        ((IndeterminateVerdict(""), True), Sign.BROKEN),
        ((Overloaded(""), InternalError()), Sign.BROKEN),
    ],
)
def test_what_a_canary_says(results: tuple[bool | GuardError, ...], sign: Sign) -> None:
    assert sign_of(health(*results)) is sign


@pytest.mark.parametrize(("sign", "death"), [(Sign.ENDED, Death.ENDED), (Sign.STAGE_DEAD, Death.STAGE_DEAD)])
def test_a_process_that_is_gone_is_known_at_once(sign: Sign, death: Death) -> None:
    assert Watch(SETTINGS, 0.0).see(sign, 0.1) is death


def test_faults_are_death_only_in_a_row_and_over_time() -> None:
    watch = Watch(SETTINGS, 0.0)
    assert [watch.see(Sign.BROKEN, now) for now in (2.0, 2.1, 2.2, 2.3)] == [None] * 4
    assert watch.see(Sign.BROKEN, 5.0) is Death.BROKEN


@pytest.mark.parametrize("between", [Sign.RIGHT, Sign.BUSY, Sign.SILENT])
def test_anything_but_a_fault_begins_the_row_anew(between: Sign) -> None:
    watch = Watch(SETTINGS, 0.0)
    told = [watch.see(sign, 2.0 * n) for n, sign in enumerate([Sign.BROKEN, Sign.BROKEN, between] * 5)]
    assert told == [None] * 15
    assert [watch.see(Sign.BROKEN, now) for now in (40.0, 42.0, 44.0)] == [None, None, Death.BROKEN]


def test_a_busy_server_is_never_dead_while_it_gives_verdicts() -> None:
    watch = Watch(SETTINGS, 0.0)
    for n in range(500):
        sign = Sign.BUSY if n % 2 else Sign.SILENT
        assert watch.see(sign, 2.0 * n, verdicts=n // 20) is None


def test_a_busy_server_whose_verdicts_cannot_be_counted_is_not_dead() -> None:
    watch = Watch(SETTINGS, 0.0)
    assert {watch.see(Sign.BUSY, 2.0 * n) for n in range(500)} == {None}


@pytest.mark.parametrize("verdicts", [None, 7])
def test_no_verdict_for_a_minute_is_a_hung_server(verdicts: int | None) -> None:
    watch = Watch(SETTINGS, 0.0)
    watch.see(Sign.RIGHT, 10.0, verdicts=verdicts)
    assert watch.see(Sign.SILENT, 69.9, verdicts=verdicts) is None
    assert watch.see(Sign.SILENT, 70.0 if verdicts is None else 129.9, verdicts=verdicts) is Death.HUNG


def test_a_server_that_refuses_for_ever_and_gives_no_verdict_is_hung() -> None:
    watch = Watch(SETTINGS, 0.0)
    watch.see(Sign.BUSY, 1.0, verdicts=7)
    assert watch.see(Sign.BUSY, 60.9, verdicts=7) is None
    assert watch.see(Sign.BUSY, 61.0, verdicts=7) is Death.HUNG


def test_restarts_wait_longer_each_time_and_end() -> None:
    restarts = Restarts(WatchSettings(restarts=5, window_s=600.0, first_wait_s=1.0, most_wait_s=3.0))
    assert [restarts.next(now) for now in (0.0, 10.0, 20.0, 30.0, 40.0)] == [0.0, 1.0, 2.0, 3.0, 3.0]
    assert restarts.next(50.0) is None


def test_old_restarts_are_forgotten() -> None:
    restarts = Restarts(WatchSettings(restarts=2, window_s=600.0))
    assert [restarts.next(now) for now in (0.0, 500.0, 601.0, 602.0)] == [0.0, 1.0, 1.0, None]
