"""What the demo shows: a row per example on the terminal's width, and below it how to read what is unusual."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text
from tritonguard.cli_output import printable, trace
from tritonguard.errors import GuardError
from tritonguard.example import Example
from tritonguard.label import Label
from tritonguard.policy import Policy
from tritonguard.request import Mode
from tritonguard.verdict import Verdict

_MOST_TEXT = 60
# Columns that may be cut, and to how few cells.
_LEAST = {"text": 12, "sent": 12}
# On a narrow terminal these go, in this order, before a verdict is cut.
_FIRST_TO_GO = ("text", "lang", "sent", "ms", "p_unsafe")
_RIGHT = ("p_unsafe", "ms")
_GAP = 1


@dataclass(frozen=True)
class Row:
    """What became of one example. verdict: None where an error came instead. milliseconds: of waiting."""

    example: Example
    milliseconds: float
    verdict: Verdict | None = None
    error: GuardError | None = None

    @property
    def differences(self) -> tuple[str, ...]:
        """What is not as expected, as `Expected.differences`; an error is a difference too."""
        return (self.said,) if self.verdict is None else self.example.expected.differences(self.verdict)

    @property
    def as_expected(self) -> bool:
        return not self.differences

    @property
    def said(self) -> str:
        """The label's sides, or the error's name."""
        if self.verdict is not None:
            return "/".join(safety.value for _, safety, _ in self.verdict.label.sides if safety)
        return f"error: {self.error.kind}" if self.error else "nothing"


def table(rows: Iterable[Row], *, width: int) -> Table:
    """A row per example, on `width` columns of a terminal; what does not fit is left out, texts first."""
    columns: dict[str, list[Text]] = {}
    for row in rows:
        for name, cell in _cells(row).items():
            columns.setdefault(name, [Text(name)]).append(cell)
    widths = {name: max(cell_len(cell.plain) for cell in cells) for name, cells in columns.items()}
    for name in ("", *_FIRST_TO_GO):
        widths.pop(name, None)
        least = sum(min(wide, _LEAST.get(name, wide)) for name, wide in widths.items()) + _GAP * (len(widths) - 1)
        if least <= width:
            break
    spare = max(0, width - least)
    # A table without edges, whose columns are parted by the box's own blank (`_GAP`).
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for name, wide in widths.items():
        kept = min(wide, _LEAST.get(name, wide) + spare)
        if name in _LEAST:
            spare -= kept - min(wide, _LEAST[name])
        widths[name] = kept
        shown.add_column(name, no_wrap=True, justify="right" if name in _RIGHT else "left")
    for cells in zip(*(columns[name][1:] for name in widths), strict=True):
        for cell, wide in zip(cells, widths.values(), strict=True):
            cell.truncate(wide, overflow="ellipsis")
        shown.add_row(*cells)
    return shown


def _cells(row: Row) -> dict[str, Text]:
    """The cells of all columns, in their order."""
    style = "green" if row.as_expected else "bold red"
    text = Text(printable(row.example.prompt) or "(no text)")
    text.truncate(_MOST_TEXT, overflow="ellipsis")
    return {
        "id": Text(row.example.id),
        "lang": Text(row.example.language),
        "sent": Text(" ".join(marks(row.example))),
        "text": text,
        "expected": Text("/".join(safety.value for safety in row.example.expected.sides)),
        "verdict": Text(row.said, style=style),
        "p_unsafe": Text(_p_unsafe(row.verdict.label) if row.verdict else ""),
        "ms": Text(f"{row.milliseconds:.0f}"),
        "ok": Text("yes" if row.as_expected else "NO", style=style),
    }


def marks(example: Example) -> tuple[str, ...]:
    """What is sent beside the prompt, and how it is to be judged."""
    policy = example.policy or Policy()
    parts = (
        ("image", example.image is not None),
        ("response", example.response is not None),
        (example.policy_name or "", example.policy_name is not None),
        ("free-text", policy.custom_policy is not None),
        ("list", policy.custom_taxonomy is not None),
        ("suppress", bool(policy.suppress)),
        ("inject", bool(policy.inject)),
        ("allow-list", bool(policy.allow_list)),
        ("+built-in", policy.also_builtin),
        (example.mode.value, example.mode is not Mode.VERDICT),
    )
    return tuple(mark for mark, is_so in parts if is_so)


def _p_unsafe(label: Label) -> str:
    """Of the user's side, then of the response's; of the texts alone in parentheses."""
    said = label.text_only or label
    numbers = "/".join(f"{p:.3f}" for p in (said.p_unsafe_user, said.p_unsafe_response) if p is not None)
    return f"({numbers})" if label.text_only and numbers else numbers


def notes(rows: Sequence[Row]) -> list[Text]:
    """Below the table: what differs, how an image's row is to be read, what was reasoned."""
    told = [
        Text(printable(f"{row.example.id} is not as expected: {'; '.join(row.differences)}"), style="red")
        for row in rows
        if not row.as_expected
    ]
    reasons = {row.verdict.label.indeterminate_reason for row in rows if row.example.image and row.verdict} - {None}
    if reasons:
        told.append(
            Text(
                f"Images: this bundle cannot judge them ({', '.join(sorted(map(str, reasons)))}), so their label is "
                "indeterminate, never safe. In parentheses: p_unsafe of the texts alone."
            )
        )
    told += [
        trace(row.example.id, row.verdict.label)
        for row in rows
        if row.verdict and row.verdict.label.reasoning is not None
    ]
    return told
