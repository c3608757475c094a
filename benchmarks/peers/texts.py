"""Texts of the train pool's lengths: the pool's own where it is given, else texts written for this project.

Each list that is drawn holds one text of each of as many equal parts of the distribution: two lists of one size take
about as long, and no text comes twice, so that nobody's cache has seen one.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from benchmarks.latency.texts import Ruler, Text, Texts
from build_scripts.parity_corpus import read_corpus
from build_scripts.training_data import load_pool, split_pool
from build_scripts.training_replies import load_exchanges

PROMPT_TOKENS = (3, 7, 9, 10, 11, 11, 12, 13, 14, 14, 15, 16, 17, 19, 20, 23, 26, 32, 42, 69, 994)
"""Every twentieth of the pool's prompts, in tokens of the embedded checkpoint (11,829 rows, mean 23)."""
RESPONSE_TOKENS = (2, 7, 9, 10, 11, 12, 13, 14, 16, 17, 19, 20, 21, 23, 24, 26, 29, 40, 75, 118, 232)
"""Likewise of its responses (3,010 rows, mean 30)."""
_TRIES = 50
Pair = tuple[str, str | None]


class Source(Protocol):
    def draw(self, count: int, *, response: bool, generator: random.Random) -> list[Pair]:
        """(prompt, response or None), in no order. Raises ValueError: there are no more of them."""
        ...


class PoolTexts:
    """Those of a pool. Raises BundleError for a source that it lacks."""

    def __init__(self, pool: Path, ruler: Ruler) -> None:
        split = split_pool(load_pool(pool))
        rows = [*split.train, *split.family, *split.random]
        prompts: list[Pair] = [(row.prompt, None) for row in rows]
        pairs: list[Pair] = [(one.prompt, one.response) for half in load_exchanges(pool, split, seed=0) for one in half]
        self._left = {False: _by_size(prompts, ruler), True: _by_size(pairs, ruler)}

    def draw(self, count: int, *, response: bool, generator: random.Random) -> list[Pair]:
        left = self._left[response]
        if count > len(left):
            raise ValueError(f"the pool has no {count} texts left; ask for fewer requests or rounds")
        chosen = [generator.randrange(start, end) for start, end in parts(len(left), count)]
        drawn = [left[index] for index in chosen]
        for index in reversed(chosen):
            del left[index]
        generator.shuffle(drawn)
        return drawn


class OwnTexts:
    """The shipped rows, lengthened and cut, each from a place of its own."""

    def __init__(self, ruler: Ruler) -> None:
        self._ruler = ruler
        self._texts = Texts(read_corpus())
        self._given: set[str] = set()

    def draw(self, count: int, *, response: bool, generator: random.Random) -> list[Pair]:
        drawn: list[Pair] = []
        for part in range(count):
            prompt = self._new(PROMPT_TOKENS, (part + generator.random()) / count, generator)
            said = self._new(RESPONSE_TOKENS, generator.random(), generator) if response else None
            drawn.append((prompt, said))
        generator.shuffle(drawn)
        return drawn

    def _new(self, sizes: Sequence[int], share: float, generator: random.Random) -> str:
        """A text that was not given before. Raises ValueError where none is found."""
        size = length_at(sizes, share)
        for _ in range(_TRIES):
            row = generator.choice(self._texts.rows)
            whole = row.request.prompt
            begun = Text(whole[_start(whole, generator) :], None)
            text = self._texts.of_length(begun, row.language, size, self._ruler, generator).text
            if text not in self._given:
                self._given.add(text)
                return text
        raise ValueError(f"no new text of {size} tokens was found; ask for fewer requests or rounds")


def parts(size: int, count: int) -> list[tuple[int, int]]:
    """`count` ranges that part range(size) as evenly as they can; size >= count."""
    edges = [number * size // count for number in range(count + 1)]
    return list(pairwise(edges))


def length_at(sizes: Sequence[int], share: float) -> int:
    """The quantile of a distribution by its evenly spaced ones, the line between two of them; share in [0, 1]."""
    place = share * (len(sizes) - 1)
    low = min(int(place), len(sizes) - 2)
    return round(sizes[low] + (sizes[low + 1] - sizes[low]) * (place - low))


def _by_size(pairs: Sequence[Pair], ruler: Ruler) -> list[Pair]:
    return sorted(pairs, key=lambda pair: sum(ruler.size(text) for text in pair if text is not None))


def _start(text: str, generator: random.Random) -> int:
    """Of a word, where the writing parts them, in the first half."""
    starts = [0, *(place + 1 for place, letter in enumerate(text[:-1]) if letter == " ")]
    if len(starts) == 1:
        return generator.randrange(max(len(text) // 2, 1))
    return starts[generator.randrange(max(bisect_left(starts, len(text) // 2), 1))]
