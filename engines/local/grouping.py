"""Which rows share a pass. A pass costs what its tokens cost, however they are spread over its rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

MOST_ROWS = 8
MOST_TOKENS = 2048
"""Of a pass: its time is its tokens', and whoever comes meanwhile waits for its end."""
MOST_PREFIX = 1024
"""Tokens of a prefix whose rows share passes with those of others, for which MOST_ROWS of them are kept once more."""
CHUNK = 1024
"""A longer prompt is read in passes of about so many tokens, others between them."""
LEAST_HALF = 128
"""Tokens of the larger of two passes that run at once; below, both would read all weights for little."""
MOST_OF_ALL = 0.65
"""Its share of all tokens."""
SHORT = 32
"""Tokens of a step that goes on behind a row's own past together with others'."""


def together(lengths: Sequence[int], *, most_rows: int = MOST_ROWS, most_tokens: int = MOST_TOKENS) -> list[int]:
    """Indices of those that share a pass, in order: the first, and behind it each that has room.

    lengths: tokens of each row, at least 1.
    """
    chosen, left = [0], most_tokens - lengths[0]
    for index, length in enumerate(lengths[1:], start=1):
        if len(chosen) < most_rows and length <= left:
            chosen.append(index)
            left -= length
    return chosen


def longer_and_shorter(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Rows that attend together, each padded to the longest of its part: the longer ones and the shorter ones.

    With as few places in all as can be; where one part has as few, there are no shorter ones.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    places = [cut * lengths[order[0]] + (len(order) - cut) * lengths[order[cut]] for cut in range(1, len(order))]
    if not places or min(places) == len(order) * lengths[order[0]]:
        return order, []
    cut = 1 + places.index(min(places))
    return order[:cut], order[cut:]


def halves(lengths: Sequence[int]) -> tuple[list[int], list[int]] | None:
    """Indices of rows for two passes that run at once; None: one pass is better.

    The longer rows in one, the shorter in the other, of about as many tokens. Two are better where the larger has not
    much more than half of all, and enough that reading the weights does not count.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    total = sum(lengths)
    larger = [max(before, total - before) for before in accumulate(lengths[index] for index in order[:-1])]
    if not larger or min(larger) < LEAST_HALF or min(larger) > MOST_OF_ALL * total:
        return None
    cut = 1 + larger.index(min(larger))
    return order[:cut], order[cut:]


def size_class(length: int) -> int:
    """Rows of one class go on together behind their own pasts: none is more than twice as long as another."""
    return max(length, 256).bit_length()
