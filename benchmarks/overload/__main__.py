"""Three times the capacity for five minutes: what is still judged, how refusals come, and how the server comes back.

    python -m benchmarks.overload --bundle build/bundle --minutes 5 --out build/overload

A server is started, its capacity measured by callers that wait for their answers, and p99 at 0.8 times that. Every
request has a deadline of 1.6 times this p99, or of 1.1 times and a second where that is less: what can't be judged by
then is to be refused at once. Then, in one open loop (Poisson, latency from the intended time of sending): 0.8 times
the capacity, three times, and 0.8 times again, without a pause.

Bars: at least 90 % of the capacity judged right and in time; p99 of admitted requests within twice the p99 of before,
when at most 1 % may be refused; 95 % of refusals within 50 ms; memory that does not grow; served as before 5 s after
the overload; every request answered once, with a right verdict or a typed refusal. Exit 1 where one is missed, 2 where
it could not be measured.

The callers share the machine with the server, as a proxy beside it would; their share of a core is told.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc.aio
from tritonguard.errors import GuardError

from benchmarks.chaos.report import say
from benchmarks.chaos.server import ROOT
from benchmarks.chaos.texts import Known, at_rest, new_mark
from benchmarks.chaos.wire import CHANNEL_OPTIONS, INFER, Wire
from benchmarks.overload.calls import CONCURRENCY, Caller, flood, measure_capacity
from benchmarks.overload.judgement import Found, Phase, deadline_for, found, latency, phases, schedule
from benchmarks.overload.report import document, plots, values
from benchmarks.report import origin, write_json
from benchmarks.soak_memory import Sample, Sampler, measure, plot
from engines.bundle import Bundle
from serving.errors import LaunchError
from serving.launch import DEFAULT_QUEUE, ServerSettings, TritonServer
from serving.policy_switches import PolicySwitches

TIMES, CALM_S, CAPACITY_S, WARM_UP_S = 3.0, 60.0, 30.0, 10.0
SAMPLE_EVERY_S = 5.0


async def drive(
    url: str, known: Sequence[Known], run: tuple[Phase, Phase, Phase], args: argparse.Namespace
) -> tuple[Found, list[Sample]]:
    """Warm up, measure the capacity, then all phases; and the memory of all processes under this one, from the first of
    them on. Raises RuntimeError where no capacity was found."""
    async with grpc.aio.insecure_channel(url, options=CHANNEL_OPTIONS) as channel:
        caller = Caller(channel.unary_unary(INFER), known)
        await measure_capacity(caller, WARM_UP_S, concurrency=args.concurrency)
        capacity, words = await measure_capacity(caller, args.capacity_seconds, concurrency=args.concurrency)
        say(f"overload: capacity {capacity:.2f} right verdicts/s, {args.concurrency} callers ({dict(words)})")
        if capacity <= 0:
            raise RuntimeError("no verdict came while the capacity was measured")
        caller.deadline_s = args.deadline or await calm_deadline(caller, capacity, run[0], seed=args.seed)
        say(f"overload: deadline {caller.deadline_s:.1f} s")
        moments = schedule(run, capacity, seed=args.seed)
        epoch, cpu = time.monotonic(), time.process_time()
        with Sampler(lambda: measure(os.getpid(), epoch), every_s=SAMPLE_EVERY_S) as sampler:
            sent, answers = await flood(caller, moments, epoch=epoch, say=say)
        core_share = (time.process_time() - cpu) / (time.monotonic() - epoch)
    lost = sum(len(answers.get(request_id, ())) != 1 for request_id in sent)
    every = [one for came in answers.values() for one in came]
    result = found(run, every, sampler.samples, capacity=capacity, lost=lost, core_share=core_share)
    return result, sampler.samples


async def calm_deadline(caller: Caller, capacity: float, calm: Phase, *, seed: int) -> float:
    """Seconds: `deadline_for` the p99 of verdicts in a phase like that, whose requests come as they will come in it.
    Raises RuntimeError where no verdict came."""
    moments = schedule([calm], capacity, seed=seed)
    _, answers = await flood(caller, moments, say=say)
    p99_ms = latency([one for came in answers.values() for one in came], "right").p99
    if p99_ms is None:
        raise RuntimeError("no verdict came at 0.8 times the capacity")
    return deadline_for(p99_ms / 1e3)


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument("--minutes", type=float, default=5.0, help="of overload (%(default)s)")
    parser.add_argument("--times", type=float, default=TIMES, help="the capacity (%(default)s)")
    parser.add_argument("--calm-seconds", type=float, default=CALM_S, help="before and after (%(default)s)")
    parser.add_argument("--capacity-seconds", type=float, default=CAPACITY_S, help="(%(default)s)")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY, help="callers of the capacity (%(default)s)")
    parser.add_argument("--deadline", type=float, help="of every request, s (by the p99 at 0.8 times the capacity)")
    parser.add_argument("--queue", type=int, default=DEFAULT_QUEUE, help="most waiting requests (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of sending (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for JSON, Markdown and plots")
    args = parser.parse_args(arguments)
    if (
        min(args.minutes, args.times, args.calm_seconds, args.capacity_seconds, args.deadline or 1) <= 0
        or args.concurrency < 1
    ):
        parser.error("durations, --times and --concurrency must be positive")
    run = phases(calm_s=args.calm_seconds, overload_s=60 * args.minutes, times=args.times)
    try:
        bundle = Bundle.open(args.bundle)
        with tempfile.TemporaryDirectory(prefix="tritonguard-overload-") as folder:
            settings = ServerSettings(
                bundle=args.bundle,
                log=Path(folder) / "triton.log",
                policies=PolicySwitches(folder=ROOT / "policies"),
                queue=args.queue,
            )
            with TritonServer(settings) as server, Wire(server.endpoints.grpc) as wire:
                known = at_rest(wire.send, new_mark(random.Random()))
                result, samples = asyncio.run(drive(server.endpoints.grpc, known, run, args))
    except (GuardError, LaunchError, RuntimeError) as error:
        print(f"overload: {error}", file=sys.stderr)
        return 2
    facts = origin("benchmarks.overload", arguments, precision=bundle.precision, revision=bundle.revision) | {
        "queue, deadline": f"{args.queue} requests, {max(one.deadline_s for one in result.answers):.1f} s",
    }
    drawn = {**plots(run, result.answers), "overload-memory.svg": plot(samples, result.memory.line)}
    told = document(result, facts, list(drawn) if args.out else [])
    print(told)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "overload.md").write_text(told + "\n", encoding="utf-8")
        write_json(args.out / "overload.json", {**values(result, facts), "samples": samples})
        for name, drawing in drawn.items():
            (args.out / name).write_text(drawing, encoding="utf-8")
    return 0 if all(bar.met for bar in result.bars()) else 1


if __name__ == "__main__":
    sys.exit(main())
