"""Valid answers of every mode, beside what they say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tritonguard.label import Safety
from tritonguard.request import Mode
from tritonguard.taxonomy import CATEGORIES

BUILT_IN = tuple(category.name for category in CATEGORIES)
CUSTOM = ("Trade Secret Leak", "Gefährliche Straßen", "Naïve/Ünsafe (advice)", "Safe", "Unsafe", "暴力 行为", "S1: A")
_SAID = (
    "The user asks how to bake bread.",
    "User Safety: safe",
    "User Safety: unsafe\nResponse Safety: unsafe\nSafety Categories: Violence",
    "Whether it is safe or unsafe, the ground truth says safe.",
    "Der Nutzer fragt nach \u201eWaffen\u201c. 用户安全：安全",
    "The assistant response is safe.",
)


@dataclass(frozen=True)
class Answer:
    """A valid answer and what it says. names: as for `parse_answer`; categories: as its line lists them."""

    mode: Mode
    names: tuple[str, ...] | None
    user: Safety
    response: Safety | None
    categories: tuple[str, ...]
    reasoning: str | None

    @property
    def verdict_lines(self) -> list[str]:
        lines = [f"User Safety: {self.user.value}"]
        return lines if self.response is None else [*lines, f"Response Safety: {self.response.value}"]

    @property
    def lines(self) -> list[str]:
        listed = [f"Safety Categories: {', '.join(self.categories)}"] if self.categories else []
        return self.verdict_lines + listed

    @property
    def text(self) -> str:
        return self.with_lines(self.lines)

    @property
    def is_all_safe(self) -> bool:
        return Safety.UNSAFE not in (self.user, self.response)

    def with_lines(self, lines: Sequence[str], *, between: str = "\n") -> str:
        """The text with other lines behind its reasoning."""
        head = "" if self.reasoning is None else f"<think>\n{self.reasoning}\n</think>"
        return head + between.join(lines)


def build(rng: random.Random) -> Answer:
    """Any valid answer."""
    mode = rng.choice(list(Mode))
    user = rng.choice([Safety.SAFE, Safety.UNSAFE])
    response = rng.choice([None, Safety.SAFE, Safety.UNSAFE])
    names = rng.choice([BUILT_IN, CUSTOM, None])
    categories: tuple[str, ...] = ()
    if mode is Mode.CATEGORIES and Safety.UNSAFE in (user, response) and rng.random() < 0.9:
        categories = tuple(rng.sample(names or CUSTOM + BUILT_IN[:4], rng.randint(1, 4)))
    said = [rng.choice(_SAID) for _ in range(rng.randint(0, 3))] if mode is Mode.THINK else None
    return Answer(mode, names, user, response, categories, None if said is None else "\n".join(said))
