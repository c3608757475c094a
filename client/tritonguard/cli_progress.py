"""How far a run over rows is, on standard error: a bar on a terminal, else a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tritonguard.cli_tally import Tally

PLAIN_EVERY_S = 10.0


def progress_line(tally: Tally, *, total: int | None, elapsed_s: float) -> str:
    """`120/300 rows, 12.0/s, 0:15 left, allow 100, review 0, block 20, errors 0`.

    total: None where it is not known; nothing is said of the remaining time then. elapsed_s: of this run, whose
    own rows alone make the rate.
    """
    fresh = tally.rows - tally.kept
    rate = fresh / elapsed_s if elapsed_s > 0 else 0.0
    parts = [f"{tally.rows}/{'?' if total is None else total} rows", f"{rate:.1f}/s"]
    if total is not None and rate > 0:
        parts.append(f"{_clock((total - tally.rows) / rate)} left")
    return ", ".join([*parts, tally.counts()])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def watching(
    tally: Tally,
    *,
    total: int | None,
    console: Console,
    every_s: float = PLAIN_EVERY_S,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[], None]]:
    """A function to call after each row, which shows `tally` on `console`.

    every_s: seconds between two plain lines, where `console` is no terminal. clock: seconds, for tests.
    """
    began = last = clock()

    def line() -> str:
        return progress_line(tally, total=total, elapsed_s=clock() - began)

    if not console.is_terminal:

        def tell() -> None:
            nonlocal last
            if clock() - last >= every_s:
                last = clock()
                console.print(line(), soft_wrap=True)

        yield tell
        return
    with Progress(BarColumn(), TextColumn("{task.description}", markup=False), console=console, transient=True) as bar:
        task = bar.add_task(line(), total=total, completed=tally.rows)
        yield lambda: bar.update(task, completed=tally.rows, description=line())
