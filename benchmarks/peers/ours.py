"""Child: this repository's engine behind its own queue, in the serving environment. Runs the decode program."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tritonguard.request import Mode

from benchmarks.peers.closed_loop import answer_run, closed_loop
from benchmarks.peers.protocol import serve
from benchmarks.peers.question import Question
from engines.bundle import Bundle, open_engine
from engines.program import Program, program_for
from engines.protocol import Answer, Job
from engines.scheduler import Results, Scheduler
from preprocessing.prompt import PromptBuilder


class Ours:
    def __init__(self) -> None:
        self._scheduler: Scheduler | None = None

    def load(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """settings: {"bundle": folder}."""
        began = time.perf_counter()
        bundle = Bundle.open(Path(message["settings"]["bundle"]), weights=False)
        self._scheduler = Scheduler(open_engine(bundle))
        builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)

        @cache
        def program(mode: str, has_response: bool) -> Program:
            return program_for(
                Mode(mode), has_response=has_response, encode=builder.encode_text, end=builder.end_of_turn
            )

        self._program = program
        return {"seconds": time.perf_counter() - began}

    def run(self, message: Mapping[str, Any]) -> dict[str, Any]:
        return answer_run(message, lambda questions, concurrency, way: closed_loop(questions, concurrency, self._ask))

    def close(self) -> None:
        if self._scheduler is not None:
            self._scheduler.close()

    def _ask(self, question: Question) -> Sequence[int]:
        """The ids that were said. Raises what the engine answers instead."""
        assert self._scheduler is not None
        program = self._program(question.mode, len(question.heads) > 1)
        came: Future[Results] = Future()
        self._scheduler.submit([Job(np.array(question.ids, np.int32), question.prefix, program)], came.set_result)
        [answer] = came.result()
        if not isinstance(answer, Answer):
            raise answer
        return answer.ids


if __name__ == "__main__":
    ours = Ours()
    serve({"load": ours.load, "run": ours.run})
    ours.close()
