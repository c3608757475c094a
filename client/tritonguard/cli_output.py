"""How the command line shows answers: a table for people, JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from tritonguard.cli_input import Item
from tritonguard.errors import ERRORS, GuardError
from tritonguard.health import CanaryResult, Health
from tritonguard.label import Label
from tritonguard.verdict import Verdict

EXIT_ALLOWED, EXIT_FLAGGED, EXIT_USAGE, EXIT_SERVER = 0, 1, 2, 3

_PREVIEW_CHARACTERS = 48
_STYLES = {"allow": "green", "review": "yellow", "block": "red", "safe": "green", "unsafe": "red"}
_CALLERS_FAULT = frozenset({"invalid_request", "prompt_too_long", "invalid_image", "image_too_large", "unimplemented"})


@dataclass(frozen=True)
class Answer:
    """What became of an item: a verdict, or the error that stands in its place. latency_ms: None if not
    sent."""

    item: Item
    verdict: Verdict | None = None
    error: GuardError | None = None
    latency_ms: float | None = None

    @property
    def exit_code(self) -> int:
        """What this answer alone would end the command with."""
        if self.verdict is None:
            kind = self.error.kind if self.error else ""
            return EXIT_USAGE if kind in _CALLERS_FAULT else EXIT_SERVER
        if self.verdict.label.indeterminate_reason in ERRORS:
            return EXIT_SERVER
        return EXIT_ALLOWED if self.verdict.allowed else EXIT_FLAGGED

    def to_json(self) -> str:
        """One line, without the text that was judged."""
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
        return json.dumps(line, ensure_ascii=False)


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
    return [
        *start,
        # The user's side, then the response's where one was judged.
        Text(" / ").join(_styled(safety.value) for _, safety, _ in label.sides if safety),
        Text(" / ".join(f"{p_unsafe:.3f}" for _, _, p_unsafe in label.sides if p_unsafe is not None)),
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


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s")


@contextmanager
def progress(items: Iterable[Item], *, total: int | None, console: Console, shown: bool) -> Iterator[Iterator[Item]]:
    """`items` with a bar, rate and remaining time on `console` (standard error) while they are taken.

    total: None where it is not known; there is no remaining time then.
    """
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task("checking", total=total)

        def taken() -> Iterator[Item]:
            for item in items:
                yield item
                bar.advance(task)

        yield taken()
