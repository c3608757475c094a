"""How the command line shows answers: a table for people, JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tritonguard.cli_input import Item
from tritonguard.cli_tally import Fate
from tritonguard.errors import GuardError
from tritonguard.health import CanaryResult, Health
from tritonguard.label import Label
from tritonguard.verdict import Verdict

_PREVIEW_CHARACTERS = 48
_STYLES = {"allow": "green", "review": "yellow", "block": "red", "safe": "green", "unsafe": "red"}


@dataclass(frozen=True)
class Answer:
    """What became of an item: a verdict, or the error that stands in its place. latency_ms: None if not
    sent."""

    item: Item
    verdict: Verdict | None = None
    error: GuardError | None = None
    latency_ms: float | None = None

    @property
    def fate(self) -> Fate:
        """What is counted of it."""
        if self.verdict is None:
            return Fate(error=self.error.kind if self.error else "internal")
        return Fate(
            decision=self.verdict.decision.value,
            indeterminate=self.verdict.label.indeterminate_reason,
            revision=self.verdict.record.bundle_revision,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the text that was judged."""
        line: dict[str, Any] = {"id": self.item.id}
        if self.latency_ms is not None:
            line["latency_ms"] = round(self.latency_ms, 1)
        if self.verdict is not None:
            line |= self.verdict.to_dict()
        if self.error is not None:
            line["error"] = {
                "kind": self.error.kind,
                "field": self.error.field,
                "message": self.error.message,
            }
        return line

    def to_json(self) -> str:
        """`to_dict` on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


def answers_shown(answers: Sequence[Answer]) -> Group:
    """The table, and below it the traces: a column is too narrow for them."""
    traces = [
        trace(answer.item.id, answer.verdict.label)
        for answer in answers
        if answer.verdict is not None and answer.verdict.label.reasoning is not None
    ]
    return Group(_answers_table(answers), *traces)


def trace(name: str, label: Label) -> Text:
    """The reasoning of a label that has one, with its source and what is to be known of it."""
    source = f"source: {label.reasoning_source}"
    known = ["learnt from sentences made by rule"] if label.reasoning_source == "synthetic" else []
    known += ["cut off at its budget"] if label.reasoning_truncated else []
    known += ["CONTRADICTS THE VERDICT"] if label.reasoning_contradicts else []
    reasoning = " ".join((label.reasoning or "").split())
    return Text(printable(f"{name} reasoned ({', '.join([source, *known])}): {reasoning}"))


def _answers_table(answers: Iterable[Answer]) -> Table:
    """A row per answer."""
    table = Table()
    table.add_column("id", overflow="fold")
    table.add_column("text", overflow="fold")
    for name in ("verdict", "p_unsafe", "decision"):
        table.add_column(name, no_wrap=True)
    table.add_column("ms", no_wrap=True, justify="right")
    table.add_column("why", overflow="fold")
    for answer in answers:
        table.add_row(*_cells(answer))
    return table


def _cells(answer: Answer) -> list[Text]:
    start = [Text(printable(answer.item.id)), Text("\n".join(_sent(answer.item)))]
    latency = Text("" if answer.latency_ms is None else f"{answer.latency_ms:.0f}")
    if answer.verdict is None:
        why = f"{answer.error.kind}: {answer.error}" if answer.error else ""
        return [*start, Text(""), Text(""), Text("error", style="bold red"), latency, Text(why)]
    label = answer.verdict.label
    about = "~" if label.probability_bounded else ""
    return [
        *start,
        # The user's side, then the response's where one was judged.
        Text(" / ").join(_styled(safety.value) for _, safety, _ in label.sides if safety),
        Text(" / ".join(f"{about}{p_unsafe:.3f}" for _, _, p_unsafe in label.sides if p_unsafe is not None)),
        _styled(answer.verdict.decision.value),
        latency,
        Text("\n".join(_why(answer.verdict))),
    ]


def _sent(item: Item) -> list[str]:
    """The prompt, the assistant's response and the number of images, a line each."""
    lines = [_preview(item.prompt)] if item.prompt else []
    if item.response is not None:
        lines.append(f"> {_preview(item.response)}")
    if item.images:
        lines.append(f"[{len(item.images)} image{'s' if len(item.images) > 1 else ''}]")
    return lines


def _preview(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _PREVIEW_CHARACTERS else shown[: _PREVIEW_CHARACTERS - 1] + "…"


def _why(verdict: Verdict) -> list[str]:
    """The reason, and what else the label says, a line each."""
    label = verdict.label
    lines = [verdict.reason]
    if label.categories is not None:
        lines.append(printable(f"categories: {', '.join(label.categories) or 'none'}"))
    if label.flagged_by:
        lines.append(f"flagged by: {', '.join(label.flagged_by)}")
    if label.text_only is not None:
        said = " / ".join(
            side.value for side in (label.text_only.user_safety, label.text_only.response_safety) if side is not None
        )
        lines.append(f"texts alone: {said}")
    return lines


def health_table(health: Health) -> Table:
    """The server's word, the canaries, and what follows."""
    table = Table("check", "result", "ms", title="healthy" if health.healthy else "unhealthy")
    for name, is_good in (
        ("server live", health.readiness.live),
        ("server ready", health.readiness.ready),
        ("model ready", health.readiness.model_ready),
    ):
        table.add_row(name, _good("yes" if is_good else "no", is_good), "")
    for result in health.canary:
        text = f"{_got(result)} (expected {result.example.expected.user.value})"
        table.add_row(f"verdict {result.example.id}", _good(text, result.passed), f"{result.latency_ms:.0f}")
    return table


def _got(result: CanaryResult) -> str:
    if result.verdict is not None:
        return result.verdict.label.user_safety.value
    return f"error {result.error.kind}" if result.error else "nothing"


def printable(text: str) -> str:
    """`text` without what a terminal would obey: control and formatting characters become a dot."""
    return "".join(character if character.isprintable() else "·" for character in text)


def _styled(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, "magenta"))


def _good(text: str, is_good: bool) -> Text:
    return Text(text, style="green" if is_good else "red")
