"""Every fast path of the engine against the plain path: the same verdicts, at any concurrency and in any batch.

    python -m benchmarks.fast_paths --bundle build/bundle --requests 2000 --out build/fast_paths

The plain path is a second, simple implementation of the decode program (`plain.py`): one job alone, no cache, no
branches, no batch, one token a pass. The fast path is the engine behind its scheduler, with a number of requests in
flight that keeps changing between 1 and 32. Requests are those of `mix.yaml`: every mode, pairs, policies of every
form, images where the bundle has a tower. --pool takes the texts of a training pool instead of the shipped ones.

Then batch invariance: some prompts in batches of 1 to 8, each in different company.

Bars: in f32 arithmetic no label, category list or truncation differs, and no margin by more than --most-margin. In any
other, what the profile of the parity gate allows (`build_scripts/parity_thresholds.yaml`), the plain path being the
reference. Exit 1 where one is missed. --out FOLDER keeps the plain answers too: a run that was ended goes on from them.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tritonguard.errors import GuardError
from tritonguard.policy_parts import BUILT_IN
from tritonguard.request import GuardRequest

from benchmarks.fast_paths import compare, invariance
from benchmarks.fast_paths.asked import Asked, Asking, Request
from benchmarks.fast_paths.compare import EXACT, Compared
from benchmarks.fast_paths.concurrency import RandomFlight
from benchmarks.fast_paths.invariance import Varied
from benchmarks.fast_paths.plain import Graphs
from benchmarks.fast_paths.plain_answers import PlainAnswers
from benchmarks.held_out import load_replies, load_split, parity_rows, some
from benchmarks.latency.mix import Mix
from benchmarks.latency.texts import Texts
from benchmarks.latency.workload import read_workload
from benchmarks.report import Bar, markdown, origin, write_json
from build_scripts.calibration import SHIPPED
from build_scripts.parity_corpus import Row, read_corpus
from build_scripts.parity_gate import Finding, ThresholdsError, load_profile, passed
from engines.bundle import OPENVINO, Bundle, open_engine
from engines.local.passes import Passes
from engines.protocol import Answer
from engines.scheduler import Scheduler

WORKLOAD = Path(__file__).with_name("mix.yaml")
MOST_MARGIN = 1e-3
POOL_ROWS = 2000


@dataclass(frozen=True)
class Found:
    """in_flight: how many requests were, by how often. bars: of exact arithmetic; findings: of any other."""

    compared: Sequence[Compared]
    varied: Sequence[Varied]
    in_flight: dict[int, int]
    bars: Sequence[Bar]
    findings: Sequence[Finding]

    @property
    def met(self) -> bool:
        return passed(list(self.findings)) if self.findings else bool(self.bars) and all(bar.met for bar in self.bars)


def texts(pool: Path | None, adapter: Path) -> list[Row]:
    """Rows to draw texts from. Raises ValueError for a pool that the adapter was not trained on."""
    if pool is None:
        return read_corpus(SHIPPED)
    split = load_split(pool, adapter)
    trained, held_out = load_replies(pool, adapter, split)
    pairs = [
        Row(one.id, GuardRequest(prompt=one.prompt, response=one.response), BUILT_IN, one.language)
        for one in some([*trained, *held_out], POOL_ROWS)
    ]
    return [*parity_rows(split, POOL_ROWS), *pairs]


def run(
    bundle: Bundle,
    graphs: Graphs,
    scheduler: Scheduler,
    requests: Sequence[Request],
    asking: Asking,
    args: argparse.Namespace,
) -> Found:
    """Both paths, in this order: plain answers one at a time, then all requests through the scheduler."""
    every = list(chain.from_iterable(request.parts for request in requests))
    path = None if args.out is None else args.out / "plain.jsonl"
    plain = PlainAnswers(path, bundle=bundle.revision)
    plain.complete(graphs, every)
    flight = RandomFlight(scheduler, random.Random(f"{args.seed} flight"))
    fast = list(chain.from_iterable(flight.ask(requests)))
    both = [(one, plain[one.id], answer) for one, answer in zip(every, fast, strict=True)]
    found = [compare.compared(*each, list_of=asking.list_of) for each in both]
    varied = invariance.vary(
        scheduler,
        every,
        random.Random(f"{args.seed} invariance"),
        prompts=args.invariance_prompts,
        companies=args.companies,
        list_of=asking.list_of,
    )
    bars, findings = judged(bundle, both, found, asking, args)
    return Found(found, varied, dict(sorted(flight.seen.items())), bars, findings)


def judged(
    bundle: Bundle,
    both: Sequence[tuple[Asked, Answer, Answer | GuardError]],
    found: Sequence[Compared],
    asking: Asking,
    args: argparse.Namespace,
) -> tuple[list[Bar], list[Finding]]:
    """Bars where the arithmetic is exact, findings of the parity gate where it is not."""
    if bundle.precision == EXACT:
        return compare.exact_bars(found, args.most_margin), []
    pairs = [
        compare.pair(*each, decode=asking.builder.decode_text, reasoning_source=bundle.reasoning_source)
        for each in both
    ]
    return [], compare.gate(pairs, load_profile(args.profile))


def document(bundle: Bundle, found: Found, arguments: Sequence[str], requests: int) -> str:
    """The run in Markdown."""
    facts = origin("benchmarks.fast_paths", arguments, precision=bundle.precision, revision=bundle.revision) | {
        "asked": f"{requests} requests, {len(found.compared)} prompts",
    }
    flights = [(f"{least}-{least + 7}", sum(found.in_flight.get(n, 0) for n in range(least, least + 8)))
               for least in range(1, 33, 8)]  # fmt: skip
    judged = [*found.bars, *(one for one in found.findings if one.met is not None)]
    return "\n\n".join(
        [
            "# Fast paths against the plain path",
            "\n".join(f"- {name}: {value}" for name, value in facts.items()),
            "Differences of a margin, log P(unsafe) - log P(safe), in nats; of p_unsafe in probability.",
            compare.table(found.compared, lambda one: one.kind, "kind"),
            compare.table(found.compared, lambda one: one.policy, "policy"),
            markdown(("in flight", "requests sent"), flights),
            "## Batch invariance: against the same prompt alone",
            invariance.table(found.varied),
            "\n".join(f"- {one}" for one in judged),
        ]
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fast_paths",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument("--requests", type=int, default=2000, help="(%(default)s)")
    parser.add_argument("--workload", type=Path, default=WORKLOAD, help="what is asked (mix.yaml)")
    parser.add_argument("--pool", type=Path, help="folder of labelled JSONL files; without it the shipped prompts")
    parser.add_argument("--adapter", type=Path, default=Path("adapters/embedded"), help="its split of the pool is used")
    parser.add_argument("--invariance-prompts", type=int, default=6, help="of the batch table (%(default)s)")
    parser.add_argument("--companies", type=int, default=2, help="batches of each size for each (%(default)s)")
    parser.add_argument("--most-margin", type=float, default=MOST_MARGIN, help="nats, in f32 (%(default)s)")
    parser.add_argument("--profile", default="default", help="of the parity gate, in other arithmetic (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is asked, and when (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for JSON, Markdown and the plain answers")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    if args.requests < 1 or args.companies < 1 or args.invariance_prompts < 0:
        parser().error("--requests and --companies are at least 1")
    try:
        bundle = Bundle.open(args.bundle)
        if bundle.target != OPENVINO:
            parser().error("the plain path is on the graphs of the local engine; this bundle is for another one")
        if bundle.precision != EXACT:
            load_profile(args.profile)
        workload = read_workload(args.workload).model_copy(update={"seed": args.seed})
        mix = Mix(workload, Texts(texts(args.pool, args.adapter)), tokenizer=bundle.folder, folder=args.workload.parent)
        asking = Asking(bundle)
        requests = asking.requests(mix, args.requests)
        graphs = Passes.load(bundle.folder)
        scheduler = Scheduler(open_engine(bundle))
    except (GuardError, ValueError, ThresholdsError) as error:
        print(f"fast_paths: {error}", file=sys.stderr)
        return 2
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    try:
        found = run(bundle, graphs, scheduler, requests, asking, args)
    finally:
        scheduler.close()
    told = document(bundle, found, arguments, args.requests)
    print(told)
    if args.out is not None:
        (args.out / "fast_paths.md").write_text(told + "\n", encoding="utf-8")
        values = origin("benchmarks.fast_paths", arguments, precision=bundle.precision, revision=bundle.revision)
        write_json(args.out / "fast_paths.json", {**values, **vars(found), "met": found.met})
    return 0 if found.met else 1


if __name__ == "__main__":
    sys.exit(main())
