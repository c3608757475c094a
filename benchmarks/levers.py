"""What each lever of the local engine is worth: the same work with it and without, in turn.

    python -m benchmarks.levers --bundle build/bundle --rounds 11 --out build/levers.json

On the engine itself, no server. Each round does every lever's work both ways, the order turned from round to round, on
another text of the shipped prompts; a first round is not counted. The ratio is that of the medians, time without over
time with. Both ways must come to the same labels: exit 1 where they don't.

plain decoding     the same answer and its end token by token, each over the whole vocabulary, behind the same cached
                   policy: what an engine does that does not know the answer's program. It is told each token, since the
                   embedded checkpoint, left alone, writes no verdict
padded             the graph alone, with a branch that nobody reads behind each text, as long as the longest needs
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tritonguard.errors import BundleError, GuardError
from tritonguard.examples import EXAMPLES, PROMPTS
from tritonguard.label import Safety
from tritonguard.policy import Policy
from tritonguard.policy_parts import CATEGORY_NAMES, parts_of
from tritonguard.request import GuardRequest, Mode

from benchmarks.pair_passes import margins, one_pass, two_passes
from benchmarks.repeated_images import picture
from benchmarks.report import markdown, origin, write_json
from benchmarks.served import followed
from engines.bundle import OPENVINO, Bundle, open_engine
from engines.local.context import Context
from engines.local.passes import Passes
from engines.local.shape import Shape
from engines.local.tree import Tree
from engines.program import Program, program_for
from engines.protocol import Answer, Engine, Job
from preprocessing.prompt import ModelInput, PromptBuilder

TOGETHER = 8

Labels = list[bool]
Way = Callable[[int], Labels]


@dataclass(frozen=True)
class Lever:
    """A way without and one with it; each takes the round's number and returns whether what it judged is unsafe."""

    name: str
    without: Way
    having: Way


@dataclass(frozen=True)
class Measured:
    """Medians over the rounds, ms. differing: rounds in which the two ways came to other labels."""

    name: str
    without_ms: float
    with_ms: float
    rounds: int
    differing: int

    @property
    def ratio(self) -> float:
        return self.without_ms / self.with_ms


def measure(levers: Sequence[Lever], rounds: int) -> list[Measured]:
    """Round 0 warms up."""
    took: dict[tuple[str, bool], list[float]] = {}
    differing = dict.fromkeys((lever.name for lever in levers), 0)
    for number in followed(range(rounds + 1), total=rounds + 1, title="rounds"):
        for lever in levers:
            labels = {}
            for having in (True, False) if number % 2 else (False, True):
                began = time.perf_counter()
                labels[having] = (lever.having if having else lever.without)(number)
                if number:
                    took.setdefault((lever.name, having), []).append((time.perf_counter() - began) * 1e3)
            differing[lever.name] += labels[True] != labels[False]
    return [
        Measured(
            lever.name,
            statistics.median(took[lever.name, False]),
            statistics.median(took[lever.name, True]),
            rounds,
            differing[lever.name],
        )
        for lever in levers
    ]


class Bench:
    """The work of every lever, on texts that take turns. graphs: of the same bundle as the engine's."""

    def __init__(self, bundle: Bundle, engine: Engine, graphs: Passes) -> None:
        self._engine = engine
        self._graphs = graphs
        self._size = bundle.image_size
        self._builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
        self._contexts: dict[tuple[int, ...], Context] = {}

    def levers(self) -> list[Lever]:
        every = [
            Lever("policy prefix reused", self._whole_prompt, self._verdict),
            Lever("prompt and response in one pass, not two", self._two_passes, self._one_pass),
            Lever("forced head, not plain decoding", self._decoded_verdict, self._verdict),
            Lever("categories over the names, not plain decoding", self._decoded_categories, self._categories),
            Lever(f"{TOGETHER} requests in a batch, not one by one", self._one_by_one, self._batch),
            Lever(f"{TOGETHER} of as many policies in a batch, not one by one", self._policies_apart, self._policies),
            Lever(f"{TOGETHER} texts in one line, not each padded to the longest", self._padded, self._in_line),
        ]
        if self._size:
            every.append(Lever("equal images seen once", self._new_image, self._known_image))
        return every

    def _verdict(self, number: int) -> Labels:
        return self._labels([self._job(number)])

    def _whole_prompt(self, number: int) -> Labels:
        return self._labels([replace(self._job(number), prefix_length=0)])

    def _one_pass(self, number: int) -> Labels:
        return list(one_pass(self._engine, self._exchange(number), self._pair).labels)

    def _two_passes(self, number: int) -> Labels:
        return list(two_passes(self._engine, self._exchange(number), self._pair).labels)

    def _batch(self, number: int) -> Labels:
        return self._labels([self._job(number + each) for each in range(TOGETHER)])

    def _one_by_one(self, number: int) -> Labels:
        return [label for each in range(TOGETHER) for label in self._labels([self._job(number + each)])]

    def _policies(self, number: int) -> Labels:
        return self._labels(self._under_policies(number))

    def _policies_apart(self, number: int) -> Labels:
        return [label for job in self._under_policies(number) for label in self._labels([job])]

    def _in_line(self, number: int) -> Labels:
        return self._rows(number, padded=False)

    def _padded(self, number: int) -> Labels:
        return self._rows(number, padded=True)

    def _categories(self, number: int) -> Labels:
        return self._labels([self._job(number, Mode.CATEGORIES)])

    def _decoded_verdict(self, number: int) -> Labels:
        return self._decoded(self._job(number))

    def _decoded_categories(self, number: int) -> Labels:
        return self._decoded(self._job(number, Mode.CATEGORIES))

    def _known_image(self, number: int) -> Labels:
        return self._seen(0)

    def _new_image(self, number: int) -> Labels:
        return self._seen(number + 1)

    def _seen(self, seed: int) -> Labels:
        """Only asked: noise has no label that two pictures share."""
        built = self._builder.build(GuardRequest(prompt=PROMPTS[0].prompt, images=(b"stands for one",)))
        margins(self._engine, Job(built.ids, built.prefix_length, self._judging, picture(self._size, seed)))
        return []

    def _rows(self, number: int, *, padded: bool) -> Labels:
        """The graph alone; padding is a branch that nobody reads."""
        jobs = [self._job(number + each) for each in range(TOGETHER)]
        trunks = [(*job.split[1], *Shape.of(job.program).head) for job in jobs]
        missing = [max(map(len, trunks)) - len(trunk) if padded else 0 for trunk in trunks]
        trees = [
            Tree(trunk, (trunk[-1:] * count,) if count else (), last=True)
            for trunk, count in zip(trunks, missing, strict=True)
        ]
        choice = jobs[0].program.choices[0]
        results = self._graphs.run(self._context(jobs[0].split[0]), trees, (choice.safe, choice.unsafe))
        return [bool(result.logits[0, 1] >= result.logits[0, 0]) for result in results]

    def _context(self, prefix: tuple[int, ...]) -> Context:
        if prefix not in self._contexts:
            self._contexts[prefix] = self._graphs.extend(self._graphs.empty, prefix) if prefix else self._graphs.empty
        return self._contexts[prefix]

    def _decoded(self, job: Job) -> Labels:
        prefix, rest = job.split
        context, choice, labels = self._context(prefix), job.program.choices[0], Labels()
        for id in (*self._said[tuple(job.ids.tolist())], self._builder.end_of_turn):
            [result] = self._graphs.run(context, [Tree(rest)], (choice.safe, choice.unsafe))
            self._graphs.best_of(result.hidden[:1], [frozenset()])
            if id in (choice.safe, choice.unsafe):
                labels.append(bool(result.logits[0, 1] >= result.logits[0, 0]))
            context, rest = context.extended(*result.kept, range(len(rest))), (id,)
        return labels[:1]

    def _answers(self, jobs: Sequence[Job]) -> Iterator[Answer]:
        """Raises what the engine answers instead of an Answer."""
        for answer in self._engine.run(jobs):
            if not isinstance(answer, Answer):
                raise answer
            yield answer

    def _labels(self, jobs: Sequence[Job]) -> Labels:
        """The user's label of each. Raises as `_answers` does."""
        choices = [answer.choice_logprobs[0] for answer in self._answers(jobs)]
        return [bool(unsafe >= safe) for safe, unsafe in choices]

    def _job(self, number: int, mode: Mode = Mode.VERDICT) -> Job:
        # Only an unsafe prompt has a list of categories.
        texts = self._unsafe if mode is Mode.CATEGORIES else [example.prompt for example in PROMPTS]
        built = self._builder.build(GuardRequest(prompt=texts[number % len(texts)], mode=mode))
        return Job(built.ids, built.prefix_length, self._listing if mode is Mode.CATEGORIES else self._judging)

    def _under_policies(self, number: int) -> list[Job]:
        """Each without another one of the built-in categories."""
        jobs = []
        for place, name in enumerate(CATEGORY_NAMES[-TOGETHER:]):
            (part,) = parts_of(Policy(suppress=(name,)))
            built = self._builder.build(GuardRequest(prompt=PROMPTS[(number + place) % len(PROMPTS)].prompt), part)
            jobs.append(Job(built.ids, built.prefix_length, self._judging))
        return jobs

    def _exchange(self, number: int) -> ModelInput:
        pairs = [example for example in EXAMPLES if example.response is not None]
        pair = pairs[number % len(pairs)]
        return self._builder.build(GuardRequest(prompt=pair.prompt, response=pair.response))

    @cached_property
    def _said(self) -> dict[tuple[int, ...], Sequence[int]]:
        """The engine's answers to all prompts, without their ends."""
        jobs = [self._job(number, mode) for mode in (Mode.VERDICT, Mode.CATEGORIES) for number in range(len(PROMPTS))]
        return {tuple(job.ids.tolist()): answer.ids for job in jobs for answer in self._answers([job])}

    @cached_property
    def _unsafe(self) -> list[str]:
        return [example.prompt for example in PROMPTS if example.expected.user is Safety.UNSAFE]

    @cached_property
    def _judging(self) -> Program:
        return self._program(Mode.VERDICT)

    @cached_property
    def _listing(self) -> Program:
        return self._program(Mode.CATEGORIES)

    @cached_property
    def _pair(self) -> Program:
        return self._program(Mode.VERDICT, has_response=True)

    def _program(self, mode: Mode, *, has_response: bool = False) -> Program:
        builder = self._builder
        return program_for(mode, has_response=has_response, encode=builder.encode_text, end=builder.end_of_turn)


def table(found: Sequence[Measured]) -> str:
    """In Markdown."""
    rows = [
        (one.name, f"{one.without_ms:.0f}", f"{one.with_ms:.0f}", f"{one.ratio:.2f}", one.rounds, one.differing)
        for one in found
    ]
    return markdown(("lever", "without, ms", "with, ms", "ratio", "rounds", "labels differ"), rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.levers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument("--rounds", type=int, default=11, help="(%(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error("--rounds: at least one")
    try:
        bundle = Bundle.open(args.bundle)
        if bundle.target != OPENVINO:
            raise BundleError("these levers are the local engine's; this bundle is for another one")
        engine, graphs = open_engine(bundle), Passes.load(bundle.folder)
        graphs.wait_for_pair()
    except GuardError as error:
        print(f"levers: {error}", file=sys.stderr)
        return 2
    found = measure(Bench(bundle, engine, graphs).levers(), args.rounds)
    engine.close()
    about = origin("benchmarks.levers", arguments, precision=bundle.precision, revision=bundle.revision)
    print(", ".join(about.values()), "", table(found), sep="\n")
    if args.out:
        write_json(args.out, {**about, "levers": [{**vars(one), "ratio": one.ratio} for one in found]})
    return 1 if any(one.differing for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
