"""What the package adds: the bare forward against client, Triton and all stages, in one run on one machine.

    python -m benchmarks.path --bundle build/bundle
    python -m benchmarks.path --bundle build/bundle --concurrencies 1 --requests 16 --rounds 4 --out build/path

Each round asks the same requests both ways, in turn, the other way first in every second round, so that a noisy machine
disturbs both alike. `bare` is the engine behind its scheduler in a process of its own, tokens at hand and the prefix
cached; `served` is the client over gRPC. At concurrency 1 the medians of the latency are compared, above it the
throughput. Then where the time of a served request went: by the client's clock, Triton's statistics and the verdicts'
records, and the CPU time of each process.

For an idle machine: where sessions share the CPU (Linux's autogroup) a server has one of its own, and beside other work
gets another share than this process. `setsid -w` in front of the command makes both alike; the load is in the result.

The requests are those of a workload of `benchmarks.latency`, mode verdict under the built-in policy. Exit status: 0
every bar met, 1 one missed, 2 it could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from tritonguard.errors import GuardError, InvalidRequest
from tritonguard.policy import Policy
from tritonguard.request import GuardRequest, Mode

from benchmarks.latency.arguments import callers
from benchmarks.latency.mix import Mix, Planned
from benchmarks.latency.stages import Statistics, between
from benchmarks.latency.texts import Texts
from benchmarks.latency.workload import FOLDER, read_workload
from benchmarks.path.bare import Bare, Run
from benchmarks.path.clocked import Served
from benchmarks.path.figures import Added, Way
from benchmarks.path.report import Result, document, tables
from benchmarks.report import this_machine, write_json
from build_scripts.calibration import SHIPPED
from build_scripts.parity_corpus import CorpusError, read_corpus
from engines.bundle import Bundle
from serving.errors import LaunchError
from serving.launch import ServerSettings, TritonServer

MET, MISSED, REFUSED = 0, 1, 2
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Extent:
    """concurrencies: one after the other. requests: of a round, of each way, a caller of its own for each at most.
    rounds: at each concurrency."""

    concurrencies: tuple[int, ...]
    requests: int
    rounds: int


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(arguments)
    extent = Extent(args.concurrencies, args.requests, args.rounds)
    began, load = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
    try:
        plan = plan_of(args.workload, extent.requests, args.bundle)
        bundle = Bundle.open(args.bundle)
        settings = ServerSettings(args.bundle, log=args.log, queue=max(extent.concurrencies))
        with TritonServer(settings) as server, Bare(args.bundle, [one.request for one in plan]) as bare:
            added, ways = asyncio.run(measure(bare, server.endpoints.grpc, plan, extent))
    except (GuardError, CorpusError, LaunchError) as error:
        print(f"path: {error}", file=sys.stderr)
        return REFUSED
    result = Result(
        command=f"python -m benchmarks.path {shlex.join(arguments)}".strip(),
        began=began,
        machine=this_machine(),
        load=load,
        served=f"{bundle.precision}, revision `{bundle.revision}`",
        added=added,
        ways=ways,
    )
    print(tables(result))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(args.out / "path.json", result)
        (args.out / "path.md").write_text(document(result), encoding="utf-8")
        print(f"written: {args.out}/path.json, path.md")
    return MET if all(bar.met for bar in result.bars) else MISSED


async def measure(bare: Bare, url: str, plan: list[Planned], extent: Extent) -> tuple[list[Added], dict[int, Way]]:
    """Raises GuardError where one of the ways gives no verdict."""
    added, ways = [], {}
    async with aclosing(Statistics([url], None)) as statistics, Served(url, plan) as served:
        _say("warming up both ways")
        for concurrency in {1, max(extent.concurrencies)}:
            bare.run(concurrency)
            await served.run(concurrency)
        for concurrency in extent.concurrencies:
            served.samples.clear()
            served.transport.seconds.clear()
            before = await statistics.counters()
            runs: dict[str, list[Run]] = {"bare": [], "served": []}
            for number in range(extent.rounds):
                for way in ("bare", "served") if number % 2 else ("served", "bare"):
                    # The bare side blocks the event loop, which has nothing else to do meanwhile.
                    run = bare.run(concurrency) if way == "bare" else await served.run(concurrency)
                    runs[way].append(run)
                    _say(f"concurrency {concurrency}, round {number + 1}, {way}: {run.per_s:.2f}/s")
            after = await statistics.counters()
            added.append(Added.of(concurrency, runs["bare"], runs["served"]))
            split = None if before is None or after is None else between(before, after)
            if split is not None:
                ways[concurrency] = Way.of(served.samples, served.transport.seconds, split)
    return added, ways


def plan_of(named: str, requests: int, bundle: Path) -> list[Planned]:
    """Raises InvalidRequest for a workload that asks something else than verdicts under the built-in policy."""
    path = Path(named) if "/" in named or named.endswith(".yaml") else FOLDER / f"{named}.yaml"
    workload = read_workload(path).model_copy(update={"deadline_s": DEADLINE_S})
    mix = Mix(workload, Texts(read_corpus(SHIPPED)), tokenizer=bundle, folder=path.parent)
    plan = list(islice(mix.stream("path"), requests))
    if not all(_is_plain(one.request) for one in plan):
        raise InvalidRequest(
            "the workload asks more than verdicts on texts under the built-in policy", field="workload"
        )
    return plan


def _is_plain(request: GuardRequest) -> bool:
    named = request.policy_name is not None
    return request.mode is Mode.VERDICT and request.policy == Policy() and not named and not request.images


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.path", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument(
        "--workload", default="verdicts", help="a YAML file, or the name of a shipped one (%(default)s)"
    )
    parser.add_argument("--concurrencies", type=callers, default=(1, 8, 32), metavar="N,N", help="(1,8,32)")
    parser.add_argument("--requests", type=int, default=64, help="of a round, of each way (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="at each concurrency (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for JSON and Markdown")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="of the server (none)")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
