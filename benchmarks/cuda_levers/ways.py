"""The same work with a lever and without it, as passes of fixed shapes that a GPU can replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.cuda_levers.guard import Guard, Past
from build_scripts.request_sizes import PREFIX, SUFFIX

HEAD, RESPONSE_HEAD, LIST_HEAD = 3, 4, 4
"""Tokens of `User Safety:` and of the two other heads."""
TEXT = SUFFIX - HEAD
RESPONSE = 120
NAMES = (1, 5)
"""Tokens of the two names of a list: `Violence, Criminal Planning/Confessions`."""
SAFE, UNSAFE = 1000, 2000
"""Ids. Which ones is no matter: weights are random."""

Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Way:
    """steps: run in order, each gives logits [B, ends, C]. margins: of what they gave, float32 [B, choices]."""

    steps: Sequence[Step]
    margins: Callable[[Sequence[Tensor]], Tensor]

    def run(self) -> Tensor:
        return self.margins([step() for step in self.steps])


@dataclass(frozen=True)
class Lever:
    """without, having: made when they are needed, and forgotten with what they hold of the device's memory."""

    name: str
    batch: int
    without: Callable[[], Way]
    having: Callable[[], Way]


class Ways:
    """Of one guard. Every row is another text."""

    def __init__(self, guard: Guard, most: int, *, seed: int = 0) -> None:
        """most: rows of the largest batch."""
        self._guard = guard
        generator = torch.Generator().manual_seed(seed)

        def ids(*shape: int) -> Tensor:
            return torch.randint(4, guard.config.vocab_size, shape, generator=generator).to(guard.device)

        self._policy = ids(PREFIX)
        self._prefix = guard.prefix(self._policy)
        self._texts = ids(most, TEXT)
        self._responses = ids(most, RESPONSE)
        safe, unsafe = (torch.tensor([id], device=guard.device) for id in (SAFE, UNSAFE))
        head, response_head, list_head = ids(HEAD), ids(RESPONSE_HEAD), ids(LIST_HEAD)
        self._head = head
        self._branches = [torch.cat([said, response_head]) for said in (safe, unsafe)]
        self._exchange = torch.cat([head, safe, response_head, safe])
        self._verdict = torch.cat([head, safe])
        self._names = torch.cat([unsafe, list_head]), torch.cat([ids(NAMES[0]), ids(1)]), ids(NAMES[1])
        self._choice = torch.cat([safe, unsafe])
        self._pixels = torch.randint(
            256, (1, guard.vision_config.image_size, guard.vision_config.image_size, 3), generator=generator
        ).to(guard.device, torch.uint8)

    @property
    def texts(self) -> Tensor:
        """int64 [most, tokens]: what stands behind the policy in a verdict's pass."""
        return self._rows(self._texts, self._head)

    @property
    def policy(self) -> Tensor:
        """int64 [tokens]."""
        return self._policy

    @property
    def behind_policy(self) -> Past:
        return self._prefix

    def levers(self, batches: Sequence[int]) -> list[Lever]:
        found = [Lever("equal images seen once", 1, self._new_image, self._known_image)]
        for batch in batches:
            texts = slice(0, batch)
            found += [
                Lever("policy prefix reused", batch, *_made(self._whole_prompt, self.verdict, texts)),
                Lever("forced head, not decoded", batch, *_made(self._plain_verdict, self.verdict, texts)),
                Lever("exchange in one pass, not in two", batch, *_made(self._two_passes, self._one_pass, texts)),
                Lever("exchange in one pass, not decoded", batch, *_made(self._plain_pair, self._one_pass, texts)),
                Lever("two names as choices, not decoded", batch, *_made(self._plain_list, self._list, texts)),
            ]
            if batch > 1:
                found.append(Lever("in a batch, not one by one", batch, *_made(self._one_by_one, self.verdict, texts)))
        return found

    def verdict(self, rows: slice) -> Way:
        step = self._step(self._rows(self._texts[rows], self._head), self._prefix)
        return Way([step], lambda read: _margins(read[0][:, 0]))

    def _whole_prompt(self, rows: slice) -> Way:
        policy = self._policy.expand(rows.stop - rows.start, -1)
        ids = torch.cat([policy, self._rows(self._texts[rows], self._head)], dim=1)
        return Way([self._step(ids, self._guard.nothing)], lambda read: _margins(read[0][:, 0]))

    def _one_by_one(self, rows: slice) -> Way:
        ways = [self.verdict(slice(row, row + 1)) for row in range(rows.start, rows.stop)]
        steps = [step for way in ways for step in way.steps]
        return Way(steps, lambda read: torch.cat([_margins(each[:, 0]) for each in read]))

    def _plain_verdict(self, rows: slice) -> Way:
        return self._plain(self._texts[rows], self._verdict, [HEAD])

    def _one_pass(self, rows: slice) -> Way:
        ids = self._rows(self._exchanges(rows), self._head, *self._branches)
        step = self._step(ids, self._prefix, branches=[len(each) for each in self._branches])
        return Way([step], lambda read: torch.cat([_margins(read[0][:, 0]), _margins(read[0][:, 1])], dim=1))

    def _two_passes(self, rows: slice) -> Way:
        """The second one behind the keys and values of the first."""
        first = self._rows(self._exchanges(rows), self._head)
        second = self._rows(first[:, :0], self._branches[0])
        steps = [self._step(first, self._prefix), self._step(second, self._behind(first))]
        return Way(steps, lambda read: torch.cat([_margins(each[:, 0]) for each in read], dim=1))

    def _plain_pair(self, rows: slice) -> Way:
        return self._plain(self._exchanges(rows), self._exchange, [HEAD, HEAD + 1 + RESPONSE_HEAD])

    def _list(self, rows: slice) -> Way:
        """The first name is read behind "unsafe", in the verdict's pass; then a step for each name."""
        behind_unsafe, *names = self._names
        ids = self._rows(self._texts[rows], self._head, behind_unsafe)
        steps = [self._step(ids, self._prefix, branches=[len(behind_unsafe)])]
        for name in names:
            steps.append(self._step(self._rows(ids[:, :0], name), self._behind(ids)))
            ids = self._rows(ids, name)
        return Way(steps, lambda read: torch.cat([_margins(read[0][:, 0]), _margins(read[-1][:, 0])], dim=1))

    def _plain_list(self, rows: slice) -> Way:
        said = torch.cat([self._head, *self._names])
        return self._plain(self._texts[rows], said, [HEAD, len(said)])

    def _known_image(self) -> Way:
        return self._new_image_or(known=True)

    def _new_image(self) -> Way:
        return self._new_image_or(known=False)

    def _new_image_or(self, *, known: bool) -> Way:
        features = self._guard.see(self._pixels)[0]

        def see() -> Tensor:
            return features.copy_(self._guard.see(self._pixels)[0])

        ids = self._rows(self._texts.new_zeros(1, len(features)), self._texts[0], self._head)
        step = self._step(ids, self._prefix, features=features)
        return Way([step] if known else [see, step], lambda read: _margins(read[-1][:, 0]))

    def _plain(self, texts: Tensor, said: Tensor, choices: Sequence[int]) -> Way:
        """`said` token by token, the likeliest of the whole vocabulary looked for each time, and once behind the last.
        choices: how many of them stand before each choice. Keys and values lie where a step needs them already."""
        ids, start = self._rows(texts, said), texts.shape[1]
        steps = [self._step(texts, self._prefix, whole=True)]
        for place in range(start, ids.shape[1]):
            steps.append(self._step(ids[:, place : place + 1], self._behind(ids[:, :place]), whole=True))
        return Way(
            steps, lambda read: torch.cat([_margins(read[place][:, 0][:, self._choice]) for place in choices], dim=1)
        )

    def _behind(self, ids: Tensor) -> Past:
        """Behind the policy and ids int64 [B, P]."""
        return Past(self._prefix.shared, self._guard.states(ids, self._prefix))

    def _step(
        self,
        ids: Tensor,
        past: Past,
        *,
        branches: Sequence[int] = (),
        features: Tensor | None = None,
        whole: bool = False,
    ) -> Step:
        """whole: over the whole vocabulary, of which the likeliest is found."""
        candidates = None if whole else self._choice
        run = self._guard.a_pass(ids, past, branches=branches, candidates=candidates, features=features)

        def step() -> Tensor:
            logits = run()[0]
            if whole:
                logits.argmax(-1)
            return logits

        return step

    def _exchanges(self, rows: slice) -> Tensor:
        return torch.cat([self._texts[rows], self._responses[rows]], dim=1)

    @staticmethod
    def _rows(rows: Tensor, *behind: Tensor) -> Tensor:
        """int64 [B, S] with the same ids behind each row."""
        return torch.cat([rows, *(each.expand(len(rows), -1) for each in behind)], dim=1)


def _made(
    without: Callable[[slice], Way], having: Callable[[slice], Way], rows: slice
) -> tuple[Callable[[], Way], Callable[[], Way]]:
    return lambda: without(rows), lambda: having(rows)


def _margins(logits: Tensor) -> Tensor:
    """Of safe and unsafe [B, 2]: unsafe's above safe's, [B, 1]."""
    return logits[:, 1:2] - logits[:, 0:1]
