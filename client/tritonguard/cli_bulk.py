"""`tritonguard check --in`: rows to a file that a later run can go on with, to a stream, or to a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from rich.console import Console

from tritonguard import cli_input
from tritonguard.bulk import Line, Question, answers, rows_to_file
from tritonguard.bulk_file import RETRY_SUFFIX, line_of
from tritonguard.cli_input import Row
from tritonguard.cli_output import Answer, answers_shown
from tritonguard.cli_parser import DEFAULT_CONCURRENCY, goes_to_plain_file
from tritonguard.cli_progress import watching
from tritonguard.cli_tally import Fate, Tally
from tritonguard.errors import InvalidRequest
from tritonguard.guard import Guard


def check_rows(args: argparse.Namespace, guard: Guard, question: Question) -> int:
    """Judge the rows; the exit code of all of them. The account goes to standard error, in the end or on Ctrl-C.

    Raises InvalidRequest and OSError for an input or an output that can't be used, KeyboardInterrupt.
    """
    tally = Tally()
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    folder = Path(args.rows).parent  # of "-": where we are
    _refuse_same_file(args)
    with ExitStack() as stack:
        total = cli_input.count_rows(args.rows)
        rows = cli_input.rows_of(stack.enter_context(cli_input.opened(args.rows)))

        def judge(work: Iterable[Row | Line]) -> Iterator[Answer | Line]:
            items = (entry if isinstance(entry, Line) else cli_input.item_of(entry, folder=folder) for entry in work)
            return answers(items, guard, question, concurrency=args.concurrency or DEFAULT_CONCURRENCY)

        try:
            if goes_to_plain_file(args):
                fates = rows_to_file(
                    rows,
                    Path(args.out),
                    judge,
                    question.sha256,
                    tally,
                    restart=args.restart,
                    retry=args.retry_errors,
                )
            else:
                fates = _to_stream(args, judge(rows), question.sha256, tally)
            tell = stack.enter_context(watching(tally, total=total, console=console))
            for _ in stack.enter_context(closing(fates)):
                tell()
        except (KeyboardInterrupt, OSError) as ended:
            stack.close()
            if tally.rows and not isinstance(ended, BrokenPipeError):
                _account(args, tally, "interrupted" if isinstance(ended, KeyboardInterrupt) else "stopped")
            raise
    _account(args, tally)
    return tally.exit_code


def _to_stream(
    args: argparse.Namespace, judged: Iterator[Answer | Line], question: str, tally: Tally
) -> Generator[Fate, None, None]:
    """Lines as they come, or one table in the end."""
    shown: list[Answer] = []
    with ExitStack() as stack:
        to_device = args.out is not None and args.out != "-"
        out = stack.enter_context(Path(args.out).open("w", encoding="utf-8")) if to_device else sys.stdout
        as_lines = args.format == "json" or (args.format is None and args.out is not None)
        for answer in judged:
            assert isinstance(answer, Answer)
            assert answer.item.row is not None
            tally.add(answer.fate)
            if as_lines:
                line = line_of(answer.item.row, question, answer.to_dict()).decode("utf-8")
                print(line, end="", file=out, flush=True)
            else:
                shown.append(answer)
            yield answer.fate
        if not as_lines:
            table = answers_shown(shown)
            Console(file=out, markup=False, emoji=False, highlight=False).print(table)


def _refuse_same_file(args: argparse.Namespace) -> None:
    if args.rows == "-" or args.out in (None, "-"):
        return
    for out in (Path(args.out), Path(args.out + RETRY_SUFFIX)):
        if out.exists() and Path(args.rows).exists() and out.samefile(args.rows):
            raise InvalidRequest("out: the same file as the input", field="out")


def _account(args: argparse.Namespace, tally: Tally, ended: str = "") -> None:
    """One line of JSON under `--format json`, else for people."""
    if args.format == "json":
        print(json.dumps({**tally.to_dict(), "interrupted": bool(ended)}), file=sys.stderr)
        return
    told = [f"{ended}: " * bool(ended) + tally.summary()]
    if goes_to_plain_file(args):
        if ended:
            told.append("the same command goes on from here")
        elif tally.failed:
            told.append("the same command with --retry-errors judges the failed ones again")
    print("\n".join(told), file=sys.stderr)
