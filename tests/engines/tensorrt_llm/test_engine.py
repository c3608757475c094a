"""The engine over a package that does what it should, and one that does not: answers, or typed reasons."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from drafting_llm import ENDS, Llm
from drafting_model import HEAD, LINE, PAIR, RESPONSE, SAFE, TEXT, THINK, UNSAFE, USER, VERDICT, Model, step_by_step
from tritonguard.errors import (
    BundleError,
    DeadlineExceeded,
    GuardError,
    InternalError,
    PromptTooLong,
    Unavailable,
    Unimplemented,
)

from engines.program import Choice, Forced, Program
from engines.protocol import Answer, Capabilities, Job
from engines.tensorrt_llm import engine as engine_module
from engines.tensorrt_llm.engine import SERVED_SEGMENTS, TensorRtLlmEngine
from engines.tensorrt_llm.runtime import Runtime
from engines.tensorrt_llm.sampling import LIKELIEST, Ends

IMAGE, PER_IMAGE = 12, 4
PROMPT = (0, 9, 4)
THINKING = Program((Forced((THINK,)), TEXT, HEAD, USER))
MOST = 40
WAIT_S = 30.0
SOON_S = 0.5
"""A deadline that passes while a request runs, and not before it is begun, on a busy machine either."""


class RequestError(RuntimeError):
    """The package's, by its name."""


@pytest.fixture
def llm() -> Llm:
    return Llm(Model(3))


@pytest.fixture
def engine(llm: Llm, monkeypatch: pytest.MonkeyPatch) -> Iterator[TensorRtLlmEngine]:
    package = SimpleNamespace(SamplingParams=lambda **given: SimpleNamespace(**given))
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    monkeypatch.setattr(engine_module, "pixel_values", lambda pixels: pixels)
    loop = asyncio.new_event_loop()

    def live() -> None:
        loop.run_forever()
        loop.close()

    thread = threading.Thread(target=live)
    thread.start()
    opened = TensorRtLlmEngine(
        Runtime(llm, Ends(*ENDS), loop, thread),
        Capabilities(SERVED_SEGMENTS, 2, "trained", 30),
        lanes=8,
        max_tokens=MOST,
        image_token=IMAGE,
        tokens_per_image=PER_IMAGE,
    )
    yield opened
    llm.hold.set()
    opened.close()


def job(program: Program = VERDICT, ids: tuple[int, ...] = PROMPT, **values: Any) -> Job:
    return Job(np.array(ids, np.int32), 0, program, **values)


def in_s(seconds: float) -> int:
    return time.monotonic_ns() + round(seconds * 1e9)


def result(engine: TensorRtLlmEngine, asked: Job) -> Answer | GuardError:
    (only,) = engine.run([asked])
    return only


@pytest.mark.parametrize("program", [VERDICT, PAIR, THINKING, Program((*PAIR.segments, LINE))])
def test_an_answer_is_what_decoding_step_by_step_gives(engine: TensorRtLlmEngine, llm: Llm, program: Program) -> None:
    answer = result(engine, job(program))
    expected = step_by_step(program, llm.model, PROMPT)
    assert isinstance(answer, Answer)
    assert (answer.ids, answer.truncated) == (expected.ids, expected.truncated)
    np.testing.assert_allclose(answer.choice_logprobs, np.stack(expected.rows), atol=1e-5)
    assert answer.choice_logprobs.dtype == np.float32
    assert answer.prefix_reused == 0


def test_time_is_told_by_phase(engine: TensorRtLlmEngine) -> None:
    answers = engine.run([job(), job(THINKING)])
    phases = [set(answer.timings_ms) for answer in answers if isinstance(answer, Answer)]
    assert phases == [{"forward"}, {"think", "forward"}]


def test_a_verdict_is_one_request_for_one_token_with_exact_ids(engine: TensorRtLlmEngine, llm: Llm) -> None:
    engine.run([job()])
    ((inputs, params),) = llm.asked
    assert inputs == {"prompt_token_ids": [*PROMPT, *HEAD.ids]}
    assert (params.max_tokens, params.logprobs) == (1, LIKELIEST)


def test_pixels_go_with_every_request_of_their_job(engine: TensorRtLlmEngine, llm: Llm) -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    ids = (*PROMPT, *(IMAGE,) * PER_IMAGE)
    assert isinstance(result(engine, job(THINKING, ids, pixels=pixels)), Answer)
    assert len(llm.asked) == 2
    for inputs, _ in llm.asked:
        assert inputs["multi_modal_data"]["image"] is pixels
        assert inputs["mm_processor_kwargs"]["guard_ids"][: len(ids)] == list(ids)
        assert "prompt_token_ids" not in inputs


@pytest.mark.parametrize("images", [None, 1, 2])
def test_image_tokens_without_their_images_never_reach_the_package(
    engine: TensorRtLlmEngine, llm: Llm, images: int | None
) -> None:
    pixels = None if images is None else np.zeros((images, 2, 2, 3), np.uint8)
    wrong = job(ids=(*PROMPT, *(IMAGE,) * (PER_IMAGE - 1)), pixels=pixels)
    assert isinstance(result(engine, wrong), InternalError)
    assert not llm.asked


def test_an_image_for_a_bundle_without_a_tower_is_refused(engine: TensorRtLlmEngine, llm: Llm) -> None:
    engine._tokens_per_image = 0
    assert isinstance(result(engine, job(pixels=np.zeros((1, 2, 2, 3), np.uint8))), BundleError)
    assert not llm.asked


def test_pixels_that_can_not_be_handed_on_fail_their_own_job_alone(
    engine: TensorRtLlmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pixels: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(engine_module, "pixel_values", fail)
    seeing = job(ids=(*PROMPT, *(IMAGE,) * PER_IMAGE), pixels=np.zeros((1, 2, 2, 3), np.uint8))
    failed, answered = engine.run([seeing, job()])
    assert isinstance(failed, InternalError)
    assert isinstance(failed.__cause__, MemoryError)
    assert isinstance(answered, Answer)


def test_a_prompt_with_no_room_for_its_answer_is_refused(engine: TensorRtLlmEngine, llm: Llm) -> None:
    fits = MOST - len(HEAD.ids) - 1
    assert isinstance(result(engine, job(ids=(9,) * fits)), Answer)
    assert isinstance(refused := result(engine, job(ids=(9,) * (fits + 1))), PromptTooLong)
    assert refused.field == "prompt"
    assert len(llm.asked) == 1


def test_a_program_beyond_the_bundle_is_unimplemented(engine: TensorRtLlmEngine) -> None:
    third = Program((*PAIR.segments, Forced((7,)), Choice("response", SAFE, UNSAFE)))
    assert isinstance(result(engine, job(third)), Unimplemented)


def test_a_choice_outside_the_likeliest_is_told_as_a_bound(engine: TensorRtLlmEngine, llm: Llm) -> None:
    llm.model = Model(fixed={HEAD.ids: SAFE})
    llm.alter = lambda output: output.outputs[0].logprobs[0].pop(UNSAFE)
    answer = result(engine, job())
    assert isinstance(answer, Answer)
    assert answer.bounded
    assert np.isfinite(answer.choice_logprobs).all()


def test_log_probabilities_that_are_none_never_say_safe(engine: TensorRtLlmEngine, llm: Llm) -> None:
    def spoil(output: Any) -> None:
        for entry in output.outputs[0].logprobs[0].values():
            entry.logprob = float("nan")

    llm.alter = spoil
    answer = result(engine, job())
    assert isinstance(answer, Answer)
    assert np.isnan(answer.choice_logprobs).all()
    assert answer.ids[-1] == UNSAFE


def test_another_prompt_than_the_one_asked_is_an_error(engine: TensorRtLlmEngine, llm: Llm) -> None:
    llm.alter = lambda output: output.prompt_token_ids.insert(0, 2)
    assert isinstance(result(engine, job()), InternalError)


def test_a_late_job_is_not_submitted_and_the_others_are_answered(engine: TensorRtLlmEngine, llm: Llm) -> None:
    late, answered = engine.run([job(deadline_ns=in_s(-1)), job(deadline_ns=in_s(WAIT_S))])
    assert isinstance(late, DeadlineExceeded)
    assert isinstance(answered, Answer)
    assert len(llm.asked) == 1


def test_a_job_whose_time_runs_out_between_its_requests_gets_no_second(engine: TensorRtLlmEngine, llm: Llm) -> None:
    deadline_ns = in_s(0.5)

    def outlast(output: Any) -> None:
        while time.monotonic_ns() < deadline_ns:
            time.sleep(0.01)

    llm.alter = outlast
    llm.model = Model(fixed={HEAD.ids: SAFE, (SAFE,): 1})
    assert isinstance(result(engine, job(PAIR, deadline_ns=deadline_ns)), DeadlineExceeded)
    assert len(llm.asked) == 1


def test_reasoning_is_aborted_at_its_deadline(engine: TensorRtLlmEngine, llm: Llm) -> None:
    llm.hold.clear()
    assert isinstance(result(engine, job(THINKING, deadline_ns=in_s(SOON_S))), DeadlineExceeded)
    assert [output.aborted for output in llm.outputs] == [True]


def test_a_prefill_is_left_to_end_and_its_answer_thrown_away(engine: TensorRtLlmEngine, llm: Llm) -> None:
    llm.hold.clear()
    deadline_ns = in_s(SOON_S)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(result, engine, job(deadline_ns=deadline_ns))
        assert llm.began.wait(WAIT_S)
        while time.monotonic_ns() < deadline_ns:
            time.sleep(0.01)
        assert not running.done()
        llm.hold.set()
        assert isinstance(running.result(WAIT_S), DeadlineExceeded)
    assert not llm.outputs[0].aborted


def test_a_package_that_does_not_answer_any_more_is_unavailable(
    engine: TensorRtLlmEngine, llm: Llm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "STALLED_S", 0.05)
    llm.hold.clear()
    assert isinstance(result(engine, job(deadline_ns=in_s(SOON_S))), Unavailable)
    assert not engine.health()


@pytest.mark.parametrize(
    ("failure", "expected", "healthy"),
    [
        (RequestError("prompt length should not exceed max_num_tokens"), PromptTooLong, True),
        (RequestError("something else"), InternalError, True),
        (TypeError("'NoneType' is no number"), InternalError, True),
        (RuntimeError("LLM is shutting down"), Unavailable, False),
    ],
)
def test_a_failure_of_the_package_has_a_type_and_a_cause(
    engine: TensorRtLlmEngine,
    llm: Llm,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    expected: type[GuardError],
    healthy: bool,
) -> None:
    llm.failure = failure
    with caplog.at_level(logging.ERROR):
        failed = result(engine, job())
    assert type(failed) is expected
    assert failed.__cause__ is failure
    assert engine.health() == healthy
    assert bool(caplog.records) != healthy


def test_jobs_of_a_call_are_under_way_together(engine: TensorRtLlmEngine, llm: Llm) -> None:
    llm.hold.clear()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.run, [job(), job(PAIR), job(THINKING)])
        until = time.monotonic() + WAIT_S
        while len(llm.asked) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(llm.asked) == 3
        assert engine.statistics()["jobs_under_way"] == 3
        llm.hold.set()
        assert all(isinstance(answer, Answer) for answer in running.result(WAIT_S))


def test_statistics_are_the_packages_figures_and_the_engines_own(engine: TensorRtLlmEngine, llm: Llm) -> None:
    llm.stats = [
        {"iterLatencyMS": 5.0},
        {"iterLatencyMS": 7.0, "kvCacheStats": {"usedNumBlocks": 1, "maxNumBlocks": 4}},
    ]
    assert engine.statistics() == {
        "jobs_under_way": 0,
        "iteration_ms": 7.0,
        "kv_blocks_used": 1,
        "kv_blocks_total": 4,
        "kv_utilisation": 0.25,
    }


def test_a_package_without_statistics_is_no_failure(engine: TensorRtLlmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Llm, "get_stats_async")
    assert engine.statistics() == {"jobs_under_way": 0}


def test_the_end_waits_for_what_runs_and_refuses_what_comes(engine: TensorRtLlmEngine, llm: Llm) -> None:
    llm.hold.clear()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(engine.run, [job()])
        assert llm.began.wait(WAIT_S)
        closing = pool.submit(engine.close)
        while engine.health():
            time.sleep(0.01)
        assert [type(refused) for refused in engine.run([job(), job()])] == [Unavailable, Unavailable]
        assert not closing.done()
        assert llm.shutdowns == 0
        llm.hold.set()
        closing.result(WAIT_S)
        assert isinstance(running.result(WAIT_S)[0], Answer)
    engine.close()
    assert llm.shutdowns == 1
    assert engine.statistics() == {"jobs_under_way": 0}


def test_a_choice_alone_needs_no_head(engine: TensorRtLlmEngine) -> None:
    answer = result(engine, job(Program((RESPONSE,))))
    assert isinstance(answer, Answer)
    assert answer.choice_logprobs.shape == (1, 2)
