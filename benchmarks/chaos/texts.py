"""Texts of which is known how they are judged, marked so that a trace of them is found wherever it is."""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tritonguard.examples import PROMPTS
from tritonguard.request import GuardRequest, Mode, to_tensors

from benchmarks.chaos.wire import Outcome, Sent, request

P_TOLERANCE = 0.1
"""How far p_unsafe of a text may be from what it was at rest: rows of one batch change each other's rounding."""

LEAST_OF_EACH = 2
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Known:
    """prompt: the marked text. label, p_unsafe: its verdict on a server at rest, which was the right one."""

    id: str
    prompt: str
    label: str
    p_unsafe: float


def new_mark(generator: random.Random) -> str:
    """A word that occurs nowhere else: one for a whole run."""
    return "zq" + "".join(generator.choice("bcdfghjklmnprstvwxz") for _ in range(10))


def marked(text: str, mark: str) -> str:
    return f"{text} ({mark})"


def new_id() -> str:
    return uuid.uuid4().hex


def good(
    prompt: str,
    *,
    request_id: str | None = None,
    deadline_s: float = DEADLINE_S,
    mode: Mode = Mode.VERDICT,
    think_budget: int | None = None,
) -> Sent:
    """A good request with a text."""
    asked = GuardRequest(
        prompt=prompt,
        request_id=request_id or new_id(),
        deadline_s=deadline_s,
        mode=mode,
        think_budget=think_budget,
    )
    return Sent(request(to_tensors(asked)).SerializeToString())


def at_rest(send: Callable[[Sent], Outcome], mark: str) -> tuple[Known, ...]:
    """The marked examples that the server judges as expected while nothing else happens.

    Raises RuntimeError where fewer than two safe or two unsafe ones are left: such a server proves nothing.
    """
    known = []
    for example in PROMPTS:
        prompt, request_id = marked(example.prompt, mark), new_id()
        outcome = send(good(prompt, request_id=request_id))
        if outcome.label == example.expected.user.value and outcome.p_unsafe is not None:
            known.append(Known(example.id, prompt, outcome.label, outcome.p_unsafe))
    for label in ("safe", "unsafe"):
        if sum(one.label == label for one in known) < LEAST_OF_EACH:
            raise RuntimeError(f"the server at rest judges fewer than {LEAST_OF_EACH} {label} examples as expected")
    return tuple(known)


def right(outcome: Outcome, known: Known, request_id: str) -> bool:
    """Whether a verdict was computed for this request: its id, its label, and p_unsafe as at rest."""
    if outcome.label != known.label or outcome.answered_id != request_id or outcome.p_unsafe is None:
        return False
    return not math.isnan(outcome.p_unsafe) and abs(outcome.p_unsafe - known.p_unsafe) <= P_TOLERANCE


def judged(outcome: Outcome, known: Known, request_id: str) -> str:
    """The outcome in a word: `right`, `wrong`, or the kind of its error."""
    if outcome.label is not None:
        return "right" if right(outcome, known, request_id) else "wrong"
    return outcome.kind or "nothing"


def canary(known: Sequence[Known]) -> tuple[Known, Known]:
    """The first safe and the first unsafe one."""
    safe, unsafe = (next(one for one in known if one.label == label) for label in ("safe", "unsafe"))
    return safe, unsafe
