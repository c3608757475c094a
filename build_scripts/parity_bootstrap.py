"""Percentile intervals for flips and drift (Efron 1979): rows drawn again with replacement.

Whole rows are drawn, not choices: the two choices of one exchange are not independent. What is low-margin stays so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from build_scripts.parity_figures import Floats, Pair, low_margin

LEVEL = 0.95
_CHUNK = 256


@dataclass(frozen=True)
class Interval:
    """The middle `LEVEL` of the drawn values; NaN where there are none."""

    low: float
    high: float


def bootstrap(pairs: Sequence[Pair], *, draws: int, seed: int) -> dict[str, Interval]:
    """Intervals of flip_share, low_flip_share, drift_mean and drift_share; {} for no draws or no compared row."""
    judged = [pair for pair in pairs if pair.judged]
    if not draws or not judged:
        return {}
    sums = _sums(judged)
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[Floats]] = {}
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        weights = generator.multinomial(len(judged), np.full(len(judged), 1 / len(judged)), size=size)
        for name, values in _statistics(weights @ sums, len(judged)).items():
            drawn.setdefault(name, []).append(values)
    return {name: _interval(np.concatenate(values)) for name, values in drawn.items()}


def _sums(judged: Sequence[Pair]) -> Floats:
    """[rows, 7]: flipped, low, low and flipped, choices, sum |d|, sum m_A, sum m_A^2 of each row."""
    low = {id(pair) for pair in low_margin(judged)}
    rows = []
    # Around their mean, so that the variance below is no difference of large numbers.
    centre = float(np.mean([one for pair in judged for one, _ in pair.margins]))
    for pair in judged:
        margins = np.array(pair.margins, np.float64)
        a, drift = margins[:, 0] - centre, np.abs(margins[:, 1] - margins[:, 0])
        hard = id(pair) in low
        rows.append([pair.flipped, hard, hard and pair.flipped, len(a), drift.sum(), a.sum(), (a * a).sum()])
    return np.array(rows, np.float64)


def _statistics(totals: Floats, rows: int) -> dict[str, Floats]:
    flips, low, low_flips, choices, drift, first, second = totals.T
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = drift / choices
        deviation = np.sqrt(np.maximum(second / choices - (first / choices) ** 2, 0.0))
        return {
            "flip_share": flips / rows,
            "low_flip_share": low_flips / low,
            "drift_mean": mean,
            "drift_share": mean / deviation,
        }


def _interval(values: Floats) -> Interval:
    """Draws without a value (no low row among them, all margins equal) are left out."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
