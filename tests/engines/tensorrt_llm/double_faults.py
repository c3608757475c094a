"""What a case does to the double, and how it looks at what reached the package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from conformance import Subject
from tiny_bundle import END, SAFE, UNSAFE

from engines.protocol import Answer, Job

PATIENCE_S = 10.0
"""What should happen at once, happens in less."""


@contextmanager
def fault(subject: Subject, **values: Any) -> Iterator[None]:
    """The double's controls set to this for a while."""
    before = {name: getattr(subject.controls, name) for name in values}
    vars(subject.controls).update(values)
    try:
        yield
    finally:
        vars(subject.controls).update(before)


def begin(call: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """The call in a thread that nobody has to wait for: an engine that is wrong may never answer."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(call(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


@contextmanager
def held(subject: Subject) -> Iterator[None]:
    """No step of the double begins inside the block."""
    subject.controls.hold()
    try:
        yield
    finally:
        subject.controls.release()


def in_one_step(subject: Subject, jobs: list[Job]) -> list[Any]:
    """The results of jobs whose first requests share a step."""
    before = len(subject.controls.seen)
    with held(subject):
        running = [begin(subject.result, job) for job in jobs]
        subject.controls.wait_for(lambda controls: len(controls.seen) >= before + len(jobs), PATIENCE_S)
    return [future.result(3 * PATIENCE_S) for future in running]


def requests(subject: Subject, job: Job) -> tuple[Answer, list[Any]]:
    """The answer, and the package's requests that it took."""
    before = len(subject.controls.seen)
    answer = subject.answer(job)
    return answer, subject.controls.seen[before:]


def writes(job: Job, answer: Answer) -> Callable[[tuple[int, ...], Any], Any]:
    """Logits of a model that writes this answer by itself; those of a choice's two options keep their distance."""
    whole = (*job.ids.tolist(), *answer.ids, END)

    def alter(ids: tuple[int, ...], logits: Any) -> Any:
        if whole[: len(ids)] != ids or len(ids) == len(whole):
            return logits
        lifted = logits.copy()
        following = whole[len(ids)]
        lifted[[SAFE, UNSAFE] if following in (SAFE, UNSAFE) else [following]] += 60
        return lifted

    return alter
