"""What is measured: the workloads with their bars, and the questions of each, rendered as the server renders them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tritonguard.policy import Policy
from tritonguard.policy_parts import BUILT_IN, PolicyPart, parts_of
from tritonguard.request import GuardRequest, Mode

from benchmarks.latency.mix import Mix
from benchmarks.latency.texts import Texts
from benchmarks.latency.workload import FOLDER, read_workload
from benchmarks.peers.question import PLAIN, TRICK, Question
from benchmarks.peers.texts import Source
from build_scripts.parity_corpus import read_corpus
from engines.program import RESPONSE_HEAD, SAFE_WORD, UNSAFE_WORD, USER_HEAD
from preprocessing.prompt import PromptBuilder

P50, PER_S = "p50 ms", "requests/s"


@dataclass(frozen=True)
class Limit:
    """A bar on our figure over the best peer's. figure: P50 or PER_S. way: of the peer's answer."""

    figure: str
    way: str
    value: float


@dataclass(frozen=True)
class Workload:
    """concurrency: of the closed loop. policies: 1: the built-in one; more: that many of callers' own."""

    name: str
    concurrency: int
    bars: tuple[Limit, ...]
    mode: Mode = Mode.VERDICT
    response: bool = False
    policies: int = 1

    @property
    def ways(self) -> tuple[str, ...]:
        """Of answering, that peers are measured in. A list of categories has no trick."""
        return (PLAIN,) if self.mode is Mode.CATEGORIES else (PLAIN, TRICK)

    @property
    def figure(self) -> str:
        """What settings are chosen by."""
        return P50 if self.concurrency == 1 else PER_S


def _faster(plain: float, trick: float | None) -> tuple[Limit, ...]:
    bars = (Limit(PER_S, PLAIN, plain),)
    return bars if trick is None else (*bars, Limit(PER_S, TRICK, trick))


WORKLOADS = (
    Workload("text c=1", 1, (Limit(P50, PLAIN, 0.5), Limit(P50, TRICK, 0.8))),
    Workload("text c=8", 8, _faster(1.7, 1.45)),
    Workload("text c=32", 32, _faster(1.7, 1.45)),
    Workload("response c=1", 1, (Limit(P50, PLAIN, 0.45),), response=True),
    Workload("response c=8", 8, _faster(1.8, 1.5), response=True),
    Workload("policies c=8", 8, _faster(1.5, 1.3), policies=8),
    Workload("categories c=8", 8, _faster(1.5, None), mode=Mode.CATEGORIES),
)
TEXT = {workload.concurrency: workload for workload in WORKLOADS[:3]}


class Questions:
    """Draws the questions of workloads. builder: of the bundle that is served."""

    def __init__(self, builder: PromptBuilder, source: Source, *, seed: int) -> None:
        self._builder = builder
        self._source = source
        self._generator = random.Random(seed)
        workload = read_workload(FOLDER / "policies.yaml")
        mix = Mix(workload, Texts(read_corpus()), tokenizer=None, folder=FOLDER)
        self._policies = [policy_part(planned.request.policy) for planned in mix.one_of_each_policy()]

    def draw(self, workload: Workload, count: int) -> list[Question]:
        """New ones, each of a text that was not asked before. Raises ValueError where the texts are used up.

        Their answers' lengths are those of a verdict; a list of categories is as long as the model makes it.
        """
        drawn = self._source.draw(count, response=workload.response, generator=self._generator)
        own = self._policies[: workload.policies] if workload.policies > 1 else [BUILT_IN]
        return [
            self._question(GuardRequest(prompt=prompt, response=response, mode=workload.mode), own[index % len(own)])
            for index, (prompt, response) in enumerate(drawn)
        ]

    def _question(self, request: GuardRequest, part: PolicyPart) -> Question:
        encode = self._builder.encode_text
        built = self._builder.build(request, part)
        heads = [encode(USER_HEAD), *([] if request.response is None else [encode(RESPONSE_HEAD)])]
        (safe,), (unsafe,) = encode(SAFE_WORD), encode(UNSAFE_WORD)
        return Question(
            ids=tuple(built.ids.tolist()),
            prefix=built.prefix_length,
            heads=tuple(map(tuple, heads)),
            safe=safe,
            unsafe=unsafe,
            tokens=sum(len(head) + 1 for head in heads) + 1,
            mode=request.mode.value,
        )


def policy_part(policy: Policy) -> PolicyPart:
    """The one part of a policy that has one. Raises ValueError for another."""
    (part,) = parts_of(policy)
    return part


def named(names: Sequence[str]) -> list[Workload]:
    """The workloads of these names. Raises ValueError for a name that there is not."""
    known = {workload.name: workload for workload in WORKLOADS}
    if other := [name for name in names if name not in known]:
        raise ValueError(f"no such workload: {', '.join(other)}; there are {', '.join(known)}")
    return [known[name] for name in names]
