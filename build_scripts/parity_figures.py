"""How far two sides are apart, as pure functions of their readings. A is the reference.

margin   m = logit(unsafe) - logit(safe) = log P(unsafe) - log P(safe), nats; the normaliser of the softmax falls out.
drift    d = m_B - m_A of a choice; mean, 99th percentile and largest of |d|, and mean |d| over the standard deviation
         of m_A (the scale on which the reference tells texts apart).
KL       D(A || B) = sum over the two words of P_A log(P_A / P_B), nats (Kullback and Leibler 1951), both P normalised
         over the two words, so P(unsafe) = sigmoid(m).
shift    P_B(unsafe) - P_A(unsafe).
flip     a row that both sides judge, with another label on any of its choices.
low      the tenth of the rows (rounded up) in which A's nearest choice is nearest to its threshold, |m_A| smallest.
F1       of the class unsafe over choices with a known label, 2 TP / (2 TP + FP + FN).

A response's choice is conditional on the user's label: where that flipped, the two margins answer different questions
and are left out of drift, KL and shift; the row is a flip all the same. Where a side knows margins only to +-limit,
both are cut there (`parity_reading.PROBABILITY_MARGINS`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tritonguard.label import Safety
from tritonguard.request import Mode

from build_scripts.parity_corpus import Row
from build_scripts.parity_reading import EXACT_MARGINS, Reading

Floats = npt.NDArray[np.float64]
LOW_SHARE = 0.1


@dataclass(frozen=True)
class Pair:
    """One row on both sides. margins_a, margins_b: of the choices whose margins may be compared."""

    row: Row
    a: Reading
    b: Reading
    limit: float = EXACT_MARGINS

    @property
    def judged(self) -> bool:
        return self.a.judged and self.b.judged

    @property
    def flipped(self) -> bool:
        return self.judged and self.a.unsafe != self.b.unsafe

    @property
    def nearness(self) -> float:
        """|m_A| of the choice nearest to its threshold, nats."""
        return min(abs(margin) for margin in self.a.margins)

    @property
    def margins(self) -> list[tuple[float, float]]:
        """(m_A, m_B) of each comparable choice."""
        if not self.judged:
            return []
        count = len(self.a.margins) if self.a.unsafe[0] == self.b.unsafe[0] else 1
        pairs = list(zip(self.a.margins, self.b.margins, strict=True))[:count]
        return [(_cut(one, self.limit), _cut(other, self.limit)) for one, other in pairs]


@dataclass(frozen=True)
class Figures:
    """Of one group of rows. Shares are of `compared` rows; NaN of what there is nothing of.

    compared: rows that both sides judged. errors_*, indeterminate_*: rows that a side did not judge. low_rows:
    size of the low tenth. drift_share: mean |d| / standard deviation of A's margins. kl_*: nats.
    categories_asked: rows in mode categories; category_rows: of them, compared rows that a side calls unsafe.
    category_exact: share with the same list in the same order; category_jaccard: mean overlap of the two sets.
    labelled: choices with a known label that both judged. f1_change: f1_b - f1_a. f1_distance: its size.
    ms_*: from submitting a row to its answer.
    """

    rows: int
    compared: int
    errors_a: int
    errors_b: int
    indeterminate_a: int
    indeterminate_b: int
    flips: int
    flip_share: float
    low_rows: int
    low_flips: int
    low_flip_share: float
    choices: int
    drift_mean: float
    drift_p99: float
    drift_max: float
    drift_share: float
    kl_mean: float
    kl_p99: float
    kl_max: float
    shift_mean: float
    shift_mean_abs: float
    categories_asked: int
    category_rows: int
    category_exact: float
    category_jaccard: float
    labelled: int
    f1_a: float
    f1_b: float
    f1_change: float
    f1_distance: float
    ms_a_p50: float
    ms_a_p95: float
    ms_b_p50: float
    ms_b_p95: float

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Figures:
        judged = [pair for pair in pairs if pair.judged]
        low = low_margin(judged)
        flips, low_flips = sum(pair.flipped for pair in judged), sum(pair.flipped for pair in low)
        margins = np.array([both for pair in judged for both in pair.margins], np.float64).reshape(-1, 2)
        a, b = margins[:, 0], margins[:, 1]
        drift, kl, shift = np.abs(b - a), kl_of_margins(a, b), sigmoid(b) - sigmoid(a)
        exact, jaccard = category_agreement(judged)
        f1_a, f1_b, labelled = f1_of_both(judged)
        return cls(
            rows=len(pairs),
            compared=len(judged),
            errors_a=sum(pair.a.label is None for pair in pairs),
            errors_b=sum(pair.b.label is None for pair in pairs),
            indeterminate_a=sum(pair.a.label is not None and not pair.a.judged for pair in pairs),
            indeterminate_b=sum(pair.b.label is not None and not pair.b.judged for pair in pairs),
            flips=flips,
            flip_share=_share(flips, len(judged)),
            low_rows=len(low),
            low_flips=low_flips,
            low_flip_share=_share(low_flips, len(low)),
            choices=len(a),
            drift_mean=_mean(drift),
            drift_p99=_quantile(drift, 0.99),
            drift_max=_quantile(drift, 1.0),
            drift_share=drift_share(a, drift),
            kl_mean=_mean(kl),
            kl_p99=_quantile(kl, 0.99),
            kl_max=_quantile(kl, 1.0),
            shift_mean=_mean(shift),
            shift_mean_abs=_mean(np.abs(shift)),
            categories_asked=sum(pair.row.mode is Mode.CATEGORIES for pair in pairs),
            category_rows=len(exact),
            category_exact=_mean(exact),
            category_jaccard=_mean(jaccard),
            labelled=labelled,
            f1_a=f1_a,
            f1_b=f1_b,
            f1_change=f1_b - f1_a,
            f1_distance=abs(f1_b - f1_a),
            ms_a_p50=_quantile(_ms([pair.a for pair in pairs]), 0.5),
            ms_a_p95=_quantile(_ms([pair.a for pair in pairs]), 0.95),
            ms_b_p50=_quantile(_ms([pair.b for pair in pairs]), 0.5),
            ms_b_p95=_quantile(_ms([pair.b for pair in pairs]), 0.95),
        )


def pairs_of(rows: Sequence[Row], a: Sequence[Reading], b: Sequence[Reading], *, limit: float) -> list[Pair]:
    """limit: the smaller of the two sides' `margin_limit`."""
    return [Pair(row, one, other, limit) for row, one, other in zip(rows, a, b, strict=True)]


def groups_of(pairs: Sequence[Pair]) -> dict[tuple[str, str], list[Pair]]:
    """(scope, name) -> its rows: ("all", "all"), then ("mode", ..), ("language", ..) and both together ("cell", ..)."""
    groups: dict[tuple[str, str], list[Pair]] = {("all", "all"): list(pairs)}
    for scope in ("mode", "language", "cell"):
        for pair in sorted(pairs, key=lambda one: _name(one.row, scope)):
            groups.setdefault((scope, _name(pair.row, scope)), []).append(pair)
    return groups


def low_margin(judged: Sequence[Pair]) -> list[Pair]:
    """The tenth, rounded up, that A finds hardest."""
    return sorted(judged, key=lambda pair: pair.nearness)[: math.ceil(LOW_SHARE * len(judged))]


def sigmoid(margins: Floats) -> Floats:
    """P(unsafe) of margins [n], without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -margins)))


def kl_of_margins(a: Floats, b: Floats) -> Floats:
    """D(A || B) of two two-way choices with finite margins a, b [n], nats; >= 0.

    log P(unsafe) = -log(1 + e^-m) and log P(safe) = -log(1 + e^m), so that no probability is ever rounded to 0 or 1.
    """
    unsafe = sigmoid(a) * (np.logaddexp(0.0, -b) - np.logaddexp(0.0, -a))
    safe = sigmoid(-a) * (np.logaddexp(0.0, b) - np.logaddexp(0.0, a))
    return np.asarray(np.maximum(unsafe + safe, 0.0))  # rounding may leave less than nothing


def drift_share(a: Floats, drift: Floats) -> float:
    """mean |d| / standard deviation of A's margins (population); NaN where these do not differ."""
    deviation = float(a.std()) if len(a) else 0.0
    return _mean(drift) / deviation if deviation > 0 else math.nan


def category_agreement(judged: Sequence[Pair]) -> tuple[Floats, Floats]:
    """Of the rows in mode categories that a side calls unsafe: 1.0 for the same list, and the Jaccard index.

    Jaccard = |A and B| / |A or B| of the names; 1 where both lists are empty.
    """
    exact, overlap = [], []
    for pair in judged:
        if pair.row.mode is not Mode.CATEGORIES or pair.a.label is None or pair.b.label is None:
            continue
        if not (any(pair.a.unsafe) or any(pair.b.unsafe)):
            continue
        one, other = pair.a.label.categories or (), pair.b.label.categories or ()
        either = set(one) | set(other)
        exact.append(float(one == other))
        overlap.append(len(set(one) & set(other)) / len(either) if either else 1.0)
    return np.array(exact, np.float64), np.array(overlap, np.float64)


def f1_of_both(judged: Sequence[Pair]) -> tuple[float, float, int]:
    """(F1 of A, F1 of B, choices with a known label)."""
    known: list[bool] = []
    said: tuple[list[bool], list[bool]] = ([], [])
    for pair in judged:
        for side, truth in enumerate(pair.row.known[: len(pair.a.unsafe)]):
            if truth is not None:
                known.append(truth)
                said[0].append(pair.a.unsafe[side])
                said[1].append(pair.b.unsafe[side])
    return f1(said[0], known), f1(said[1], known), len(known)


def f1(said: Sequence[bool], known: Sequence[bool]) -> float:
    """Of the class unsafe; NaN where nothing is or is called unsafe."""
    hits = sum(one and truth for one, truth in zip(said, known, strict=True))
    return _share(2 * hits, sum(said) + sum(known))


def reasons(readings: Sequence[Reading]) -> dict[str, int]:
    """How often a side had no verdict, by its reason, in order of the reason."""
    found: dict[str, int] = {}
    for reading in readings:
        if not reading.judged:
            label = reading.label
            reason = reading.error or (label.indeterminate_reason if label else None) or Safety.INDETERMINATE.value
            found[reason] = found.get(reason, 0) + 1
    return dict(sorted(found.items()))


def _name(row: Row, scope: str) -> str:
    return {"mode": row.mode.value, "language": row.language, "cell": f"{row.mode.value}/{row.language}"}[scope]


def _cut(margin: float, limit: float) -> float:
    return min(max(margin, -limit), limit)


def _ms(readings: Sequence[Reading]) -> Floats:
    return np.array([reading.ms for reading in readings if reading.label is not None], np.float64)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _quantile(values: Floats, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else math.nan
