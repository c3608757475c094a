"""One row of a pass as a tree: a trunk and branches behind it that don't see each other.

The pair verdict is such a tree: prompt and `User Safety:` are the trunk, ` safe` and ` unsafe` each start a
branch that ends in `Response Safety:`. One pass reads the trunk's end and both branches' ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.checkpoint import FloatArray
from engines.local.context import Context
from engines.local.grouping import longer_and_shorter
from engines.local.shared import Shared
from engines.local.stack import Stack

Past = Shared | Stack
"""What the rows of a pass go on behind: prefixes that they share, or one of its own for each row."""


@dataclass(frozen=True)
class Tree:
    """trunk, branches: token ids. features: float32 [F, hidden], one row for each image token of the trunk. last:
    nothing is read behind it, so that nobody needs its keys and values."""

    trunk: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...] = ()
    features: FloatArray | None = None
    last: bool = False

    @property
    def length(self) -> int:
        return len(self.trunk) + sum(map(len, self.branches))

    @property
    def ends(self) -> list[int]:
        """Index of the last token of the trunk and of each branch: where logits are read."""
        ends = [len(self.trunk) - 1]
        for branch in self.branches:
            ends.append(ends[-1] + len(branch))
        return ends

    def path(self, branch: int) -> list[int]:
        """Indices of the trunk and one branch: what the model has read if that branch is what was said."""
        ends = self.ends
        return [*range(len(self.trunk)), *range(ends[branch] + 1, ends[branch + 1] + 1)]

    def cut(self, at: int, image_token: int) -> tuple[Tree, Tree] | None:
        """About the first `at` tokens of the trunk as a tree of their own, and the rest; None: it is no longer than
        that, or one image. An image is not cut, since its tokens see each other both ways: the piece ends before it, or
        behind it where it comes first.
        """
        for start, stop in image_blocks(self.trunk, image_token):
            if start < at < stop:
                at = start or stop
        if at >= len(self.trunk):
            return None
        if self.features is None:
            return Tree(self.trunk[:at]), replace(self, trunk=self.trunk[at:])
        seen = sum(id == image_token for id in self.trunk[:at])
        # OpenVINO refuses no features; None stands for them.
        before, behind = (part if len(part) else None for part in (self.features[:seen], self.features[seen:]))
        return Tree(self.trunk[:at], features=before), replace(self, trunk=self.trunk[at:], features=behind)


def pass_inputs(
    past: Past | Context,
    trees: Sequence[Tree],
    *,
    candidates: Sequence[int],
    image_token: int,
    padded: bool = False,
) -> dict[str, npt.NDArray[Any]]:
    """The forward's inputs, as `build_graph` has them, for trees behind a context that all share, or as `Past` has it.

    padded: to sizes that are met again, at the end, where nobody looks. `rows` are each tree's ends; a tree with fewer
    ends than another reads its first one again. `kept` are the tokens of `going_on`, one tree behind the other.
    """

    def size(tokens: int) -> int:
        return padded_size(tokens) if padded and tokens else tokens

    # All rows at once, wherever it can be: nothing is computed while this is made.
    lengths = [tree.length for tree in trees]
    sizes = [size(length) for length in lengths]
    firsts = [0, *accumulate(lengths)]
    count, length, tokens = len(trees), max(sizes), firsts[-1]
    pasts = Shared.one(past, count) if isinstance(past, Context) else past
    longer, shorter = longer_and_shorter(sizes)
    columns = max((sizes[row] for row in shorter), default=0)
    begins = np.zeros(count, np.int32)
    begins[longer] = np.arange(len(longer)) * length
    begins[shorter] = len(longer) * length + np.arange(len(shorter)) * columns
    line = np.arange(tokens, dtype=np.int32)
    row_of = np.repeat(np.arange(count), lengths)
    place = line - np.array(firsts, np.int32)[row_of]
    ids, positions, cells = (np.zeros(size(tokens), np.int32) for _ in range(3))
    slots = np.full(size(tokens), -1, np.int32)
    ids[:tokens] = [id for tree in trees for part in (tree.trunk, *tree.branches) for id in part]
    positions[:tokens] = pasts.lengths[pasts.places][row_of] + place
    cells[:tokens] = begins[row_of] + place
    grid = np.zeros((count, length), np.int32)
    grid[row_of, place] = line
    # A place that is empty sees others too: one that saw nothing would be divided by zero.
    visible = np.empty((count, length, length), np.bool_)
    visible[:] = np.tri(length, dtype=np.bool_)
    most_ends = max(len(tree.branches) for tree in trees) + 1
    rows = np.zeros((count, most_ends), np.int32)
    features: list[FloatArray] = []
    kept: list[int] = []
    used = 0
    for row, (tree, first) in enumerate(zip(trees, firsts[:-1], strict=True)):
        ends, trunk = tree.ends, len(tree.trunk)
        rows[row] = [*ends, *[ends[0]] * (most_ends - len(ends))]
        for end, branch in zip(ends[1:], tree.branches, strict=True):
            begin = end + 1 - len(branch)
            positions[first + begin : first + end + 1] -= begin - trunk
            visible[row, begin : end + 1, trunk:begin] = False
        if tree.features is not None:
            for begin, stop in image_blocks(tree.trunk, image_token):
                visible[row, begin:stop, begin:stop] = True
                slots[first + begin : first + stop] = used + np.arange(stop - begin)
                used += stop - begin
            features.append(tree.features)
        if not tree.last:
            kept += range(first, first + tree.length)
    kept += [0] * (size(len(kept)) - len(kept))
    inputs: dict[str, npt.NDArray[Any]] = {
        "ids": ids,
        "positions": positions,
        "grid": grid,
        "cells": cells,
        "longer": np.array(longer, np.int32),
        "shorter": np.array(shorter, np.int32),
        "columns": np.array([columns], np.int32),
        "visible": visible,
        "past_keys": pasts.keys,
        "past_values": pasts.values,
        "past_lengths": pasts.lengths,
        "past_of": pasts.places,
        "rows": rows,
        "candidates": np.asarray(candidates, np.int32),
        "kept": np.array(kept, np.int32),
    }
    if features:
        inputs |= {"slots": slots, "features": np.concatenate(features)}
    return inputs


def going_on(trees: Sequence[Tree]) -> list[tuple[int, slice]]:
    """The trees that are not the last of their rows, and where each one's tokens are among `kept` of `pass_inputs`."""
    rows = [row for row, tree in enumerate(trees) if not tree.last]
    ends = list(accumulate((trees[row].length for row in rows), initial=0))
    return [(row, slice(*ends[index : index + 2])) for index, row in enumerate(rows)]


def padded_size(tokens: int) -> int:
    """Of the rows of a served pass, and of all its tokens: rounded up to 1, 2, 4 or a multiple of 8, of 32 above 256.

    OpenVINO makes its kernels anew for each size that it meets, and keeps them: some megabytes each.
    """
    if tokens <= 8:
        return 1 << (tokens - 1).bit_length()
    step = 8 if tokens <= 256 else 32
    return -(-tokens // step) * step


def image_blocks(ids: Sequence[int], image_token: int) -> list[tuple[int, int]]:
    """(start, stop) of each run of image tokens: the tokens of one image see each other both ways."""
    blocks: list[tuple[int, int]] = []
    for index in np.flatnonzero(np.asarray(ids) == image_token).tolist():
        if blocks and blocks[-1][1] == index:
            blocks[-1] = (blocks[-1][0], index + 1)
        else:
            blocks.append((index, index + 1))
    return blocks
