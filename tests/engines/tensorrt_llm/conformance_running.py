"""Cases of what happens while requests run: errors, deaths, deadlines, the end, statistics.

Those that name an entry of `behaviour.json` have their source there. On the double, which goes wrong as the entry says.
"""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

from conformance import DOUBLE, Subject, case, same
from double_faults import PATIENCE_S, begin, fault, held
from tritonguard.errors import DeadlineExceeded, InternalError, Unavailable

from engines.protocol import Answer

_ON = (DOUBLE,)
_SOON_NS = 300_000_000
"""A deadline that passes while a request runs, and not before it is begun, on a busy machine either."""


def healthy(subject: Subject) -> bool:
    is_healthy: bool = subject.engine.health()  # type: ignore[attr-defined]
    return is_healthy


@case("behaviour.json step_error_fails_batch", on=_ON)
def an_error_in_a_step_is_typed_and_the_next_job_is_answered(subject: Subject) -> None:
    def fails(ids: tuple[int, ...], logits: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered: the user's text")

    with fault(subject, alter=fails):
        result = subject.result(subject.job(subject.words.pair))
    assert isinstance(result, InternalError)
    assert "CUDA" not in str(result)
    subject.agrees(subject.job(subject.words.pair))


@case("behaviour.json executor_death, call_after_shutdown, shutdown_twice", on=_ON)
def a_dead_executor_is_unavailable_and_the_engine_is_not_healthy(subject: Subject) -> None:
    with subject.fresh() as other:
        assert healthy(other)
        with held(other):
            running = begin(other.result, other.job(other.words.verdict))
            other.controls.wait_for(lambda controls: controls.seen, PATIENCE_S)
            other.controls.kill(RuntimeError("CUDA error: the user's text"))
        assert isinstance(running.result(PATIENCE_S), Unavailable)
        later = other.at_once([other.job(other.words.verdict) for _ in range(4)])
        assert [type(result) for result in later] == [Unavailable] * 4
        assert "CUDA" not in str(later[0])
        assert not healthy(other)


@case("behaviour.json abort_between_steps: reasoning is aborted at its deadline", on=_ON)
def reasoning_that_runs_out_of_time_is_aborted(subject: Subject) -> None:
    before = subject.controls.aborted

    def endless(ids: tuple[int, ...], logits: Any) -> Any:
        time.sleep(0.01)
        lifted = logits.copy()
        lifted[16 + len(ids) % 2] += 60
        return lifted

    with fault(subject, alter=endless):
        job = subject.job(subject.words.thinking(200), deadline_ns=time.monotonic_ns() + _SOON_NS)
        assert isinstance(subject.result(job), DeadlineExceeded)
        subject.controls.wait_for(lambda controls: controls.aborted > before, PATIENCE_S)


@case("tensorrt-llm.md 0b.4: discard, not abort, running prefills", on=_ON)
def a_verdict_that_comes_late_is_discarded(subject: Subject) -> None:
    before = subject.controls.aborted

    def slow(ids: tuple[int, ...], logits: Any) -> Any:
        time.sleep(2 * _SOON_NS / 1e9)
        return logits

    with fault(subject, alter=slow):
        late = subject.result(subject.job(subject.words.verdict, deadline_ns=time.monotonic_ns() + _SOON_NS))
    assert isinstance(late, DeadlineExceeded)
    assert subject.controls.aborted == before


@case("behaviour.json result_ignores_timeout: a request that nobody answers", on=_ON)
def an_executor_that_answers_nothing_is_unavailable(subject: Subject) -> None:
    from engines.tensorrt_llm import engine

    with subject.fresh() as other, mock.patch.object(engine, "STALLED_S", 0.1), held(other):
        job = other.job(other.words.verdict, deadline_ns=time.monotonic_ns() + _SOON_NS)
        assert isinstance(begin(other.result, job).result(PATIENCE_S), Unavailable)
        assert not healthy(other)


@case("engines/protocol.py Engine.close: finish what runs; behaviour.json call_after_shutdown", on=_ON)
def what_is_under_way_when_the_end_comes_is_finished(subject: Subject) -> None:
    with subject.fresh() as other:
        jobs = [other.job(other.words.thinking(4, pair=True), seed=seed) for seed in range(8)]
        with held(other):
            running = [begin(other.result, job) for job in jobs]
            other.controls.wait_for(lambda controls: len(controls.seen) == len(jobs), PATIENCE_S)
            ending = begin(other.engine.close)
            until = time.monotonic() + PATIENCE_S
            while healthy(other) and time.monotonic() < until:
                time.sleep(0.001)
        for job, future in zip(jobs, running, strict=True):
            result = future.result(PATIENCE_S)
            assert isinstance(result, Answer), result
            assert subject.definition is not None
            same(result, subject.definition.answer(job))
        ending.result(PATIENCE_S)


@case("behaviour.json statistics_after_first_request, statistics_end_after_timeout", on=_ON)
def statistics_before_the_first_request_and_after_it(subject: Subject) -> None:
    with subject.fresh() as other:
        assert other.engine.statistics()["jobs_under_way"] == 0
        other.answer(other.job(other.words.verdict))
        figures = other.engine.statistics()
        assert {"requests_active", "kv_blocks_used", "kv_utilisation", "iteration_ms"} <= figures.keys()
        assert other.engine.statistics().keys() == figures.keys()
