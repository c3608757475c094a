"""Hours of mixed load: does the server's memory grow, and does anything go wrong?

    python -m benchmarks.soak --bundle build/bundle --minutes 60 --concurrency 4

Every mode, replies, policies (each caller's own and named ones), images and some bad requests, as `soak_load` weighs
them. The PSS of all server processes is summed every ten seconds; without the warm-up (the first tenth, at least two
minutes of a run of twenty or more) a line is fitted through it. Bars: its slope is below 1 MB a minute, and no answer
is unexpected. Exit 1 where one is missed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tritonguard import Guard

from benchmarks.chaos.report import say
from benchmarks.chaos.server import ROOT
from benchmarks.chaos.wire import Wire
from benchmarks.report import Bar, markdown, write_json
from benchmarks.soak_load import Asker, Counts, ask_until
from benchmarks.soak_memory import Sample, Sampler, Slope, after_warm_up, fit, measure, plot, warm_up_minutes
from engines.local.runtime import cpu_name
from serving.launch import ServerSettings, TritonServer
from serving.policy_switches import PolicySwitches

MOST_SLOPE = 1.0
_SAY_EVERY_S = 60.0


def bars(line: Slope, counts: Counts) -> list[Bar]:
    """What the run must reach."""
    return [
        # Just below: the bar is "less than", and NaN (too short a run) meets nothing.
        Bar("memory, MB a minute", line.slope, most=MOST_SLOPE - 1e-9),
        Bar("unexpected answers", sum(counts.unexpected.values()), most=0),
        Bar("answers", sum(counts.asked.values()), least=1),
    ]


def tables(samples: Sequence[Sample], line: Slope, counts: Counts, minutes: float) -> str:
    """The run in Markdown: what was asked, and memory."""
    asked = [(what, count, f"{1e3 * counts.seconds[what] / count:.0f}") for what, count in sorted(counts.asked.items())]
    counted = after_warm_up(samples, minutes)
    sizes = [one.megabytes for one in counted] or [float("nan")]
    memory = [
        ("samples behind the warm-up", line.samples),
        ("warm-up, minutes", warm_up_minutes(minutes)),
        ("first MB", sizes[0]),
        ("last MB", sizes[-1]),
        ("most MB", max(sizes)),
        ("slope, MB a minute", line.slope),
        ("its standard error", line.error),
    ]
    wrong = [(what, count) for what, count in sorted(counts.unexpected.items())]
    parts = [markdown(("asked", "requests", "mean ms"), asked), markdown(("memory (PSS)", "value"), memory)]
    if wrong:
        parts.append(markdown(("unexpected", "times"), wrong))
    return "\n\n".join(parts)


def result(args: argparse.Namespace, samples: Sequence[Sample], line: Slope, counts: Counts) -> dict[str, Any]:
    """The run as JSON."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "minutes": args.minutes,
        "concurrency": args.concurrency,
        "seed": args.seed,
        "asked": dict(counts.asked),
        "unexpected": dict(counts.unexpected),
        "slope_mb_per_minute": line,
        "warm_up_minutes": warm_up_minutes(args.minutes),
        "samples": list(samples),
        "bars": bars(line, counts),
    }


def soak(args: argparse.Namespace, folder: Path) -> tuple[list[Sample], Counts]:
    """Serve and ask for as long as `args` says; memory over time, and what was answered."""
    settings = ServerSettings(
        bundle=args.bundle,
        log=folder / "triton.log",
        policies=PolicySwitches(folder=ROOT / "policies"),
    )
    counts = Counts()
    with (
        TritonServer(settings) as server,
        Wire(server.endpoints.grpc, server.endpoints.http) as wire,
        Guard(server.endpoints.grpc) as guard,
    ):
        began = time.monotonic()
        end = began + 60 * args.minutes
        askers = [
            Asker(guard, wire, random.Random(f"{args.seed} {number}"), counts) for number in range(args.concurrency)
        ]
        # Only the server is under this process; its own memory is not in the sum.
        with Sampler(lambda: measure(os.getpid(), began)) as sampler:
            threads = ask_until(lambda: time.monotonic() >= end, askers)
            follow(began, end, sampler, counts)
            for thread in threads:
                thread.join()
    return sampler.samples, counts


def follow(began: float, end: float, sampler: Sampler, counts: Counts) -> None:
    """A line a minute until the end."""
    while (now := time.monotonic()) < end:
        time.sleep(min(_SAY_EVERY_S, end - now))
        last = sampler.samples[-1] if sampler.samples else Sample(0.0, 0.0, 0)
        asked, wrong = sum(counts.asked.values()), sum(counts.unexpected.values())
        minutes = (time.monotonic() - began) / 60
        say(f"soak: minute {minutes:.0f}, {asked} answers, {wrong} unexpected, {last.megabytes:.0f} MB")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument("--minutes", type=float, default=60.0, help="of load (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=4, help="callers at a time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is asked (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, and a plot beside them as SVG")
    args = parser.parse_args(argv)
    if args.minutes <= 0 or args.concurrency < 1:
        parser.error("--minutes and --concurrency must be positive")
    with tempfile.TemporaryDirectory(prefix="tritonguard-soak-") as folder:
        samples, counts = soak(args, Path(folder))
    line = fit(after_warm_up(samples, args.minutes))
    print(tables(samples, line, counts, args.minutes))
    if args.out:
        write_json(args.out, result(args, samples, line, counts))
        args.out.with_suffix(".svg").write_text(plot(samples, line), encoding="utf-8")
    reached = bars(line, counts)
    error = f"{line.slope:+.3f} +- {line.error:.3f} MB/minute"
    print(f"soak: {args.minutes:g} minutes, {error}; {'; '.join(str(bar) for bar in reached)}")
    return 0 if all(bar.met for bar in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
