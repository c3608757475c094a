"""Parity on one GPU: the reference is read first, in a process of its own, and kept; the bundle is read behind it.

Two engines of 4B do not fit a GPU of 24 GB side by side, and each takes a share of whatever memory it finds free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gpu_day_one.findings import Finding
from build_scripts.parity import compare
from build_scripts.parity_corpus import SHIPPED, Row, read_corpus
from build_scripts.parity_gate import load_profile
from build_scripts.parity_reading import Reading, Side
from build_scripts.parity_report import Report
from build_scripts.parity_run import read_all, warm_up
from build_scripts.parity_sides import BundleSide

BATCH = 8
PROFILE = "smoke"


@dataclass(frozen=True)
class KeptSide:
    """What a side said, without the side. readings, prompts: by id of the row."""

    name: str
    margin_limit: float
    taxonomy: str | None
    about: Mapping[str, str | None]
    readings: Mapping[str, Reading]
    prompts: Mapping[str, tuple[tuple[int, ...], int] | None]

    @classmethod
    def of(cls, side: Side, rows: Sequence[Row]) -> KeptSide:
        """Ask `side` every row, behind a warm-up. Raises SideError where it answers nothing."""
        warm_up(side, rows, BATCH)
        readings = read_all(side, rows, BATCH)
        return cls(
            side.name,
            side.margin_limit,
            side.taxonomy,
            side.describe(),
            {row.id: reading for row, reading in zip(rows, readings, strict=True)},
            {row.id: side.prompt_ids(row) for row in rows},
        )

    def describe(self) -> dict[str, str | None]:
        return dict(self.about)

    def prompt_ids(self, row: Row) -> tuple[tuple[int, ...], int] | None:
        return self.prompts[row.id]

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        return [self.readings[row.id] for row in rows]

    def close(self) -> None:
        pass


def kept(bundle: Path) -> KeptSide:
    """The shipped corpus on the bundle's engine. Raises BundleError, SideError."""
    with closing(BundleSide.load(bundle)) as side:
        return KeptSide.of(side, read_corpus())


def compared(reference: Side, bundle: Side) -> Report:
    """The shipped comparison, with the limits of a short corpus. Rates are left out: a kept side costs nothing."""
    report = compare(reference, bundle, read_corpus(), load_profile(PROFILE), corpus=SHIPPED.name, batch=BATCH)
    return replace(report, rows_per_s=(math.nan, math.nan))


def findings(report: Report, precision: str) -> list[Finding]:
    said = "passed" if report.passed else "; ".join(report.refusals)
    figures = report.groups.get(("all", "all"))
    if figures is not None:
        said += f": {figures.flips} of {figures.compared} verdicts moved, drift {100 * figures.drift_share:.1f} % of sd"
    return [
        Finding(
            "parity_with_reference",
            f"Are the verdicts of {precision} those of {report.sides[0].get('precision')}?",
            report.passed,
            said,
            "quantize again, with calibration prompts of your own traffic; until it passes, serve the reference",
            statement=f"parity-{precision}",
            wanted=True,
        )
    ]
