"""The statements that this project makes about GPUs, each with where it was recorded, or *unrecorded*.

`docs/gpu_statements.json` is the one source. The tables of `docs/gpu.md` and the README are written from it, between
two marks in the Markdown, and a test holds them to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from benchmarks.gpu_day_one.findings import BehaviourError
from benchmarks.gpu_day_one.recording import Recording
from benchmarks.report import markdown

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "docs" / "gpu_statements.json"
BEGIN = "<!-- the table below is written from docs/gpu_statements.json -->"
END = "<!-- end of the table -->"
UNRECORDED = "*unrecorded*"
GUARD, PACKAGE = "guard", "package"


@dataclass(frozen=True)
class Statement:
    """id: lower case with hyphens. about: GUARD, what is served, or PACKAGE, what it rests on. check: what shows it.

    hardware, date, command, result: of the run that recorded it; all None: nobody has.
    """

    id: str
    about: str
    statement: str
    check: str
    hardware: str | None = None
    date: str | None = None
    command: str | None = None
    result: str | None = None

    @property
    def is_recorded(self) -> bool:
        return self.result is not None


def read_statements(path: Path = SOURCE) -> list[Statement]:
    """Raises BehaviourError: unreadable, an unknown key, an id twice, a row recorded by half."""
    try:
        statements = [Statement(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise BehaviourError(f"{path.name} is no list of statements with {', '.join(_NAMES)}") from error
    seen: set[str] = set()
    for one in statements:
        if one.about not in (GUARD, PACKAGE):
            raise BehaviourError(f"{path.name}: {one.id} is about {one.about!r}, not {GUARD} or {PACKAGE}")
        given = [value is not None for value in (one.hardware, one.date, one.command, one.result)]
        if any(given) != all(given):
            raise BehaviourError(f"{path.name}: {one.id} has some of hardware, date, command and result, not all")
        if one.id in seen:
            raise BehaviourError(f"{path.name}: {one.id} is there twice")
        seen.add(one.id)
    return statements


def statements_text(statements: Sequence[Statement]) -> str:
    """The text of their file."""
    return json.dumps([asdict(one) for one in statements], indent=2, ensure_ascii=False) + "\n"


def with_results(statements: Sequence[Statement], recording: Recording) -> list[Statement]:
    """The rows that the recording answers, now with its hardware, date, command and result.

    Raises BehaviourError for a recording of anything but the real package on a GPU.
    """
    recording.check_real()
    return [
        replace(
            one,
            hardware=recording.hardware_line,
            date=recording.date,
            command=recording.command,
            result=recording.statements[one.id],
        )
        if one.id in recording.statements
        else one
        for one in statements
    ]


def full_table(statements: Sequence[Statement]) -> str:
    """For `docs/gpu.md`."""
    head = ("statement", "checked by", "hardware", "date", "command", "result")
    return _left(markdown(head, [(one.statement, one.check, *_recorded(one)) for one in statements]), len(head))


def short_table(statements: Sequence[Statement]) -> str:
    """For the README: the guard's rows without how they are checked, and how many there are about the package."""
    head = ("statement", "hardware", "date", "command", "result")
    table = _left(markdown(head, [(one.statement, *_recorded(one)) for one in statements if one.about == GUARD]), 5)
    package = [one.is_recorded for one in statements if one.about == PACKAGE]
    return f"{table}\n\nOf {len(package)} more about TensorRT-LLM itself {sum(package)} are recorded: `docs/gpu.md`."


def rendered(text: str, table: str) -> str:
    """`text` with `table` between its marks. Raises BehaviourError where the marks are missing or doubled."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise BehaviourError(f"the table's two marks are not there once: {BEGIN} and {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}"


def documents(root: Path, statements: Sequence[Statement]) -> Mapping[Path, str]:
    """{file: its text with the table as it has to be}. Raises BehaviourError."""
    tables = {root / "docs" / "gpu.md": full_table(statements), root / "README.md": short_table(statements)}
    return {path: rendered(path.read_text(encoding="utf-8"), table) for path, table in tables.items()}


def _recorded(one: Statement) -> tuple[str, str, str, str]:
    if one.hardware is None or one.date is None or one.command is None or one.result is None:
        return (UNRECORDED, "", "", "")
    return (one.hardware, one.date, f"`{one.command}`", one.result)


def _left(table: str, columns: int) -> str:
    """Words, not numbers: every column to the left."""
    lines = table.split("\n")
    lines[1] = f"|{' --- |' * columns}"
    return "\n".join(lines)


_NAMES = tuple(one.name for one in fields(Statement))
