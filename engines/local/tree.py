"""One row of a pass as a tree: a trunk and branches behind it that don't see each other.

The pair verdict is such a tree: prompt and `User Safety:` are the trunk, ` safe` and ` unsafe` each start a
branch that ends in `Response Safety:`. One pass reads the trunk's end and both branches' ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.checkpoint import FloatArray
from engines.local.context import Context
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
    length: int | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """The forward's inputs for trees behind a context that all share, or as `Past` has it: rows are padded on the
    right, where nobody looks, to this length, or to the longest of them.

    `rows` are each tree's ends; a tree with fewer ends than another reads its first one again. `kept` are the trees
    that are not the last of their rows.
    """
    count, length = len(trees), length or max(tree.length for tree in trees)
    if isinstance(past, Stack):
        shared, own = Shared.one(past.nothing, count), past
    else:
        shared = Shared.one(past, count) if isinstance(past, Context) else past
        own = Stack.empty(shared.context(0), count)
    starts = shared.lengths[shared.places] + own.lengths
    most_ends = max(len(tree.ends) for tree in trees)
    ids = np.zeros((count, length), np.int32)
    positions = np.empty((count, length), np.int32)
    visible = np.zeros((count, length, own.room + length), np.bool_)
    slots = np.full((count, length), -1, np.int32)
    rows = np.zeros((count, most_ends), np.int32)
    features: list[FloatArray] = []
    used = 0
    for row, (tree, start) in enumerate(zip(trees, starts, strict=True)):
        ends = tree.ends
        rows[row] = [*ends, *[ends[0]] * (most_ends - len(ends))]
        trunk = len(tree.trunk)
        ids[row, : tree.length] = [*tree.trunk, *(id for branch in tree.branches for id in branch)]
        visible[row, :, : own.lengths[row]] = True
        seen = visible[row, :, own.room :]
        positions[row] = start
        positions[row, :trunk] += np.arange(trunk, dtype=np.int32)
        seen[:trunk, :trunk] = _before(trunk)
        for end, branch in zip(ends[1:], tree.branches, strict=True):
            place = slice(end + 1 - len(branch), end + 1)
            positions[row, place] += trunk + np.arange(len(branch), dtype=np.int32)
            seen[place, :trunk] = True
            seen[place, place] = _before(len(branch))
        # A padded row that sees nothing would be divided by zero; it may see itself.
        padding = np.arange(tree.length, length)
        seen[padding, padding] = True
        if tree.features is not None:
            for begin, stop in image_blocks(tree.trunk, image_token):
                seen[begin:stop, begin:stop] = True
                slots[row, begin:stop] = used + np.arange(stop - begin)
                used += stop - begin
            features.append(tree.features)
    inputs: dict[str, npt.NDArray[Any]] = {
        "ids": ids,
        "positions": positions,
        "visible": visible,
        "prefix_keys": shared.keys,
        "prefix_values": shared.values,
        "prefix_lengths": shared.lengths,
        "prefix_of": shared.places,
        "own_keys": own.keys,
        "own_values": own.values,
        "rows": rows,
        "candidates": np.asarray(candidates, np.int32),
        "kept": np.array([row for row, tree in enumerate(trees) if not tree.last], np.int32),
    }
    if features:
        inputs |= {"slots": slots, "features": np.concatenate(features)}
    return inputs


def padded_length(trees: Sequence[Tree]) -> int:
    """Tokens of each row of a served pass: the longest tree's, rounded up to 1, 2, 4 or a multiple of 8.

    OpenVINO makes its kernels anew for each length that it meets, and keeps them: some megabytes each.
    """
    longest = max(tree.length for tree in trees)
    return 1 << (longest - 1).bit_length() if longest <= 8 else -(-longest // 8) * 8


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
