"""Requests through the engine's scheduler: as many in flight as chance says, and several jobs as one request."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from tritonguard.errors import GuardError

from benchmarks.fast_paths.asked import Request
from benchmarks.served import followed
from engines.protocol import Answer, Job
from engines.scheduler import Scheduler

Results = list[Answer | GuardError]
MOST_IN_FLIGHT = 32
"""The scheduler's own default queue holds as many: none of them is refused."""
GAP_S = 0.02
PATIENCE_S = 900.0


def together(scheduler: Scheduler, jobs: Sequence[Job]) -> Results:
    """The results of jobs that come as one request. Raises TimeoutError where none come in PATIENCE_S."""
    came: Future[Results] = Future()
    scheduler.submit(jobs, came.set_result)
    return came.result(PATIENCE_S)


class RandomFlight:
    """Asks requests with a number of them in flight that keeps changing, from 1 to `most`.

    Each number holds for a random count of requests. Half of the requests come at once where there is room, half after
    an exponential gap of mean `gap_s` seconds. seen: how many were in flight behind each submission, by their number.
    """

    def __init__(
        self, scheduler: Scheduler, generator: random.Random, *, most: int = MOST_IN_FLIGHT, gap_s: float = GAP_S
    ) -> None:
        self._scheduler = scheduler
        self._random = generator
        self._most = most
        self._gap_s = gap_s
        self._changed = threading.Condition()
        self._in_flight = 0
        self.seen = Counter[int]()

    def ask(self, requests: Sequence[Request]) -> list[Results]:
        """The results of each request, in order. Raises TimeoutError where nothing comes for PATIENCE_S."""
        came: queue.Queue[tuple[int, Results]] = queue.Queue()
        threading.Thread(target=self._send, args=(requests, came), name="flight", daemon=True).start()
        results: dict[int, Results] = {}
        try:
            numbers = (came.get(timeout=PATIENCE_S) for _ in requests)
            results |= followed(numbers, total=len(requests), title="fast paths")
        except queue.Empty:
            raise TimeoutError(f"{len(requests) - len(results)} requests got no answer") from None
        return [results[number] for number in range(len(requests))]

    def _send(self, requests: Sequence[Request], came: queue.Queue[tuple[int, Results]]) -> None:
        level = held = 0

        def note(number: int, results: Results) -> None:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify()
            came.put((number, results))

        for number, request in enumerate(requests):
            if not held:
                level, held = self._random.randint(1, self._most), self._random.randint(1, 2 * self._most)
            held -= 1
            with self._changed:
                self._changed.wait_for(partial(self._is_below, level))
            if self._random.random() < 0.5:
                time.sleep(self._random.expovariate(1 / self._gap_s))
            with self._changed:
                self._in_flight += 1
                self.seen[self._in_flight] += 1
            jobs = [asked.job for asked in request.parts]
            self._scheduler.submit(jobs, partial(note, number), priority=request.priority)

    def _is_below(self, level: int) -> bool:
        return self._in_flight < level
