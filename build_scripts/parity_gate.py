"""The thresholds and the one rule from figures to pass or refused.

A thresholds file is YAML: profiles by name, each with `least_rows`, `least_group_rows` and limits by scope:

    profiles:
      default:
        provisional: true
        least_rows: 50
        least_group_rows: 30
        all: {flip_share: {most: 0.01}, errors_b: {most: 0}}
        mode: {flip_share: {most: 0.02}}

A limit names a field of `Figures`. Unknown keys are errors. A figure that is NaN meets nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from build_scripts.parity_figures import Figures

SHIPPED = Path(__file__).with_name("parity_thresholds.yaml")
SCOPES = ("all", "mode", "language", "cell")
NO_VERDICT = ("errors_a", "errors_b", "indeterminate_a", "indeterminate_b")
"""What no profile can allow: a row without a verdict on either side is never a pass."""

_NAMES = {field.name for field in fields(Figures)}
# What a corpus may not ask about at all: with a count of 0 the figures behind it are not judged, and said to be so.
_ASKED = {
    "category_exact": "categories_asked",
    "category_jaccard": "categories_asked",
    "f1_a": "labelled",
    "f1_b": "labelled",
    "f1_change": "labelled",
    "f1_distance": "labelled",
}


class ThresholdsError(ValueError):
    """A thresholds file that can't be read, or a profile that it has not got."""


@dataclass(frozen=True)
class Limit:
    figure: str
    least: float = -math.inf
    most: float = math.inf

    def met(self, value: float) -> bool:
        """NaN meets nothing."""
        return self.least <= value <= self.most

    @property
    def wanted(self) -> str:
        parts = [f"at least {self.least:g}"] if self.least > -math.inf else []
        return " and ".join(parts + ([f"at most {self.most:g}"] if self.most < math.inf else []))


@dataclass(frozen=True)
class Profile:
    """least_rows: compared rows in all, without which nothing passes. least_group_rows: of a group that is judged.

    provisional: the limits have not been set from recalibrations yet.
    """

    name: str
    least_rows: int
    least_group_rows: int
    limits: Mapping[str, tuple[Limit, ...]]
    provisional: bool = False


@dataclass(frozen=True)
class Finding:
    """A limit on one group. met: None: not judged, `wanted` says why."""

    scope: str
    group: str
    figure: str
    value: float
    wanted: str
    met: bool | None

    def __str__(self) -> str:
        state = "not judged" if self.met is None else "met" if self.met else "MISSED"
        where = self.scope if self.scope == self.group else f"{self.scope} {self.group}"
        value = f"{self.value:.4g}" if math.isfinite(self.value) else "not a number"
        return f"{state}: {where}: {self.figure} {value} ({self.wanted})"


def judge(profile: Profile, groups: Mapping[tuple[str, str], Figures]) -> list[Finding]:
    """Every limit on every group of its scope. Raises KeyError without the group ("all", "all")."""
    whole = groups["all", "all"]
    enough = Limit("compared", least=profile.least_rows)
    findings = [Finding("all", "all", "compared", whole.compared, enough.wanted, enough.met(whole.compared))]
    none = Limit("", most=0)
    findings += [
        Finding("all", "all", name, getattr(whole, name), none.wanted, none.met(getattr(whole, name)))
        for name in NO_VERDICT
    ]
    for (scope, group), figures in groups.items():
        limits = profile.limits.get(scope, ())
        if scope != "all" and limits and figures.compared < profile.least_group_rows:
            reason = f"fewer than {profile.least_group_rows} rows"
            findings.append(Finding(scope, group, "compared", figures.compared, reason, None))
            continue
        findings += [_finding(scope, group, limit, figures) for limit in limits]
    return findings


def passed(findings: list[Finding]) -> bool:
    return bool(findings) and all(finding.met is not False for finding in findings)


def _finding(scope: str, group: str, limit: Limit, figures: Figures) -> Finding:
    value = float(getattr(figures, limit.figure))
    asked = _ASKED.get(limit.figure)
    if asked is not None and getattr(figures, asked) == 0:
        return Finding(scope, group, limit.figure, value, f"{asked} is 0", None)
    return Finding(scope, group, limit.figure, value, limit.wanted, limit.met(value))


def load_profile(name: str, path: Path = SHIPPED) -> Profile:
    """Raises ThresholdsError."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ThresholdsError(f"{path.name} can't be read: {type(error).__name__}") from None
    profiles = document.get("profiles") if isinstance(document, dict) and set(document) == {"profiles"} else None
    if not isinstance(profiles, dict) or not profiles:
        raise ThresholdsError(f"{path.name}: one key, `profiles`, with at least one in it")
    if name not in profiles:
        raise ThresholdsError(f"{path.name} has no profile {name!r}; it has {', '.join(map(str, profiles))}")
    return _profile(name, profiles[name], f"{path.name}: {name}")


def _profile(name: str, values: Any, place: str) -> Profile:
    needed, known = {"least_rows", "least_group_rows", "all"}, {"provisional", "least_rows", "least_group_rows"}
    if not isinstance(values, dict) or not needed <= set(values) or set(values) - known - set(SCOPES):
        raise ThresholdsError(f"{place}: needs {sorted(needed)}, may have provisional and {', '.join(SCOPES[1:])}")
    provisional = values.get("provisional", False)
    if not isinstance(provisional, bool):
        raise ThresholdsError(f"{place}: provisional is true or false")
    rows = [values["least_rows"], values["least_group_rows"]]
    if any(type(count) is not int or count < 1 for count in rows):
        raise ThresholdsError(f"{place}: least_rows and least_group_rows are whole numbers of at least 1")
    limits = {scope: _limits(values[scope], f"{place}.{scope}") for scope in SCOPES if scope in values}
    return Profile(name, rows[0], rows[1], limits, provisional)


def _limits(values: Any, place: str) -> tuple[Limit, ...]:
    if not isinstance(values, dict) or not values:
        raise ThresholdsError(f"{place}: figures with their limits")
    limits = []
    for figure, bounds in values.items():
        if figure not in _NAMES:
            raise ThresholdsError(f"{place}: {figure!r} is no figure")
        if not isinstance(bounds, dict) or not bounds or set(bounds) - {"least", "most"}:
            raise ThresholdsError(f"{place}.{figure}: least, most or both")
        if any(type(bound) not in (int, float) or not math.isfinite(bound) for bound in bounds.values()):
            raise ThresholdsError(f"{place}.{figure}: limits are numbers")
        limits.append(Limit(figure, **{name: float(bound) for name, bound in bounds.items()}))
    return tuple(limits)
