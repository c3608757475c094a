"""What a part of the run found, and the last line over all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Part:
    """One part of a run.

    counts: outcomes by their word. figures: what was measured, name to value with unit. short: what fell short of
    its bar, a line each; none: the part is met. seconds: how long it took.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    figures: dict[str, str] = field(default_factory=dict)
    short: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def require(self, holds: bool, problem: str) -> None:
        """Note `problem` unless it holds."""
        if not holds:
            self.short.append(problem)

    def __str__(self) -> str:
        lines = [f"{self.name}: {'met' if not self.short else 'SHORT'} ({self.seconds:.0f} s)"]
        lines += [f"  {name}: {value}" for name, value in self.figures.items()]
        lines += [f"  SHORT: {problem}" for problem in self.short]
        return "\n".join(lines)


def last_line(parts: Sequence[Part]) -> str:
    """The counts of every part, and what fell short."""
    told = [f"{part.name} {_counts(part.counts)}" for part in parts]
    short = [f"{part.name} ({len(part.short)})" for part in parts if part.short]
    verdict = f"SHORT: {', '.join(short)}" if short else "nothing fell short"
    seconds = sum(part.seconds for part in parts)
    return f"chaos, {seconds:.0f} s: {'; '.join(told) or 'nothing was run'}; {verdict}"


def exit_code(parts: Sequence[Part]) -> int:
    """1 where anything fell short, or nothing was run."""
    return 0 if parts and not any(part.short for part in parts) else 1


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "0"
