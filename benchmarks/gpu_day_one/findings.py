"""What a probe found, and whether it is what this release was built on.

What is assumed stands in `tests/tensorrt_llm_double/behaviour.json`, {name: {"value", "evidence", "source",
"used_by"}}: the behavioural double of the package answers by it, and the engine is tested against the double.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Behaviour = dict[str, dict[str, Any]]
SHIPPED = Path(__file__).parents[2] / "tests" / "tensorrt_llm_double" / "behaviour.json"

AS_ASSUMED, DIFFERS, FIGURE, UNTOLD = "as assumed", "DIFFERS", "a figure", "COULD NOT BE TOLD"


class BehaviourError(ValueError):
    """A file of assumptions or a recording that can't be read or must not be used. The text says what to do."""


@dataclass(frozen=True)
class Finding:
    """name: of the behaviour. value: JSON; None: the probe could not ask. says: the value in a sentence.

    fix: what to do where the value is another than assumed. observed: replies, errors and times behind it, JSON.
    statement: id of the row of `docs/gpu_statements.json` that it answers. wanted: what this release takes for granted
    where the double's file has no such name; None: nothing, it is a figure.
    """

    name: str
    question: str
    value: Any
    says: str
    fix: str = ""
    observed: Mapping[str, Any] = field(default_factory=dict)
    statement: str | None = None
    wanted: Any = None


@dataclass(frozen=True)
class Comparison:
    """A finding against what was assumed. assumed: None where nothing was."""

    finding: Finding
    assumed: Any

    @property
    def state(self) -> str:
        if self.finding.value is None:
            return UNTOLD
        if self.assumed is None:
            return FIGURE
        return AS_ASSUMED if self.finding.value == self.assumed else DIFFERS

    @property
    def is_as_assumed(self) -> bool:
        return self.state in (AS_ASSUMED, FIGURE)

    @property
    def lines(self) -> list[str]:
        """Plain words for a person: the question, the answer, and where it is another, what to do."""
        lines = [f"{self.finding.question} {self.finding.says} ({self.state})"]
        if self.state == DIFFERS:
            lines.append(f"  assumed: {json.dumps(self.assumed)}; found: {json.dumps(self.finding.value)}")
        if not self.is_as_assumed and self.finding.fix:
            lines.append(f"  what to do: {self.finding.fix}")
        return lines


def compare(findings: Sequence[Finding], behaviour: Mapping[str, Mapping[str, Any]]) -> list[Comparison]:
    return [Comparison(one, behaviour.get(one.name, {"value": one.wanted})["value"]) for one in findings]


def read_behaviour(path: Path = SHIPPED) -> Behaviour:
    """Raises BehaviourError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BehaviourError(f"{path} can't be read: run this from a checkout of the source") from error
    if not isinstance(values, dict) or not all(isinstance(one, dict) and "value" in one for one in values.values()):
        raise BehaviourError(f"{path} is no table of behaviours")
    return values
