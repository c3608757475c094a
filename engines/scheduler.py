"""The engine's own queue: bounded, ordered, and on time.

Triton hands every request over at once and decides nothing. What waits here has a priority, a deadline and a limit
to its number; each entry is answered exactly once, and by its deadline, whatever the engine does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tritonguard.errors import DeadlineExceeded, GuardError, InternalError, Overloaded, Unavailable

from engines.program import FreeText
from engines.protocol import Answer, Engine, Job

MOST_WAITING = 32
MOST_TOGETHER = 8
"""Jobs in one call of the engine."""
NEVER_NS = 2**63 - 1

Results = list[Answer | GuardError]
Done = Callable[[Results], None]
_LATEST = 0.2  # weight of the latest call in the mean duration of a call


@dataclass(eq=False)
class _Entry:
    """The jobs of one request. slow: some of them write free text, a token a pass. length: tokens of the longest,
    without the part that its policy shares."""

    jobs: Sequence[Job]
    done: Done
    priority: int
    number: int
    deadline_ns: int | None = field(init=False)
    slow: bool = field(init=False)
    length: int = field(init=False)
    answered: bool = False

    def __post_init__(self) -> None:
        self.deadline_ns = min((job.deadline_ns for job in self.jobs if job.deadline_ns is not None), default=None)
        self.slow = any(isinstance(segment, FreeText) for job in self.jobs for segment in job.program.segments)
        self.length = max(len(job.ids) - job.prefix_length for job in self.jobs)

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts what is run first to the front: higher priority, then earlier arrival."""
        return -self.priority, self.number


class Scheduler:
    """Runs jobs on an engine from a thread of its own. Thread-safe.

    most_waiting: requests that may wait; the next one is refused with Overloaded, unless a lower priority can give
    way. most_together: jobs in one call of the engine; a request that thinks goes alone: others in its call would wait
    for it. show: told, whenever it changes, when one more request of the lowest priority would be done (ns of the
    monotonic clock; 0: at once, NEVER_NS: it would be refused); called with the queue locked, so it must be quick.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        most_waiting: int = MOST_WAITING,
        most_together: int = MOST_TOGETHER,
        show: Callable[[int], None] = lambda done_ns: None,
    ) -> None:
        self.engine = engine
        self._show = show
        self._most_waiting = most_waiting
        self._most_together = most_together
        self._waiting: list[_Entry] = []
        self._running: list[_Entry] = []
        self._arrived = 0
        self._began_ns = 0
        self._call_ns = {False: 0.0, True: 0.0}  # mean duration of a call, by `slow`
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=body, name=f"engine-{name}", daemon=True)
            for name, body in (("queue", self._work), ("clock", self._watch))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, jobs: Sequence[Job], done: Done, *, priority: int = 0) -> None:
        """Queue one request. `done` is called once, from any thread: with a result for each job as `Engine.run` gives
        it, or with one GuardError for all: Overloaded (the queue is full, or was too long for this deadline),
        DeadlineExceeded (on time, even while the engine is busy with it), Unavailable (closed), InternalError (the
        engine failed; the cause is chained).
        """
        with self._changed:
            entry = _Entry(jobs, done, priority, self._arrived)
            self._arrived += 1
            refused, error = self._admit(entry)
            self._note_change()
        if refused is not None:
            self._answer(refused, error)

    def close(self) -> None:
        """Refuse what comes from now on, finish what is here, and return when it is."""
        with self._changed:
            self._closed = True
            self._note_change()
        for thread in self._threads:
            thread.join()

    @property
    def waiting(self) -> int:
        """Requests that wait for the engine now."""
        return len(self._waiting)

    def _admit(self, entry: _Entry) -> tuple[_Entry | None, GuardError]:
        """Put it into the queue; what has no place there now, itself or another, is returned with the reason."""
        if self._closed:
            return entry, Unavailable("the engine is shutting down")
        if self._comes_too_late(entry):
            return entry, Overloaded("the requests before this one take longer than its deadline allows")
        self._waiting.append(entry)
        self._waiting.sort(key=lambda each: each.rank)
        full = len(self._waiting) > self._most_waiting
        return (self._waiting.pop() if full else None), Overloaded("too many requests are waiting")

    def _comes_too_late(self, entry: _Entry) -> bool:
        before = [each for each in self._waiting if each.rank < entry.rank]
        return entry.deadline_ns is not None and self._done_ns(before, slow=entry.slow) > entry.deadline_ns

    def _done_ns(self, before: Sequence[_Entry], *, slow: bool) -> float:
        """When a request behind those would be done, at the pace of the latest calls. 0 beside an idle engine."""
        if not self._running:
            return 0
        quick = sum(len(each.jobs) for each in before if not each.slow)
        calls = [each.slow for each in before if each.slow] + [False] * (quick // self._most_together) + [slow]
        free_ns = max(float(time.monotonic_ns()), self._began_ns + self._call_ns[self._running[0].slow])
        return free_ns + sum(self._call_ns[each] for each in calls)

    def _note_change(self) -> None:
        """Wake both threads, and show how long the queue is now."""
        full = self._closed or len(self._waiting) >= self._most_waiting
        self._show(NEVER_NS if full else round(self._done_ns(self._waiting, slow=False)))
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                hopeless = self._drop_hopeless()
                batch = self._running = self._next()
                began = self._began_ns = time.monotonic_ns()
                self._note_change()
            for entry in hopeless:
                self._answer(entry, Overloaded("its turn came too late for its deadline"))
            for entry, results in zip(batch, self._run(batch), strict=True):
                self._answer(entry, results)
            with self._changed:
                took, slow = time.monotonic_ns() - began, batch[0].slow
                known = self._call_ns[slow]
                self._call_ns[slow] = known + _LATEST * (took - known) if known else took
                self._running = []
                self._note_change()

    def _drop_hopeless(self) -> list[_Entry]:
        """Take out what could not be done in time, as long as something else waits: the engine's time is theirs."""
        now = time.monotonic_ns()
        late = [e for e in self._waiting if e.deadline_ns is not None and now + self._call_ns[e.slow] > e.deadline_ns]
        if len(late) == len(self._waiting):
            late = late[1:]
        self._waiting = [entry for entry in self._waiting if entry not in late]
        return late

    def _next(self) -> list[_Entry]:
        """The front of the queue; with a quick one, other quick ones, as many as go together.

        Of one priority those nearest in length: rows of a call are padded to the longest. Nobody is passed over for
        long, since whoever has come to the front goes next.
        """
        first = self._waiting[0]
        taken, jobs = [first], len(first.jobs)
        others = [] if first.slow else [entry for entry in self._waiting[1:] if not entry.slow]
        for entry in sorted(others, key=lambda each: (-each.priority, abs(each.length - first.length), each.number)):
            if jobs + len(entry.jobs) <= self._most_together:
                taken.append(entry)
                jobs += len(entry.jobs)
        self._waiting = [entry for entry in self._waiting if entry not in taken]
        return taken

    def _run(self, batch: Sequence[_Entry]) -> list[Results | GuardError]:
        """What the engine answers to each entry; its failure fails them all, and nobody else."""
        try:
            results = self.engine.run([job for entry in batch for job in entry.jobs])
            ends = [sum(len(entry.jobs) for entry in batch[: index + 1]) for index in range(len(batch))]
            if len(results) != ends[-1]:
                raise InternalError(f"the engine gave {len(results)} results for {ends[-1]} jobs")
        except BaseException as error:
            return [InternalError.of(error) for _ in batch]
        return [results[end - len(entry.jobs) : end] for entry, end in zip(batch, ends, strict=True)]

    def _watch(self) -> None:
        """Answers each entry whose time is over, waiting or under way."""
        while True:
            with self._changed:
                if self._closed and not self._waiting and not self._running:
                    return
                now = time.monotonic_ns()
                live = [entry for entry in (*self._waiting, *self._running) if not entry.answered]
                late = [entry for entry in live if entry.deadline_ns is not None and entry.deadline_ns <= now]
                if not late:
                    next_ns = min((entry.deadline_ns for entry in live if entry.deadline_ns is not None), default=None)
                    self._changed.wait(None if next_ns is None else (next_ns - now) / 1e9)
                    continue
                self._waiting = [entry for entry in self._waiting if entry not in late]
                self._note_change()
                under_way = set(map(id, self._running))
            for entry in late:
                where = "while the model ran" if id(entry) in under_way else "in the queue"
                self._answer(entry, DeadlineExceeded(f"the deadline passed {where}"))

    def _answer(self, entry: _Entry, results: Results | GuardError) -> None:
        with self._changed:
            if entry.answered:
                return
            entry.answered = True
        entry.done([results for _ in entry.jobs] if isinstance(results, GuardError) else results)
