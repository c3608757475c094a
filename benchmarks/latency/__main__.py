"""How long verdicts take under load, where the time goes, and whether they are still the same verdicts.

    python -m benchmarks.latency --bundle build/bundle --rates 2,4,8 --concurrencies 1,8
    python -m benchmarks.latency --url guard-1:8001 --url guard-2:8001 --rates 50,100,200 --find-limit --slo-ms 100 \\
        --server "2 machines of one H100 each" --workload mixed --out build/latency

--rates is an open loop: requests come at random (Poisson) and never wait for answers; latency counts from the time at
which a request should have been sent, so that a stall shows in every request it delayed. --concurrencies is a closed
loop: so many callers, each waiting for its answer; it finds the capacity. Both, in this order: closed, open, then
--find-limit, which searches the highest rate of which --limit-share of the requests get a verdict within --slo-ms.

A workload file says what is asked (workloads/*.yaml; its keys are explained in workloads/mixed.yaml): lengths,
languages, responses, images and how many repeat, policies, modes, deadline, seed. The same file, texts and seed ask the
same requests, in every run and under every load. Texts are those of --prompts (JSONL as for the parity tool), made
longer with safe texts of their language or cut. A server that keeps verdicts would answer the later loads from memory.

"right" counts labels against what the texts' authors said. "flips" counts verdicts with another label than --reference,
the JSON of an earlier run, has for the same request; without it, than the first answer in this run.

--out FOLDER writes latency.json, latency.md and plots. Exit status: 0 every load got verdicts, and none flipped against
a --reference; 1 otherwise; 2 it could not be measured; 130 interrupted, and what there was is written.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from tritonguard import AsyncGuard, GuardError, Retries, Tls

from benchmarks.latency.arguments import DEFAULT_CONCURRENCIES, parser
from benchmarks.latency.figures import Load
from benchmarks.latency.loops import asking
from benchmarks.latency.mix import Mix
from benchmarks.latency.plots import plots
from benchmarks.latency.report import all_notes, document, grids, table
from benchmarks.latency.result import Origin, Result
from benchmarks.latency.stages import Statistics
from benchmarks.latency.sweep import Findings, Sweep
from benchmarks.latency.texts import Texts
from benchmarks.latency.verdicts import OWN, Judged, read_reference
from benchmarks.latency.workload import FOLDER, read_workload
from benchmarks.report import markdown, this_machine, write_json
from build_scripts.parity_corpus import CorpusError, read_corpus
from engines.manifest import sha256_file
from serving.errors import LaunchError
from serving.launch import ServerSettings, TritonServer
from serving.policy_switches import PolicySwitches

MEASURED, FELL_SHORT, REFUSED, INTERRUPTED = 0, 1, 2, 130
POLICIES = Path(__file__).resolve().parents[2] / "policies"


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    args = parser(__doc__ or "").parse_args(arguments)
    findings, interrupted = Findings(), False
    try:
        prepared = _prepared(args, arguments)
        with _deployment(args) as urls:
            try:
                asyncio.run(_measure(args, prepared, urls, findings))
            except KeyboardInterrupt:
                interrupted = True
    except KeyboardInterrupt:
        return INTERRUPTED
    except (GuardError, CorpusError, LaunchError) as error:
        print(f"latency: {error}", file=sys.stderr)
        return REFUSED
    _show(Result.of(prepared.origin, findings, interrupted=interrupted), args.out)
    if interrupted:
        return INTERRUPTED
    flipped = prepared.reference is not None and any(point.flips.flipped for point in findings.points)
    return FELL_SHORT if flipped or not all(point.latency.n for point in findings.points) else MEASURED


@dataclass(frozen=True)
class Prepared:
    """What is read before a server is asked or started. reference: None: the run's own first answers."""

    mix: Mix
    loads: tuple[Load, ...]
    reference: dict[str, Judged] | None
    origin: Origin


def _prepared(args: argparse.Namespace, arguments: Sequence[str]) -> Prepared:
    path = _workload_path(args.workload)
    workload = read_workload(path)
    if args.seed is not None:
        workload = workload.model_copy(update={"seed": args.seed})
    tokenizer = args.tokenizer or (None if args.url else args.bundle)
    mix = Mix(workload, Texts(read_corpus(args.prompts)), tokenizer=tokenizer, folder=path.parent)
    own = this_machine()
    origin = Origin(
        command=f"python -m benchmarks.latency {shlex.join(arguments)}".strip(),
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        generator=own,
        server=args.server or ("not said (--server)" if args.url else own),
        workload=workload.model_dump(mode="json"),
        seed=workload.seed,
        texts={"file": args.prompts.name, "sha256": sha256_file(args.prompts)},
        warm_up=args.warm_up,
        slo_ms=args.slo_ms,
        reference=OWN if args.reference is None else args.reference.name,
    )
    nothing = not (args.rates or args.concurrencies or args.find_limit)
    concurrencies = DEFAULT_CONCURRENCIES if nothing else args.concurrencies
    closed = [Load(None, concurrency, args.settle, args.seconds) for concurrency in concurrencies]
    opened = [Load(rate, None, args.settle, args.seconds) for rate in args.rates]
    reference = None if args.reference is None else read_reference(args.reference)
    return Prepared(mix, (*closed, *opened), reference, origin)


async def _measure(args: argparse.Namespace, prepared: Prepared, urls: Sequence[str], findings: Findings) -> None:
    tls = _tls(args)
    # A second try would hide an error, and its time would be the first one's.
    async with (
        AsyncGuard(urls, tls=tls, retries=Retries(attempts=1)) as guard,
        aclosing(Statistics(urls, tls)) as statistics,
    ):
        sweep = Sweep(
            prepared.mix, asking(guard), statistics, args.slo_ms, findings, reference=prepared.reference, say=_say
        )
        await sweep.warm_up(args.warm_up)
        await sweep.run(prepared.loads)
        if args.find_limit:
            await sweep.find_limit(share=args.limit_share, settle_s=args.settle, seconds=args.seconds)


@contextmanager
def _deployment(args: argparse.Namespace) -> Iterator[Sequence[str]]:
    """Addresses of what runs already, or of a server that runs for as long as this is open."""
    if args.url:
        yield args.url
        return
    settings = ServerSettings(
        args.bundle,
        log=args.log,
        policies=PolicySwitches(folder=POLICIES),
    )
    _say(f"starting a server of {args.bundle}")
    with TritonServer(settings) as server:
        yield [server.endpoints.grpc]


def _tls(args: argparse.Namespace) -> Tls | None:
    named = (args.tls_ca, args.tls_cert, args.tls_key, args.tls_server_name)
    return Tls(*named) if args.tls or any(value is not None for value in named) else None


def _show(result: Result, folder: Path | None) -> None:
    console = Console()
    for title, grid in grids(result.points).items():
        # In a log, or a pipe, a table of the terminal's width would be cut.
        console.print(table(title, grid) if console.is_terminal else f"{title}\n{markdown(*grid)}\n", soft_wrap=True)
    for note in all_notes(result):
        print(note)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots(result.points)
    for name, drawing in drawn.items():
        (folder / name).write_text(drawing, encoding="utf-8")
    write_json(folder / "latency.json", result)
    (folder / "latency.md").write_text(document(result, list(drawn)), encoding="utf-8")
    print(f"written: {folder}/latency.json, latency.md{''.join(f', {name}' for name in drawn)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _workload_path(named: str) -> Path:
    """A file, or the name of one that comes along."""
    return Path(named) if "/" in named or named.endswith(".yaml") else FOLDER / f"{named}.yaml"


if __name__ == "__main__":
    sys.exit(main())
