"""The `tritonguard` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TextIO

from rich.console import Console

from tritonguard import cli_input
from tritonguard.cli_input import Item
from tritonguard.cli_output import (
    EXIT_ALLOWED,
    EXIT_SERVER,
    EXIT_USAGE,
    Answer,
    answers_table,
    health_table,
    progress,
)
from tritonguard.errors import GuardError
from tritonguard.guard import DEFAULT_URL, Guard
from tritonguard.policy import Policy
from tritonguard.request import DEFAULT_DEADLINE_S
from tritonguard.transport import Transport

_EXAMPLES = """\
examples:
  tritonguard check "How do I bake bread?"
  tritonguard check --file letter.txt --file reply.txt --format json
  tritonguard check --jsonl prompts.jsonl --format json --out verdicts.jsonl
  producer | tritonguard check --jsonl - --format json | consumer
  tritonguard health --url 127.0.0.1:8001

rows of --jsonl:
  {"prompt": "...", "id": "optional", "response": "optional, the assistant's text"}

exit codes (the highest that applies):
  0  everything is allowed, or the server is healthy
  1  something is blocked or needs a review
  2  usage, or an input that cannot be judged; other inputs are still answered
  3  the server is unavailable, overloaded, late, faulty or unhealthy
"""
_EXIT_INTERRUPTED, _EXIT_BROKEN_PIPE = 130, 141


def main(argv: Sequence[str] | None = None, *, transport: Transport | None = None) -> int:
    """Run the command and return its exit code.

    argv: arguments without the program's name; None: the process's. transport: another way to the server.
    Wrong usage raises SystemExit(2), as argparse does.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        if args.command == "health":
            return _health(args, transport)
        if not (args.text or args.file or args.jsonl):
            parser.error("nothing to check: give TEXT, --file or --jsonl")
        if [*args.file, args.jsonl].count("-") > 1:
            parser.error("standard input can be read once")
        return _check(args, transport)
    except GuardError as error:
        return _complain(str(error))
    except BrokenPipeError:
        # The reader has gone; without this the interpreter complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tritonguard",
        description="Ask a tritonguard server whether texts are safe.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--url", default=DEFAULT_URL, help="host:port of the gRPC endpoint (%(default)s)")
    shared.add_argument(
        "--deadline",
        type=float,
        default=DEFAULT_DEADLINE_S,
        metavar="SECONDS",
        help="for each text (%(default)s)",
    )
    shared.add_argument("--format", choices=("table", "json"), default="table", help="(%(default)s)")
    check = commands.add_parser(
        "check",
        parents=[shared],
        help="judge texts",
        description="Judge texts: arguments, whole files, rows of JSONL.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("text", nargs="*", metavar="TEXT", help="a text of a user")
    check.add_argument("--file", action="append", default=[], metavar="F", help="one text, - for stdin")
    check.add_argument("--jsonl", metavar="F", help="one row per text, - for stdin")
    check.add_argument("--policy", metavar="F", help="a policy in YAML (the built-in one)")
    check.add_argument("--out", metavar="F", help="write the answers there instead of stdout")
    commands.add_parser(
        "health",
        parents=[shared],
        help="ask for two real verdicts",
        description="Whether the server can judge: two example texts must get the right verdicts.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _check(args: argparse.Namespace, transport: Transport | None) -> int:
    policy = Policy.from_yaml(Path(args.policy)) if args.policy else None
    worst = EXIT_ALLOWED
    rows: list[Answer] = []
    errors = Console(stderr=True)
    with ExitStack() as stack:
        # Everything that can be wrong about the call is opened before the first text is judged.
        total = cli_input.count_rows(args.jsonl) if args.jsonl else 0
        jsonl = cli_input.from_jsonl(stack.enter_context(cli_input.opened(args.jsonl))) if args.jsonl else ()
        guard = stack.enter_context(Guard(args.url, deadline_s=args.deadline, policy=policy, transport=transport))
        out = stack.enter_context(Path(args.out).open("w", encoding="utf-8")) if args.out else sys.stdout
        items = chain(cli_input.from_arguments(args.text), cli_input.from_files(args.file), jsonl)
        known = None if total is None else total + len(args.text) + len(args.file)
        shown = bool(args.jsonl) and errors.is_terminal
        for answer in _answers(stack.enter_context(progress(items, total=known, console=errors, shown=shown)), guard):
            worst = max(worst, answer.exit_code)
            if args.format == "json":
                # Line by line: what is judged survives an interruption.
                print(answer.to_json(), file=out, flush=True)
            else:
                rows.append(answer)
        if args.format == "table":
            _console(out).print(answers_table(rows))
    return worst


def _answers(items: Iterator[Item], guard: Guard) -> Iterator[Answer]:
    for item in items:
        if item.prompt is None:
            yield Answer(item, error=item.error)
            continue
        start = time.perf_counter()
        try:
            verdict = guard.check(item.prompt, response=item.response)
        except GuardError as error:
            yield Answer(item, error=error, latency_ms=(time.perf_counter() - start) * 1000)
        else:
            yield Answer(item, verdict=verdict, latency_ms=(time.perf_counter() - start) * 1000)


def _health(args: argparse.Namespace, transport: Transport | None) -> int:
    with Guard(args.url, deadline_s=args.deadline, transport=transport) as guard:
        health = guard.health()
    if args.format == "json":
        print(json.dumps(health.to_dict()))
    else:
        _console(sys.stdout).print(health_table(health))
    return EXIT_ALLOWED if health.healthy else EXIT_SERVER


def _console(out: TextIO) -> Console:
    # Markup and emoji off: texts such as "[red]" or ":bomb:" are shown as they are.
    return Console(file=out, markup=False, emoji=False, highlight=False)


def _complain(message: str) -> int:
    print(f"tritonguard: {message}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
