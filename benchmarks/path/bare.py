"""The bare side: the bundle's engine behind its own scheduler, with the prompts' tokens at hand.

It has a process of its own, like the served one: it shares neither memory nor an interpreter with the client.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from tritonguard.errors import BundleError, GuardError
from tritonguard.request import GuardRequest, Mode

from engines.bundle import Bundle, open_engine
from engines.program import program_for
from engines.protocol import Job
from engines.scheduler import Results, Scheduler
from preprocessing.prompt import PromptBuilder


@dataclass(frozen=True)
class Run:
    """What one round of a way took. ms: of each request, in the order of their ends. seconds: of them all, from the
    first request to the last answer. cpu_s: CPU seconds meanwhile, by process."""

    ms: Sequence[float]
    seconds: float
    cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        return len(self.ms) / self.seconds


T = TypeVar("T")


class Bare:
    """Asks the engine alone, from its own threads: an answer's callback sends the next request, so that no thread and
    no event loop stands in between. A context manager."""

    def __init__(self, bundle: Path, requests: Sequence[GuardRequest]) -> None:
        """requests: mode verdict, under the built-in policy. Raises BundleError and PromptTooLong."""
        self._process = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            self._there(_load, bundle, tuple(requests))
        except BaseException:
            self._process.shutdown()
            raise

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.shutdown()

    def run(self, concurrency: int) -> Run:
        """All requests once, so many at a time. Raises the first GuardError that the engine answers with, and
        BundleError where its process ended."""
        return self._there(_ask_loaded, concurrency)

    def _there(self, function: Callable[..., T], *arguments: object) -> T:
        try:
            return self._process.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise BundleError("the engine's process ended") from error


_loaded: list[tuple[Scheduler, list[Job]]] = []
"""In the engine's process: the engine, and what it is asked."""


def _load(folder: Path, requests: Sequence[GuardRequest]) -> None:
    bundle = Bundle.open(folder)
    builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
    programs = {
        pair: program_for(Mode.VERDICT, has_response=pair, encode=builder.encode_text, end=builder.end_of_turn)
        for pair in (False, True)
    }
    built = [(builder.build(request), request.response is not None) for request in requests]
    jobs = [Job(prompt.ids, prompt.prefix_length, programs[pair]) for prompt, pair in built]
    # A caller waits for its answer, so no more wait than there are callers, and none is refused.
    _loaded.append((Scheduler(open_engine(bundle), most_waiting=len(jobs)), jobs))


def _ask_loaded(concurrency: int) -> Run:
    [(scheduler, jobs)] = _loaded
    return closed(scheduler, jobs, concurrency)


def closed(scheduler: Scheduler, jobs: Sequence[Job], concurrency: int) -> Run:
    """Each job as a request of its own, `concurrency` of them under way. Raises the first GuardError of an answer."""
    left: Iterator[Job] = iter(jobs)
    milliseconds: list[float] = []
    errors: list[GuardError] = []
    lock, ended = threading.Lock(), threading.Event()

    def send() -> None:
        with lock:
            job = next(left, None)
        if job is None:
            return
        sent = time.perf_counter()

        def done(results: Results) -> None:
            took = (time.perf_counter() - sent) * 1e3
            with lock:
                milliseconds.append(took)
                errors.extend(result for result in results if isinstance(result, GuardError))
                last = len(milliseconds) == len(jobs)
            if last:
                ended.set()
            else:
                send()

        scheduler.submit([job], done)

    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(concurrency):
        send()
    ended.wait()
    run = Run(milliseconds, time.perf_counter() - began, {"engine": time.process_time() - cpu})
    if errors:
        raise errors[0]
    return run
