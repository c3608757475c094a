"""What a person sees while a build step runs: numbered steps, and a bar with rate and ETA for the long ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")


class Steps:
    """`[embedded checkpoint 2/5] reading it` on stderr, with the seconds the step before took."""

    def __init__(self, title: str, *, total: int) -> None:
        self._console = Console(file=sys.stderr)
        self._title, self._total, self._count = title, total, 0
        self._since = time.monotonic()

    def next(self, text: str) -> None:
        now = time.monotonic()
        took = f" (step before: {now - self._since:.1f} s)" if self._count else ""
        self._count += 1
        self._since = now
        self._console.print(f"[{self._title} {self._count}/{self._total}] {text}{took}", markup=False)

    def track(self, items: Iterable[T], *, total: int) -> Iterator[T]:
        """Yield `items` under a progress bar (on a terminal; silent in a log)."""
        return iter(
            rich_track(
                items,
                total=total,
                description=f"  {self._title}",
                console=self._console,
                disable=not sys.stderr.isatty(),
            )
        )
