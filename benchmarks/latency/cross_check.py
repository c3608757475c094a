"""The same closed loop by perf_analyzer and by `benchmarks.latency`: do the two tell the same?

    python -m benchmarks.latency.cross_check --bundle build/bundle --out build/cross_check
    python -m benchmarks.latency.cross_check --url 127.0.0.1:8001 --concurrencies 1,8 --rounds 5

One fixed request, as often in each round, the two in turn at each concurrency. perf_analyzer is the one that comes with
tritonclient 2.51.0; it is installed once, into an environment of its own under build/, and takes two of the libraries
that the Triton wheel of this environment brings. What it tells is read from its CSV report.

Exit status: 0 p50 and throughput are within --within of each other at each concurrency, 1 they are not, 2 it could not
be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib.util
import itertools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from tritonguard import AsyncGuard, Retries
from tritonguard.errors import GuardError, Unavailable
from tritonguard.examples import PROMPTS
from tritonguard.request import GuardRequest, to_tensors
from tritonguard.tensors import TENSORS, Array

from benchmarks.latency.arguments import above_zero, callers
from benchmarks.latency.figures import Latency
from benchmarks.latency.loops import VERDICT, Log, Sample, asking, closed_loop
from benchmarks.latency.mix import Planned, key_of
from benchmarks.report import Bar, markdown, this_machine, write_json
from serving.errors import LaunchError
from serving.launch import ENSEMBLE, ServerSettings, TritonServer

AGREE, DISAGREE, REFUSED = 0, 1, 2
DEADLINE_S = 60.0
PACKAGE = "tritonclient==2.51.0"
THEIRS, OURS = "perf_analyzer", "benchmarks.latency"
_LIBRARIES = ("libb64.so.0d", "libcudart.so.12")


@dataclass(frozen=True)
class Told:
    """Of one run of one of the two: percentiles of the latency, ms, and verdicts a second."""

    p50: float
    p99: float
    per_s: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Told:
        """Raises Unavailable where one of the requests got no verdict, or there was none."""
        words = {sample.reply.word for sample in samples} - {VERDICT}
        latency = Latency.of([sample.latency_s * 1e3 for sample in samples])
        if words or latency.p50 is None or latency.p99 is None:
            raise Unavailable(f"the server did not judge all requests: {', '.join(sorted(words))}")
        return cls(latency.p50, latency.p99, len(samples) / max(sample.done for sample in samples))

    @classmethod
    def read(cls, report: str, requests: int) -> Told:
        """report: perf_analyzer's CSV of one concurrency. Raises Unavailable where there is none."""
        rows = list(csv.DictReader(report.splitlines()))
        if len(rows) != 1:
            raise Unavailable(f"perf_analyzer reported {len(rows)} measurements of {requests} requests")
        (row,) = rows
        return cls(float(row["p50 latency"]) / 1e3, float(row["p99 latency"]) / 1e3, float(row["Inferences/Second"]))


@dataclass(frozen=True)
class Compared:
    """Medians over the rounds, by who told them; ratios: benchmarks.latency to perf_analyzer, of the medians."""

    concurrency: int
    rounds: int
    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    per_s: dict[str, float]

    @classmethod
    def of(cls, concurrency: int, told: Mapping[str, Sequence[Told]]) -> Compared:
        return cls(
            concurrency,
            len(told[OURS]),
            {who: median([one.p50 for one in runs]) for who, runs in told.items()},
            {who: median([one.p99 for one in runs]) for who, runs in told.items()},
            {who: median([one.per_s for one in runs]) for who, runs in told.items()},
        )

    def ratio(self, figure: str) -> float:
        values: dict[str, float] = getattr(self, figure)
        return values[OURS] / values[THEIRS]

    def bars(self, within: float) -> list[Bar]:
        ratios = {"p50": self.ratio("p50_ms"), "throughput": self.ratio("per_s")}
        # The larger to the smaller, so that one bound holds both ways.
        return [
            Bar(
                f"{name}, the larger / the smaller at concurrency {self.concurrency}",
                max(ratio, 1 / ratio),
                most=1 + within,
            )
            for name, ratio in ratios.items()
        ]


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(arguments)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with ExitStack() as stack:
            analyzer = Analyzer.installed(args.environment)
            url = args.url
            if url is None:
                settings = ServerSettings(args.bundle, log=args.log)
                url = stack.enter_context(TritonServer(settings)).endpoints.grpc
            compared = compare(analyzer, url, args.concurrencies, rounds=args.rounds, requests=args.requests)
    except (GuardError, LaunchError, OSError, subprocess.SubprocessError) as error:
        print(f"cross_check: {error}", file=sys.stderr)
        return REFUSED
    bars = [bar for one in compared for bar in one.bars(args.within)]
    facts = {
        "command": f"`{shlex.join(['python', '-m', 'benchmarks.latency.cross_check', *arguments])}`",
        "began": began,
        "machine": this_machine(),
        "perf_analyzer": f"of {PACKAGE}",
    }
    told = f"{table(compared)}\n\n" + "\n".join(f"- {bar}" for bar in bars)
    print(told)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(args.out / "cross_check.json", {**facts, "compared": compared})
        lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
        document = f"# perf_analyzer beside benchmarks.latency\n\n{lines}\n\n{told}\n"
        (args.out / "cross_check.md").write_text(document, encoding="utf-8")
    return AGREE if all(bar.met for bar in bars) else DISAGREE


def compare(
    analyzer: Analyzer, url: str, concurrencies: Sequence[int], *, rounds: int, requests: int
) -> list[Compared]:
    """Raises Unavailable where one of the two gets no verdicts."""
    request = GuardRequest(prompt=PROMPTS[0].prompt, deadline_s=DEADLINE_S)
    compared = []
    asyncio.run(
        closed(url, request, max(concurrencies), 2 * max(concurrencies))
    )  # first requests fill what later ones find
    for concurrency in concurrencies:
        told: dict[str, list[Told]] = {THEIRS: [], OURS: []}
        for number in range(rounds):
            for who in (THEIRS, OURS) if number % 2 else (OURS, THEIRS):
                if who == OURS:
                    run = asyncio.run(closed(url, request, concurrency, requests))
                else:
                    run = analyzer.closed(url, request, concurrency, requests)
                told[who].append(run)
                print(f"concurrency {concurrency}, round {number + 1}, {who}: {run.per_s:.2f}/s", file=sys.stderr)
        compared.append(Compared.of(concurrency, told))
    return compared


async def closed(url: str, request: GuardRequest, concurrency: int, requests: int) -> Told:
    """Ours. Raises Unavailable where one of the requests gets no verdict."""
    planned = Planned(request, key_of(request), "verdict", "-", (None, None))
    async with AsyncGuard(url, retries=Retries(attempts=1)) as guard:
        log, plan = Log(), itertools.repeat(planned, requests)
        await closed_loop(log, asking(guard), plan, concurrency=concurrency, seconds=float("inf"))
    return Told.of(log.samples)


@dataclass(frozen=True)
class Analyzer:
    """program: perf_analyzer. libraries: folder with what it needs beside the system's."""

    program: Path
    libraries: Path

    @classmethod
    def installed(cls, environment: Path) -> Analyzer:
        """Of the environment in this folder, which is made where it is not there. Raises OSError or
        CalledProcessError where it can't be."""
        program = environment / "bin" / "perf_analyzer"
        if not program.exists():
            print(f"installing {PACKAGE} into {environment}", file=sys.stderr)
            venv.create(environment, with_pip=True)
            pip = [
                str(environment / "bin" / "python"),
                "-m",
                "pip",
                "--disable-pip-version-check",
                "install",
                "--quiet",
            ]
            subprocess.run([*pip, "--no-deps", PACKAGE], check=True)
        libraries = environment / "perf_analyzer_libraries"
        libraries.mkdir(exist_ok=True)
        for name, file in wheel_libraries().items():
            link = libraries / name
            if not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(file)
        return cls(program, libraries)

    def closed(self, url: str, request: GuardRequest, concurrency: int, requests: int) -> Told:
        """Raises Unavailable where it fails, as it does when a request of it does."""
        with tempfile.TemporaryDirectory(prefix="tritonguard-") as folder:
            data, report = Path(folder, "data.json"), Path(folder, "report.csv")
            data.write_text(json.dumps(input_data(to_tensors(request))), encoding="utf-8")
            command = [str(self.program), "-m", ENSEMBLE, "-u", url, "-i", "grpc", "--input-data", str(data)]
            # So many and no more: its own way is to go on until three measurements agree.
            command += ["--concurrency-range", str(concurrency), "--request-count", str(requests), "-f", str(report)]
            paths = os.pathsep.join(filter(None, (str(self.libraries), os.environ.get("LD_LIBRARY_PATH"))))
            ended = subprocess.run(
                command, env={**os.environ, "LD_LIBRARY_PATH": paths}, capture_output=True, text=True, check=False
            )
            if ended.returncode or not report.is_file():
                last = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-3:]
                raise Unavailable(f"perf_analyzer measured nothing: {' '.join(last)}")
            return Told.read(report.read_text(encoding="utf-8"), requests)


def input_data(tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The JSON of `--input-data` for one request: each tensor without its batch dimension."""
    row = {}
    for name, array in tensors.items():
        values = array[0].flatten().tolist()
        text = TENSORS[name].dtype == "BYTES"
        row[name] = {
            "content": [value.decode() for value in values] if text else values,
            "shape": list(array.shape[1:]),
        }
    return {"data": [row]}


def table(compared: Sequence[Compared]) -> str:
    head = ["concurrency", "figure", THEIRS, OURS, "ratio"]
    names = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "per_s": "verdicts/s"}
    rows = [
        [str(one.concurrency), name, *(f"{getattr(one, figure)[who]:.2f}" for who in (THEIRS, OURS)), one.ratio(figure)]
        for one in compared
        for figure, name in names.items()
    ]
    return markdown(head, rows)


def wheel_libraries() -> dict[str, Path]:
    """Those of the Triton wheel, whose names end in a hash there. Raises FileNotFoundError."""
    package = importlib.util.find_spec("pytriton")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("the Triton wheel, whose libraries perf_analyzer needs, is not installed")
    folder = Path(package.submodule_search_locations[0]).parent / "nvidia_pytriton.libs"
    found = {}
    for name in _LIBRARIES:
        stem = name.partition(".so")[0]
        files = sorted(folder.glob(f"{stem}-*.so*"))
        if not files:
            raise FileNotFoundError(f"{folder.name} has no {stem}")
        found[name] = files[0]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency.cross_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    served = parser.add_mutually_exclusive_group()
    served.add_argument("--url", metavar="HOST:PORT", help="a gRPC endpoint that runs already")
    served.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="served for the run without --url")
    parser.add_argument("--concurrencies", type=callers, default=(1, 8), metavar="N,N", help="(1,8)")
    parser.add_argument("--rounds", type=int, default=5, help="of each, at each concurrency (%(default)s)")
    parser.add_argument("--requests", type=int, default=200, help="of a round (%(default)s)")
    parser.add_argument("--within", type=above_zero, default=0.1, help="most difference, as a share (%(default)s)")
    parser.add_argument("--environment", type=Path, default=Path("build/perf_analyzer"), help="of perf_analyzer")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for JSON and Markdown")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="of a server that is started here (none)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
