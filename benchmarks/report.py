"""What a measurement leaves behind: Markdown tables for the documents, bars that decide the exit code, JSON."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bar:
    """A figure and what it must reach: at least `least`, at most `most`."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        """NaN meets nothing."""
        if math.isnan(self.value):
            return False
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def __str__(self) -> str:
        wanted = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        value = self.value if isinstance(self.value, int) else f"{self.value:.3f}"
        return f"{'met' if self.met else 'MISSED'}: {self.name} {value} ({wanted})"


@dataclass(frozen=True)
class Section:
    """One mode's part of a report. tables: Markdown. figures: plain values or dataclasses, for JSON."""

    title: str
    tables: Sequence[str]
    figures: dict[str, Any]
    bars: Sequence[Bar] = field(default_factory=tuple)

    def __str__(self) -> str:
        parts = [f"### {self.title}", *self.tables]
        if self.bars:
            parts.append("\n".join(f"- {bar}" for bar in self.bars))
        return "\n\n".join(parts)


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table. Floats get three places, NaN a dash; the first column is left-aligned, the others right."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3f}"
    return str(value).replace("|", "\\|")


def origin(module: str, arguments: Sequence[str], *, precision: str | None, revision: str) -> dict[str, str]:
    """Where a figure comes from: the command, the moment (UTC), the machine and what was measured on it."""
    return {
        "command": f"`{shlex.join(['python', '-m', module, *arguments])}`",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": this_machine(),
        "bundle": f"{precision}, `{revision}`",
    }


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Its processor and how many of them."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} CPUs"


def write_json(path: Path, values: object) -> None:
    """Dataclasses as objects, NaN (which JSON has not got) as null."""
    path.write_text(json.dumps(_plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _plain(values: object) -> Any:
    if is_dataclass(values) and not isinstance(values, type):
        values = asdict(values)
    if isinstance(values, dict):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_plain(value) for value in values]
    if isinstance(values, float) and math.isnan(values):
        return None
    return values
