"""A running server under everything that may happen to it.

    python -m benchmarks.chaos --bundle build/bundle

bad       every kind of bad request, generated: the error that the table names, no insides of the server in it, and
          the next good request is judged right
kill      SIGKILL of a stage's process under load: nobody gets a verdict that was not computed, health fails within
          10 s, the service is back within 60 s
term      SIGTERM of one of two servers under load: no request is lost
deadline  1 ms, half of a forward, the middle of a reasoning, and behind one: refused on time, the engine free in 1 s
overload  four times the capacity: at least 90 % of it is still judged in time, the rest is refused and typed

Every text that is sent holds one mark. At the end it must be nowhere: not in a log, on the metrics page, in an error,
on a command line, nor in a file or shared memory that servers left. The last line counts everything and what fell
short; exit 1 where anything did.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks.chaos.bad_requests import run_bad_requests
from benchmarks.chaos.deadlines import run_deadlines
from benchmarks.chaos.kills import run_kills
from benchmarks.chaos.marks import Marks, marks_problems
from benchmarks.chaos.overload import run_overload
from benchmarks.chaos.report import Part, exit_code, last_line, say
from benchmarks.chaos.server import Run, served, wired
from benchmarks.chaos.terminations import run_terminations
from benchmarks.chaos.texts import new_mark
from serving.errors import LaunchError

SHARED_MEMORY = Path("/dev/shm")  # nosec B108  # only looked at
PARTS = ("bad", "deadline", "overload", "kill", "term")


def chosen(text: str) -> tuple[str, ...]:
    """The argument of --only. Raises ArgumentTypeError for an unknown name."""
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(PARTS))
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}: not of {', '.join(PARTS)}")
    return tuple(name for name in PARTS if name in names)


def timed(name: str, measure: Callable[[], Part]) -> Part:
    """A part with its time; one that breaks off has fallen short."""
    began = time.monotonic()
    try:
        part = measure()
    except (LaunchError, RuntimeError, OSError) as error:
        part = Part(name, short=[f"broke off: {error}"])
    part.seconds = time.monotonic() - began
    print(part, flush=True)
    return part


def on_one_server(run: Run, names: tuple[str, ...]) -> list[Part]:
    """The parts that leave a server as it was."""
    with served(run, "triton") as server, wired(server) as wire:
        measures: dict[str, Callable[[], Part]] = {
            "bad": lambda: run_bad_requests(run, wire.send),
            "deadline": lambda: run_deadlines(run, wire.send),
            "overload": lambda: run_overload(run, server.endpoints.grpc, run.judge_at_rest(wire.send)),
        }
        return [timed(name, measures[name]) for name in names if name in measures]


def searched(run: Run, *, errors: bool) -> Part:
    """The part `marks`, once every server has ended. errors: some must have come."""
    part, marks = Part("marks"), run.marks
    for log in sorted(run.folder.glob("*.log")) + sorted(run.folder.glob("serve.std*")):
        marks.look("logs", log.read_bytes())
    marks.look_in_folder("policies folder", run.policies)
    marks.look_in_folder("files left", run.folder / "temporary")
    for region in sorted(SHARED_MEMORY.glob("triton*")):
        # What a killed process leaves there stays until the machine is started anew.
        with suppress(OSError):
            marks.look("shared memory left", region.read_bytes())
    part.counts["found"] = sum(marks.found.values())
    part.figures["searched"] = ", ".join(f"{what} {count} bytes" for what, count in sorted(marks.searched.items()))
    part.short += marks_problems(marks, errors=errors)
    return part


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument("--only", type=chosen, default=PARTS, metavar="PART,PART", help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (%(default)s)")
    parser.add_argument("--short", action="store_true", help="fewer and shorter tries")
    args = parser.parse_args(argv)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tritonguard-chaos-")))
        # The mark is new each time: a trace of an earlier run is none of this one.
        run = Run(args.bundle, folder, args.seed, args.short, Marks(new_mark(random.Random())))
        run.prepare()
        # For this process and its servers: what they leave in their temporary folder is then found.
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "temporary")
        stack.callback(setattr, tempfile, "tempdir", None)
        say(f"chaos: {', '.join(args.only)}, seed {args.seed}")
        parts: list[Part] = []
        on_one = tuple(name for name in args.only if name in ("bad", "deadline", "overload"))
        if on_one:
            parts += on_one_server(run, on_one)
        if "kill" in args.only:
            parts.append(timed("kill", lambda: run_kills(run)))
        if "term" in args.only:
            parts.append(timed("term", lambda: run_terminations(run)))
        parts.append(timed("marks", lambda: searched(run, errors="bad" in args.only)))
    print(last_line(parts))
    return exit_code(parts)


if __name__ == "__main__":
    sys.exit(main())
