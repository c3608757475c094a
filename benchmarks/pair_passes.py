"""The pair verdict in one pass against the same verdict in two: the labels, how far the logits are apart, the time.

    python -m benchmarks.pair_passes --pool POOL --bundle build/bundle --count 500

On the engine itself, no server. One pass reads the prompt, `User Safety:` and both of its continuations as branches
that don't see each other. Two passes: the user's choice first, then a prompt that ends in what was said, and the
response's choice behind it. Half of the exchanges are held out of training, half trained on. The logit margin of a
choice is log P(unsafe) - log P(safe). Exit 1 where a label differs or a margin by more than --most.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tritonguard.errors import BundleError
from tritonguard.request import GuardRequest, Mode

from benchmarks.held_out import load_replies, load_split, some
from benchmarks.report import markdown, write_json
from benchmarks.served import followed
from build_scripts.training_replies import Exchange
from engines.bundle import Bundle, open_engine
from engines.program import Choice, Forced, Program, program_for
from engines.protocol import Answer, Engine, Job
from preprocessing.prompt import ModelInput, PromptBuilder

EXACT = "f32"
WARM_UPS = 2


@dataclass(frozen=True)
class Judged:
    """margins: log P(unsafe) - log P(safe) in nats, of the user's and of the response's choice. ms: wall time."""

    margins: tuple[float, float]
    ms: float

    @property
    def labels(self) -> tuple[bool, bool]:
        """Unsafe? A tie is, as everywhere."""
        return self.margins[0] >= 0, self.margins[1] >= 0


@dataclass(frozen=True)
class Comparison:
    """differing: exchanges with another label. most, p99: of |difference of a margin|, in nats. *_ms: medians."""

    exchanges: int
    differing: int
    most: float
    p99: float
    one_pass_ms: float
    two_passes_ms: float

    @classmethod
    def of(cls, one: Sequence[Judged], two: Sequence[Judged]) -> Comparison:
        """The same exchanges, at least one, judged both ways."""
        apart = np.abs(np.array([a.margins for a in one]) - np.array([b.margins for b in two]))
        return cls(
            exchanges=len(one),
            differing=sum(a.labels != b.labels for a, b in zip(one, two, strict=True)),
            most=float(apart.max()),
            p99=float(np.quantile(apart, 0.99)),
            one_pass_ms=float(np.median([a.ms for a in one])),
            two_passes_ms=float(np.median([b.ms for b in two])),
        )

    def holds(self, most: float) -> bool:
        """NaN, as a broken pass gives it, does not hold."""
        return self.differing == 0 and self.most <= most


def one_pass(engine: Engine, built: ModelInput, program: Program) -> Judged:
    """program: of a verdict with a response."""
    began = time.perf_counter()
    user, response = margins(engine, Job(built.ids, built.prefix_length, program))
    return Judged((user, response), (time.perf_counter() - began) * 1e3)


def two_passes(engine: Engine, built: ModelInput, program: Program) -> Judged:
    """The same program, cut behind the user's choice. Raises ValueError for another program."""
    match program.segments:
        case (Forced() as user_head, Choice() as user, Forced() as response_head, Choice() as response):
            pass
        case _:
            raise ValueError("not the program of a verdict with a response")
    began = time.perf_counter()
    [first] = margins(engine, Job(built.ids, built.prefix_length, Program((user_head, user))))
    said = (*user_head.ids, user.unsafe if first >= 0 else user.safe)
    ids = np.concatenate([built.ids, np.array(said, np.int32)])
    [second] = margins(engine, Job(ids, built.prefix_length, Program((response_head, response))))
    return Judged((first, second), (time.perf_counter() - began) * 1e3)


def margins(engine: Engine, job: Job) -> list[float]:
    """Of each choice of one job. Raises what the engine answers instead of an Answer."""
    (answer,) = engine.run([job])
    if not isinstance(answer, Answer):
        raise answer
    return [float(unsafe) - float(safe) for safe, unsafe in answer.choice_logprobs]


def compare(bundle: Bundle, exchanges: Sequence[Exchange]) -> Comparison:
    """Each exchange both ways, in turn, so that a noisy machine disturbs both alike."""
    builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
    engine = open_engine(bundle)
    program = program_for(Mode.VERDICT, has_response=True, encode=builder.encode_text, end=builder.end_of_turn)
    ways = {"one": one_pass, "two": two_passes}
    judged: dict[str, list[Judged]] = {"one": [], "two": []}
    # The first exchange some times more: the prefix's keys and values, and the shapes of both ways.
    queue = [*[exchanges[0]] * WARM_UPS, *exchanges]
    for number, exchange in enumerate(followed(queue, total=len(queue), title="pairs")):
        built = builder.build(GuardRequest(prompt=exchange.prompt, response=exchange.response))
        for name in list(ways) if number % 2 else list(reversed(ways)):
            judged[name].append(ways[name](engine, built, program))
    return Comparison.of(judged["one"][WARM_UPS:], judged["two"][WARM_UPS:])


def chosen(trained: Sequence[Exchange], held_out: Sequence[Exchange], count: int) -> list[Exchange]:
    """`count` exchanges, half of them held out where there are as many; fewer where the pool has fewer."""
    unseen = list(some(held_out, max(count // 2, count - len(trained))))
    return [*unseen, *some(trained, count - len(unseen))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pair_passes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pool", type=Path, required=True, help="folder of labelled JSONL files")
    parser.add_argument("--adapter", type=Path, default=Path("adapters/embedded"), help="its split is used")
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument("--count", type=int, default=500, help="exchanges (%(default)s)")
    parser.add_argument("--most", type=float, default=1e-3, help="largest difference of a margin (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error("--count: at least one exchange")
    try:
        bundle = Bundle.open(args.bundle)
        split = load_split(args.pool, args.adapter)
        exchanges = chosen(*load_replies(args.pool, args.adapter, split), args.count)
    except (BundleError, ValueError) as error:
        parser.error(str(error))
    if bundle.precision != EXACT:
        parser.error(f"the bundle's arithmetic is {bundle.precision}; two ways are only held equal in {EXACT}")
    result = compare(bundle, exchanges)
    table = markdown(
        (
            "exchanges",
            "labels differ",
            "most difference of a margin",
            "p99",
            "one pass p50 ms",
            "two passes p50 ms",
            "ratio",
        ),
        [
            (
                result.exchanges,
                result.differing,
                f"{result.most:.1e}",
                f"{result.p99:.1e}",
                f"{result.one_pass_ms:.0f}",
                f"{result.two_passes_ms:.0f}",
                f"{result.one_pass_ms / result.two_passes_ms:.2f}",
            )
        ],
    )
    print(table)
    if args.out:
        write_json(args.out, result)
    return 0 if result.holds(args.most) else 1


if __name__ == "__main__":
    sys.exit(main())
