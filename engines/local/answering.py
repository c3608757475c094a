"""A whole program as steps: reasoning, the choices in one step, the list behind them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.checkpoint import FloatArray
from engines.local.shape import Shape
from engines.local.steps import Ahead, Seen, Step, next_ids, write_line, write_names, write_text
from engines.program import Choice

Row = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Said:
    """ids: the answer, without the end of the turn. rows: float32 [2] of each choice, log P(safe) and log P(unsafe)."""

    ids: tuple[int, ...]
    rows: tuple[Row, ...]
    truncated: bool


def answer(shape: Shape, unread: Sequence[int], features: FloatArray | None = None) -> Generator[Step, Seen, Said]:
    """The steps of one program behind a prompt's prefix. unread: the rest of the prompt; features: of its images.

    Both continuations of the user's choice ride in the step that reads it: the response's choice behind either, or
    the front of a category list behind "unsafe".
    """
    said, pending, truncated = list(shape.head), (*unread, *shape.head), False
    kept: Sequence[int] = ()
    if shape.text is not None:
        written = yield from write_text(pending, shape.text, features)
        said += [*written.ids, *shape.user_head]
        pending, kept, features = (*written.unread, *shape.user_head), written.kept, None
        truncated = written.truncated
    names = shape.names
    first = () if names is None or names.items is None else tuple(next_ids(names.items, ()))
    branches = shape.branches(with_list=len(first) > 1)
    tree = shape.tree(pending, features, branches)
    listed = first if branches and shape.response is None else ()
    asked = tuple(sorted({*shape.candidates, *listed}))
    seen = yield Step(tree, "forward", kept, asked)
    rows = [_row(shape.user, asked, seen.logits[0])]
    said.append(_says(shape.user, rows[0]))
    if shape.response is not None:
        branch = int(said[-1] == shape.user.unsafe)
        rows.append(_row(shape.response, asked, seen.logits[1 + branch]))
        said += [*shape.response_head, _says(shape.response, rows[1])]
    if names is not None and any(row[0] <= row[1] for row in rows):
        if names.items is None or not listed:
            kept = range(len(pending)) if shape.response is None else tree.path(branch)
            write = write_line if names.items is None else write_names
            written = yield from write(said[-1:], names, kept=kept)
        else:
            written = yield from write_names((), names, kept=tree.path(0), ahead=Ahead(asked, seen.logits[1]))
        said += written.ids
    return Said(tuple(said), tuple(rows), truncated)


def log_softmax(logits: FloatArray) -> FloatArray:
    """Over the last axis, in float64 on the way. NaN stays NaN: the verdict stage calls it indeterminate."""
    values = logits.astype(np.float64)
    shifted = values - values.max(axis=-1, keepdims=True)
    result: FloatArray = (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
    return np.minimum(result, np.float32(0.0))


def _row(choice: Choice, asked: Sequence[int], logits: FloatArray) -> Row:
    return log_softmax(logits[[asked.index(id) for id in (choice.safe, choice.unsafe)]])


def _says(choice: Choice, row: Row) -> int:
    """A tie says unsafe, as in `label_from_choices`, and so does what is no number."""
    return choice.safe if row[0] > row[1] else choice.unsafe
