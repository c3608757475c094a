"""`tritonguard policy`: look at policy files before a server does. Nothing here asks a server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tritonguard.cli_output import printable
from tritonguard.errors import InvalidRequest
from tritonguard.policy import Policy
from tritonguard.policy_lint import lint
from tritonguard.policy_parts import PolicyPart, parts_of
from tritonguard.policy_schema import schema_text

EXIT_FINE, EXIT_WARNED, EXIT_BROKEN = 0, 1, 2

_EPILOG = """\
examples:
  tritonguard policy lint policies/*.yaml
  tritonguard policy show policies/kids-education.yaml
  tritonguard policy render policies/finance.yaml | less
  tritonguard policy hash policies/*.yaml
  tritonguard policy schema > policy.schema.json

exit codes (the highest that applies):
  0  every file is a policy; lint may have warned
  1  lint --strict has warned
  2  usage, or a file that is no policy or cannot be read; the other files are still looked at
"""
_RENDER = """\
Print exactly the text that the checkpoint's chat template gets, as its argument custom_policy (Mode A) or
custom_taxonomy (Mode B); which one, and the parts that need no text, are told on standard error. The whole
prompt is made of it and the bundle's chat template, on the server.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `policy` with its own commands."""
    looks: dict[str, Any] = {"epilog": _EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
    policy = commands.add_parser("policy", help="check and show policy files", description=__doc__, **looks)
    kinds = policy.add_subparsers(dest="policy_command", required=True, metavar="COMMAND")
    told = "find errors, and what is seldom meant"
    checker = kinds.add_parser("lint", help=told, description=f"For each file: {told}.", **looks)
    checker.add_argument("--strict", action="store_true", help="end with 1 where there are warnings")
    checker.add_argument("files", nargs="+", metavar="FILE")
    told = "show what will be judged"
    kinds.add_parser("show", help=told, description=f"For one file: {told}.", **looks).add_argument(
        "file", metavar="FILE"
    )
    told = "print the SHA-256 that the verdicts' records hold"
    kinds.add_parser("hash", help=told, description=f"For each file: {told}.", **looks).add_argument(
        "files", nargs="+", metavar="FILE"
    )
    kinds.add_parser("render", help="print the text that the model gets", description=_RENDER, **looks).add_argument(
        "file", metavar="FILE"
    )
    kinds.add_parser("schema", help="print the JSON schema for editors", description="JSON Schema 2020-12.", **looks)


def run(args: argparse.Namespace, console: Console) -> int:
    """Run one of the commands and return its exit code. console: where tables go."""
    match args.policy_command:
        case "lint":
            return max(_lint(name, strict=args.strict) for name in args.files)
        case "hash":
            return max(_each(name, _hash) for name in args.files)
        case "render":
            return _each(args.file, _render)
        case "show":
            return _each(args.file, lambda name, policy: _show(policy, console))
        case _:
            sys.stdout.write(schema_text())
            return EXIT_FINE


def _lint(name: str, *, strict: bool) -> int:
    shown = printable(name)
    try:
        text = Path(name).read_bytes()
    except OSError as error:
        return _complain(name, error.strerror or "cannot be read")
    policy, findings = lint(text, stem=Path(name).stem)
    for finding in findings:
        print(f"{shown}:{finding.line}: {finding.severity}: {finding.message} [{finding.code}]")
    if policy is None:
        return EXIT_BROKEN
    if not findings:
        print(f"{shown}: ok")
    return EXIT_WARNED if findings and strict else EXIT_FINE


def _each(name: str, then: Callable[[str, Policy], None]) -> int:
    try:
        then(name, Policy.from_yaml(Path(name)))
    except InvalidRequest as error:
        return _complain(name, str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _complain(name, error.strerror or "cannot be read")
    return EXIT_FINE


def _complain(name: str, message: str) -> int:
    print(f"tritonguard: {printable(name)}: {message}", file=sys.stderr)
    return EXIT_BROKEN


def _hash(name: str, policy: Policy) -> None:
    print(f"{policy.sha256}  {printable(name)}")


def _render(name: str, policy: Policy) -> None:
    for part in parts_of(policy):
        argument, text = _argument(part)
        print(f"part {part.name}: {argument}", file=sys.stderr)
        if text is not None:
            # Without a line break of its own: piped, it is the exact text.
            sys.stdout.write(text if text.endswith("\n") or not sys.stdout.isatty() else f"{text}\n")


def _argument(part: PolicyPart) -> tuple[str, str | None]:
    """The template's argument of a part, and its text; None where the template's own taxonomy is asked."""
    if part.custom_policy is not None:
        return "custom_policy", part.custom_policy
    if part.custom_taxonomy is not None:
        return "custom_taxonomy", part.custom_taxonomy
    return "no argument, the template's own categories", None


def _show(policy: Policy, console: Console) -> None:
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(policy):
        facts.add_row(name, Text(printable(value), overflow="fold"))
    parts = Table("part", "argument", title="what is judged")
    parts.add_column("categories", overflow="fold")
    for column in ("user", "response", "margin"):
        parts.add_column(column, no_wrap=True, justify="right")
    for part in parts_of(policy):
        limits = part.policy.thresholds
        names = "free text" if part.names is None else printable(", ".join(part.names))
        argument = "none" if part.names and part.custom_taxonomy is None else _argument(part)[0]
        numbers = (f"{value:g}" for value in (limits.user, limits.response, limits.review_margin))
        parts.add_row(part.name, argument, Text(names), *numbers)
    console.print(facts)
    console.print(parts)


def _facts(policy: Policy) -> Iterator[tuple[str, str]]:
    yield "policy", f"{policy.name} {policy.version}"
    yield "sha256", policy.sha256
    yield "on_error", policy.on_error
    if policy.cache is not None:
        yield "cache", f"answers kept for {policy.cache.ttl_s} s"
    lists: Sequence[tuple[str, Sequence[str]]] = (
        ("suppressed", policy.suppress),
        ("injected", [category.name for category in policy.inject]),
        ("allowed", policy.allow_list),
    )
    for name, values in lists:
        if values:
            yield name, ", ".join(values)
