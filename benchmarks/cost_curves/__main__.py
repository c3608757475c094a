"""What a request costs: latency against length, throughput against concurrency, memory against policies.

    python -m benchmarks.cost_curves --bundle build/bundle --out build/cost_curves

A server is started for it. First memory: so many different free-text policies, one request each. Then one request at a
time with texts of 50 to 8,000 tokens; what is longer than the bundle reads is shown as refused. Then 1 to 128 callers
that each wait for their answer. --quick takes few points of each and is for trying the command, not for figures.

--out FOLDER writes JSON, Markdown and plots. Exit 2 where it could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from tritonguard import AsyncGuard, GuardError, Retries

from benchmarks.chaos.report import say
from benchmarks.chaos.server import ROOT
from benchmarks.cost_curves.curves import length_costs, policies_costs, throughputs
from benchmarks.cost_curves.report import Curves, document, plots
from benchmarks.latency.loops import asking
from benchmarks.latency.mix import Mix
from benchmarks.latency.stages import Statistics
from benchmarks.latency.texts import Texts, Tokens
from benchmarks.latency.workload import FOLDER, read_workload
from benchmarks.report import origin, write_json
from benchmarks.soak_memory import measure
from build_scripts.calibration import SHIPPED
from build_scripts.parity_corpus import read_corpus
from engines.bundle import Bundle
from engines.local.cache_limits import CacheLimits
from serving.errors import LaunchError
from serving.launch import ServerSettings, TritonServer
from serving.policy_switches import PolicySwitches


@dataclass(frozen=True)
class Points:
    """Where the curves are measured. rounds: over all lengths. seconds: of each number of callers."""

    lengths: tuple[int, ...] = (50, 100, 200, 400, 800, 1200, 1600, 2400, 3200, 4000, 6000, 8000)
    rounds: int = 5
    concurrencies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    seconds: float = 30.0
    policies: tuple[int, ...] = (1, 2, 4, 8, 16, 24, 32, 48, 64)


QUICK = Points((50, 400, 8000), 1, (1, 8), 15.0, (1, 2, 4))


async def curves_of(bundle: Bundle, server: TritonServer, points: Points, seed: int) -> Curves:
    """Raises GuardError or RuntimeError where the server gives no verdict."""
    ruler, texts = Tokens(bundle.folder), Texts(read_corpus(SHIPPED))
    mix = Mix(read_workload(FOLDER / "verdicts.yaml"), texts, tokenizer=None, folder=FOLDER)
    url, began = server.endpoints.grpc, time.monotonic()
    async with (
        AsyncGuard(url, retries=Retries(attempts=1)) as guard,
        aclosing(Statistics([url], None)) as statistics,
    ):
        ask = asking(guard)
        policies = await policies_costs(
            ask,
            lambda: measure(os.getpid(), began),
            f"http://{server.endpoints.metrics}/metrics",
            counts=points.policies,
            say=say,
        )
        lengths = await length_costs(
            ask, texts, ruler, lengths=points.lengths, rounds=points.rounds, seed=seed, say=say
        )
        loads = await throughputs(
            ask, mix, statistics, concurrencies=points.concurrencies, seconds=points.seconds, say=say
        )
    limit = CacheLimits.of(os.environ).prefixes / 1e6
    return Curves(lengths, loads, policies, bundle.capabilities.max_tokens, limit, server.settings.queue)


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost_curves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument("--quick", action="store_true", help="few points")
    parser.add_argument("--seed", type=int, default=0, help="of the texts (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for JSON, Markdown and plots")
    args = parser.parse_args(arguments)
    try:
        bundle = Bundle.open(args.bundle)
        with tempfile.TemporaryDirectory(prefix="tritonguard-curves-") as folder:
            settings = ServerSettings(
                bundle=args.bundle,
                log=Path(folder) / "triton.log",
                policies=PolicySwitches(folder=ROOT / "policies"),
            )
            with TritonServer(settings) as server:
                points = QUICK if args.quick else Points()
                curves = asyncio.run(curves_of(bundle, server, points, args.seed))
    except (GuardError, LaunchError, RuntimeError, ValueError) as error:
        print(f"cost_curves: {error}", file=sys.stderr)
        return 2
    facts = origin("benchmarks.cost_curves", arguments, precision=bundle.precision, revision=bundle.revision)
    drawn = plots(curves)
    told = document(curves, facts, list(drawn) if args.out else [])
    print(told)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "cost_curves.md").write_text(told + "\n", encoding="utf-8")
        write_json(args.out / "cost_curves.json", {**facts, **vars(curves)})
        for name, drawing in drawn.items():
            (args.out / name).write_text(drawing, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
