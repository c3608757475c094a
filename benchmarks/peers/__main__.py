"""Engine against engine: ours and what a user could run instead, on the same weights, prompts and machine, in one run.

    make bench-peers
    python -m benchmarks.peers --pool ../shared/data/train_pool
    python -m benchmarks.peers --quick --peers openvino-genai       (minutes; its figures say little)

Each engine is a process in its own environment and is asked token ids: nobody's time holds a tokenizer or a network,
but llama.cpp's, whose own server is asked on loopback. One engine works at a time. In each round every engine answers
new questions, in an order that turns; ratios are taken within a round, and the middle one counts. Peers answer in two
ways: "plain" writes the whole answer, "trick" puts the forced head behind the prompt and writes one token (with a
response: two calls). Peers are run at the best settings of a sweep, which is in the result.

What is made of the weights is kept in --exports, and made again when the checkpoint or the environment changes. Bars
are printed and do not decide the exit status, unless --strict: then 1 where one is missed. 2: nothing was measured.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonguard.errors import GuardError

from benchmarks.latency.texts import Tokens
from benchmarks.peers import report
from benchmarks.peers.exports import Exports
from benchmarks.peers.figures import Figures
from benchmarks.peers.machine import LEAST_SHARE, Peaks, Share, operations_of, shapes, shares
from benchmarks.peers.pool import Children
from benchmarks.peers.protocol import Child, PeerError
from benchmarks.peers.question import Question
from benchmarks.peers.roster import LLAMA, OPENVINO, PEERS, Peer, ours, peer, turning
from benchmarks.peers.rounds import Measured, entrants, measure
from benchmarks.peers.sweep import Kind, Sweep, kind_name, measured_by, sweep
from benchmarks.peers.texts import OwnTexts, PoolTexts
from benchmarks.peers.workloads import TEXT, WORKLOADS, Questions, named
from benchmarks.report import Bar, markdown, origin, write_json
from build_scripts.parity_corpus import CorpusError
from engines.bundle import Bundle
from engines.checkpoint import Checkpoint
from engines.local.engine_config import EngineConfig
from engines.local.runtime import native_precisions
from preprocessing.prompt import PromptBuilder

QUICK_ROUNDS, QUICK_REQUESTS = 1, 4
SWEEP_REQUESTS = 12
"""Of each setting and kind of load at most, twice as many for each worker at least."""
PER_WORKER = 3
"""Questions of a round for each worker at least, or a closed loop is mostly its beginning and its end."""


@dataclass
class Result:
    """Of one run, as it is written down; grows while it goes on."""

    about: dict[str, Any]
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    not_exported: dict[str, str] = field(default_factory=dict)
    peaks: Peaks | None = None
    shares: list[Share] = field(default_factory=list)
    operations: tuple[float, float] = (0.0, 0.0)
    found: list[Measured] = field(default_factory=list)

    @property
    def bars(self) -> list[Bar]:
        bars = [bar for measured in self.found for bar in measured.bars]
        if self.shares:
            bars.append(Bar("share of the machine's limit at text c=32", self.shares[0].reached, least=LEAST_SHARE))
        return bars

    def json(self) -> dict[str, Any]:
        return {
            "about": self.about,
            "not_exported": self.not_exported,
            "sweeps": {
                name: {
                    "tried": swept.tried,
                    "best": {kind_name(kind): setting for kind, setting in swept.best.items()},
                }
                for name, swept in self.sweeps.items()
            },
            "peaks": self.peaks,
            "operations": self.operations,
            "shares": self.shares,
            "workloads": {
                measured.workload.name: {
                    "rounds": {" ".join(key): rounds for key, rounds in measured.rounds.items()},
                    "medians": {" ".join(key): Figures.medians(rounds) for key, rounds in measured.rounds.items()},
                    "ratios": {f"{bar.figure} {bar.way}": ratio for bar, ratio in measured.ratios.items()},
                    "agreement": measured.agreement,
                    "failed": {" ".join(key): why for key, why in measured.failed.items()},
                }
                for measured in self.found
            },
            "bars": [{"name": bar.name, "value": float(bar.value), "met": bar.met} for bar in self.bars],
        }

    def markdown(self) -> str:
        about = markdown(("", "this run"), list(self.about.items()))
        parts = ["# Engine against engine", about, "## Bars", report.bar_lines(self.bars)]
        if told := [*report.warnings(self.found), *(f"{name}: {why}" for name, why in self.not_exported.items())]:
            parts += ["## Warnings", "\n".join(f"- {' '.join(line.split())}" for line in told)]
        parts += ["## Ratios", report.ratio_table(self.found), *report.label_sections(self.found)]
        parts += ["## Workloads", *report.workload_tables(self.found)]
        if self.peaks is not None:
            parts += ["## The machine's limit", report.peaks_table(self.peaks)]
        if self.shares:
            per_s = self.shares[0].reached * self.shares[0].limit_per_s
            parts.append(report.shares_table(self.shares, self.operations, per_s))
        parts += ["## Sweeps", *report.sweep_tables(self.sweeps)] if self.sweeps else []
        return "\n\n".join(parts) + "\n"

    def write(self, out: Path) -> None:
        write_json(out / "peers.json", self.json())
        (out / "peers.md").write_text(self.markdown(), encoding="utf-8")
        if (drawn := report.plot(self.found)) is not None:
            (out / "throughput.svg").write_text(drawn, encoding="utf-8")


def say(text: str) -> None:
    print(f"[peers] {text}", file=sys.stderr, flush=True)


def swept(children: Children, one: Peer, questions: Questions, count: int) -> Sweep:
    """The best settings of a peer. Raises PeerError where not even its first ones run."""
    say(f"sweep of {one.name}")
    drawn: dict[Kind, list[Question]] = {}

    def asked(kind: Kind) -> list[Question]:
        # The same for all settings; each setting has a cache of its own, which ends with it.
        if kind not in drawn:
            drawn[kind] = questions.draw(TEXT[kind[1]], kind[1] + max(count, 2 * kind[1]))
        return drawn[kind]

    return sweep(one.start, one.knobs, measured_by(children, one, asked))


def measured_peaks(exports: Exports, bundle: Bundle, out: Path) -> Peaks:
    """Raises PeerError."""
    say("GEMM peaks")
    child = Child([str(exports.program("python")), "-m", "benchmarks.peers.gemm"], out / "gemm.log")
    try:
        config = Checkpoint.read_config(bundle.folder)
        answer = child.ask("run", shapes=shapes(config), precisions=list(reversed(native_precisions())))
        return Peaks(answer["peaks"], answer["refused"])
    finally:
        child.close()


def measure_all(args: argparse.Namespace, bundle: Bundle, result: Result) -> None:
    """Fills the result, which is written after each workload. Raises PeerError where ours, or the machine's peaks,
    could not be measured."""
    exports = Exports(args.merged, args.exports, args.environment)
    say("texts")
    ruler = Tokens(bundle.folder)
    source = PoolTexts(args.pool, ruler) if args.pool else OwnTexts(ruler)
    builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
    questions = Questions(builder, source, seed=args.seed)
    result.not_exported = exports.make(openvino=bool({*OPENVINO} & {*args.peers}), llama=LLAMA in args.peers)
    result.peaks = measured_peaks(exports, bundle, args.out)
    with Children(exports, args.out) as children:
        peers: dict[str, tuple[Peer, Sweep | None]] = {}
        for name in args.peers:
            one = peer(name, exports)
            if not one.can_run:
                say(f"{name} is left out: none of its weights could be made")
                continue
            peers[name] = (one, None)
            if args.sweep and not one.once:
                result.sweeps[name] = swept(
                    children, turning(one, args.knobs), questions, min(args.requests, SWEEP_REQUESTS)
                )
                peers[name] = (one, result.sweeps[name])
        for workload in args.workloads:
            say(f"{workload.name}: {args.rounds} rounds")
            entries = entrants(workload, ours(args.bundle), list(peers.values()))
            count = max(args.requests, PER_WORKER * workload.concurrency)
            result.found.append(measure(children, workload, entries, questions, rounds=args.rounds, count=count))
            result.found[-1].of_ours()
            if workload == TEXT[32]:
                fill_shares(result, bundle, result.found[-1])
            result.write(args.out)


def fill_shares(result: Result, bundle: Bundle, measured: Measured) -> None:
    assert result.peaks is not None
    config, engine = Checkpoint.read_config(bundle.folder), EngineConfig.read(bundle.folder)
    per_s = Figures.medians(measured.of_ours()).per_s
    int8 = bundle.precision.startswith("int8")
    arithmetic = engine.arithmetic
    result.shares = shares(config, result.peaks, measured.asked, per_s, arithmetic=arithmetic, int8=int8)
    result.operations = operations_of(config, measured.asked)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="ours (%(default)s)")
    parser.add_argument("--merged", type=Path, default=Path("build/merged"), help="its checkpoint (%(default)s)")
    parser.add_argument("--exports", type=Path, default=Path("build/peers"), help="the peers' weights (%(default)s)")
    parser.add_argument("--environment", type=Path, default=Path(".venv-peers"), help="of the peers (%(default)s)")
    parser.add_argument("--pool", type=Path, help="folder of labelled JSONL files, for its texts")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated (%(default)s)")
    names = ", ".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--workloads", help=f"comma-separated; all: {names}")
    parser.add_argument("--rounds", type=int, default=5, help="of each workload, interleaved (%(default)s)")
    parser.add_argument(
        "--requests",
        type=int,
        default=24,
        help=f"of each engine in a round; at least {PER_WORKER} for each worker (%(default)s)",
    )
    parser.add_argument("--knobs", help="comma-separated, the only ones that sweeps turn, weights for one (all)")
    parser.add_argument("--no-sweep", dest="sweep", action="store_false", help="peers run at their first settings")
    parser.add_argument(
        "--quick", action="store_true", help=f"no sweep, {QUICK_ROUNDS} round of {QUICK_REQUESTS} requests or more"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the texts (%(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a bar is missed")
    parser.add_argument("--out", type=Path, default=Path("build/peers/result"), help="of the result (%(default)s)")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.requests, args.sweep = QUICK_ROUNDS, QUICK_REQUESTS, False
    if args.rounds < 1 or args.requests < 1:
        parser.error("--rounds and --requests must be positive")
    args.peers = [name for name in args.peers.split(",") if name]
    if other := sorted(set(args.peers) - set(PEERS)):
        parser.error(f"--peers: no such engine: {', '.join(other)}; there are {', '.join(PEERS)}")
    try:
        args.workloads = named(args.workloads.split(",")) if args.workloads else list(WORKLOADS)
    except ValueError as error:
        parser.error(f"--workloads: {error}")
    exports = Exports(args.merged, args.exports, args.environment)
    if lacking := exports.missing(["python", *(["llama-server"] if LLAMA in args.peers else [])]):
        parser.error(f"{args.environment} lacks {', '.join(lacking)}: make {args.environment}/.ok")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    args = parsed(arguments)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        bundle = Bundle.open(args.bundle)
        about = {
            **origin("benchmarks.peers", arguments, precision=bundle.precision, revision=bundle.revision),
            "multiplies": ", ".join(native_precisions()),
            "texts": "the train pool's" if args.pool else "own, of the train pool's lengths",
            "kernel": platform.release(),
        }
        result = Result(about)
        measure_all(args, bundle, result)
    except (GuardError, PeerError, CorpusError, ValueError, OSError) as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    result.write(args.out)
    print(result.markdown())
    say(f"written: {args.out}")
    return 1 if args.strict and not all(bar.met for bar in result.bars) else 0


if __name__ == "__main__":
    sys.exit(main())
