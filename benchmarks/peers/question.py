"""What every engine is asked: token ids, the same for all of them. Written and read as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PLAIN, TRICK, CHECK = "plain", "trick", "check"
"""Ways to answer. plain: write as many tokens as the whole answer has, the likeliest each time. trick: append the
forced head to the prompt and write one token; with a response, once more behind what was said. check: like the trick,
but the token is one of the two options, as the guard reads it; not timed.

The number of tokens is given, and an end of the text ends nothing: of the embedded checkpoint only the two options were
compared in training, so it does not write the published form by itself, and what it writes is no verdict. The time of
each token is the same.
"""


@dataclass(frozen=True)
class Question:
    """ids: the rendered prompt. prefix: its leading ids that depend on the policy alone. heads: ids of the forced text
    before each choice. safe, unsafe: ids of the two options. tokens: of the whole answer, with the end of the turn.
    mode: of the request, for our engine."""

    ids: tuple[int, ...]
    prefix: int
    heads: tuple[tuple[int, ...], ...]
    safe: int
    unsafe: int
    tokens: int
    mode: str

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Question:
        return cls(
            ids=tuple(values["ids"]),
            prefix=values["prefix"],
            heads=tuple(tuple(head) for head in values["heads"]),
            safe=values["safe"],
            unsafe=values["unsafe"],
            tokens=values["tokens"],
            mode=values["mode"],
        )

    def written(self) -> dict[str, Any]:
        return asdict(self)

    def labels(self, answer: Sequence[int]) -> tuple[bool | None, ...]:
        """Unsafe? For each choice, from the ids of an answer, forced or not; None: it was not given."""
        said = [id == self.unsafe for id in answer if id in (self.safe, self.unsafe)]
        return tuple(said[index] if index < len(said) else None for index in range(len(self.heads)))


class Trick:
    """The steps of a question's trick: prompts that each ask for one token.

    trick = Trick(question)
    while (ids := trick.prompt) is not None: trick.said(one token behind ids)
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        self.answer: list[int] = []
        self.prompt: tuple[int, ...] | None = question.ids + question.heads[0]

    def answered(self, one: Callable[[Sequence[int]], int]) -> Sequence[int]:
        """All steps. one: the token behind a prompt."""
        while self.prompt is not None:
            self.said(one(self.prompt))
        return self.answer

    def said(self, token: int) -> None:
        assert self.prompt is not None
        self.answer.append(token)
        step = len(self.answer)
        heads = self._question.heads
        self.prompt = (*self.prompt, token, *heads[step]) if step < len(heads) else None
