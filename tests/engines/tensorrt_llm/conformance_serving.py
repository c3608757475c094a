"""Cases of how an engine serves: limits, deadlines, concurrency, errors, its end, its statistics."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from conformance import DOUBLE, GPU, LOCAL, Subject, case, same, well_formed
from tritonguard.errors import DeadlineExceeded, GuardError, PromptTooLong, Unavailable, Unimplemented

from engines.program import Choice, FreeText, Program
from engines.protocol import Answer, Job

_SMALL = (LOCAL, DOUBLE)
_SOON_NS = 150_000_000


@case(
    "engines/protocol.py Engine.run: the typed reason why there is no answer", kind=("two pairs", "text last", "bare")
)
def a_program_that_is_not_served_is_unimplemented(subject: Subject, kind: str) -> None:
    words, text = subject.words, FreeText(4, (1,), 3)
    segments = {
        "two pairs": (*words.pair.segments, *words.pair.segments),
        "text last": (*words.verdict.segments, *words.pair.segments, text),
        "bare": (Choice("user", 7, 8), Choice("response", 7, 8), Choice("response", 7, 8)),
    }[kind]
    assert isinstance(subject.result(subject.job(Program(segments))), Unimplemented)
    subject.answer(subject.job(words.verdict))


@case("tensorrt-llm.md 0b.13: check the length ourselves; nothing is ever cut", on=(DOUBLE, GPU))
def a_prompt_that_is_too_long_is_refused_with_its_field(subject: Subject) -> None:
    longest = subject.engine.capabilities.max_tokens
    refused = subject.result(subject.job(subject.words.verdict, 4 * longest))
    assert isinstance(refused, PromptTooLong)
    assert refused.field == "prompt"


@case("engines/protocol.py Capabilities.max_tokens: longest prompt, in tokens")
def the_longest_prompt_is_answered_in_every_mode(subject: Subject) -> None:
    longest, words = subject.engine.capabilities.max_tokens, subject.words
    for program in (words.verdict, words.pair, words.names("many"), words.thinking(4, pair=True)):
        subject.agrees(subject.job(program, longest, seed=9))


@case("DESIGN.md §4: deadlines are enforced by the engine's own queue and between decode steps")
def a_job_that_comes_late_is_refused_and_the_others_are_answered(subject: Subject) -> None:
    late = subject.job(subject.words.verdict, deadline_ns=time.monotonic_ns() - 1)
    refused, answered = subject.engine.run([late, subject.job(subject.words.verdict)])
    assert isinstance(refused, DeadlineExceeded)
    assert isinstance(answered, Answer)


@case("tensorrt-llm.md 0b.4: think requests are ended at their deadline", on=_SMALL)
def reasoning_ends_at_its_deadline(subject: Subject) -> None:
    thinking = subject.words.thinking(100_000 if subject.name == LOCAL else 100)
    text = thinking.segments[1]
    assert isinstance(text, FreeText)
    # Nothing that the model writes ends it: ids beyond the vocabulary.
    endless = replace(text, end=(10_000, 10_001), stop=10_002)
    program = replace(thinking, segments=(thinking.segments[0], endless, *thinking.segments[2:]))
    if subject.controls is not None:
        subject.controls.alter = lambda ids, logits: (time.sleep(0.005), logits)[1]
    try:
        began = time.monotonic_ns()
        late = subject.result(subject.job(program, seed=1, deadline_ns=began + _SOON_NS))
    finally:
        if subject.controls is not None:
            subject.controls.alter = None
    assert isinstance(late, DeadlineExceeded)
    assert time.monotonic_ns() - began < 20_000_000_000


@case("DESIGN.md §3: finite by default; a deadline that is far away changes nothing")
def a_far_deadline_changes_no_answer(subject: Subject) -> None:
    job = subject.job(subject.words.pair, seed=4)
    same(subject.answer(replace(job, deadline_ns=time.monotonic_ns() + 10**12)), subject.answer(job))


@case("engines/protocol.py Engine: thread-safe; 32 at once equal one by one", kind=("verdict", "pair", "mixed"))
def thirty_two_at_once_equal_one_by_one(subject: Subject, kind: str) -> None:
    words = subject.words
    mixed = (words.verdict, words.pair, words.names("disjoint"), words.thinking(4))
    programs = {"verdict": [words.verdict], "pair": [words.pair], "mixed": mixed}[kind]
    jobs = [subject.job(programs[at % len(programs)], 12 + at, seed=at, images=int(at % 5 == 0)) for at in range(32)]
    for job, result in zip(jobs, subject.at_once(jobs), strict=True):
        assert isinstance(result, Answer), result
        well_formed(job.program, result, all_known=subject.definition is not None)
        if subject.definition is not None:
            same(result, subject.definition.answer(job))


@case("engines/protocol.py Engine.run: a job's failure is its own")
def what_is_wrong_with_one_job_is_no_other_jobs_failure(subject: Subject) -> None:
    words = subject.words
    wrong = subject.job(Program((Choice("user", 7, 8), *words.pair.segments, *words.pair.segments)))
    late = subject.job(words.verdict, deadline_ns=time.monotonic_ns() - 1)
    jobs = [wrong, subject.job(words.verdict, seed=1), late, subject.job(words.pair, seed=2)]
    kinds = [type(result) for result in subject.engine.run(jobs)]
    assert kinds == [Unimplemented, Answer, DeadlineExceeded, Answer]


@case("engines/protocol.py Engine.run: jobs in, answers out")
def no_jobs_no_answers(subject: Subject) -> None:
    assert subject.engine.run([]) == []


@case("engines/protocol.py Engine.lanes: calls of run that may go on at once")
def lanes_are_at_least_one(subject: Subject) -> None:
    assert subject.engine.lanes >= 1


@case("engines/protocol.py Engine.statistics: what the engine counts of itself, by name")
def statistics_are_numbers_with_names(subject: Subject) -> None:
    subject.answer(subject.job(subject.words.verdict))
    figures = subject.engine.statistics()
    assert figures
    assert all(isinstance(name, str) and np.isfinite(float(value)) for name, value in figures.items())


@case("engines/protocol.py Engine.close: a call of run after it is answered with Unavailable", on=_SMALL)
def a_call_after_the_end_is_answered_with_unavailable(subject: Subject) -> None:
    with subject.fresh() as other:
        other.answer(other.job(other.words.verdict))
        other.engine.close()
        other.engine.close()
        results = other.engine.run([other.job(other.words.verdict), other.job(other.words.pair)])
        assert [type(result) for result in results] == [Unavailable, Unavailable]
        assert isinstance(other.engine.statistics(), dict)


@case("engines/protocol.py Engine.close: finish what runs", on=_SMALL)
def the_end_waits_for_what_runs_and_refuses_what_comes(subject: Subject) -> None:
    with subject.fresh() as other, ThreadPoolExecutor(9) as pool:
        begun = threading.Barrier(9)

        def run(job: Job) -> Answer | GuardError:
            begun.wait()
            return other.result(job)

        jobs = [other.job(other.words.thinking(6), seed=seed) for seed in range(8)]
        running = [pool.submit(run, job) for job in jobs]
        begun.wait()
        other.engine.close()
        for job, future in zip(jobs, running, strict=True):
            result = future.result()
            if isinstance(result, Answer):
                same(result, subject.answer(job))
            else:
                assert isinstance(result, Unavailable)
