"""The arguments of the `tritonguard` command, and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tritonguard import cli_policy
from tritonguard.guard import DEFAULT_URL
from tritonguard.request import DEFAULT_DEADLINE_S, Mode
from tritonguard.retries import Retries

DEFAULT_CONCURRENCY = 8

_EXAMPLES = """\
examples:
  tritonguard check "How do I bake bread?"
  tritonguard check --file letter.txt --file reply.txt --format json
  producer | tritonguard check --in - --format json | consumer
  tritonguard check --policy-name kids-education "How do I bake bread?"
  tritonguard check "How do I bake bread?" --response "First, mix flour and water." --mode categories
  tritonguard check "What is on this picture?" --image loaf.png
  tritonguard health --url 127.0.0.1:8001
  tritonguard health --url guard.example:443 --tls-ca ca.pem
  tritonguard policy lint policies/*.yaml

many rows, and going on after an interruption:
  tritonguard check --in rows.jsonl --out verdicts.jsonl --concurrency 16
    writes one line per row, in order. Interrupted (Ctrl-C, kill, power loss, full disk)? Give the same command
    again: whole lines are kept, a torn one is cut, the rest is judged. No row is lost or doubled.
  tritonguard check --in rows.jsonl --out verdicts.jsonl --retry-errors
    judges again the rows that the server's side failed, and puts the new file in the place of the old one
  tritonguard check --in rows.jsonl --out verdicts.jsonl --restart
    begins anew. Without it an output of other rows, another policy or another mode is refused, not overwritten.

rows of --in (--jsonl is its older name):
  {"prompt": "...", "id": "optional", "response": "optional, the assistant's text",
   "images": ["optional, files beside the JSONL file"], "mode": "categories", "policy_name": "kids-education",
   "think_budget": 64}
  a row's mode, budget and policy_name go before those of the command line

lines of its answers:
  {"row": 1, "row_sha256": "...", "question": "...", "id": "...", "label": {}, "outcome": {}, "record": {}}
  or "error": {"kind", "field", "message"} in the place of the last three. row counts the rows that are not blank;
  row_sha256 is of the row's bytes; question is of the policy, mode and think budget of the command line

exit codes (the highest that applies, over all rows of the output):
  0  everything is allowed, or the server is healthy
  1  something is blocked or needs a review
  2  usage, an output that is in the way, or an input that cannot be judged; other inputs are still answered
  3  the server is unavailable, overloaded, late, faulty or unhealthy
  130 after Ctrl-C
"""


def parser() -> argparse.ArgumentParser:
    """The whole command's."""
    looks: dict[str, Any] = {"epilog": _EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(
        prog="tritonguard", description="Ask a tritonguard server whether texts are safe.", **looks
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = _shared()
    check = commands.add_parser(
        "check",
        parents=[shared],
        help="judge texts",
        description="Judge texts: arguments, whole files, rows of JSONL.",
        **looks,
    )
    check.add_argument("text", nargs="*", metavar="TEXT", help="a text of a user")
    check.add_argument("--file", action="append", default=[], metavar="F", help="one text, - for stdin")
    check.add_argument("--in", "--jsonl", dest="rows", metavar="F", help="rows of JSONL, - for stdin")
    check.add_argument("--out", metavar="F", help="write the answers there, - for stdout; with --in, go on there")
    check.add_argument("--concurrency", type=int, metavar="N", help=f"rows under way ({DEFAULT_CONCURRENCY})")
    anew = check.add_mutually_exclusive_group()
    anew.add_argument("--retry-errors", action="store_true", help="judge again what the server's side failed")
    anew.add_argument("--restart", action="store_true", help="discard the output that is there")
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
    commands.add_parser(
        "health",
        parents=[shared],
        help="ask for two real verdicts",
        description="Whether the server can judge: two example texts must get the right verdicts.",
        **looks,
    )
    cli_policy.add_parser(commands)
    return parser


def _shared() -> argparse.ArgumentParser:
    """Of every command that asks a server."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--url", action="append", metavar="HOST:PORT", help=f"the gRPC endpoint ({DEFAULT_URL}); again for more of them"
    )
    shared.add_argument(
        "--deadline",
        type=float,
        default=DEFAULT_DEADLINE_S,
        metavar="SECONDS",
        help="for each text (%(default)s)",
    )
    shared.add_argument(
        "--retries",
        type=int,
        default=Retries().attempts - 1,
        metavar="N",
        help="how often an unavailable server is asked again (%(default)s)",
    )
    shared.add_argument("--tls", action="store_true", help="TLS; so does each of the next four")
    shared.add_argument("--tls-ca", type=Path, metavar="F", help="authorities that may vouch for the server, in PEM")
    shared.add_argument("--tls-cert", type=Path, metavar="F", help="the client's own certificate, in PEM")
    shared.add_argument("--tls-key", type=Path, metavar="F", help="its key")
    shared.add_argument("--tls-server-name", metavar="NAME", help="the name in the server's certificate")
    shared.add_argument(
        "--format", choices=("table", "json"), help="(table; json where rows of --in go to a file of --out)"
    )
    return shared


def refuse_wrong_usage(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raises SystemExit(2) for arguments of `check` that do not go together."""
    texts = len(args.text) + len(args.file)
    if not (texts or args.rows or args.image):
        parser.error("nothing to check: give TEXT, --file, --in or --image")
    if [*args.file, args.rows, args.response_file].count("-") > 1:
        parser.error("standard input can be read once")
    if args.rows and texts:
        parser.error("TEXT and --file are judged apart from the rows of --in")
    if has_extras(args) and (args.rows or texts > 1):
        parser.error("--response, --response-file and --image belong to one text; rows of --in have their own")
    if args.think_budget is not None and args.mode != Mode.THINK.value and not args.rows:
        parser.error("--think-budget needs --mode think")
    if args.concurrency is not None and not (args.rows and args.concurrency >= 1):
        parser.error("--concurrency is a number from 1 on, for rows of --in")
    if (args.retry_errors or args.restart) and not (args.rows and goes_to_plain_file(args)):
        parser.error("--retry-errors and --restart need rows of --in and a file of --out")
    if args.rows and args.format == "table" and goes_to_plain_file(args):
        parser.error("rows of --in go to a file of --out as JSON lines, not as a table")


def has_extras(args: argparse.Namespace) -> bool:
    """Whether the one text has a response or images."""
    return bool(args.image) or args.response is not None or args.response_file is not None


def goes_to_plain_file(args: argparse.Namespace) -> bool:
    """Whether the answers go where a later run can read them: not to a stream or a device."""
    if args.out is None or args.out == "-":
        return False
    out = Path(args.out)
    return out.is_file() or not out.exists()
