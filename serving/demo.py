"""A real Triton server judges the example requests over gRPC, and a table shows what it said.

    python -m serving.demo --bundle build/bundle

Every example is sent once: prompts, responses, images, policies, categories and reasoning. A server that loses a
process is started again, once, and asked again. Exit code 0 if all but at most two got the expected verdict, 1
otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text
from tritonguard.errors import GuardError, IndeterminateVerdict
from tritonguard.example import Example
from tritonguard.examples import EXAMPLES, NAMED
from tritonguard.guard import Guard
from tritonguard.policy import Policy
from tritonguard.request import GuardRequest
from tritonguard.verdict import Verdict

from serving.demo_table import Row, notes, table
from serving.errors import LaunchError
from serving.launch import ServerSettings, TritonServer
from serving.policy_switches import PolicySwitches
from serving.serve_options import add_bundle

MOST_WRONG = 2
ASKED: tuple[Example, ...] = EXAMPLES + NAMED
POLICIES = Path(__file__).resolve().parent.parent / "policies"
LOST = "a process of the server died; the server is started again, as tritonguard-serve does, and asked again."
_DEADLINE_S = 60.0


def main(argv: Sequence[str] | None = None, *, console: Console | None = None) -> int:
    """Run the demo and return its exit code."""
    args = _parser().parse_args(argv)
    console = console or Console(markup=False, emoji=False, highlight=False)
    with tempfile.TemporaryDirectory(prefix="tritonguard-demo-") as folder:
        settings = ServerSettings(
            bundle=args.bundle,
            log=args.log or Path(folder) / "triton.log",
            policies=PolicySwitches(folder=POLICIES),
        )
        try:
            with console.status("starting Triton and loading the model"):
                server = TritonServer(settings)
                server.start()
            try:
                rows = _judge_all(server, console)
            finally:
                with console.status("stopping Triton"):
                    server.stop()
        except LaunchError as error:
            console.print(Text(f"demo: {error}", style="red"))
            return 1
    console.print(table(rows, width=console.width))
    console.print()
    for note in (*notes(rows), conclusion(rows)):
        console.print(note)
    return 0 if passed(rows) else 1


def _judge_all(server: TritonServer, console: Console) -> list[Row]:
    """Ask everything. Raises LaunchError where a server that lost a process does not come up again."""
    url = server.endpoints.grpc
    console.print(f"Triton is ready at {url} (gRPC); {len(ASKED)} requests, one after the other")
    rows, restarted = list[Row](), False
    with (
        Guard(url, policy=Policy(on_error="raise"), deadline_s=_DEADLINE_S) as guard,
        console.status("moderating"),
    ):
        for example in ASKED:
            row = judge(example, guard.check_request)
            if row.error and not restarted and server.has_lost_a_stage():
                console.print(Text(f"{example.id}: {LOST}{server.tail()}", style="yellow"))
                server.restart()
                restarted = True
                row = judge(example, guard.check_request)
            rows.append(row)
    return rows


def judge(example: Example, check: Callable[[GuardRequest], Verdict]) -> Row:
    """Send one example, once. An error is shown as what it is, whatever the policy's `on_error`."""
    request = example.request(deadline_s=_DEADLINE_S, on_error="raise")
    start = time.perf_counter()
    verdict: Verdict | None = None
    failure: GuardError | None = None
    try:
        verdict = check(request)
    except IndeterminateVerdict as error:
        # The server answered: what it said is to be shown, whether or not it was to be indeterminate.
        verdict, failure = error.verdict, error
    except GuardError as error:
        failure = error
    return Row(example, (time.perf_counter() - start) * 1000, verdict, failure)


def passed(rows: Sequence[Row]) -> bool:
    """True where all examples were asked and at most `MOST_WRONG` got another verdict than expected."""
    wrong = sum(not row.as_expected for row in rows)
    return len(rows) == len(ASKED) and wrong <= MOST_WRONG


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.demo",
        description="Start a real Triton server on free ports and let it judge the example requests.",
        epilog=f"Exit code 0 if all but at most {MOST_WRONG} verdicts are the expected ones, 1 otherwise.",
    )
    add_bundle(parser)
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the server's log in FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
