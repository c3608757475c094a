"""Deadlines that pass on the server: the refusal comes on time, and the engine is free again at once.

The client waits for as long as it takes, so what is measured is the server's own answer.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tritonguard.request import Mode

from benchmarks.chaos.report import Part, say
from benchmarks.chaos.server import Run
from benchmarks.chaos.texts import Known, canary, good, judged, new_id
from benchmarks.chaos.wire import Outcome, Sent

TOLERANCE_S = 0.100
"""How much later than its deadline an answer may come: a step of decoding, and the way through Triton."""

MOST_UNTIL_FREE_S = 1.0
BUDGET = 2000
_USUAL_OF = 8

MISSED = frozenset({"deadline_exceeded"})
REFUSED = MISSED | {"overloaded"}
"""Where others are before it, a server may also say at once that there is no time for it."""

Send = Callable[[Sent], Outcome]


@dataclass(frozen=True)
class Missed:
    """One missed deadline. word: the answer's. late_s: from the deadline to the answer; negative: before it.

    next_word, next_extra_s: the good request behind it, and how much longer than usual it took.
    """

    word: str
    late_s: float
    next_word: str
    next_extra_s: float

    def problems(self, allowed: Collection[str] = MISSED) -> list[str]:
        """What is not as it must be. allowed: the answers that may come."""
        found = []
        if self.word not in allowed:
            found.append(f"answered {self.word}")
        if self.late_s > TOLERANCE_S:
            found.append(f"{self.late_s * 1e3:.0f} ms late, at most {TOLERANCE_S * 1e3:.0f}")
        if self.next_word != "right":
            found.append(f"the next good request was answered {self.next_word}")
        if self.next_extra_s > MOST_UNTIL_FREE_S:
            found.append(f"the next good request took {self.next_extra_s:.2f} s more than usual")
        return found


def usual_s(send: Send, known: Sequence[Known]) -> float:
    """Median seconds of a good request on a server at rest."""
    texts = [known[number % len(known)] for number in range(_USUAL_OF)]
    return statistics.median(send(good(one.prompt)).seconds for one in texts)


def miss(send: Send, sent: Sent, deadline_s: float, *, known: Known, usual: float) -> Missed:
    """Send what cannot be answered in time, and a good request behind it."""
    return followed(send, send(sent), deadline_s, known=known, usual=usual)


def followed(send: Send, outcome: Outcome, deadline_s: float, *, known: Known, usual: float) -> Missed:
    """The miss that an outcome is, with a good request sent now."""
    request_id = new_id()
    after = send(good(known.prompt, request_id=request_id))
    word = "a verdict" if outcome.label is not None else outcome.kind or "nothing"
    return Missed(word, outcome.seconds - deadline_s, judged(after, known, request_id), after.seconds - usual)


@contextmanager
def engine_kept_busy(send: Send, text: str, seconds: float) -> Iterator[None]:
    """Inside, a long reasoning of that many seconds is under way."""
    asked = good(text, mode=Mode.THINK, think_budget=BUDGET, deadline_s=seconds)
    thread = threading.Thread(target=send, args=(asked,))
    thread.start()
    try:
        time.sleep(min(0.2, seconds / 4))
        yield
    finally:
        thread.join()


def run_deadlines(run: Run, send: Send) -> Part:
    """The part `deadline`: 1 ms, half of a forward, in the middle of a reasoning, and in the queue behind one."""
    part, known = Part("deadline"), run.judge_at_rest(send)
    safe, unsafe = canary(known)
    usual = usual_s(send, known)
    thinking = send(good(unsafe.prompt, mode=Mode.THINK, think_budget=BUDGET)).seconds
    part.figures["a good request at rest"] = f"{usual * 1e3:.0f} ms, with reasoning {thinking * 1e3:.0f} ms"
    part.require(thinking > 3 * usual, "a reasoning is too short to be cut in the middle")
    tries, few = (5, 2) if run.short else (20, 5)

    def verdict(deadline_s: float) -> Missed:
        return miss(send, good(unsafe.prompt, deadline_s=deadline_s), deadline_s, known=safe, usual=usual)

    def in_think(deadline_s: float) -> Missed:
        sent = good(unsafe.prompt, mode=Mode.THINK, think_budget=BUDGET, deadline_s=deadline_s)
        return miss(send, sent, deadline_s, known=safe, usual=usual)

    def in_queue(deadline_s: float) -> Missed:
        with engine_kept_busy(send, unsafe.prompt, max(thinking / 2, 3 * deadline_s)):
            outcome = send(good(safe.prompt, deadline_s=deadline_s))
        # Only now: until here a reasoning that has its own deadline keeps the engine, by design.
        return followed(send, outcome, deadline_s, known=safe, usual=usual)

    half, middle = _milliseconds(usual / 2), _milliseconds(thinking / 2)
    cases = {
        "1 ms": (verdict, 0.001, tries, MISSED),
        "half of a forward": (verdict, half, tries, MISSED),
        "middle of a reasoning": (in_think, middle, few, MISSED),
        "behind a reasoning": (in_queue, half, few, REFUSED),
    }
    for name, (attempt, deadline_s, count, allowed) in cases.items():
        missed = [attempt(deadline_s) for _ in range(count)]
        note(part, f"{name} ({deadline_s * 1e3:.0f} ms)", missed, allowed)
    return part


def note(part: Part, name: str, missed: Sequence[Missed], allowed: Collection[str] = MISSED) -> None:
    """Add the misses of one case to the part."""
    for one in missed:
        problems = one.problems(allowed)
        part.counts["not so" if problems else "on time"] += 1
        part.short += [f"{name}: {problem}" for problem in problems]
    late = [one.late_s * 1e3 for one in missed]
    extra = max(one.next_extra_s for one in missed)
    told = f"median {statistics.median(late):+.0f}, worst {max(late):+.0f} ms; next one at most {extra:+.2f} s"
    part.figures[f"{name}, answered after the deadline"] = told
    say(f"deadline {name}: {told}")


def _milliseconds(seconds: float) -> float:
    return max(1, round(seconds * 1000)) / 1000
