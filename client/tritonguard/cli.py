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
from tritonguard.cli_input import Item
from tritonguard.cli_output import (
    EXIT_ALLOWED,
    EXIT_SERVER,
    EXIT_USAGE,
    Answer,
    answers_shown,
    health_table,
    progress,
)
from tritonguard.errors import GuardError
from tritonguard.guard import DEFAULT_URL, Guard
from tritonguard.policy import Policy
from tritonguard.request import DEFAULT_DEADLINE_S, Mode
from tritonguard.transport import Transport
from tritonguard.verdict import Verdict

_EXAMPLES = """\
examples:
  tritonguard check "How do I bake bread?"
  tritonguard check --file letter.txt --file reply.txt --format json
  tritonguard check --jsonl prompts.jsonl --format json --out verdicts.jsonl
  producer | tritonguard check --jsonl - --format json | consumer
  tritonguard check --policy-name kids-education "How do I bake bread?"
  tritonguard check "How do I bake bread?" --response "First, mix flour and water." --mode categories
  tritonguard check "What is on this picture?" --image loaf.png
  tritonguard health --url 127.0.0.1:8001
  tritonguard policy lint policies/*.yaml

rows of --jsonl:
  {"prompt": "...", "id": "optional", "response": "optional, the assistant's text",
   "images": ["optional, files beside the JSONL file"], "mode": "categories", "policy_name": "kids-education",
   "think_budget": 64}
  a row's mode, budget and policy_name go before those of the command line

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
        if args.command == "policy":
            return cli_policy.run(args, _console(sys.stdout))
        _refuse_wrong_usage(parser, args)
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
    response = check.add_mutually_exclusive_group()
    response.add_argument("--response", metavar="TEXT", help="the assistant's answer to the one text")
    response.add_argument("--response-file", metavar="F", help="the same in a file, - for stdin")
    check.add_argument(
        "--image", action="append", default=[], metavar="F", help="an image of the one text, or alone; never an address"
    )
    check.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        default=Mode.VERDICT.value,
        help="what is asked for (%(default)s)",
    )
    check.add_argument("--think-budget", type=int, metavar="N", help="most tokens of reasoning, for --mode think")
    policy = check.add_mutually_exclusive_group()
    policy.add_argument("--policy", metavar="F", help="a policy in YAML (the built-in one)")
    policy.add_argument("--policy-name", metavar="NAME", help="a policy that lives on the server")
    check.add_argument("--out", metavar="F", help="write the answers there instead of stdout")
    commands.add_parser(
        "health",
        parents=[shared],
        help="ask for two real verdicts",
        description="Whether the server can judge: two example texts must get the right verdicts.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli_policy.add_parser(commands)
    return parser


def _refuse_wrong_usage(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raises SystemExit(2) for arguments that do not go together."""
    texts = len(args.text) + len(args.file)
    if not (texts or args.jsonl or args.image):
        parser.error("nothing to check: give TEXT, --file, --jsonl or --image")
    if [*args.file, args.jsonl, args.response_file].count("-") > 1:
        parser.error("standard input can be read once")
    if _has_extras(args) and (args.jsonl or texts > 1):
        parser.error("--response, --response-file and --image belong to one text; rows of --jsonl have their own")
    if args.think_budget is not None and args.mode != Mode.THINK.value and not args.jsonl:
        parser.error("--think-budget needs --mode think")


def _has_extras(args: argparse.Namespace) -> bool:
    return bool(args.image) or args.response is not None or args.response_file is not None


def _check(args: argparse.Namespace, transport: Transport | None) -> int:
    policy = Policy.from_yaml(Path(args.policy)) if args.policy else None
    worst = EXIT_ALLOWED
    rows: list[Answer] = []
    errors = Console(stderr=True)
    with ExitStack() as stack:
        # Everything that can be wrong about the call is opened before the first text is judged.
        total = cli_input.count_rows(args.jsonl) if args.jsonl else 0
        jsonl: Iterable[Item] = ()
        if args.jsonl:
            stream = stack.enter_context(cli_input.opened(args.jsonl))
            jsonl = cli_input.from_jsonl(stream, folder=Path(args.jsonl).parent)  # of "-": where we are
        response = args.response if args.response_file is None else cli_input.read_response(args.response_file)
        guard = stack.enter_context(_guard(args, policy, transport))
        out = stack.enter_context(Path(args.out).open("w", encoding="utf-8")) if args.out else sys.stdout
        texts = args.text if args.text or args.file or args.jsonl else [""]  # images alone
        items: Iterable[Item] = chain(cli_input.from_arguments(texts), cli_input.from_files(args.file), jsonl)
        if _has_extras(args):
            items = cli_input.with_extras(items, response=response, images=[Path(name) for name in args.image])
        known = None if total is None else total + len(texts) + len(args.file)
        shown = bool(args.jsonl) and errors.is_terminal
        taken = stack.enter_context(progress(items, total=known, console=errors, shown=shown))
        for answer in _answers(taken, guard, args):
            worst = max(worst, answer.exit_code)
            if args.format == "json":
                # Line by line: what is judged survives an interruption.
                print(answer.to_json(), file=out, flush=True)
            else:
                rows.append(answer)
        if args.format == "table":
            _console(out).print(answers_shown(rows))
    return worst


def _guard(args: argparse.Namespace, policy: Policy | None, transport: Transport | None) -> Guard:
    return Guard(args.url, deadline_s=args.deadline, policy=policy, policy_name=args.policy_name, transport=transport)


def _answers(items: Iterator[Item], guard: Guard, args: argparse.Namespace) -> Iterator[Answer]:
    for item in items:
        if item.prompt is None:
            yield Answer(item, error=item.error)
            continue
        start = time.perf_counter()
        try:
            verdict = _ask(guard, item, args)
        except GuardError as error:
            yield Answer(item, error=error, latency_ms=(time.perf_counter() - start) * 1000)
        else:
            yield Answer(item, verdict=verdict, latency_ms=(time.perf_counter() - start) * 1000)


def _ask(guard: Guard, item: Item, args: argparse.Namespace) -> Verdict:
    mode = args.mode if item.mode is None else item.mode
    budget = args.think_budget if mode == Mode.THINK.value else None
    return guard.check(
        item.prompt or "",
        response=item.response,
        images=cli_input.read_images(item),
        policy_name=item.policy_name,
        mode=mode,
        think_budget=budget if item.think_budget is None else item.think_budget,
    )


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
