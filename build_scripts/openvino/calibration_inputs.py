"""The calibration set as the inputs that the text graph gets for it.

What is measured on activations holds for the inputs that were seen, so these are the engine's own: the real prompt
format, a policy's prefix as one pass, and behind it a verdict's pass with the forced head of the answer and, for a
pair, both branches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonguard.request import Mode

from build_scripts.parity_corpus import CorpusError, Row
from engines.local.context import Context
from engines.local.passes import Passes
from engines.local.shape import Shape
from engines.local.tree import Tree, pass_inputs
from engines.program import Program, program_for
from engines.protocol import Job
from preprocessing.prompt import PromptBuilder

Inputs = dict[str, npt.NDArray[Any]]

_NO_IMAGE = -1


@dataclass(frozen=True)
class _Verdict:
    """A row's pass: the tree behind its prefix, and the candidates that are read at its ends."""

    tree: Tree
    candidates: tuple[int, ...]


def graph_inputs(
    rows: Sequence[Row], passes: Passes, builder: PromptBuilder, *, keep_last: int | None = None
) -> Iterator[Inputs]:
    """What the engine feeds the text graph for these rows, one job at a time: all inputs of `build_graph`, B = 1.

    Rows that share a prefix come one after the other: first the prefix's own pass, then the verdict's of each row.
    (A category list's passes, a token each, are left out.) The arrays of an earlier pass stay as they are.
    passes: the float model's, which computes each prefix once. keep_last: of the ids that a row does not share
    with its prefix (text, tail and forced head), only the last so many, for a set that is wrong on purpose.

    Raises at once, before any pass: GuardError (`PromptBuilder.build`, `program_for`); CorpusError for a row in mode
    think, whose verdict stands behind what the model writes, and for a keep_last below 1.
    """
    if keep_last is not None and keep_last < 1:
        raise CorpusError("keep_last is at least 1: a pass needs an id")
    groups: dict[tuple[int, ...], list[_Verdict]] = defaultdict(list)
    for row in rows:
        prefix, verdict = _verdict_pass(row, builder, keep_last)
        groups[prefix].append(verdict)
    return _all_inputs(groups, passes)


def _verdict_pass(row: Row, builder: PromptBuilder, keep_last: int | None) -> tuple[tuple[int, ...], _Verdict]:
    """The prefix's ids and the pass behind them, as the engine runs it."""
    if row.mode is Mode.THINK:
        raise CorpusError(f"{row.id}: a row in mode think has no inputs before the model has written")
    program = _program(row, builder)
    shape = Shape.of(program)
    built = builder.build(row.request, row.part)
    prefix, unread = Job(built.ids, built.prefix_length, program).split
    unread = (*unread, *shape.head)
    if keep_last is not None:
        unread = unread[-keep_last:]
    return prefix, _Verdict(shape.tree(unread), program.candidates)


def _program(row: Row, builder: PromptBuilder) -> Program:
    return program_for(
        row.mode,
        has_response=row.has_response,
        encode=builder.encode_text,
        end=builder.end_of_turn,
        names=row.part.names,
    )


def _all_inputs(groups: Mapping[tuple[int, ...], Sequence[_Verdict]], passes: Passes) -> Iterator[Inputs]:
    hidden = passes.run(passes.empty, [Tree((0,))], [0])[0].hidden.shape[-1]
    for prefix, verdicts in groups.items():
        context = passes.empty
        if prefix:
            yield _inputs(context, Tree(prefix), [0], hidden)
            context = passes.extend(context, prefix)
        for verdict in verdicts:
            yield _inputs(context, verdict.tree, verdict.candidates, hidden)


def _inputs(context: Context, tree: Tree, candidates: Sequence[int], hidden: int) -> Inputs:
    """With the slots and features that `Runtime.run` gives a pass without an image."""
    inputs = pass_inputs(context, [tree], candidates=candidates, image_token=_NO_IMAGE)
    return inputs | {
        "slots": np.full(inputs["ids"].shape, -1, np.int32),
        "features": np.zeros((1, hidden), np.float32),
    }
