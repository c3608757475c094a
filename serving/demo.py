"""A real Triton server moderates the example texts over gRPC, and a table shows what it said.

    python -m serving.demo --bundle build/bundle

Every text is sent once. Exit code 0 if all but at most one got the expected label, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tritonguard.cli_output import printable
from tritonguard.errors import GuardError
from tritonguard.examples import EXAMPLES, Example
from tritonguard.guard import Guard
from tritonguard.policy import Policy
from tritonguard.verdict import Verdict

from serving.cli import add_bundle
from serving.errors import LaunchError
from serving.launch import ServerSettings, TritonServer

MOST_WRONG = 1
_LEAST_PREVIEW, _MOST_PREVIEW, _OTHER_COLUMNS = 12, 60, 63
_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Row:
    """What became of one example. verdict: None where an error came instead. milliseconds: of waiting."""

    example: Example
    milliseconds: float
    verdict: Verdict | None = None
    error: GuardError | None = None

    @property
    def as_expected(self) -> bool:
        return self.verdict is not None and self.verdict.label.user_safety is self.example.expected

    @property
    def said(self) -> str:
        if self.verdict is not None:
            return self.verdict.label.user_safety.value
        return f"error: {self.error.kind}" if self.error else "nothing"


def main(argv: Sequence[str] | None = None, *, console: Console | None = None) -> int:
    """Run the demo and return its exit code."""
    args = _parser().parse_args(argv)
    console = console or Console(markup=False, emoji=False, highlight=False)
    with tempfile.TemporaryDirectory(prefix="tritonguard-demo-") as folder:
        settings = ServerSettings(
            bundle=args.bundle,
            http_port=0,
            grpc_port=0,
            metrics_port=0,
            log=args.log or Path(folder) / "triton.log",
        )
        try:
            with console.status("starting Triton and loading the model"):
                server = TritonServer(settings)
                server.start()
            try:
                rows = _judge_all(server.endpoints.grpc, console)
            finally:
                with console.status("stopping Triton"):
                    server.stop()
        except LaunchError as error:
            console.print(Text(f"demo: {error}", style="red"))
            return 1
    console.print(table(rows, width=console.width))
    console.print(conclusion(rows))
    return 0 if passed(rows) else 1


def _judge_all(url: str, console: Console) -> list[Row]:
    console.print(f"Triton is ready at {url} (gRPC); {len(EXAMPLES)} texts, one after the other")
    with (
        Guard(url, policy=Policy(on_error="raise"), deadline_s=_DEADLINE_S) as guard,
        console.status("moderating"),
    ):
        return [judge(example, guard.check) for example in EXAMPLES]


def judge(example: Example, check: Callable[[str], Verdict]) -> Row:
    """Send one example, once."""
    start = time.perf_counter()
    verdict, failure = None, None
    try:
        verdict = check(example.prompt)
    except GuardError as error:
        failure = error
    return Row(example, (time.perf_counter() - start) * 1000, verdict, failure)


def passed(rows: Sequence[Row]) -> bool:
    """True where all examples were asked and at most `MOST_WRONG` got another label than expected."""
    wrong = sum(not row.as_expected for row in rows)
    return len(rows) == len(EXAMPLES) and wrong <= MOST_WRONG


def conclusion(rows: Sequence[Row]) -> Text:
    """The last line: what this was, in plain words."""
    right = sum(row.as_expected for row in rows)
    counted = f"{right} of {len(rows)} verdicts are as expected"
    if not passed(rows):
        return Text(f"FAILED: {counted}; at most {MOST_WRONG} may differ.", style="red")
    return Text(f"OK: {counted}. {_judged_by(rows)}", style="green")


def _judged_by(rows: Iterable[Row]) -> str:
    record = next(row.verdict.record for row in rows if row.verdict)
    revision = (record.bundle_revision or "")[:12]
    return f"A real Triton served them with {record.engine} ({record.precision}), bundle {revision}."


def table(rows: Iterable[Row], *, width: int) -> Table:
    """A row per example, on `width` columns of a terminal."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("id", "lang", "text", "expected", "verdict"):
        shown.add_column(name, no_wrap=True)
    for name in ("p_unsafe", "ms"):
        shown.add_column(name, no_wrap=True, justify="right")
    shown.add_column("ok", no_wrap=True)
    for row in rows:
        p_unsafe = row.verdict.label.p_unsafe_user if row.verdict else None
        style = "green" if row.as_expected else "bold red"
        preview = Text(printable(row.example.prompt))
        preview.truncate(min(_MOST_PREVIEW, max(_LEAST_PREVIEW, width - _OTHER_COLUMNS)), overflow="ellipsis")
        shown.add_row(
            row.example.id,
            row.example.language,
            preview,
            row.example.expected.value,
            Text(row.said, style=style),
            "" if p_unsafe is None else f"{p_unsafe:.3f}",
            f"{row.milliseconds:.0f}",
            Text("yes" if row.as_expected else "NO", style=style),
        )
    return shown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.demo",
        description="Start a real Triton server on free ports and let it moderate the example texts.",
        epilog="Exit code 0 if all but at most one verdict is the expected one, 1 otherwise.",
    )
    add_bundle(parser)
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the server's log in FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
