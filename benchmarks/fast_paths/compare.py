"""How far two answers to one prompt are apart, by kind, and what a bundle's arithmetic allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from tritonguard.errors import GuardError
from tritonguard.judgement import read_answer
from tritonguard.request import Mode

from benchmarks.fast_paths.asked import Asked
from benchmarks.report import Bar, markdown
from build_scripts.parity_figures import Figures, Pair, groups_of, sigmoid
from build_scripts.parity_gate import Finding, Profile, judge
from build_scripts.parity_reading import Reading, margins_of_logprobs, of_label
from engines.protocol import Answer

EXACT = "f32"
"""The arithmetic in which every path comes to the same verdict."""
ListOf = Callable[[tuple[int, ...]], str]
Decode = Callable[[Sequence[int]], str]
FLIPS = ("user", "response", "categories", "truncated")


@dataclass(frozen=True)
class Compared:
    """One prompt on both paths. error: the kind, where the fast path gave no answer.

    user, response, categories, truncated: whether they differ (the response also where it answers another question,
    behind another user label). wrote: whether a reasoning's tokens differ. margin: the largest difference of a choice's
    log P(unsafe) - log P(safe) in nats, p: of its P(unsafe); of the response's only behind the same user label, and of
    none behind another reasoning. NaN: nothing to compare.
    """

    kind: str
    policy: str
    error: str | None = None
    user: bool = False
    response: bool = False
    categories: bool = False
    truncated: bool = False
    wrote: bool = False
    margin: float = math.nan
    p: float = math.nan

    @property
    def flipped(self) -> bool:
        return any(getattr(self, name) for name in FLIPS)


def compared(asked: Asked, plain: Answer, fast: Answer | GuardError, *, list_of: ListOf) -> Compared:
    """list_of: the category list of an answer's ids."""
    if isinstance(fast, GuardError):
        return Compared(asked.kind, asked.policy, error=fast.kind)
    ours, theirs = (np.array(margins_of_logprobs(answer.choice_logprobs)) for answer in (plain, fast))
    differ = (ours >= 0) != (theirs >= 0)
    wrote = asked.row.mode is Mode.THINK and plain.ids != fast.ids
    comparable = slice(0, 1) if differ[0] else slice(None)
    return Compared(
        asked.kind,
        asked.policy,
        user=bool(differ[0]),
        response=bool(differ[1:].any()),
        categories=list_of(plain.ids) != list_of(fast.ids),
        truncated=plain.truncated != fast.truncated,
        wrote=wrote,
        margin=math.nan if wrote else float(np.abs(ours - theirs)[comparable].max()),
        p=math.nan if wrote else float(np.abs(sigmoid(ours) - sigmoid(theirs))[comparable].max()),
    )


def table(found: Sequence[Compared], by: Callable[[Compared], str], head: str) -> str:
    """In Markdown: a row for each group and one for all."""
    groups: dict[str, list[Compared]] = {}
    for one in found:
        groups.setdefault(by(one), []).append(one)
    rows = [_row(name, groups[name]) for name in sorted(groups)] + [_row("all", found)]
    names = (head, "prompts", "errors", "user", "response", "categories", "truncated", "reasoning")
    return markdown((*names, "margin max", "p99", "p_unsafe max", "p99"), rows)


def _row(name: str, found: Sequence[Compared]) -> tuple[object, ...]:
    flips = [sum(getattr(one, what) for one in found) for what in (*FLIPS, "wrote")]
    parts = (*most_and_p99(one.margin for one in found), *most_and_p99(one.p for one in found))
    return name, len(found), sum(one.error is not None for one in found), *flips, *(f"{part:.1e}" for part in parts)


def most_and_p99(values: Iterable[float]) -> tuple[float, float]:
    """NaNs of prompts without an answer are left out; of nothing it is NaN, and so it is of an infinite value."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return math.nan, math.nan
    return float(known.max()), float(np.quantile(known, 0.99))


def exact_bars(found: Sequence[Compared], most_margin: float) -> list[Bar]:
    """Of f32. A prompt whose margins can't be compared (NaN in an answer) is one without an answer."""
    lost = sum(one.error is not None or (math.isnan(one.margin) and not one.wrote) for one in found)
    return [
        Bar("prompts without an answer", lost, most=0),
        *(Bar(f"flips, {name}", sum(getattr(one, name) for one in found), most=0) for name in FLIPS),
        Bar("largest difference of a margin", most_and_p99(one.margin for one in found)[0], most=most_margin),
    ]


def gate(pairs: Sequence[Pair], profile: Profile) -> list[Finding]:
    """Of other arithmetic: the parity gate, with the plain path as its reference."""
    return judge(profile, {key: Figures.of(group) for key, group in groups_of(pairs).items()})


def pair(asked: Asked, plain: Answer, fast: Answer | GuardError, *, decode: Decode, reasoning_source: str) -> Pair:
    """The same prompt in the parity tool's form. decode: ids -> text."""

    def reading(answer: Answer | GuardError) -> Reading:
        if isinstance(answer, GuardError):
            return Reading(None, error=answer.kind)
        label = read_answer(
            answer.choice_logprobs,
            decode(answer.ids),
            mode=asked.row.mode,
            has_response=asked.row.has_response,
            names=asked.row.part.names,
            reasoning_source=reasoning_source,
            truncated=answer.truncated,
        )
        return of_label(label, margins_of_logprobs(answer.choice_logprobs), ms=math.nan)

    return Pair(asked.row, reading(plain), reading(fast))
