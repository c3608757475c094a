"""Which rows share a pass. Rows are padded to the longest of them, so those go together that are about as long."""

from __future__ import annotations

from collections.abc import Sequence

MOST_ROWS = 8
MOST_TOKENS = 2048
"""Of a pass, padding included: its time is its tokens', and whoever comes meanwhile waits for its end."""
MOST_PREFIX = 1024
"""Tokens of a prefix whose rows share passes with those of others, for which MOST_ROWS of them are kept once more."""
CHUNK = 1024
"""A longer prompt is read in passes of about so many tokens, others between them."""
LEAST_HALF = 128
"""Tokens of the larger of two passes that run at once; below, both would read all weights for little."""
MOST_OF_ALL = 0.65
"""Its share of all tokens."""
OVERHEAD = 40
"""What a pass costs whatever is in it, as tokens: 12 ms beside 340 for 8 rows of 154 on AMX, 20 beside 630 on Zen 4."""
SHORT = 32
"""Tokens of a step that goes on behind a row's own past together with others'."""


def nearest(lengths: Sequence[int], *, most_rows: int = MOST_ROWS, most_tokens: int = MOST_TOKENS) -> list[int]:
    """Indices of those that go with the first, and the first, in order; lengths: tokens of each row, at least 1.

    The first is always among them: nobody is passed over for long. The others are those beside it by length, as many of
    the shorter and of the longer ones as make a token of the pass cheapest: padding is paid for, and so is a pass.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    place = order.index(0)
    cheapest, chosen = float("inf"), [0]
    for begin in range(max(place - most_rows + 1, 0), place + 1):
        for end in range(place + 1, min(begin + most_rows, len(order)) + 1):
            rows = order[begin:end]
            padded = len(rows) * lengths[rows[-1]]
            cost = (OVERHEAD + padded) / sum(lengths[row] for row in rows)
            if cost < cheapest and (padded <= most_tokens or len(rows) == 1):
                cheapest, chosen = cost, rows
    return sorted(chosen)


def halves(lengths: Sequence[int]) -> tuple[list[int], list[int]] | None:
    """Indices of rows for two passes that run at once, each padded to its longest row; None: one pass is better.

    The longer rows in one, the shorter in the other, so that the larger of both has as few tokens as can be. Two are
    better where that is not much more than half of all, and large enough that reading the weights does not count.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    cuts = [(order[:cut], order[cut:]) for cut in range(1, len(order))]
    sizes = [max(len(part) * lengths[part[-1]] for part in cut) for cut in cuts]
    if not cuts or min(sizes) < LEAST_HALF or min(sizes) > MOST_OF_ALL * sum(lengths):
        return None
    return cuts[sizes.index(min(sizes))]


def size_class(length: int) -> int:
    """Rows of one class go on together behind their own pasts: none is more than twice as long as another."""
    return max(length, 256).bit_length()
