"""What a comparison leaves behind: JSON for machines, Markdown for people. Ids and figures, no text of a row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from build_scripts.parity_bootstrap import LEVEL, Interval
from build_scripts.parity_figures import Figures, Pair, low_margin, reasons
from build_scripts.parity_gate import Finding, Profile, passed

FORMAT = "tritonguard/parity/v1"
MOST_FLIPS_SHOWN = 20


@dataclass(frozen=True)
class Report:
    """sides: what A and B say of themselves. corpus: name, SHA-256, rows. groups: figures by (scope, name).

    incomparable: why the two could not be compared; then there are no groups. rows_per_s: of A and of B.
    """

    sides: tuple[Mapping[str, str | None], Mapping[str, str | None]]
    corpus: Mapping[str, Any]
    profile: Profile
    batch: int
    groups: Mapping[tuple[str, str], Figures]
    intervals: Mapping[str, Interval]
    findings: Sequence[Finding]
    pairs: Sequence[Pair] = ()
    rows_per_s: tuple[float, float] = (math.nan, math.nan)
    incomparable: str | None = None

    @property
    def passed(self) -> bool:
        return self.incomparable is None and passed(list(self.findings))

    @property
    def refusals(self) -> list[str]:
        """Why it did not pass, a line each."""
        if self.incomparable is not None:
            return [self.incomparable]
        return [str(finding) for finding in self.findings if finding.met is False]


def to_json(report: Report) -> str:
    """Not-a-numbers, which JSON has not got, as null."""
    low = _low_ids(report.pairs)
    values = {
        "format": FORMAT,
        "passed": report.passed,
        "refusals": report.refusals,
        "incomparable": report.incomparable,
        "a": report.sides[0],
        "b": report.sides[1],
        "corpus": report.corpus,
        "profile": {"name": report.profile.name, "provisional": report.profile.provisional},
        "batch": report.batch,
        "rows_per_s": {"a": report.rows_per_s[0], "b": report.rows_per_s[1]},
        "groups": [{"scope": scope, "name": name, **asdict(one)} for (scope, name), one in report.groups.items()],
        "intervals": {name: [one.low, one.high] for name, one in report.intervals.items()},
        "interval_level": LEVEL,
        "findings": [asdict(finding) for finding in report.findings],
        "flipped": [_flip(pair, low) for pair in _flipped(report.pairs)],
        "no_verdict": {
            "a": reasons([pair.a for pair in report.pairs]),
            "b": reasons([pair.b for pair in report.pairs]),
        },
    }
    return json.dumps(_plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(report: Report) -> str:
    state = "PASS" if report.passed else "REFUSED"
    parts = [f"# Parity: {state}", _facts(report)]
    low = _low_ids(report.pairs)
    if report.refusals:
        parts.append("\n".join(f"- {_cell(line)}" for line in report.refusals))
    if report.incomparable is not None:
        return "\n\n".join(parts) + "\n"
    titles = {"all": "In all", "mode": "By mode", "language": "By language", "cell": "By mode and language"}
    for scope, title in titles.items():
        rows = [(name, figures) for (found, name), figures in report.groups.items() if found == scope]
        if rows:
            parts += [f"## {title}", _apart(rows), _answers(rows)]
    if report.intervals:
        drawn = [(name, one.low, one.high) for name, one in report.intervals.items()]
        parts += [f"## Bootstrap, {LEVEL:.0%} intervals", _table(("figure", "from", "to"), drawn)]
    parts += ["## Thresholds", "\n".join(f"- {_cell(str(finding))}" for finding in report.findings)]
    if flips := _flipped(report.pairs):
        lines = [tuple(_flip(pair, low).values()) for pair in flips[:MOST_FLIPS_SHOWN]]
        parts += [f"## Flipped rows ({len(flips)})", _table(("id", "mode", "language", "low", "m_A", "m_B"), lines)]
    for name, side in (("A", [pair.a for pair in report.pairs]), ("B", [pair.b for pair in report.pairs])):
        if found := reasons(side):
            parts += [f"## Rows of {name} without a verdict", _table(("reason", "rows"), list(found.items()))]
    return "\n\n".join(parts) + "\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _facts(report: Report) -> str:
    lines = [
        f"- {letter}: {', '.join(f'{key} {_short(value)}' for key, value in side.items() if value is not None)}"
        for letter, side in zip("AB", report.sides, strict=True)
    ]
    lines.append(f"- corpus: {report.corpus['name']}, {report.corpus['rows']} rows; batches of {report.batch}")
    lines.append(f"- profile: {report.profile.name}{' (provisional)' if report.profile.provisional else ''}")
    if not math.isnan(report.rows_per_s[0]):
        lines.append(f"- rows/s: A {report.rows_per_s[0]:.2f}, B {report.rows_per_s[1]:.2f}")
    return "\n".join(lines)


def _apart(rows: Sequence[tuple[str, Figures]]) -> str:
    head = ("", "rows", "compared", "flips", "of low margin", "drift mean", "p99", "max", "of sd", "KL mean", "p99")
    return _table(
        (*head, "max", "shift", "abs"),
        [
            (
                name,
                one.rows,
                one.compared,
                f"{one.flips} ({_percent(one.flip_share)})",
                f"{one.low_flips}/{one.low_rows}",
                one.drift_mean,
                one.drift_p99,
                one.drift_max,
                _percent(one.drift_share),
                one.kl_mean,
                one.kl_p99,
                one.kl_max,
                one.shift_mean,
                one.shift_mean_abs,
            )
            for name, one in rows
        ],
    )


def _answers(rows: Sequence[tuple[str, Figures]]) -> str:
    head = ("", "same list", "Jaccard", "F1 A", "F1 B", "no verdict A", "B", "p50 A ms", "p95", "p50 B ms", "p95")
    return _table(
        head,
        [
            (
                name,
                one.category_exact,
                one.category_jaccard,
                one.f1_a,
                one.f1_b,
                one.errors_a + one.indeterminate_a,
                one.errors_b + one.indeterminate_b,
                f"{one.ms_a_p50:.0f}",
                f"{one.ms_a_p95:.0f}",
                f"{one.ms_b_p50:.0f}",
                f"{one.ms_b_p95:.0f}",
            )
            for name, one in rows
        ],
    )


def _flipped(pairs: Sequence[Pair]) -> list[Pair]:
    """The surest of them first: a flip far from the threshold is a worse sign than a near one."""
    return sorted((pair for pair in pairs if pair.flipped), key=lambda pair: -pair.nearness)


def _low_ids(pairs: Sequence[Pair]) -> set[str]:
    return {pair.row.id for pair in low_margin([pair for pair in pairs if pair.judged])}


def _flip(pair: Pair, low: set[str]) -> dict[str, object]:
    return {
        "id": pair.row.id,
        "mode": pair.row.mode.value,
        "language": pair.row.language,
        "low_margin": pair.row.id in low,
        "margins_a": [round(margin, 4) for margin in pair.a.margins],
        "margins_b": [round(margin, 4) for margin in pair.b.margins],
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(f"{one:+.2f}" for one in value)
    if isinstance(value, bool):
        return "yes" if value else ""
    return "-" if value == "nan" else str(value).replace("|", "\\|")


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f} %"


def _short(value: str | None) -> str:
    """Hashes are told apart by their first characters."""
    text = value or ""
    return text[:12] if len(text) == 64 else text


def _plain(values: object) -> Any:
    if isinstance(values, Mapping):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_plain(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values
