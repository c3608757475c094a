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

    sizes = [size(tree.length) for tree in trees]
    count, length, total = len(trees), max(sizes), size(sum(tree.length for tree in trees))
    pasts = Shared.one(past, count) if isinstance(past, Context) else past
    longer, shorter = longer_and_shorter(sizes)
    columns = max((sizes[row] for row in shorter), default=0)
    begins = np.zeros(count, np.int32)
    begins[longer] = np.arange(len(longer)) * length
    begins[shorter] = len(longer) * length + np.arange(len(shorter)) * columns
    most_ends = max(len(tree.ends) for tree in trees)
    ids, positions, cells = (np.zeros(total, np.int32) for _ in range(3))
    slots = np.full(total, -1, np.int32)
    grid = np.zeros((count, length), np.int32)
    visible = np.zeros((count, length, length), np.bool_)
    rows = np.zeros((count, most_ends), np.int32)
    features: list[FloatArray] = []
    kept: list[int] = []
    used, first = 0, 0
    for row, (tree, start) in enumerate(zip(trees, pasts.lengths[pasts.places], strict=True)):
        ends, trunk = tree.ends, len(tree.trunk)
        rows[row] = [*ends, *[ends[0]] * (most_ends - len(ends))]
        line = slice(first, first + tree.length)
        grid[row, : tree.length] = np.arange(line.start, line.stop)
        cells[line] = begins[row] + np.arange(tree.length)
        ids[line] = [*tree.trunk, *(id for branch in tree.branches for id in branch)]
        behind = [trunk + np.arange(len(branch)) for branch in tree.branches]
        positions[line] = start + np.concatenate([np.arange(trunk), *behind])
        seen = visible[row]
        seen[:trunk, :trunk] = _before(trunk)
        for end, branch in zip(ends[1:], tree.branches, strict=True):
            place = slice(end + 1 - len(branch), end + 1)
            seen[place, :trunk] = True
            seen[place, place] = _before(len(branch))
        # An empty place that sees nothing would be divided by zero; it may see itself.
        empty = np.arange(tree.length, length)
        seen[empty, empty] = True
        if tree.features is not None:
            for begin, stop in image_blocks(tree.trunk, image_token):
                seen[begin:stop, begin:stop] = True
                slots[first + begin : first + stop] = used + np.arange(stop - begin)
                used += stop - begin
            features.append(tree.features)
        if not tree.last:
            kept += range(line.start, line.stop)
        first = line.stop
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


def _before(length: int) -> npt.NDArray[np.bool_]:
    """bool [length, length]: each token sees itself and those before it."""
    return np.tri(length, dtype=np.bool_)
