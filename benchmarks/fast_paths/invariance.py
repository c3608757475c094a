"""Batch invariance: the same prompt alone and beside others, at each size of a batch, in different company."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tritonguard.request import Mode

from benchmarks.fast_paths.asked import Asked
from benchmarks.fast_paths.compare import Compared, ListOf, compared, most_and_p99
from benchmarks.fast_paths.concurrency import together
from benchmarks.report import markdown
from benchmarks.served import followed
from engines.protocol import Answer
from engines.scheduler import Scheduler

SIZES = range(1, 9)
NEAR = 12


@dataclass(frozen=True)
class Varied:
    """One prompt in a batch of `size`, against its answer alone."""

    size: int
    compared: Compared


def vary(
    scheduler: Scheduler,
    asked: Sequence[Asked],
    generator: random.Random,
    *,
    prompts: int,
    companies: int,
    list_of: ListOf,
) -> list[Varied]:
    """`prompts` of those asked, without those that think, each in `companies` batches of every size of SIZES.

    They go to the scheduler as one request, which keeps them together. Half of the companies are of the same policy and
    about as long; half are of any. The prompt's place
    among them is random. Raises RuntimeError where a prompt alone gets no answer.
    """
    quick = [one for one in asked if one.row.mode is not Mode.THINK]
    chosen = generator.sample(quick, min(prompts, len(quick)))
    runs = [(one, size, number) for one in chosen for size in SIZES for number in range(companies)]
    alone: dict[str, Answer] = {}
    found = []
    for one, size, number in followed(runs, total=len(runs), title="batch invariance"):
        if one.id not in alone:
            [answer] = together(scheduler, [one.job])
            if not isinstance(answer, Answer):
                raise RuntimeError(f"a prompt alone got no answer: {answer}")
            alone[one.id] = answer
        company = generator.choices(quick if number % 2 else alike(one, quick), k=size - 1)
        place = generator.randrange(size)
        jobs = [other.job for other in company]
        result = together(scheduler, [*jobs[:place], one.job, *jobs[place:]])[place]
        found.append(Varied(size, compared(one, alone[one.id], result, list_of=list_of)))
    return found


def alike(one: Asked, others: Sequence[Asked]) -> list[Asked]:
    """The NEAR prompts of the same policy that are nearest in length, or as many as there are; it is one of them."""
    prefix, rest = one.job.split
    same = [other for other in others if other.job.split[0] == prefix]
    return sorted(same, key=lambda other: abs(len(other.job.split[1]) - len(rest)))[:NEAR]


def table(found: Sequence[Varied]) -> str:
    """In Markdown, a row for each size."""
    rows = []
    for size in SIZES:
        group = [one.compared for one in found if one.size == size]
        most, p99 = most_and_p99(one.margin for one in group)
        flips = sum(one.flipped for one in group)
        errors = sum(one.error is not None for one in group)
        rows.append((size, len(group), errors, flips, f"{most:.1e}", f"{p99:.1e}"))
    return markdown(("batch of", "times", "errors", "flips", "margin max", "p99"), rows)
