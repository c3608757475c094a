"""What the package adds: p50 of the bare forward against p50 through client, Triton and all stages.

    python -m benchmarks.quick --bundle build/bundle

Same bundle, same texts, same run, concurrency 1. Each round times one text both ways, in turn, so that a
noisy machine disturbs both alike: `bare` is the engine's pass alone (tokens at hand, prefix cached, in this
process), `served` is `Guard.check` over gRPC. Prints both medians and their ratio; exit 1 above --most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from tritonguard import Guard
from tritonguard.examples import PROMPTS
from tritonguard.request import GuardRequest, Mode

from engines.bundle import Bundle, open_engine
from engines.local.runtime import cpu_name
from engines.program import program_for
from engines.protocol import Answer, Job
from preprocessing.prompt import PromptBuilder
from serving.launch import ServerSettings, TritonServer


def bare_forward(bundle: Bundle) -> Callable[[str], float]:
    """A function that runs one text's pass and returns its milliseconds."""
    builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
    engine = open_engine(bundle)
    program = program_for(Mode.VERDICT, has_response=False, encode=builder.encode_text, end=builder.end_of_turn)

    def run(text: str) -> float:
        built = builder.build(GuardRequest(prompt=text))
        job = Job(built.ids, built.prefix_length, program)
        began = time.perf_counter()
        (answer,) = engine.run([job])
        elapsed = (time.perf_counter() - began) * 1e3
        if not isinstance(answer, Answer):
            raise answer
        return elapsed

    return run


def served(guard: Guard) -> Callable[[str], float]:
    def run(text: str) -> float:
        began = time.perf_counter()
        verdict = guard.check(text, deadline_s=60.0)
        elapsed = (time.perf_counter() - began) * 1e3
        if verdict.on_error_applied:
            raise RuntimeError(f"no verdict: {verdict.reason}")
        return elapsed

    return run


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quick",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument("--rounds", type=int, default=4, help="times that each example text is sent (%(default)s)")
    parser.add_argument("--most", type=float, default=1.35, help="largest ratio for exit 0 (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    bundle = Bundle.open(args.bundle)
    texts = [example.prompt for example in PROMPTS] * args.rounds
    times: dict[str, list[float]] = {"bare": [], "served": []}
    with (
        TritonServer(ServerSettings(args.bundle, http_port=0, grpc_port=0, metrics_port=0)) as server,
        Guard(server.endpoints.grpc) as guard,
    ):
        ways = {"bare": bare_forward(bundle), "served": served(guard)}
        for way in ways.values():
            way(texts[0])  # warm-up: the prefix's keys and values
        for number, text in enumerate(track(texts, description="rounds", disable=not sys.stderr.isatty())):
            order = list(ways) if number % 2 else list(reversed(ways))
            for name in order:
                times[name].append(ways[name](text))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["served"] / medians["bare"]
    table = Table("path", "p50 ms", "p95 ms", title=f"{cpu_name()}, {bundle.precision}, concurrency 1, n={len(texts)}")
    for name, values in times.items():
        table.add_row(name, f"{medians[name]:.0f}", f"{statistics.quantiles(values, n=20)[-1]:.0f}")
    Console().print(table)
    print(f"ratio served / bare: {ratio:.3f} (at most {args.most})")
    if args.out:
        args.out.write_text(json.dumps({"cpu": cpu_name(), "p50_ms": medians, "ratio": ratio}, indent=2) + "\n")
    return 0 if ratio <= args.most else 1


if __name__ == "__main__":
    sys.exit(main())
