"""Which rows share a pass. Rows are padded to the longest of them, so those go together that are about as long."""

from __future__ import annotations

from collections.abc import Sequence

MOST_ROWS = 8
MOST_TOKENS = 2048
"""Of a pass, padding included: its time is its tokens', and whoever comes meanwhile waits for its end."""
CHUNK = 1024
"""A longer prompt is read in passes of about so many tokens, others between them."""
LEAST_HALF = 128
"""Tokens of the larger of two passes that run at once; below, both would read all weights for little."""
MOST_OF_ALL = 0.65
"""Its share of all tokens."""
LEAST_USED = 0.85
"""Of a pass's tokens, the share that is no padding."""
SHORT = 32
"""Tokens of a step that goes on behind a row's own past together with others'."""


def nearest(lengths: Sequence[int], *, most_rows: int = MOST_ROWS, most_tokens: int = MOST_TOKENS) -> list[int]:
    """Indices of those that go with the first, and the first, in order; lengths: tokens of each row.

    The first is always among them: nobody is passed over for long. The others come in the order of how near their
    length is, as long as the pass stays within its tokens and little of it is padding.
    """
    chosen, longest, used = [0], lengths[0], lengths[0]
    for index in sorted(range(1, len(lengths)), key=lambda index: (abs(lengths[index] - lengths[0]), index)):
        rows, most, tokens = len(chosen) + 1, max(longest, lengths[index]), used + lengths[index]
        if rows <= most_rows and rows * most <= most_tokens and tokens >= LEAST_USED * rows * most:
            chosen.append(index)
            longest, used = most, tokens
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
