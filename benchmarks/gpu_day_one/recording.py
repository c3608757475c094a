"""What a day on a GPU leaves behind: every answer, with versions, hardware, date and command.

A recording of the real package replaces what the double assumes (`merge_recording`) and fills in the table of GPU
statements (`statements.with_results`). One of the double says so and can do neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_day_one.findings import Behaviour, BehaviourError, Finding
from benchmarks.report import write_json

FORMAT = "tritonguard/gpu-day-one/v1"
RECORDED, DOUBLE = "recorded", "double"


@dataclass(frozen=True)
class Recording:
    """evidence: RECORDED by the real package on a GPU, or DOUBLE. hardware, versions: names and what they are.

    bundle: target, precision, revisions. behaviours: {name: {"value", "evidence", "source", "used_by"}}, the form of
    the double's own file. observed: {name: {"question", "says", "observed"}}. measured: load, parity, latency.
    statements: {id of a row of docs/gpu_statements.json: its result}. differences: lines for a person.
    """

    evidence: str
    date: str
    command: str
    hardware: Mapping[str, Any]
    versions: Mapping[str, str | None]
    bundle: Mapping[str, Any]
    behaviours: Behaviour = field(default_factory=dict)
    observed: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    statements: Mapping[str, str] = field(default_factory=dict)
    differences: Sequence[str] = ()

    @property
    def hardware_line(self) -> str:
        return f"{self.hardware['gpu']}, driver {self.hardware['driver']}"

    @property
    def source(self) -> str:
        """Where a behaviour comes from, for the double's file."""
        return f"gpu_day_one, tensorrt_llm {self.versions['tensorrt_llm']}, {self.hardware_line}, {self.date}"

    def holding(self, **parts: Any) -> Recording:
        """The same with what was found."""
        return replace(self, **parts)

    def check_real(self) -> None:
        """Raises BehaviourError unless the package was the real one on a GPU."""
        if self.evidence != RECORDED:
            raise BehaviourError(
                f"this recording's evidence is {self.evidence!r}: only what the real tensorrt_llm answered on a GPU "
                "may replace an assumption or fill in a statement"
            )

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Raises BehaviourError."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BehaviourError(f"{path.name} is no recording of this release ({FORMAT})") from error


def behaviours_of(findings: Sequence[Finding], assumed: Behaviour, *, evidence: str, source: str) -> Behaviour:
    """The answered findings in the form of the double's file; `used_by` is kept from what was assumed."""
    return {
        one.name: {
            "value": one.value,
            "evidence": evidence,
            "source": source,
            "used_by": assumed.get(one.name, {}).get("used_by"),
        }
        for one in findings
        if one.value is not None
    }


def observed_of(findings: Sequence[Finding]) -> dict[str, Any]:
    return {one.name: {"question": one.question, "says": one.says, "observed": one.observed} for one in findings}


def merge_recording(behaviour: Behaviour, recording: Recording) -> Behaviour:
    """The assumptions with every one that the recording answers replaced. What it knows beyond them stays in it.

    Raises BehaviourError for a recording of anything but the real package on a GPU.
    """
    recording.check_real()
    return {name: recording.behaviours.get(name, assumed) for name, assumed in behaviour.items()}
