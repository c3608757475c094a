"""One job under way: its steps, and the keys and values of what it has read."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from tritonguard.errors import DeadlineExceeded, GuardError

from engines.checkpoint import FloatArray
from engines.local.answering import Said, answer
from engines.local.context import Context
from engines.local.shape import Shape
from engines.local.steps import Seen, Step
from engines.local.tree import Tree
from engines.protocol import Answer, Job


@dataclass(eq=False)
class Row:
    """prefix: ids that other rows may share. context: what it has read; None: its prefix alone.

    Once it has started it has a `step`, what it wants to read now, and a `tree`, what of that no pass has read yet.
    Done, it has a `result`, or an `error` that is no answer.
    """

    job: Job
    shape: Shape
    prefix: tuple[int, ...]
    unread: tuple[int, ...]
    context: Context | None = None
    result: Answer | GuardError | None = None
    error: BaseException | None = None
    reused: int = 0
    timings: dict[str, float] = field(default_factory=dict)
    _steps: Generator[Step, Seen, Said] | None = None
    _step: Step | None = None
    _tree: Tree | None = None

    @classmethod
    def of(cls, job: Job) -> Row:
        """Raises Unimplemented for a program of another order than the local engine runs."""
        prefix, unread = job.split
        return cls(job, Shape.of(job.program), prefix, unread)

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None

    @property
    def step(self) -> Step:
        assert self._step is not None
        return self._step

    @property
    def tree(self) -> Tree:
        assert self._tree is not None
        return self._tree

    @property
    def started(self) -> bool:
        return self._steps is not None

    def start(self, features: FloatArray | None = None) -> None:
        """Ask for the first step. features: of the job's images."""
        self._steps = answer(self.shape, self.unread, features)
        self._take(next(self._steps))

    def read(self, rest: Tree, context: Context) -> None:
        """A piece of the tree was read: it is in `context`, and `rest` is what is left."""
        self.context, self._tree = context, rest

    def see(self, seen: Seen) -> Sequence[int] | None:
        """The step's tree was read to its end. Returns which of the indices of its last part were said, for the next
        step to go on behind; None: there is none, and the row has its result."""
        assert self._steps is not None
        before = self.step.tree.length - self.tree.length
        try:
            following = self._steps.send(seen)
        except StopIteration as end:
            self._finish(end.value)
            return None
        self._take(following)
        return [index - before for index in following.kept if index >= before]

    def fail(self, error: BaseException) -> None:
        """Ended by a failure, if it has not ended yet."""
        if not self.done:
            self.error = error

    def is_late(self) -> bool:
        """Ends the row when the job's time is over."""
        late = self.job.deadline_ns is not None and time.monotonic_ns() >= self.job.deadline_ns
        if late:
            self.result = DeadlineExceeded("the deadline passed while the model ran")
        return late

    def took(self, phase: str, began: float) -> None:
        """Count the time since `began`, of time.monotonic."""
        self.timings[phase] = self.timings.get(phase, 0.0) + (time.monotonic() - began) * 1e3

    def _take(self, step: Step) -> None:
        self._step, self._tree = step, step.tree

    def _finish(self, said: Said) -> None:
        if not self.is_late():
            self.result = Answer(
                np.stack(said.rows), said.ids, self.reused, truncated=said.truncated, timings_ms=self.timings
            )
