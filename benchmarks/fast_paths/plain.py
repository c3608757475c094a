"""The plain path: the decode program on the same graphs, written a second time and as simply as it goes.

One job alone, its whole prompt in one pass from the first token on, then one token a pass. No cache, no branches, no
batch, no forced text that rides along with other tokens. What the engine does faster must come to the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engines.checkpoint import FloatArray
from engines.local.context import Context
from engines.program import Choice, Forced, FreeText, NameList
from engines.protocol import Answer, Job


class Graphs(Protocol):
    """What is used of `engines.local.passes.Passes`."""

    @property
    def empty(self) -> Context: ...

    def see(self, pixels: npt.NDArray[np.uint8]) -> FloatArray: ...

    def extend(self, context: Context, ids: Sequence[int], features: FloatArray | None = None) -> Context: ...

    def read(self, context: Context, ids: Sequence[int], candidates: Sequence[int]) -> tuple[Context, FloatArray]: ...

    def best(
        self, context: Context, ids: Sequence[int], without: frozenset[int] = frozenset()
    ) -> tuple[Context, int]: ...


def plain_answer(graphs: Graphs, job: Job) -> Answer:
    """What the model answers to one job. Its deadline and its prefix are not looked at."""
    return _Plain(graphs, job).answer()


class _Plain:
    """said: the answer so far. unread: ids that no pass has read: the prompt at first, later the last id or none."""

    def __init__(self, graphs: Graphs, job: Job) -> None:
        self._graphs = graphs
        self._job = job
        self._said: list[int] = []
        self._logprobs: list[npt.NDArray[np.float32]] = []
        self._truncated = False
        self._context = graphs.empty
        self._unread: list[int] = [int(id) for id in job.ids]
        if job.pixels is not None:
            # Only `extend` takes images: the prompt's last id is read by the pass behind it.
            features = graphs.see(job.pixels)
            self._context = graphs.extend(self._context, self._unread[:-1], features=features)
            self._unread = self._unread[-1:]

    def answer(self) -> Answer:
        for segment in self._job.program.segments:
            match segment:
                case Forced():
                    self._say(*segment.ids)
                case Choice():
                    self._choose(segment)
                case NameList() if any(unsafe >= safe for safe, unsafe in self._logprobs):
                    begun = len(self._said)
                    self._say(*segment.head)
                    if segment.items is None:
                        self._line(segment, begun)
                    else:
                        self._names(segment, segment.items)
                case FreeText():
                    self._write(segment)
        return Answer(np.stack(self._logprobs), tuple(self._said), 0, self._truncated)

    def _say(self, *ids: int) -> None:
        for id in ids:
            if self._unread:
                self._context = self._graphs.extend(self._context, self._unread)
            self._said.append(id)
            self._unread = [id]

    def _logits(self, candidates: Sequence[int]) -> FloatArray:
        self._context, logits = self._graphs.read(self._context, self._unread, candidates)
        self._unread = []
        return logits

    def _best(self, without: frozenset[int] = frozenset()) -> int:
        self._context, chosen = self._graphs.best(self._context, self._unread, without)
        self._unread = []
        return chosen

    def _choose(self, choice: Choice) -> None:
        """A tie is unsafe."""
        safe, unsafe = (float(logit) for logit in self._logits((choice.safe, choice.unsafe)))
        both = np.logaddexp(safe, unsafe)
        self._logprobs.append(np.array([safe - both, unsafe - both], np.float32))
        self._say(choice.unsafe if unsafe >= safe else choice.safe)

    def _names(self, names: NameList, items: Sequence[tuple[int, ...]]) -> None:
        """A name, or one more, is begun only where the longest would fit."""
        left, name, begun = set(items), tuple[int, ...](), len(self._said)
        longest = max(map(len, items)) + len(names.separator)
        while True:
            options = {item[len(name)] for item in left if len(item) > len(name) and item[: len(name)] == name}
            if name in left:
                options.add(names.end)
                if len(left) > 1 and len(self._said) - begun + longest <= names.max_tokens:
                    options.add(names.separator[0])
            ordered = sorted(options)
            chosen = ordered[int(np.argmax(self._logits(ordered)))]
            if name in left and chosen == names.end:
                return
            if name in left and chosen == names.separator[0]:
                left.remove(name)
                self._say(*names.separator)
                name = ()
            else:
                self._say(chosen)
                name += (chosen,)

    def _line(self, names: NameList, begun: int) -> None:
        """Where the budget cuts it, it ends before the last separator; without one nothing is left, not the head."""
        for _ in range(names.max_tokens):
            chosen = self._best()
            if chosen == names.end:
                return
            self._say(chosen)
        marks = [at for at, id in enumerate(self._said) if at >= begun and id == names.separator[0]]
        del self._said[marks[-1] if marks else begun :]

    def _write(self, text: FreeText) -> None:
        for _ in range(text.max_tokens):
            chosen = self._best(text.without)
            if chosen in (text.stop, text.end[0]) or chosen in text.without:
                break
            self._say(chosen)
        else:
            self._truncated = True
        self._say(*text.end)
