"""What a program's answer is: one token after another, each from a pass over the whole sequence. No cache, no draft."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.checkpoint import Checkpoint, FloatArray
from engines.local.answering import log_softmax
from engines.local.forward_openvino import build_graph
from engines.local.head_openvino import HeadRuntime
from engines.local.passes import Passes
from engines.local.runtime import Runtime, VisionRuntime
from engines.local.tree import Tree
from engines.local.vision_openvino import build_vision_graph
from engines.program import Choice, Forced, FreeText, NameList
from engines.protocol import Answer, Job

_BLOCK = 64


def tiny_passes(folder: Path) -> Passes:
    """The folder's checkpoint as graphs, in float32."""
    checkpoint = Checkpoint.open(folder)
    _kept.append(checkpoint)  # the graphs' constants are views of its files
    return Passes(
        Runtime(build_graph(checkpoint), precision="f32"),
        checkpoint.text_config,
        image_token=Checkpoint.read_image_token(folder),
        head=HeadRuntime.of(checkpoint, precision="f32"),
        vision=VisionRuntime(build_vision_graph(checkpoint), precision="f32"),
    )


_kept: list[Checkpoint] = []


class Definition:
    """Answers jobs by the definition, on one checkpoint."""

    def __init__(self, folder: Path, vocabulary: int) -> None:
        self._folder = folder
        self._vocabulary = vocabulary
        self._known: dict[tuple[object, ...], Answer] = {}

    @cached_property
    def _passes(self) -> Passes:
        return tiny_passes(self._folder)

    def answer(self, job: Job) -> Answer:
        key = (job.ids.tobytes(), job.program, None if job.pixels is None else job.pixels.tobytes())
        if key not in self._known:
            self._known[key] = self._answer(job)
        return self._known[key]

    def logits(self, job: Job, said: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """float32 [vocabulary] behind the prompt and what was said."""
        features = None if job.pixels is None else self._passes.see(job.pixels)
        return _Writer(self._passes, self._vocabulary, [*job.ids.tolist(), *said], features).logits()

    def _answer(self, job: Job) -> Answer:
        features = None if job.pixels is None else self._passes.see(job.pixels)
        writer = _Writer(self._passes, self._vocabulary, job.ids.tolist(), features)
        for segment in job.program.segments:
            if isinstance(segment, Forced):
                writer.said += segment.ids
            elif isinstance(segment, Choice):
                writer.choose(segment)
            elif isinstance(segment, FreeText):
                writer.think(segment)
            elif writer.any_unsafe:
                (writer.line if segment.items is None else writer.names)(segment)
        return Answer(np.stack(writer.rows), tuple(writer.said), 0, writer.truncated)


class _Writer:
    def __init__(self, passes: Passes, vocabulary: int, ids: list[int], features: FloatArray | None) -> None:
        self._passes, self._vocabulary, self._ids, self._features = passes, vocabulary, ids, features
        self.said: list[int] = []
        self.rows: list[FloatArray] = []
        self.truncated = False

    @property
    def any_unsafe(self) -> bool:
        return any(row[0] <= row[1] for row in self.rows)

    def logits(self) -> npt.NDArray[np.float32]:
        ids = (*self._ids, *self.said)
        # A second row, of a whole number of blocks: kernels are made anew for each length of a batch.
        rows = [Tree(ids, features=self._features), Tree((0,) * (-len(ids) % _BLOCK + len(ids)))]
        return self._passes.run(self._passes.empty, rows, range(self._vocabulary))[0].logits[0].copy()

    def choose(self, choice: Choice) -> None:
        row = log_softmax(self.logits()[[choice.safe, choice.unsafe]])
        self.rows.append(row)
        self.said.append(choice.safe if row[0] > row[1] else choice.unsafe)

    def think(self, text: FreeText) -> None:
        written = 0
        while written < text.max_tokens:
            best = int(np.argmax(self.logits()))
            if best in (text.stop, text.end[0]):
                break
            self.said.append(best)
            written += 1
        self.truncated = written == text.max_tokens
        self.said += text.end

    def names(self, names: NameList) -> None:
        assert names.items is not None
        left, separator = list(names.items), names.separator[0]
        room = names.max_tokens - max(map(len, left)) - len(names.separator)
        self.said += names.head
        began = len(self.said)
        while True:
            node: tuple[int, ...] = ()
            while True:
                options = {item[len(node)] for item in left if item[: len(node)] == node and len(item) > len(node)}
                if whole := node in left:
                    more = len(left) > 1 and len(self.said) - began <= room
                    options |= {names.end, separator} if more else {names.end}
                logits = self.logits()
                chosen = max(sorted(options), key=lambda id: logits[id])
                if whole and chosen == names.end:
                    return
                self.said.append(chosen)
                if whole and chosen == separator:
                    break
                node += (chosen,)
            left.remove(node)

    def line(self, names: NameList) -> None:
        start = len(self.said)
        self.said += names.head
        for _ in range(names.max_tokens):
            best = int(np.argmax(self.logits()))
            if best == names.end:
                return
            self.said.append(best)
        marks = [at for at in range(start, len(self.said)) if self.said[at] == names.separator[0]]
        del self.said[marks[-1] if marks else start :]
