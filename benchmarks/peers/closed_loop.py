"""A closed loop: a number of workers, each of which asks the next question when it has its answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.question import Question

Ask = Callable[[Question], Sequence[int]]


@dataclass(frozen=True)
class Run:
    """ms: of each question, from asking to the whole answer. seconds: of all of them. answers: ids that were said."""

    ms: Sequence[float]
    seconds: float
    answers: Sequence[Sequence[int]]

    def written(self) -> dict[str, Any]:
        return {"ms": list(self.ms), "seconds": self.seconds, "answers": [list(answer) for answer in self.answers]}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Run:
        return cls(values["ms"], values["seconds"], values["answers"])


def closed_loop(questions: Sequence[Question], concurrency: int, ask: Ask) -> Run:
    """ask: called from `concurrency` threads. The first exception of it ends the loop and is raised."""
    ms = [0.0] * len(questions)
    answers: list[Sequence[int]] = [()] * len(questions)
    numbers, lock = iter(range(len(questions))), threading.Lock()
    failed: list[BaseException] = []

    def work() -> None:
        while not failed:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            began = time.perf_counter()
            try:
                answers[number] = ask(questions[number])
            except BaseException as error:
                failed.append(error)
            ms[number] = (time.perf_counter() - began) * 1e3

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return Run(ms, time.perf_counter() - began, answers)


def answer_run(message: Mapping[str, Any], run: Callable[[Sequence[Question], int, str], Run]) -> dict[str, Any]:
    """The `run` operation of a child: questions, concurrency, way -> the run."""
    questions = [Question.read(values) for values in message["questions"]]
    return run(questions, message["concurrency"], message["way"]).written()
