"""Memory over time: what a server's processes hold, and the line through it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.processes import PROC, descendants

EVERY_S = 10.0


@dataclass(frozen=True)
class Sample:
    """minutes: since the start. megabytes: PSS of all processes together (10^6 bytes). processes: how many."""

    minutes: float
    megabytes: float
    processes: int


@dataclass(frozen=True)
class Slope:
    """A least-squares line. slope: MB a minute. error: its standard error. start: MB at minute 0. samples: in it.

    NaN where there are too few samples: two for a slope, three for its error.
    """

    slope: float
    error: float
    start: float
    samples: int


def fit(samples: Sequence[Sample]) -> Slope:
    """The line through memory over time.

    The standard error is the textbook one (residuals independent); memory that grows in steps has a larger one.
    """
    count = len(samples)
    if count < 2:
        return Slope(math.nan, math.nan, math.nan, count)
    mean_x = sum(one.minutes for one in samples) / count
    mean_y = sum(one.megabytes for one in samples) / count
    spread = sum((one.minutes - mean_x) ** 2 for one in samples)
    if spread == 0:
        return Slope(math.nan, math.nan, math.nan, count)
    slope = sum((one.minutes - mean_x) * (one.megabytes - mean_y) for one in samples) / spread
    start = mean_y - slope * mean_x
    left = sum((one.megabytes - start - slope * one.minutes) ** 2 for one in samples)
    error = math.sqrt(left / (count - 2) / spread) if count > 2 else math.nan
    return Slope(slope, error, start, count)


def warm_up_minutes(minutes: float) -> float:
    """What of a run is not counted: its first tenth, at least two minutes where it is of twenty or more."""
    return max(minutes / 10, 2.0) if minutes >= 20 else minutes / 10


def after_warm_up(samples: Sequence[Sample], minutes: float) -> list[Sample]:
    """The samples that count."""
    return [one for one in samples if one.minutes >= warm_up_minutes(minutes)]


def pss_bytes(pid: int, proc: Path = PROC) -> int | None:
    """The proportional set size of a process: pages that it shares count by their share. None: it has ended."""
    try:
        for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def measure(root: int, began: float, proc: Path = PROC) -> Sample:
    """All processes under `root` now; `began` in monotonic seconds."""
    found = [size for pid in descendants(root, proc) if (size := pss_bytes(pid, proc)) is not None]
    return Sample((time.monotonic() - began) / 60, sum(found) / 1e6, len(found))


class Sampler:
    """Takes a sample every `every_s` seconds, in a thread of its own, from entering until leaving."""

    def __init__(self, take: Callable[[], Sample], *, every_s: float = EVERY_S) -> None:
        self.samples: list[Sample] = []
        self._take = take
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            self.samples.append(self._take())
            self._ended.wait(self._every_s)


def plot(samples: Sequence[Sample], line: Slope) -> str:
    """An SVG of memory over time with the line through it."""
    width, height, edge = 720, 320, 48
    most_x = max((one.minutes for one in samples), default=1.0) or 1.0
    most_y = 1.1 * (max((one.megabytes for one in samples), default=1.0) or 1.0)

    def at(minutes: float, megabytes: float) -> str:
        x = edge + (width - 2 * edge) * minutes / most_x
        return f"{x:.1f},{height - edge - (height - 2 * edge) * megabytes / most_y:.1f}"

    points = " ".join(at(one.minutes, one.megabytes) for one in samples)
    ends = ""
    if not math.isnan(line.slope):
        ends = f"{at(0, line.start)} {at(most_x, line.start + line.slope * most_x)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
        f'<polyline points="{at(0, most_y)} {at(0, 0)} {at(most_x, 0)}" fill="none" stroke="black"/>\n'
        f'<polyline points="{points}" fill="none" stroke="steelblue"/>\n'
        f'<polyline points="{ends}" fill="none" stroke="firebrick" stroke-dasharray="6 4"/>\n'
        f'<text x="{edge}" y="{edge - 12}">PSS of all server processes, MB (top {most_y:.0f}); '
        f"line {line.slope:+.3f} MB/minute</text>\n"
        f'<text x="{width - edge}" y="{height - edge + 20}" text-anchor="end">{most_x:.0f} minutes</text></svg>\n'
    )
