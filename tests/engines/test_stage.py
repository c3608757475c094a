"""The decode stage: a bad row fails alone, and a row's prompts come back together."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from engine_stand_in import StandIn
from tritonguard import tensors as wire
from tritonguard.errors import DeadlineExceeded, GuardError, InternalError, Unavailable

from engines.bundle import Bundle
from engines.protocol import Answer, Engine, Job
from engines.scheduler import Scheduler
from engines.stage import DecodeStage, Result


class Counting(StandIn):
    """An engine that says how many jobs came at once, as a probability no model would give."""

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        return [Answer(np.array([[-float(len(jobs)), 0.0]], np.float32), (len(job.ids),), 0) for job in jobs]


def stage(engine: Engine | None = None, **how: Any) -> DecodeStage:
    manifest = {"target": "openvino", "precision": "f32", "revision": "r", "inputs": {"checkpoint_revision": "m"}}
    return DecodeStage(
        Bundle(Path(), manifest), Scheduler(engine or Counting(), **how), encode=lambda text: [1], decode=str, end=106
    )


PROMPT = {"part": "custom", "mode": "verdict", "names": None, "sees": False}
GOOD = json.dumps({"has_response": False, "think_budget": 8, "priority": 0, "prompts": [PROMPT, PROMPT]})


def row(answer: str) -> dict[str, wire.Array]:
    return {
        "INPUT_IDS": wire.pack("INPUT_IDS", [2, 3, 4]),
        "PROMPT_LENGTHS": wire.pack("PROMPT_LENGTHS", [1, 2]),
        "PREFIX_LENGTHS": wire.pack("PREFIX_LENGTHS", [1, 0]),
        "PIXELS": wire.pack("PIXELS", [b""]),
        "ANSWER": wire.pack_text("ANSWER", answer),
        "DEADLINE_NS": wire.pack("DEADLINE_NS", [time.monotonic_ns() + 10**11]),
    }


def test_a_malformed_row_fails_alone() -> None:
    decode = stage()
    for bad in ("{", "{}", GOOD.replace('"verdict"', '"guess"')):
        assert isinstance(decode.run(row(bad)), InternalError)
        decoded = decode.run(row(GOOD))
        assert isinstance(decoded, dict)
        assert decoded["CHOICE_LOGPROBS"].tolist() == [[[-2.0, 0.0], [-2.0, 0.0]]]
        assert decoded["OUTPUT_TEXT"].tolist() == [[b"(1,)", b"(2,)"]]


def test_a_request_is_answered_only_if_all_its_prompts_are() -> None:
    class Half(Counting):
        def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
            return [super().run(jobs)[0], DeadlineExceeded("late")]

    assert isinstance(stage(Half()).run(row(GOOD)), DeadlineExceeded)


def test_an_answer_that_cannot_be_told_is_an_internal_error_with_its_cause() -> None:
    class Empty(Counting):
        def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
            return [Answer(np.zeros((1, 3), np.float32), (), 0) for _ in jobs]

    error = stage(Empty()).run(row(GOOD))
    assert isinstance(error, InternalError)
    assert error.__cause__ is not None


def test_what_the_warm_up_takes_is_not_forecast_for_the_first_callers() -> None:
    class Slow(Counting):
        def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
            time.sleep(0.3)
            return super().run(jobs)

    shown: list[int] = []
    decode = stage(Slow(), show=shown.append)
    decode.warm_up(row(GOOD))
    asked: Future[Result] = Future()
    decode.submit(row(GOOD), asked.set_result)
    # One more would be tried: nobody knows yet that it would take 0.3 seconds for each request before it.
    assert shown[-1] <= time.monotonic_ns()
    assert isinstance(asked.result(), dict)


def test_a_closed_stage_refuses() -> None:
    decode = stage()
    decode.close()
    assert isinstance(decode.run(row(GOOD)), Unavailable)
