"""The engine's own queue: bounded, ordered, and on time.

Triton hands every request over at once and decides nothing. What waits here has a priority, a deadline and a limit
to its number; each entry is answered exactly once, and by its deadline, whatever the engine does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tritonguard.errors import DeadlineExceeded, GuardError, InternalError, Overloaded, Unavailable

from engines.forecast import Average, Forecast
from engines.program import FreeText
from engines.protocol import Answer, Engine, Job

MOST_WAITING = 32
NEVER_NS = 2**63 - 1

Results = list[Answer | GuardError]
Done = Callable[[Results], None]


@dataclass(eq=False)
class _Entry:
    """The jobs of one request. usual: see `Scheduler.submit`. slow: some of them write free text, a token a pass. work:
    tokens that only this request has. ahead: the work before it and its own when it came; since_ns: see
    `Scheduler._since_ns`, then."""

    jobs: Sequence[Job]
    done: Done
    priority: int
    number: int
    usual: bool = True
    ahead: int = 0
    since_ns: int = 0
    deadline_ns: int = field(init=False)
    slow: bool = field(init=False)
    work: int = field(init=False)
    answered: bool = False

    def __post_init__(self) -> None:
        self.deadline_ns = min((job.deadline_ns for job in self.jobs if job.deadline_ns is not None), default=NEVER_NS)
        self.slow = any(isinstance(segment, FreeText) for job in self.jobs for segment in job.program.segments)
        self.work = sum(job.own_length for job in self.jobs)

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts what is run first to the front: higher priority, then earlier arrival."""
        return -self.priority, self.number


@dataclass(eq=False)
class _Call:
    """An entry that the engine is busy with."""

    entry: _Entry
    began_ns: int

    @property
    def slow(self) -> bool:
        return self.entry.slow


class Scheduler:
    """Runs jobs on an engine from threads of its own, one for each of its lanes. Thread-safe.

    A call has the jobs of one request; the engine shares its passes between the calls under way. most_waiting: requests
    that may wait; the next one is refused with Overloaded, unless a lower priority can give way. Requests that think
    have no more than half of the lanes, so that quick ones never wait for their end. show: told, whenever it changes,
    when one more request of the lowest priority would be done (ns of the monotonic clock; 0: at once, NEVER_NS: it
    would be refused); called with the queue locked, so it must be quick.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        most_waiting: int = MOST_WAITING,
        show: Callable[[int], None] = lambda done_ns: None,
    ) -> None:
        self.engine = engine
        self._show = show
        self._most_waiting = most_waiting
        self._lanes = engine.lanes
        self._most_slow = (self._lanes + 1) // 2
        self._waiting: list[_Entry] = []
        self._running: list[_Call] = []
        self._arrived = 0
        self._usual_work = Average()
        self._since_ns = 0  # the latest end of a quick call, or its begin behind a rest: see Forecast
        self._answers = Counter[str]()
        self._forecast, self._thinking_ns = Forecast(), Average()  # of quick calls; time of slow ones
        self._closed = False
        self._watched_ns = NEVER_NS  # what the clock waits for: an earlier deadline wakes it, and nothing else
        self._lock = threading.RLock()
        self._runnable_changed, self._late_changed = (threading.Condition(self._lock) for _ in range(2))
        self._threads = [
            threading.Thread(target=body, name=f"engine-{name}", daemon=True)
            for name, body in (*[("lane", self._work)] * self._lanes, ("clock", self._watch))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, jobs: Sequence[Job], done: Done, *, priority: int = 0, usual: bool = True) -> None:
        """Queue one request. usual: what it takes says how long others will. `done` is called once, from any thread:
        with a result for each job as `Engine.run` gives it, or with one GuardError for all: Overloaded (the queue is
        full, or was too long for this deadline), DeadlineExceeded (on time, even while the engine is busy with it),
        Unavailable (closed), InternalError (the engine failed; the cause is chained).
        """
        with self._lock:
            entry = _Entry([replace(job, priority=priority) for job in jobs], done, priority, self._arrived, usual)
            self._arrived += 1
            refused, error = self._admit(entry)
            self._note_change()
            self._runnable_changed.notify()
            if entry.deadline_ns < self._watched_ns:
                self._late_changed.notify()
        if refused is not None:
            self._answer(refused, error)

    def close(self) -> None:
        """Refuse what comes from now on, finish what is here, close the engine, and return when it is."""
        with self._lock:
            self._closed = True
            self._note_change()
            self._runnable_changed.notify_all()
        for thread in self._threads:
            thread.join()
        self.engine.close()

    def statistics(self) -> dict[str, float]:
        """Requests that wait and that run now, and what the engine counts of itself."""
        counted = self.engine.statistics()
        with self._lock:
            return {**counted, "waiting": float(len(self._waiting)), "running": float(len(self._running))}

    def answers(self) -> dict[str, int]:
        """How many requests were answered so far, by what: "ok", or an error's kind."""
        with self._lock:
            return dict(self._answers)

    def _admit(self, entry: _Entry) -> tuple[_Entry | None, GuardError]:
        """Put it into the queue; what has no place there now, itself or another, is returned with the reason."""
        if self._closed:
            return entry, Unavailable("the engine is shutting down")
        before = [each for each in self._waiting if each.rank < entry.rank]
        here = self._here(before)
        if all(other.slow for other in here):
            self._since_ns = time.monotonic_ns()
        entry.ahead, entry.since_ns = _quick_work(here) + entry.work, self._since_ns
        if self._done_ns(here, entry.work, slow=entry.slow) > entry.deadline_ns:
            return entry, Overloaded("the requests before this one take longer than its deadline allows")
        self._waiting.append(entry)
        self._waiting.sort(key=lambda each: each.rank)
        full = len(self._waiting) > self._most_waiting
        return (self._waiting.pop() if full else None), Overloaded("too many requests are waiting")

    def _done_ns(self, here: Sequence[_Entry], work: float, *, slow: bool) -> float:
        """When a request beside those would be done, or a little later: what is let in and comes late costs others
        their time. 0 where nothing else is here: then it can only be tried."""
        return self._ends_ns(here, work, slow=slow, careful=True) if here else 0

    def _ends_ns(self, here: Sequence[_Entry], work: float, *, slow: bool, careful: bool) -> float:
        """When a request is done that begins after those. careful: few are later. Now, or before, where nothing is
        known yet."""
        if not slow:
            ahead = _quick_work(here) + work
            return self._since_ns + (self._forecast.careful(ahead) if careful else self._forecast.likely(ahead))
        thinking = sum(entry.slow for entry in here)
        each_ns = self._thinking_ns.careful if careful else self._thinking_ns.mean
        return time.monotonic_ns() + thinking // self._most_slow * self._thinking_ns.mean + each_ns

    def _here(self, waiting: Sequence[_Entry]) -> list[_Entry]:
        return [*(call.entry for call in self._running), *waiting]

    def _note_change(self) -> None:
        """Show how long the queue is now. Closed, the clock ends with the last entry."""
        full = self._closed or len(self._waiting) >= self._most_waiting
        self._show(
            NEVER_NS if full else round(self._done_ns(self._here(self._waiting), self._usual_work.mean, slow=False))
        )
        if self._closed:
            self._late_changed.notify()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._runnable_changed.wait_for(lambda: self._runnable() or (self._closed and not self._waiting))
                if not self._waiting:
                    self._runnable_changed.notify_all()
                    return
                call = self._begin()
            self._answer(call.entry, self._run(call.entry))
            with self._lock:
                self._end(call)
                hopeless = self._drop_hopeless()
            for entry in hopeless:
                self._answer(entry, Overloaded("the requests before this one took longer than its deadline allows"))

    def _begin(self) -> _Call:
        """The next call."""
        call = _Call(self._runnable()[0], time.monotonic_ns())
        self._waiting.remove(call.entry)
        self._running.append(call)
        self._note_change()
        return call

    def _end(self, call: _Call) -> None:
        now_ns, entry = time.monotonic_ns(), call.entry
        self._running.remove(call)
        if entry.slow and entry.usual:
            self._thinking_ns.note(now_ns - call.began_ns)
        elif entry.usual:
            self._forecast.took(now_ns - entry.since_ns, entry.ahead)
            self._usual_work.note(entry.work)
        if not entry.slow:
            self._since_ns = now_ns
        self._note_change()

    def _runnable(self) -> list[_Entry]:
        """What may run now, in order: all that wait, or the quick ones while enough lanes think."""
        full = sum(call.slow for call in self._running) >= self._most_slow
        return [entry for entry in self._waiting if not (entry.slow and full)]

    def _drop_hopeless(self) -> list[_Entry]:
        """Take out what can't be done in time any more, as long as there is something else: the engine's time is
        theirs, and the sooner it is known the better. Quick calls under way are not counted: those of one pass end one
        right after the other, and at the first end the work of all the others would be ahead once more."""
        thinking = [call.entry for call in self._running if call.slow]
        kept, late = list[_Entry](), list[_Entry]()
        for entry in self._waiting:
            ends_ns = self._ends_ns([*thinking, *kept], entry.work, slow=entry.slow, careful=False)
            (late if ends_ns > entry.deadline_ns else kept).append(entry)
        if late and not kept and not self._running:
            kept.append(late.pop(0))
        if late:
            self._waiting = kept
            self._note_change()
            self._runnable_changed.notify_all()  # closed, the lanes end with the last that waits
        return late

    def _run(self, entry: _Entry) -> Results | GuardError:
        """What the engine answers; its failure fails this entry, and nobody else."""
        try:
            results = self.engine.run(entry.jobs)
            if len(results) != len(entry.jobs):
                raise InternalError(f"the engine gave {len(results)} results for {len(entry.jobs)} jobs")
        except BaseException as error:
            return InternalError.of(error)
        return results

    def _watch(self) -> None:
        """Answers each entry whose time is over, waiting or under way."""
        while True:
            with self._lock:
                if self._closed and not self._waiting and not self._running:
                    return
                now = time.monotonic_ns()
                under_way = [call.entry for call in self._running]
                live = [entry for entry in (*self._waiting, *under_way) if not entry.answered]
                late = [entry for entry in live if entry.deadline_ns <= now]
                if not late:
                    self._watched_ns = min((entry.deadline_ns for entry in live), default=NEVER_NS)
                    self._late_changed.wait(min((self._watched_ns - now) / 1e9, threading.TIMEOUT_MAX))
                    continue
                self._waiting = [entry for entry in self._waiting if entry not in late]
                self._note_change()
                self._runnable_changed.notify_all()  # closed, the lanes end with the last that waits
            for entry in late:
                where = "while the model ran" if entry in under_way else "in the queue"
                self._answer(entry, DeadlineExceeded(f"the deadline passed {where}"))

    def _answer(self, entry: _Entry, results: Results | GuardError) -> None:
        with self._lock:
            if entry.answered:
                return
            entry.answered = True
            errors = [results] if isinstance(results, GuardError) else [r for r in results if isinstance(r, GuardError)]
            self._answers[errors[0].kind if errors else "ok"] += 1
        entry.done([results for _ in entry.jobs] if isinstance(results, GuardError) else results)


def _quick_work(entries: Sequence[_Entry]) -> int:
    """Of those that don't think: one that does slows all the others down alike."""
    return sum(entry.work for entry in entries if not entry.slow)
