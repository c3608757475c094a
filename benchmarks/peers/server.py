"""Server against server: ours with its client, Triton and all stages, and each peer behind its own best server.

    python -m benchmarks.peers.server --pool ../shared/data/train_pool --settings build/peers/result/peers.json

Ours is asked texts and answers verdicts. The peers are asked token ids and answer token ids, so that nobody tokenises,
renders a template or reads an answer for them: llama.cpp by its own llama-server over HTTP, OpenVINO GenAI by a model
in the same Triton as ours over gRPC. All are clients of threads on the same machine. The rounds are those of
`benchmarks.peers`, whose --settings (its JSON) says what each peer runs best with; without it the first settings of
its sweep are taken, and the result says so.

Exit status: 0 measured, 1 with --strict where a bar is missed, 2 nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tritonguard.errors import GuardError

from benchmarks.latency.texts import Tokens
from benchmarks.peers import report, roster
from benchmarks.peers.exports import Exports
from benchmarks.peers.figures import Figures
from benchmarks.peers.pool import Children
from benchmarks.peers.protocol import PeerError
from benchmarks.peers.question import PLAIN
from benchmarks.peers.roster import GENAI, LLAMA, OPENVINO, Peer
from benchmarks.peers.rounds import Measured, entrants, measure
from benchmarks.peers.server_ours import ServedQuestions, Servers
from benchmarks.peers.server_pipeline import installed
from benchmarks.peers.sweep import KINDS, Sweep, kind_name
from benchmarks.peers.texts import OwnTexts, PoolTexts
from benchmarks.peers.workloads import PER_S, WORKLOADS, Limit, Workload
from benchmarks.report import Bar, markdown, origin, write_json
from build_scripts.parity_corpus import CorpusError
from engines.bundle import Bundle
from preprocessing.prompt import PromptBuilder

BARS = {"text c=8": (Limit(PER_S, PLAIN, 1.5),)}
SERVED = [replace(one, bars=BARS.get(one.name, ())) for one in WORKLOADS if one.name != "response c=1"]
PER_WORKER = 3


@dataclass(frozen=True)
class Launched(Peer):
    """arguments: of its module."""

    arguments: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        return [*super().command, *self.arguments]


def served_peer(name: str, exports: Exports, bundle: Path) -> Peer:
    """A peer behind its server. Raises CalledProcessError where GenAI's packages can't be installed."""
    one = roster.peer(name, exports)
    if name not in OPENVINO:
        return one
    packages = installed(exports.out / "genai_packages")
    arguments = (str(packages.absolute()), str(bundle.absolute()))
    return Launched(one.name, "benchmarks.peers.server_genai", Path(sys.executable), one.knobs, arguments=arguments)


def chosen(path: Path | None, names: Sequence[str]) -> dict[str, Sweep]:
    """The best settings of an earlier run's sweeps, by peer. Raises ValueError for a file that is no such run."""
    if path is None:
        return {}
    try:
        swept = json.loads(path.read_text())["sweeps"]
        found = {name: swept[name]["best"] for name in names if name in swept}
        return {name: Sweep({kind: best[kind_name(kind)] for kind in KINDS}) for name, best in found.items()}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} holds no sweep: {type(error).__name__}") from None


def measure_all(args: argparse.Namespace, bundle: Bundle) -> list[Measured]:
    """Raises PeerError where ours could not be measured."""
    exports = Exports(args.merged, args.exports, args.environment)
    ruler = Tokens(bundle.folder)
    source = PoolTexts(args.pool, ruler) if args.pool else OwnTexts(ruler)
    builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
    questions = ServedQuestions(builder, source, seed=args.seed)
    for name, why in exports.make(openvino=bool({*OPENVINO} & {*args.peers}), llama=LLAMA in args.peers).items():
        print(f"server: {name} was not made: {why}", file=sys.stderr)
    sweeps = chosen(args.settings, args.peers)
    peers = [(served_peer(name, exports, args.bundle), sweeps.get(name)) for name in args.peers]
    most = max(workload.concurrency for workload in args.workloads)
    found: list[Measured] = []
    with (
        Children(exports, args.out) as children,
        # The model in Triton shows no logits; those of the same weights are asked for in the peers' environment.
        Children(exports, args.out) as beside,
        Servers(
            children,
            questions,
            builder.encode_text,
            most=most,
            checks={name: (roster.peer(name, exports), beside) for name in OPENVINO if name in args.peers},
        ) as servers,
    ):
        for workload in args.workloads:
            count = max(args.requests, PER_WORKER * workload.concurrency)
            entries = entrants(workload, roster.ours(args.bundle), peers)
            found.append(measure(servers, workload, entries, questions, rounds=args.rounds, count=count))
            found[-1].of_ours()
    return found


def document(about: dict[str, str], found: Sequence[Measured], bars: Sequence[Bar]) -> str:
    parts = ["# Server against server", markdown(("", "this run"), list(about.items()))]
    parts += ["## Bars", report.bar_lines(bars)] if bars else []
    if told := report.warnings(found):
        parts += ["## Warnings", "\n".join(f"- {' '.join(line.split())}" for line in told)]
    parts += ["## Ratios", report.ratio_table(found), *report.label_sections(found)]
    parts += ["## Workloads", *report.workload_tables(found)]
    return "\n\n".join(parts) + "\n"


def figures(about: dict[str, str], found: Sequence[Measured], bars: Sequence[Bar]) -> dict[str, Any]:
    workloads = {
        measured.workload.name: {
            "rounds": {" ".join(key): rounds for key, rounds in measured.rounds.items()},
            "medians": {" ".join(key): Figures.medians(rounds) for key, rounds in measured.rounds.items()},
            "agreement": measured.agreement,
            "failed": {" ".join(key): why for key, why in measured.failed.items()},
        }
        for measured in found
    }
    return {"about": about, "workloads": workloads, "bars": bars}


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="ours (%(default)s)")
    parser.add_argument("--merged", type=Path, default=Path("build/merged"), help="its checkpoint (%(default)s)")
    parser.add_argument("--exports", type=Path, default=Path("build/peers"), help="the peers' weights (%(default)s)")
    parser.add_argument("--environment", type=Path, default=Path(".venv-peers"), help="of the peers (%(default)s)")
    parser.add_argument("--settings", type=Path, metavar="JSON", help="peers.json of a run with sweeps")
    parser.add_argument("--pool", type=Path, help="folder of labelled JSONL files, for its texts")
    parser.add_argument("--peers", default=f"{GENAI},{LLAMA}", help="comma-separated (%(default)s)")
    names = ", ".join(workload.name for workload in SERVED)
    parser.add_argument("--workloads", help=f"comma-separated; all: {names}")
    parser.add_argument("--rounds", type=int, default=5, help="of each workload, interleaved (%(default)s)")
    parser.add_argument("--requests", type=int, default=24, help="of each server in a round at least (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the texts (%(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a bar is missed")
    parser.add_argument("--out", type=Path, default=Path("build/peers/server"), help="of the result (%(default)s)")
    args = parser.parse_args(argv)
    args.peers = [name for name in args.peers.split(",") if name]
    known: dict[str, Workload] = {workload.name: workload for workload in SERVED}
    asked = args.workloads.split(",") if args.workloads else list(known)
    if other := sorted({*args.peers} - {*OPENVINO, LLAMA}) + [name for name in asked if name not in known]:
        parser.error(f"unknown: {', '.join(other)}")
    args.workloads = [known[name] for name in asked]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    args = parsed(arguments)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        bundle = Bundle.open(args.bundle)
        found = measure_all(args, bundle)
    except (GuardError, PeerError, CorpusError, ValueError, OSError, subprocess.SubprocessError) as error:
        print(f"server: {error}", file=sys.stderr)
        return 2
    about = {
        **origin("benchmarks.peers.server", arguments, precision=bundle.precision, revision=bundle.revision),
        "texts": "the train pool's" if args.pool else "own, of the train pool's lengths",
        "peers' settings": f"the best of {args.settings}" if args.settings else "the first ones, no sweep",
        "kernel": platform.release(),
    }
    bars = [bar for measured in found for bar in measured.bars]
    told = document(about, found, bars)
    (args.out / "server.md").write_text(told, encoding="utf-8")
    write_json(args.out / "server.json", figures(about, found, bars))
    print(told)
    return 1 if args.strict and not all(bar.met for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
