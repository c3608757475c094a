"""What the cache of images saves: the same requests, most with an image that was there before, with it and without.

    python -m benchmarks.repeated_images --bundle build/bundle --count 50 --repeated 0.8

On the engine itself, no server, a request at a time. Each round has pictures of its own, in the order of --seed, and
runs with both caches in turn; the prefix is cached in both. Vision's part is the time that a request spends on hashing
its image and on the tower. Its percentage of the whole is printed too, and falls less: the whole gets shorter as well.
Exit 1 where vision's part does not fall by --least (median of the rounds), or an answer is another one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tritonguard.errors import BundleError
from tritonguard.examples import PROMPTS
from tritonguard.request import GuardRequest, Mode

from benchmarks.report import Bar, markdown, write_json
from benchmarks.served import followed
from engines.bundle import OPENVINO, Bundle
from engines.local.cache_limits import CacheLimits
from engines.local.engine import LocalEngine
from engines.local.image_cache import Pixels
from engines.local.passes import Passes
from engines.local.runtime import cpu_name
from engines.program import Program, program_for
from engines.protocol import Answer, Engine, Job
from preprocessing.prompt import ModelInput, PromptBuilder

WITH, WITHOUT = "with the cache", "without"
LEAST = 4.0
MOST_APART = 1e-5
WARM_UPS = 2


@dataclass(frozen=True)
class Spent:
    """Of one round, milliseconds a request: on vision, and altogether."""

    vision_ms: float
    whole_ms: float


@dataclass(frozen=True)
class Round:
    """spent: by WITH and WITHOUT. apart: the most that a log-probability of the two differs by, in nats."""

    spent: dict[str, Spent]
    apart: float

    @property
    def ratio(self) -> float:
        """Vision's time without the cache over that with it."""
        return self.spent[WITHOUT].vision_ms / self.spent[WITH].vision_ms


@dataclass(frozen=True)
class Workload:
    """built: a prompt with one image. size: pixels of the tower's side."""

    built: ModelInput
    program: Program
    size: int
    repeated: float
    seed: int

    @classmethod
    def of(cls, bundle: Bundle, repeated: float, seed: int) -> Workload:
        """Raises BundleError for a bundle that the local engine can't look at pictures with."""
        if bundle.target != OPENVINO or not bundle.image_size:
            raise BundleError(f"{bundle.folder.name} is no bundle of the local engine with a vision tower")
        builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
        built = builder.build(GuardRequest(prompt=PROMPTS[0].prompt, images=(b"stands for one",)))
        program = program_for(Mode.VERDICT, has_response=False, encode=builder.encode_text, end=builder.end_of_turn)
        return cls(built, program, bundle.image_size, repeated, seed)

    def round(self, number: int, count: int) -> list[Job]:
        """Rounds share no picture."""
        return [
            Job(self.built.ids, self.built.prefix_length, self.program, picture(self.size, self.seed, number, each))
            for each in order(count, self.repeated, self.seed + number)
        ]


def order(count: int, repeated: float, seed: int) -> list[int]:
    """The picture of each request, by its number: a share of `repeated` was there before, the first one never."""
    random = np.random.default_rng(seed)
    new = max(1, count - round(count * repeated))
    first_seen = {0, *(1 + random.permutation(count - 1)[: new - 1]).tolist()}
    pictures: list[int] = []
    seen = 0
    for place in range(count):
        pictures.append(seen if place in first_seen else int(random.integers(seen)))
        seen += place in first_seen
    return pictures


def picture(size: int, *seed: int) -> Pixels:
    """uint8 [1, size, size, 3] of noise: what is in it does not matter to the time."""
    return np.random.default_rng(seed).integers(0, 256, (1, size, size, 3), np.uint8)


def ask(engine: Engine, jobs: Sequence[Job]) -> tuple[Spent, list[Answer]]:
    """One job after the other. Raises what the engine answers instead of an Answer."""
    answers: list[Answer] = []
    began = time.perf_counter()
    for job in jobs:
        (answer,) = engine.run([job])
        if not isinstance(answer, Answer):
            raise answer
        answers.append(answer)
    whole_ms = (time.perf_counter() - began) * 1e3
    vision_ms = sum(answer.timings_ms["vision"] for answer in answers)
    return Spent(vision_ms / len(jobs), whole_ms / len(jobs)), answers


def compare(ways: Mapping[str, Engine], jobs: Sequence[Job], *, turned: bool) -> Round:
    """One round through both; turned: the other one first."""
    asked = {name: ask(ways[name], jobs) for name in (reversed(list(ways)) if turned else ways)}
    pairs = zip(asked[WITH][1], asked[WITHOUT][1], strict=True)
    apart = np.max([np.abs(one.choice_logprobs - other.choice_logprobs).max() for one, other in pairs])  # NaN stays
    return Round({name: asked[name][0] for name in ways}, float(apart))


def table(rounds: Sequence[Round]) -> str:
    """In Markdown: medians over the rounds."""
    rows: list[tuple[object, ...]] = []
    for name in (WITHOUT, WITH):
        spent = [one.spent[name] for one in rounds]
        vision, whole = (statistics.median(getattr(one, part) for one in spent) for part in ("vision_ms", "whole_ms"))
        share = statistics.median(100 * one.vision_ms / one.whole_ms for one in spent)
        rows.append((name, f"{vision:.1f}", f"{whole:.1f}", f"{share:.1f}"))
    return markdown(("cache of images", "vision, ms a request", "whole request, ms", "vision, % of it"), rows)


def bars(rounds: Sequence[Round], least: float) -> list[Bar]:
    return [
        Bar("vision's time, without / with the cache", statistics.median(one.ratio for one in rounds), least=least),
        Bar("most difference of a log-probability", float(np.max([one.apart for one in rounds])), most=MOST_APART),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.repeated_images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="(%(default)s)")
    parser.add_argument("--count", type=int, default=50, help="requests of a round, an image each (%(default)s)")
    parser.add_argument("--repeated", type=float, default=0.8, help="share whose image was there before (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of pictures and order (%(default)s)")
    parser.add_argument("--least", type=float, default=LEAST, help="for exit 0, vision's time falls by (%(default)g)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    if args.count < 1 or args.rounds < 1 or not 0 <= args.repeated < 1:
        parser.error("--count and --rounds are at least 1, --repeated is at least 0 and below 1")
    try:
        bundle = Bundle.open(args.bundle)
        workload = Workload.of(bundle, args.repeated, args.seed)
        passes = Passes.load(bundle.folder)
    except BundleError as error:
        print(f"repeated_images: {error}", file=sys.stderr)
        return 2
    limits = {WITH: CacheLimits(), WITHOUT: CacheLimits(images=0)}
    ways: dict[str, Engine] = {name: LocalEngine(passes, bundle.capabilities, limits[name]) for name in limits}
    compare(ways, workload.round(0, WARM_UPS), turned=False)
    numbers = range(1, args.rounds + 1)
    found = [
        compare(ways, workload.round(number, args.count), turned=number % 2 == 0)
        for number in followed(numbers, total=args.rounds, title="rounds")
    ]
    print(f"{cpu_name()}, {bundle.precision}: {args.count} requests a round, {args.repeated:.0%} with a known image\n")
    print(table(found), "", sep="\n")
    judged = bars(found, args.least)
    print(*judged, sep="\n")
    if args.out:
        about = {"cpu": cpu_name(), "precision": bundle.precision, "bundle_revision": bundle.revision}
        asked = {name: getattr(args, name) for name in ("count", "repeated", "rounds", "seed")}
        write_json(args.out, {**about, **asked, "found": [asdict(one) for one in found], "bars": judged})
    return 0 if all(bar.met for bar in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
