"""The `tritonguard` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TextIO

from rich.console import Console

from tritonguard import cli_input, cli_policy
from tritonguard.bulk import Question
from tritonguard.cli_bulk import check_rows
from tritonguard.cli_input import Item
from tritonguard.cli_output import Answer, answers_shown, health_table
from tritonguard.cli_parser import has_extras, parser, refuse_wrong_usage
from tritonguard.cli_tally import EXIT_ALLOWED, EXIT_SERVER, EXIT_USAGE
from tritonguard.errors import GuardError
from tritonguard.guard import DEFAULT_URL, Guard
from tritonguard.policy import Policy
from tritonguard.retries import Retries
from tritonguard.tls import Tls
from tritonguard.transport import Transport

_EXIT_INTERRUPTED, _EXIT_BROKEN_PIPE = 130, 141


def main(argv: Sequence[str] | None = None, *, transport: Transport | None = None) -> int:
    """Run the command and return its exit code.

    argv: arguments without the program's name; None: the process's. transport: another way to the server.
    Wrong usage raises SystemExit(2), as argparse does.
    """
    arguments = parser()
    args = arguments.parse_args(argv)
    try:
        if args.command == "health":
            return _health(args, transport)
        if args.command == "policy":
            return cli_policy.run(args, _console(sys.stdout))
        refuse_wrong_usage(arguments, args)
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


def _check(args: argparse.Namespace, transport: Transport | None) -> int:
    policy = Policy.from_yaml(Path(args.policy)) if args.policy else None
    question = Question(policy or Policy(), args.policy_name, args.mode, args.think_budget, args.deadline)
    with _guard(args, policy, transport) as guard:
        check = check_rows if args.rows else _check_texts
        return check(args, guard, question)


def _check_texts(args: argparse.Namespace, guard: Guard, question: Question) -> int:
    worst = EXIT_ALLOWED
    shown: list[Answer] = []
    with ExitStack() as stack:
        # Everything that can be wrong about the call is opened before the first text is judged.
        response = args.response if args.response_file is None else cli_input.read_response(args.response_file)
        to_file = args.out is not None and args.out != "-"
        out = stack.enter_context(Path(args.out).open("w", encoding="utf-8")) if to_file else sys.stdout
        texts = args.text if args.text or args.file else [""]  # images alone
        items: Iterable[Item] = chain(cli_input.from_arguments(texts), cli_input.from_files(args.file))
        if has_extras(args):
            items = cli_input.with_extras(items, response=response, images=[Path(name) for name in args.image])
        for answer in _answers(items, guard, question):
            worst = max(worst, answer.fate.exit_code)
            if args.format == "json":
                # Line by line: what is judged survives an interruption.
                print(answer.to_json(), file=out, flush=True)
            else:
                shown.append(answer)
        if args.format != "json":
            _console(out).print(answers_shown(shown))
    return worst


def _answers(items: Iterable[Item], guard: Guard, question: Question) -> Iterator[Answer]:
    """One after the other, with the time that each took."""
    for item in items:
        try:
            request = question.request(item)
        except GuardError as error:
            yield Answer(item, error=error)
            continue
        start = time.perf_counter()
        try:
            verdict = guard.check_request(request)
        except GuardError as error:
            yield Answer(item, error=error, latency_ms=(time.perf_counter() - start) * 1000)
        else:
            yield Answer(item, verdict=verdict, latency_ms=(time.perf_counter() - start) * 1000)


def _health(args: argparse.Namespace, transport: Transport | None) -> int:
    with _guard(args, None, transport) as guard:
        health = guard.health()
    if args.format == "json":
        print(json.dumps(health.to_dict()))
    else:
        _console(sys.stdout).print(health_table(health))
    return EXIT_ALLOWED if health.healthy else EXIT_SERVER


def _guard(args: argparse.Namespace, policy: Policy | None, transport: Transport | None) -> Guard:
    """Raises InvalidRequest for endpoints, retries and TLS files that make no sense."""
    named = (args.tls_ca, args.tls_cert, args.tls_key, args.tls_server_name)
    secured = args.tls or any(value is not None for value in named)
    return Guard(
        args.url or DEFAULT_URL,
        deadline_s=args.deadline,
        policy=policy,
        policy_name=getattr(args, "policy_name", None),
        tls=Tls(*named) if secured else None,
        retries=Retries(attempts=args.retries + 1),
        transport=transport,
    )


def _console(out: TextIO) -> Console:
    # Markup and emoji off: texts such as "[red]" or ":bomb:" are shown as they are.
    return Console(file=out, markup=False, emoji=False, highlight=False)


def _complain(message: str) -> int:
    print(f"tritonguard: {message}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
