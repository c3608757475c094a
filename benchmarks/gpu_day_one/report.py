"""What a person reads at the end of the day: what to fix first, then every answer, then the tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.gpu_day_one.day import Day
from benchmarks.gpu_day_one.findings import DIFFERS, UNTOLD, Comparison
from benchmarks.gpu_day_one.recording import RECORDED, Recording
from benchmarks.gpu_day_one.served import latency_table
from build_scripts.parity_report import to_markdown


def summary(comparisons: Sequence[Comparison]) -> str:
    counts = {state: sum(one.state == state for one in comparisons) for state in (DIFFERS, UNTOLD)}
    return f"{len(comparisons)} answers: {counts[DIFFERS]} not as assumed, {counts[UNTOLD]} that could not be told"


def to_fix(comparisons: Sequence[Comparison]) -> list[str]:
    """Lines in plain words for whatever is not as assumed; [] where all is."""
    return [line for one in comparisons if not one.is_as_assumed for line in one.lines]


def report(recording: Recording, comparisons: Sequence[Comparison], day: Day) -> str:
    """Markdown."""
    fix = to_fix(comparisons)
    parts = [
        f"# Day one: {summary(comparisons)}",
        _facts(recording),
        "## What to fix\n\n" + ("\n".join(_item(line) for line in fix) if fix else "Nothing."),
        "## Every answer\n\n" + "\n".join(f"- {one.lines[0]}" for one in comparisons),
    ]
    if day.served is not None:
        parts.append(f"## Latency, through the engine, closed loop\n\n{latency_table(day.served.loads)}")
        if day.served.report is not None:
            parts.append(to_markdown(day.served.report).strip().replace("# ", "## ", 1))
    return "\n\n".join(parts) + "\n"


def _facts(recording: Recording) -> str:
    lines = [
        f"- {'recorded' if recording.evidence == RECORDED else 'NOT A RECORDING: answered by the double'} on "
        f"{recording.hardware_line}, {recording.date}",
        f"- bundle: {', '.join(f'{name} {value}' for name, value in recording.bundle.items())}",
        f"- packages: {', '.join(f'{name} {value}' for name, value in recording.versions.items() if value)}",
    ]
    return "\n".join(lines)


def _item(line: str) -> str:
    return f"  {line.strip()}" if line.startswith(" ") else f"- {line}"
