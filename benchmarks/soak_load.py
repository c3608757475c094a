"""What callers ask in a long run: every mode, policies, images and bad requests, each with the answers it may get."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tritonguard import Guard, GuardError, Policy, Verdict
from tritonguard.examples import EXAMPLES, PROMPTS
from tritonguard.policy import CustomCategory
from tritonguard.request import GuardRequest, Mode

from benchmarks.chaos import bad_images
from benchmarks.chaos.bad_kinds import KINDS
from benchmarks.chaos.bad_makers import Maker
from benchmarks.chaos.wire import Wire

DEADLINE_S = 60.0
THINK_BUDGET = 24
_RAISE = Policy(on_error="raise")

WEIGHTS = {
    "verdict": 44,
    "response": 14,
    "categories": 12,
    "policy": 12,
    "named policy": 5,
    "think": 5,
    "image": 4,
    "bad": 4,
}
"""Of a hundred requests."""

_KINDS = tuple(kind for kind in KINDS if not kind.name.startswith("stage-"))
_PAIRS = tuple(example for example in EXAMPLES if example.response is not None)
_NAMES = ("finance", "kids-education", "developer-tools", "tax-assistant")


@dataclass
class Counts:
    """asked: requests by what they were. unexpected: answers that should not have come. Thread-safe."""

    asked: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note(self, what: str, problem: str | None, seconds: float) -> None:
        """One answer; problem: what was wrong with it, None for nothing."""
        with self._lock:
            self.asked[what] += 1
            self.seconds[what] = self.seconds.get(what, 0.0) + seconds
            if problem is not None:
                self.unexpected[f"{what}: {problem}"] += 1


class Asker:
    """Makes and sends the requests of one caller."""

    def __init__(self, guard: Guard, wire: Wire, generator: random.Random, counts: Counts) -> None:
        self._guard = guard
        self._wire = wire
        self._random = generator
        self._counts = counts
        self._maker = Maker(generator, "soak")
        self._number = 0

    def ask(self) -> None:
        """One request, drawn by its weight; its answer is noted. Raises nothing."""
        (what,) = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        self._number += 1
        began = time.monotonic()
        try:
            problem = self._bad() if what == "bad" else self._good(what)
        except Exception as error:
            problem = f"untyped {type(error).__name__}"
        self._counts.note(what, problem, time.monotonic() - began)

    def _bad(self) -> str | None:
        kind = self._random.choice(_KINDS)
        outcome = self._wire.send(kind.make(self._maker))
        return None if outcome.kind == kind.error else f"{kind.name} got {outcome.kind or outcome.label}"

    def _good(self, what: str) -> str | None:
        request = self._request(what)
        try:
            verdict = self._guard.check_request(request)
        except GuardError as error:
            return error.kind
        return verdict_problem(what, request, verdict)

    def _request(self, what: str) -> GuardRequest:
        example = self._random.choice(PROMPTS)
        # No two texts alike, as with real callers: nothing that is kept by text may hide what is not given back.
        values: dict[str, Any] = {
            "prompt": f"{example.prompt} ({self._random.randrange(10**9)})",
            "policy": _RAISE,
            "deadline_s": DEADLINE_S,
        }
        if what == "response":
            pair = self._random.choice(_PAIRS)
            values.update(prompt=pair.prompt, response=pair.response)
        elif what == "categories":
            values.update(mode=Mode.CATEGORIES)
        elif what == "think":
            values.update(mode=Mode.THINK, think_budget=THINK_BUDGET)
        elif what == "policy":
            # Each a policy of its own: their prefixes must be let go of in the end.
            subject = CustomCategory(name=f"Subject {self._random.randrange(10**6)}")
            values.update(policy=Policy(name="soak", custom_taxonomy=(subject,), on_error="raise"))
        elif what == "named policy":
            values.update(policy=Policy(), policy_name=self._random.choice(_NAMES))
        elif what == "image":
            values.update(images=(bad_images.picture(self._random),), policy=Policy())
        return GuardRequest.create(**values)


def verdict_problem(what: str, request: GuardRequest, verdict: Verdict) -> str | None:
    """What is wrong with a verdict that came for a good request; None: nothing."""
    if verdict.record.request_id != request.request_id:
        return "of another request"
    if what == "image":
        # This bundle says of images that it cannot judge them; one that can gives a label.
        reason = verdict.label.indeterminate_reason
        return None if reason is None or reason.startswith("vision_") else f"indeterminate: {reason}"
    if verdict.label.is_indeterminate:
        return f"indeterminate: {verdict.label.indeterminate_reason}"
    if verdict.on_error_applied:
        return "decided by on_error"
    return None


def ask_until(ended: Callable[[], bool], askers: Sequence[Asker]) -> list[threading.Thread]:
    """Threads, started, in which each asker asks until `ended` says so."""

    def ask_on(asker: Asker) -> None:
        while not ended():
            with suppress(Exception):
                asker.ask()

    threads = [threading.Thread(target=ask_on, args=(asker,), daemon=True) for asker in askers]
    for thread in threads:
        thread.start()
    return threads
