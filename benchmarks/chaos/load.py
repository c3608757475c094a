"""Callers that ask known texts through the client, several at a time, and hold every answer against its text."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tritonguard import Guard, GuardError, Policy, Verdict

from benchmarks.chaos.marks import Marks
from benchmarks.chaos.texts import Known, judged, new_id
from benchmarks.chaos.wire import Outcome

_RAISE = Policy(on_error="raise")


@dataclass(frozen=True)
class Asked:
    """One request: when it was sent and answered (monotonic seconds), and the answer in a word."""

    sent: float
    answered: float
    word: str


def as_outcome(verdict: Verdict, seconds: float) -> Outcome:
    """The outcome of a verdict that the client has read."""
    label = verdict.label
    return Outcome(
        seconds, label=label.user_safety.value, p_unsafe=label.p_unsafe_user, answered_id=verdict.record.request_id
    )


class Load:
    """Asks until it is ended. deadline_s: of each request."""

    def __init__(self, guard: Guard, known: Sequence[Known], marks: Marks, *, deadline_s: float) -> None:
        self._guard = guard
        self._known = known
        self._marks = marks
        self._deadline_s = deadline_s
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.asked: list[Asked] = []

    @contextmanager
    def running(self, concurrency: int) -> Iterator[Load]:
        """Inside, `concurrency` threads ask; leaving waits for the answers to what was sent."""
        threads = [
            threading.Thread(target=self._ask_on, args=(number,), daemon=True, name=f"load-{number}")
            for number in range(concurrency)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(timeout=6 * self._deadline_s)
            if any(thread.is_alive() for thread in threads):
                self._note(Asked(time.monotonic(), time.monotonic(), "never answered"))

    def words(self, *, after: float = float("-inf")) -> Counter[str]:
        """How often each answer came, of the requests sent after a moment."""
        with self._lock:
            return Counter(one.word for one in self.asked if one.sent >= after)

    def _ask_on(self, number: int) -> None:
        while not self._ended.is_set():
            one = self._known[number % len(self._known)]
            number += 1
            asked = self._ask(one)
            self._note(asked)
            if asked.word != "right":
                # A caller that asks again at once would itself be what keeps a server from coming back.
                self._ended.wait(0.1)

    def _ask(self, one: Known) -> Asked:
        request_id, began = new_id(), time.monotonic()
        try:
            verdict = self._guard.check(one.prompt, request_id=request_id, deadline_s=self._deadline_s, policy=_RAISE)
        except GuardError as error:
            self._marks.look("error messages", str(error))
            return Asked(began, time.monotonic(), error.kind)
        except Exception as error:
            return Asked(began, time.monotonic(), f"untyped {type(error).__name__}")
        now = time.monotonic()
        return Asked(began, now, judged(as_outcome(verdict, now - began), one, request_id))

    def _note(self, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)


def not_allowed(words: Counter[str], allowed: Collection[str]) -> list[str]:
    """A line for each answer that should not have come."""
    return [f"{count} requests: {word}" for word, count in sorted(words.items()) if word not in allowed]
