"""A model of a few tokens whose next one depends on everything before it: drafts, and the same step by step."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from engines.local.steps import Seen, Writing, Written, write_line, write_names, write_text
from engines.local.tree import Tree
from engines.program import Choice, Forced, FreeText, NameList, Program
from engines.tensorrt_llm.draft import Draft, Step
from engines.tensorrt_llm.walk import Request, Said

PIECES = (
    " maybe",
    "<end_of_turn>",
    " safe",
    " unsafe",
    ",",
    "</think>",
    "User",
    " Safety:",
    "\nResponse",
    " Categories:",
)
PIECES += (" Violence", " Fraud", "\nSafety", "<think>")
VOCABULARY = len(PIECES)
END, SAFE, UNSAFE, COMMA, THINK_END, THINK = 1, 2, 3, 4, 5, 13
USER, RESPONSE = Choice("user", SAFE, UNSAFE), Choice("response", SAFE, UNSAFE)
HEAD, RESPONSE_HEAD = Forced((6, 7)), Forced((8, 7))
TEXT = FreeText(6, (THINK_END,), END)
NAMES = NameList((12, 9), ((10, 11), (10,), (11,)), (COMMA,), END, 7)
LINE = NameList((12, 9), None, (COMMA,), END, 5)
VERDICT, PAIR = Program((HEAD, USER)), Program((HEAD, USER, RESPONSE_HEAD, RESPONSE))


def log_softmax(logits: Any) -> Any:
    return logits - np.logaddexp.reduce(logits)


class Model:
    """fixed: {what has been read: what comes next}, by what it ends with; where none fits, `seed` decides."""

    def __init__(self, seed: int = 0, fixed: Mapping[tuple[int, ...], int] | None = None) -> None:
        self._seed = seed
        self._fixed = dict(fixed or {})

    def logits(self, ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        logits = np.random.default_rng([self._seed, *ids]).normal(0, 3, VOCABULARY)
        for ending, chosen in self._fixed.items():
            if tuple(ids[len(ids) - len(ending) :]) == ending:
                logits[chosen] = logits.max() + 2
        return logits

    def step(self, ids: Sequence[int], likeliest: int = VOCABULARY) -> Step:
        logprobs = log_softmax(self.logits(ids))
        best = [int(id) for id in np.argsort(-logprobs, kind="stable")[:likeliest]]
        return Step(best[0], {id: float(logprobs[id]) for id in best})

    def draft(self, prompt: Sequence[int], request: Request, likeliest: int = VOCABULARY) -> Draft:
        """As the package answers a request: `most` tokens, or fewer with a stop at their end."""
        ids, steps = [*prompt, *request.said], list[Step]()
        while len(steps) < request.most:
            steps.append(self.step(ids, likeliest))
            ids.append(steps[-1].id)
            if ids[-1] in (END, *request.stops):
                break
        return tuple(steps)


def walked(
    walking: Generator[Request, Draft, Said], model: Model, prompt: Sequence[int], likeliest: int = VOCABULARY
) -> tuple[Said, list[Request]]:
    """What a walk said with the model's drafts, and the requests that it took."""
    requests: list[Request] = []
    try:
        request = next(walking)
        while True:
            requests.append(request)
            request = walking.send(model.draft(prompt, request, likeliest))
    except StopIteration as end:
        return end.value, requests


def run_steps(writing: Writing, model: Model, prompt: Sequence[int]) -> Written:
    """The local engine's steps, on the model: what is behind a step's tree depends on all ids kept before it."""
    context, tree = list(prompt), Tree(())
    try:
        step = next(writing)
        while True:
            read = [*tree.trunk, *(id for branch in tree.branches for id in branch)]
            context += [read[index] for index in step.kept]
            tree = step.tree
            paths = [tree.trunk, *((*tree.trunk, *branch) for branch in tree.branches)]
            behind = [model.logits([*context, *path]) for path in paths]
            seen = Seen(np.array([logits[list(step.candidates)] for logits in behind]), int(np.argmax(behind[0])))
            step = writing.send(seen)
    except StopIteration as end:
        return end.value


def step_by_step(program: Program, model: Model, prompt: Sequence[int]) -> Said:
    """The program's answer with a pass for each token, as the local engine decodes it."""
    said, rows, truncated = list[int](), list[Any](), False
    for segment in program.segments:
        if isinstance(segment, Forced):
            said += segment.ids
        elif isinstance(segment, Choice):
            row = log_softmax(model.logits([*prompt, *said])[[segment.safe, segment.unsafe]])
            rows.append(row)
            said.append(segment.safe if row[0] > row[1] else segment.unsafe)
        elif isinstance(segment, FreeText):
            written = run_steps(write_text(said, segment), model, prompt)
            said += written.ids
            truncated = written.truncated
        elif any(row[0] <= row[1] for row in rows):
            write = write_line if segment.items is None else write_names
            said += run_steps(write(said, segment), model, prompt).ids
    return Said(tuple(said), tuple(rows), truncated, False)
