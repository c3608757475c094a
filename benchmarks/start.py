"""How long a server takes from nothing to its first verdict.

    python -m benchmarks.start --bundle build/bundle --times 5
    python -m benchmarks.start --bundle build/bundle --times 5 --without-cache

Each start is a Triton of its own: seconds until every model is ready, and until the first verdict is here over gRPC.
--without-cache starts the same bundle without its compiled graph as often, in turn, so that a noisy machine disturbs
both alike, and prints the ratio. The files are in the page cache but perhaps for the first start. Exit 1 where the
median of the first verdict is above --most.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonguard import Guard
from tritonguard.errors import BundleError
from tritonguard.examples import PROMPTS
from tritonguard.request import GuardRequest

from benchmarks.report import Bar, markdown
from benchmarks.served import Question, ask
from build_scripts.folders import link_or_copy
from engines.local.runtime import cpu_name
from engines.manifest import extra_of, read_manifest, write_manifest
from serving.errors import LaunchError
from serving.launch import ServerSettings, TritonServer

SHIPPED, WITHOUT = "as shipped", "without the compiled graph"
MOST_S = 3.0
DEADLINE_S = 60.0
_COMPILED = ".blob"


@dataclass(frozen=True)
class Start:
    """Seconds since the launch: every model ready, the first verdict here."""

    ready_s: float
    verdict_s: float


def start(bundle: Path, log: Path) -> Start:
    """Start a server, ask it once, stop it. Raises LaunchError, and RuntimeError where it gives no verdict."""
    settings = ServerSettings(bundle, log=log)
    began = time.monotonic()
    with TritonServer(settings) as server:
        ready = time.monotonic()
        with Guard(server.endpoints.grpc, tls=server.tls) as guard:
            reply = ask(guard, Question("start", GuardRequest(prompt=PROMPTS[0].prompt, deadline_s=DEADLINE_S)))
            if not reply.answered:
                raise RuntimeError(f"no verdict: {reply.label.indeterminate_reason}")
            return Start(ready - began, time.monotonic() - began)


def without_compiled(bundle: Path, folder: Path) -> Path:
    """The bundle in `folder`, as links to its files, without its compiled graph. Raises BundleError: it has none."""
    manifest = read_manifest(bundle)
    kept = [name for name in manifest["files"] if Path(name).suffix != _COMPILED]
    if len(kept) == len(manifest["files"]):
        raise BundleError(f"{bundle.name} has no compiled graph that could be left out; compile it anew")
    for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(bundle / name, folder / name)
    extra = extra_of(manifest)
    write_manifest(folder, kind=manifest["kind"], inputs=manifest["inputs"], **extra)
    return folder


def median_s(starts: Sequence[Start]) -> float:
    """Of the first verdict."""
    return statistics.median(one.verdict_s for one in starts)


def table(starts: Mapping[str, Sequence[Start]]) -> str:
    """In Markdown, seconds."""
    rows: list[tuple[object, ...]] = []
    for name, found in starts.items():
        for what, values in (
            ("ready", [one.ready_s for one in found]),
            ("first verdict", [one.verdict_s for one in found]),
        ):
            rows.append((f"{name}: {what}", len(values), statistics.median(values), min(values), max(values)))
    return markdown(("seconds until", "starts", "median", "min", "max"), rows)


def measure(bundles: Mapping[str, Path], times: int) -> dict[str, list[Start]]:
    """`times` starts of each bundle, in turn, the order turned round each time. Raises as `start`."""
    starts: dict[str, list[Start]] = {name: [] for name in bundles}
    with tempfile.TemporaryDirectory(prefix="tritonguard-start-") as folder:
        for number in range(times):
            for name in reversed(list(bundles)) if number % 2 else bundles:
                found = start(bundles[name], Path(folder, "triton.log"))
                starts[name].append(found)
                print(f"{name}: ready {found.ready_s:.2f} s, first verdict {found.verdict_s:.2f} s", flush=True)
    return starts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="(%(default)s)")
    parser.add_argument("--times", type=int, default=5, help="starts of each (%(default)s)")
    parser.add_argument("--without-cache", action="store_true", help="start it without its compiled graph as well")
    parser.add_argument("--most", type=float, default=MOST_S, help="longest median for exit 0, s (%(default)s)")
    args = parser.parse_args(argv)
    if args.times < 1:
        parser.error("--times must be positive")
    bundles = {SHIPPED: args.bundle}
    try:
        # Beside the bundle: a link must be on the same disk.
        with tempfile.TemporaryDirectory(prefix=".start-", dir=args.bundle.resolve().parent) as folder:
            if args.without_cache:
                bundles[WITHOUT] = without_compiled(args.bundle, Path(folder, "bundle"))
            starts = measure(bundles, args.times)
    except (BundleError, LaunchError, OSError) as error:
        print(f"start: {error}", file=sys.stderr)
        return 2
    print(f"\n{cpu_name()}, {read_manifest(args.bundle)['precision']}\n\n{table(starts)}\n")
    if args.without_cache:
        print(f"ratio without / with the compiled graph: {median_s(starts[WITHOUT]) / median_s(starts[SHIPPED]):.2f}")
    bar = Bar("start: median of the first verdict, s", median_s(starts[SHIPPED]), most=args.most)
    print(bar)
    return 0 if bar.met else 1


if __name__ == "__main__":
    sys.exit(main())
