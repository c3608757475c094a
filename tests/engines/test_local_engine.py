"""The local engine on a tiny random model: the same answer by every way through it, and typed refusals."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from tiny_engine import PAIR, PROGRAM, job, load_tiny
from tritonguard.errors import DeadlineExceeded, Unimplemented

from engines.local.engine import LocalEngine, log_softmax
from engines.program import Choice, FreeText, Program
from engines.protocol import Answer, Job


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    return load_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint")


def logprobs(engine: LocalEngine, *jobs: Job) -> np.ndarray:
    answers = engine.run(jobs)
    assert all(isinstance(answer, Answer) for answer in answers)
    return np.concatenate([answer.choice_logprobs for answer in answers if isinstance(answer, Answer)])


def test_probabilities_are_normalised_over_the_two_choices(engine: LocalEngine) -> None:
    np.testing.assert_allclose(np.exp(logprobs(engine, job(12))).sum(axis=1), 1.0, atol=1e-6)


def test_a_reused_prefix_changes_no_answer(engine: LocalEngine) -> None:
    shared = job(40, prefix=24, seed=3)
    alone = logprobs(engine, replace(shared, prefix_length=0))
    first, again = (engine.run([shared])[0] for _ in range(2))
    assert isinstance(first, Answer)
    assert isinstance(again, Answer)
    assert (first.prefix_reused, again.prefix_reused) == (0, 24)
    np.testing.assert_allclose(first.choice_logprobs, alone, atol=1e-4)
    np.testing.assert_array_equal(first.choice_logprobs, again.choice_logprobs)


def test_a_batch_of_ragged_jobs_answers_each_as_if_alone(engine: LocalEngine) -> None:
    jobs = [job(30, prefix=20, seed=1), job(57, prefix=20, seed=2), job(23, prefix=20, seed=3), job(9, seed=4)]
    alone = np.concatenate([logprobs(engine, one) for one in jobs])
    np.testing.assert_allclose(logprobs(engine, *jobs), alone, atol=1e-4)


def test_different_texts_get_different_answers(engine: LocalEngine) -> None:
    first, second = logprobs(engine, job(30, seed=1), job(30, seed=2))
    assert not np.allclose(first, second)


def test_a_prompt_that_is_nothing_but_prefix_is_answered(engine: LocalEngine) -> None:
    whole = job(20, prefix=20)
    np.testing.assert_allclose(logprobs(engine, whole), logprobs(engine, replace(whole, prefix_length=0)), atol=1e-4)


def test_a_late_job_is_refused_and_the_others_are_answered(engine: LocalEngine) -> None:
    late = job(12, deadline_ns=time.monotonic_ns() - 1)
    refused, answered = engine.run([late, job(12)])
    assert isinstance(refused, DeadlineExceeded)
    assert isinstance(answered, Answer)


@pytest.mark.parametrize(
    "program",
    [
        Program((*PAIR.segments, *PROGRAM.segments)),
        Program((*PROGRAM.segments, FreeText(8, (1,), 3))),
        Program((FreeText(8, (1,), 3), *PROGRAM.segments)),
        Program((Choice("user", 7, 8), PROGRAM.segments[0])),
    ],
)
def test_a_program_beyond_this_release_is_unimplemented(engine: LocalEngine, program: Program) -> None:
    (refused,) = engine.run([replace(job(12), program=program)])
    assert isinstance(refused, Unimplemented)


def test_a_logit_that_is_no_number_stays_one() -> None:
    assert np.isnan(log_softmax(np.array([[np.nan, 1.0]], np.float32))).all()
