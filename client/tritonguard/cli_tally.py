"""What became of the texts, counted: the exit code and the summary follow from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tritonguard.errors import ERRORS
from tritonguard.verdict import Decision

EXIT_ALLOWED, EXIT_FLAGGED, EXIT_USAGE, EXIT_SERVER = 0, 1, 2, 3

_CALLERS_FAULT = frozenset({"invalid_request", "prompt_too_long", "invalid_image", "image_too_large", "unimplemented"})
_DECISIONS = frozenset(decision.value for decision in Decision)


@dataclass(frozen=True)
class Fate:
    """Of one text: a decision, or the kind of the error that stands in its place; never both.

    indeterminate: why the label is; None where it is not. revision: of the bundle that judged, where known.
    """

    decision: str | None = None
    error: str | None = None
    indeterminate: str | None = None
    revision: str | None = None

    @classmethod
    def of_line(cls, line: Any) -> Fate:
        """Of a line of JSON, as an output holds it. Raises ValueError for what is no such line."""
        if not isinstance(line, dict):
            raise ValueError("not a JSON object")
        try:
            if "error" in line:
                fate = cls(error=line["error"]["kind"])
            else:
                reason, revision = line["label"]["indeterminate_reason"], line["record"]["bundle_revision"]
                fate = cls(decision=line["outcome"]["decision"], indeterminate=reason, revision=revision)
        except (KeyError, TypeError):
            raise ValueError("neither a verdict nor an error") from None
        if (fate.error not in ERRORS) and (fate.decision not in _DECISIONS):
            raise ValueError("an unknown decision or error")
        return fate

    @property
    def exit_code(self) -> int:
        """What this text alone would end the command with."""
        if self.error is not None:
            return EXIT_USAGE if self.error in _CALLERS_FAULT else EXIT_SERVER
        if self.indeterminate in ERRORS:
            return EXIT_SERVER
        return EXIT_ALLOWED if self.decision == Decision.ALLOW.value else EXIT_FLAGGED

    @property
    def failed(self) -> bool:
        """True where the server's side failed, so that asking again can help; the rule of exit code 3."""
        return self.exit_code == EXIT_SERVER


@dataclass
class Tally:
    """Counts of fates. kept: how many of them were there before this run."""

    decisions: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    indeterminate: int = 0
    failed: int = 0
    kept: int = 0
    exit_code: int = EXIT_ALLOWED
    revisions: set[str] = field(default_factory=set)

    def add(self, fate: Fate, *, kept: bool = False) -> None:
        if fate.error is not None:
            self.errors[fate.error] += 1
        else:
            self.decisions[fate.decision or ""] += 1
        self.indeterminate += fate.indeterminate is not None
        self.failed += fate.failed
        self.kept += kept
        self.exit_code = max(self.exit_code, fate.exit_code)
        if fate.revision is not None:
            self.revisions.add(fate.revision)

    @property
    def rows(self) -> int:
        """All of them: every one is a decision or an error."""
        return self.decisions.total() + self.errors.total()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `rows` is the sum of the decisions and of `errors`, the others are parts of it."""
        return {
            "rows": self.rows,
            **{decision.value: self.decisions[decision.value] for decision in Decision},
            "errors": dict(sorted(self.errors.items())),
            "indeterminate": self.indeterminate,
            "server_failures": self.failed,
            "kept": self.kept,
            "bundle_revisions": sorted(self.revisions),
        }

    def counts(self) -> str:
        """`allow 5, review 0, block 2, errors 1`."""
        decided = [f"{decision.value} {self.decisions[decision.value]}" for decision in Decision]
        return ", ".join([*decided, f"errors {self.errors.total()}"])

    def summary(self) -> str:
        """The whole account for people, a line or more."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.errors.items()))
        lines = [f"rows {self.rows}: {self.counts()}{f' ({kinds})' if kinds else ''}"]
        lines.append(f"of these indeterminate {self.indeterminate}, failed on the server's side {self.failed}")
        if self.kept:
            lines.append(f"kept from before {self.kept}")
        if len(self.revisions) > 1:
            lines.append(f"judged by {len(self.revisions)} different bundles: {', '.join(sorted(self.revisions))}")
        return "\n".join(lines)
