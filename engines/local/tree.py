"""One row of a pass as a tree: a trunk and branches behind it that don't see each other.

The pair verdict is such a tree: prompt and `User Safety:` are the trunk, ` safe` and ` unsafe` each start a
branch that ends in `Response Safety:`. One pass reads the trunk's end and both branches' ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.checkpoint import FloatArray
from engines.local.context import Context


@dataclass(frozen=True)
class Tree:
    """trunk, branches: token ids. features: float32 [F, hidden], one row for each image token of the trunk."""

    trunk: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...] = ()
    features: FloatArray | None = None

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


def pass_inputs(
    context: Context, trees: Sequence[Tree], *, candidates: Sequence[int], image_token: int
) -> dict[str, npt.NDArray[Any]]:
    """The forward's inputs for trees behind one context: rows are padded on the right, where nobody looks.

    `rows` are each tree's ends; a tree with fewer ends than another reads its first one again.
    """
    count, length = len(trees), max(tree.length for tree in trees)
    held = context.keys.shape[2]
    most_ends = max(len(tree.ends) for tree in trees)
    ids = np.zeros((count, length), np.int32)
    positions = np.full((count, length), context.length, np.int32)
    visible = np.zeros((count, length, held + length), np.bool_)
    visible[:, :, : context.length] = True
    slots = np.full((count, length), -1, np.int32)
    rows = np.zeros((count, most_ends), np.int32)
    features: list[FloatArray] = []
    used = 0
    for row, tree in enumerate(trees):
        ends = tree.ends
        rows[row] = [*ends, *[ends[0]] * (most_ends - len(ends))]
        trunk = len(tree.trunk)
        ids[row, : tree.length] = [*tree.trunk, *(id for branch in tree.branches for id in branch)]
        seen = visible[row, :, held:]
        positions[row, :trunk] = context.length + np.arange(trunk)
        seen[:trunk, :trunk] = np.tril(np.ones((trunk, trunk), np.bool_))
        for end, branch in zip(ends[1:], tree.branches, strict=True):
            place = slice(end + 1 - len(branch), end + 1)
            positions[row, place] = context.length + trunk + np.arange(len(branch))
            seen[place, :trunk] = True
            seen[place, place] = np.tril(np.ones((len(branch), len(branch)), np.bool_))
        # A padded row that sees nothing would be divided by zero; it may see itself.
        for index in range(tree.length, length):
            seen[index, index] = True
        if tree.features is not None:
            for start, stop in image_blocks(tree.trunk, image_token):
                seen[start:stop, start:stop] = True
                slots[row, start:stop] = used + np.arange(stop - start)
                used += stop - start
            features.append(tree.features)
    inputs: dict[str, npt.NDArray[Any]] = {
        "ids": ids,
        "positions": positions,
        "visible": visible,
        "prefix_keys": context.keys,
        "prefix_values": context.values,
        "rows": rows,
        "candidates": np.asarray(candidates, np.int32),
    }
    if features:
        inputs |= {"slots": slots, "features": np.concatenate(features)}
    return inputs


def image_blocks(ids: Sequence[int], image_token: int) -> list[tuple[int, int]]:
    """(start, stop) of each run of image tokens: the tokens of one image see each other both ways."""
    blocks: list[tuple[int, int]] = []
    for index, id in enumerate(ids):
        if id == image_token:
            if blocks and blocks[-1][1] == index:
                blocks[-1] = (blocks[-1][0], index + 1)
            else:
                blocks.append((index, index + 1))
    return blocks
