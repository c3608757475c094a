"""Thresholds from honest recalibrations: how far may a bundle be from its reference, if only its calibration differs?

    for seed in 0 1 2 3 4; do
        python -m build_scripts.quantize --profile int8-sq --rows 96 --seed $seed --out build/q/$seed
        python -m build_scripts.compile --quantized build/q/$seed --out build/sq/$seed
        python -m build_scripts.parity build/fp32 build/sq/$seed --corpus held_out.jsonl --json build/sq-$seed.json
    done
    python -m build_scripts.parity_limits build/sq-*.json --name default --ceiling flip_share=0.01 > thresholds.yaml

The reports are of one checkpoint in one form, calibrated with other seeds or on other rows, against one reference on
one corpus. What these differ by is what calibration alone does; more is a bundle with a fault.

The rule, for each figure: the limit is mean + 3 standard deviations (of the sample) or 1.25 times the worst, whichever
is looser, and at least one row beyond the worst for what is a share of rows (F1: what one choice moves), a row of the
smallest corpus that may be judged (--least-rows; the reports' own where not said); what is to be high (category_*) is
taken as its distance to 1. Rounded to three digits, to the looser side. A ceiling is never passed: a limit that would
be looser is the ceiling, and an honest recalibration beyond it is an error.

By mode and by language the same, over all groups with enough rows: one limit for all, the loosest that any needs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from build_scripts.parity_figures import Figures
from build_scripts.parity_gate import NO_VERDICT, Limit, Profile, judge
from build_scripts.parity_report import FORMAT

PASS, REFUSED, USAGE = 0, 1, 2
LEAST_REPORTS = 5
DEVIATIONS, FACTOR = 3.0, 1.25
HEADROOM = f"mean + {DEVIATIONS:g} standard deviations or {FACTOR:g} x worst, the looser; at least one row"
DIGITS = 3

JUDGED: Mapping[str, str | None] = {
    "flip_share": "compared",
    "low_flip_share": "low_rows",
    "drift_share": None,
    "f1_distance": "labelled",
    "kl_mean": None,
    "shift_mean_abs": None,
    "category_exact": "category_rows",
    "category_jaccard": "category_rows",
}
"""The figures that get a limit, each with the count that it is a share of (None: a mean)."""
HIGH = frozenset({"category_exact", "category_jaccard"})
SCOPES: Mapping[str, tuple[str, ...]] = {
    "all": tuple(JUDGED),
    "mode": ("flip_share", "drift_share"),
    "language": ("flip_share",),
}
"""What is limited where, as in the shipped profile."""

_SAME = ("kind", "target", "precision", "model_revision")
_COUNTS = {field.name for field in fields(Figures) if field.type == "int"}


class LimitsError(ValueError):
    """Reports that no limits can be set from: which, and why."""


class CeilingError(Exception):
    """Honest recalibrations are beyond a ceiling. A finding, no wrong use."""


@dataclass(frozen=True)
class Recalibration:
    """One parity report. a, b: what its sides said of themselves. groups: figures by (scope, name)."""

    name: str
    corpus_sha256: str
    a: Mapping[str, str | None]
    b: Mapping[str, str | None]
    groups: Mapping[tuple[str, str], Figures]

    @classmethod
    def parse(cls, text: str, name: str) -> Recalibration:
        """From the JSON that `parity --json` writes. Raises LimitsError: no such JSON, or no comparison."""
        try:
            values = json.loads(text)
            form, reason = values["format"], values["incomparable"]
            groups = {(str(one["scope"]), str(one["name"])): _figures(one) for one in values["groups"]}
            a, b = ({key: None if said is None else str(said) for key, said in values[k].items()} for k in "ab")
            found = cls(name, str(values["corpus"]["sha256"] or ""), a, b, groups)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise LimitsError(f"{name} is no parity report: {type(error).__name__}") from None
        if form != FORMAT:
            raise LimitsError(f"{name} is no parity report of this release: its format is not {FORMAT}")
        if reason is not None:
            raise LimitsError(f"{name}: its sides could not be compared: {reason}")
        if ("all", "all") not in groups or not found.corpus_sha256:
            raise LimitsError(f"{name} has no figures in all, or does not say which corpus it is of")
        for count in NO_VERDICT:
            if getattr(found.whole, count):
                raise LimitsError(f"{name}: {count} is {getattr(found.whole, count)}: a row without a verdict")
        return found

    @property
    def whole(self) -> Figures:
        return self.groups["all", "all"]


def limits_of(
    reports: Sequence[Recalibration],
    name: str,
    ceilings: Mapping[str, float] | None = None,
    least_group_rows: int = 100,
    least_rows: int | None = None,
) -> Profile:
    """The profile that these recalibrations set.

    least_rows: of a corpus that may be judged; None: as many as these reports have.
    ceilings: by figure ("flip_share") or scope and figure ("mode.flip_share"), each within its figure's range.
    least_group_rows: rows that a mode or language needs to be judged apart. Raises LimitsError, CeilingError.
    """
    check(reports)
    ceilings = ceilings or {}
    if any(not 0.0 <= ceiling < math.inf for ceiling in ceilings.values()):
        raise LimitsError("a ceiling is a number of at least 0")
    compared = reports[0].whole.compared
    least_rows = least_rows or compared
    limits: dict[str, tuple[Limit, ...]] = {}
    for scope, figures in SCOPES.items():
        groups = [[one.groups[key] for one in reports] for key in reports[0].groups if key[0] == scope]
        smallest = least_rows / compared
        if scope != "all":
            groups = [group for group in groups if group[0].compared >= least_group_rows]
            smallest = least_group_rows / min((group[0].compared for group in groups), default=1)
        set_here = [
            _limit(figure, series, ceilings.get(_place(scope, figure)), _place(scope, figure), smallest)
            for figure in figures
            if (series := [group for group in groups if _is_judged(figure, group[0])])
        ]
        if set_here:
            limits[scope] = tuple(set_here)
    judged = {_place(scope, limit.figure) for scope, found in limits.items() for limit in found}
    if unused := sorted(set(ceilings) - judged):
        raise LimitsError(f"a ceiling on {', '.join(unused)}; these reports set limits on {', '.join(sorted(judged))}")
    return Profile(name, least_rows, least_group_rows, limits)


def check(reports: Sequence[Recalibration]) -> None:
    """Raises LimitsError unless these are recalibrations of one checkpoint, compared in one way."""
    if len(reports) < LEAST_REPORTS:
        raise LimitsError(f"{len(reports)} report(s); limits need at least {LEAST_REPORTS} recalibrations")
    first, seen = reports[0], dict[str, str]()
    for one in reports:
        for what, ours, theirs in (
            ("corpus (its sha256)", one.corpus_sha256, first.corpus_sha256),
            ("number of rows", one.whole.rows, first.whole.rows),
            ("set of groups", one.groups.keys(), first.groups.keys()),
            ("reference (bundle_revision of A)", one.a.get("bundle_revision"), first.a.get("bundle_revision")),
            *((f"{key} of A", one.a.get(key), first.a.get(key)) for key in _SAME),
            *((f"{key} of B", one.b.get(key), first.b.get(key)) for key in _SAME),
        ):
            if ours != theirs:
                raise LimitsError(f"{one.name} has another {what} than {first.name}")
        reference, revision = one.a.get("bundle_revision"), one.b.get("bundle_revision")
        if not reference or not revision:
            raise LimitsError(f"{one.name}: a side without a bundle_revision can't be told from another")
        if revision == reference:
            raise LimitsError(f"{one.name}: compares the reference with itself, which is no recalibration")
        if revision in seen:
            raise LimitsError(f"{one.name} and {seen[revision]} are of the same bundle, which is no recalibration")
        seen[revision] = one.name


def headroom(values: Sequence[float], unit: float = 0.0) -> float:
    """The limit for these values of at least two recalibrations, 0 being best. unit: one row's part of the figure."""
    worst = max(values)
    spread = statistics.mean(values) + DEVIATIONS * statistics.stdev(values)
    return max(spread, FACTOR * worst, worst + unit)


def to_yaml(profile: Profile, reports: Sequence[Recalibration]) -> str:
    """A thresholds file that `parity_gate.load_profile` reads, with what it was set from."""
    first = reports[0]
    about = (
        f"# {profile.name}: set from {len(reports)} recalibrations (build_scripts/parity_limits.py)",
        f"# corpus sha256 {first.corpus_sha256}, {first.whole.rows} rows",
        f"# reference bundle_revision {first.a['bundle_revision']}",
        f"# headroom: {HEADROOM}",
    )
    values: dict[str, Any] = {"least_rows": profile.least_rows, "least_group_rows": profile.least_group_rows}
    for scope, limits in profile.limits.items():
        values[scope] = {it.figure: {"least": it.least} if it.figure in HIGH else {"most": it.most} for it in limits}
    return "\n".join(about) + "\n" + yaml.safe_dump({"profiles": {profile.name: values}}, sort_keys=False)


def _limit(
    figure: str, series: Sequence[Sequence[Figures]], ceiling: float | None, place: str, smallest: float
) -> Limit:
    """series: of each group, the figures of all recalibrations. smallest: a corpus that may be judged, over theirs."""
    counted = JUDGED[figure]
    worst = needed = 0.0
    for group in series:
        values = [float(getattr(one, figure)) for one in group]
        if not all(map(math.isfinite, values)):
            raise LimitsError(f"{place} is not a number in some report: the corpus has nothing to measure it on")
        distances = [_distance(figure, value) for value in values]
        rows = min(getattr(one, counted) for one in group) if counted else 0
        # One choice moves F1 = 2 TP / (said + known) by (2 - F1) / (said + known + 1); taken as labelled choices.
        weight = 2.0 - min(one.f1_a for one in group) if figure == "f1_distance" else 1.0
        unit = weight / (rows * smallest) if rows else 0.0
        worst, needed = max(worst, *distances), max(needed, headroom(distances, unit))
    needed = _rounded_up(min(needed, 1.0) if counted else needed)
    if ceiling is not None:
        most = _distance(figure, ceiling)
        if worst > most:
            shown = _distance(figure, worst)
            raise CeilingError(f"{place}: an honest recalibration has {shown:.4g}, the ceiling is {ceiling:g}")
        needed = min(needed, most)
    if figure in HIGH:
        return Limit(figure, least=max(round(_distance(figure, needed), 9), 0.0))
    return Limit(figure, most=needed)


def _distance(figure: str, value: float) -> float:
    """From the best that the figure can be, 1 for those of HIGH; and back."""
    return 1.0 - value if figure in HIGH else value


def _rounded_up(value: float) -> float:
    """To DIGITS significant digits; 1e-9 of a digit is rounding of the digits themselves."""
    if value <= 0.0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - DIGITS)
    return float(f"{math.ceil(value / step - 1e-9) * step:.{DIGITS}g}")


def _figures(values: Mapping[str, Any]) -> Figures:
    """Raises LookupError, TypeError: not all fields, or not numbers; null is not a number that can be compared."""
    found: dict[str, Any] = {}
    for field in fields(Figures):
        value = values[field.name]
        if field.name in _COUNTS:
            if type(value) is not int or value < 0:
                raise TypeError(field.name)
        elif value is None:
            value = math.nan
        elif type(value) not in (int, float):
            raise TypeError(field.name)
        found[field.name] = value
    return Figures(**found)


def _is_judged(figure: str, figures: Figures) -> bool:
    """False where the gate would not judge it: the corpus does not ask."""
    return judge(Profile("", 1, 1, {"all": (Limit(figure),)}), {("all", "all"): figures})[-1].met is not None


def _place(scope: str, figure: str) -> str:
    return figure if scope == "all" else f"{scope}.{figure}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.parity_limits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 limits printed, 1 an honest recalibration is beyond a ceiling, 2 unfit reports.",
    )
    add = parser.add_argument
    add("reports", nargs="+", type=Path, metavar="REPORT.json", help=f"of `parity --json`, at least {LEAST_REPORTS}")
    add("--least-rows", type=int, metavar="N", help="of a corpus that may be judged (as many as these reports have)")
    add("--name", required=True, help="of the profile that is printed: default, smoke or your own")
    add(
        "--ceiling",
        action="append",
        default=[],
        type=_ceiling,
        metavar="FIGURE=VALUE",
        help="loosest limit allowed, for category_* the lowest; of modes: mode.flip_share=0.02. May be given again",
    )
    add("--least-group-rows", type=int, default=100, metavar="N", help="rows of a group that is judged (%(default)s)")
    args = parser.parse_args(argv)
    if min(args.least_group_rows, args.least_rows or 1) < 1:
        parser.error("--least-rows and --least-group-rows are at least 1")
    try:
        reports = [Recalibration.parse(path.read_text(encoding="utf-8"), path.name) for path in args.reports]
        profile = limits_of(reports, args.name, dict(args.ceiling), args.least_group_rows, args.least_rows)
    except (LimitsError, OSError, UnicodeDecodeError) as error:
        print(f"parity_limits: {error}", file=sys.stderr)
        return USAGE
    except CeilingError as error:
        print(f"parity_limits: REFUSED: {error}", file=sys.stderr)
        return REFUSED
    print(to_yaml(profile, reports), end="")
    return PASS


def _ceiling(text: str) -> tuple[str, float]:
    figure, _, value = text.partition("=")
    return figure, float(value)


if __name__ == "__main__":
    sys.exit(main())
