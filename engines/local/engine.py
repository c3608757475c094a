"""The local engine: decode programs on the OpenVINO graphs of a bundle.

A verdict is one pass, with or without a response: prompt and forced head behind the cached prefix, both answers
to the user's choice as branches of one tree. Jobs that share a prefix ride in one batch, and the images of a call
pass the tower together, those that it has not seen. Category lists and reasoning take further passes, a token at a
time, and ask the clock between them.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tritonguard.errors import BundleError, DeadlineExceeded, GuardError, Unavailable, Unimplemented

from engines.bundle import Bundle
from engines.checkpoint import FloatArray
from engines.local.cache_limits import CacheLimits
from engines.local.context import Context
from engines.local.image_cache import ImageCache
from engines.local.passes import Passes
from engines.local.prefix_cache import PrefixCache
from engines.local.prefix_files import PrefixFiles
from engines.local.shape import Shape
from engines.local.steps import Written, write_line, write_names, write_text
from engines.program import Choice
from engines.protocol import Answer, Capabilities, Job

SERVED_SEGMENTS = frozenset({"Forced", "Choice", "NameList", "FreeText"})
"""Program segments that this engine executes, and the most choices in a program."""
SERVED_CHOICES = 2


@dataclass
class _Run:
    """One job under way. unread: ids that no pass has read yet; said: the answer's ids so far."""

    index: int
    job: Job
    shape: Shape
    prefix: tuple[int, ...]
    unread: tuple[int, ...]
    features: FloatArray | None = None
    said: tuple[int, ...] = ()
    truncated: bool = False
    logprobs: list[npt.NDArray[np.float32]] = field(default_factory=list)
    reused: int = 0
    timings: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Raises DeadlineExceeded when the job's time is over."""
        if self.job.deadline_ns is not None and time.monotonic_ns() >= self.job.deadline_ns:
            raise DeadlineExceeded("the deadline passed while the model ran")

    @property
    def answer(self) -> Answer:
        return Answer(np.stack(self.logprobs), self.said, self.reused, self.truncated, timings_ms=self.timings)


class LocalEngine:
    """Thread-safe: one pass at a time over one set of graphs."""

    def __init__(
        self,
        passes: Passes,
        capabilities: Capabilities,
        limits: CacheLimits | None = None,
        files: PrefixFiles | None = None,
    ) -> None:
        """limits: of its caches; None: the default. files: where prefixes are kept on disk; None: nowhere."""
        limits = limits or CacheLimits()
        self._passes = passes
        self._capabilities = capabilities
        self._prefixes = PrefixCache(limits.prefixes, files)
        self._images = ImageCache(limits.images)
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def load(cls, bundle: Bundle, *, keep_prefixes: bool = False) -> LocalEngine:
        """Compile the bundle's graphs for this CPU, with caches as the environment limits them.

        keep_prefixes: on disk, beside the bundle. Raises BundleError when the graphs can't be compiled, and ValueError
        for a limit that is no number.
        """
        limits = CacheLimits.of(os.environ)
        passes = Passes.load(bundle.folder)
        files = PrefixFiles.beside(bundle, limits.prefixes) if keep_prefixes and limits.prefixes else None
        return cls(passes, bundle.capabilities, limits, files)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def lanes(self) -> int:
        return 1

    def statistics(self) -> dict[str, float]:
        return {**self._prefixes.statistics(), **self._images.statistics()}

    def health(self) -> bool:
        return not self._closed

    def close(self) -> None:
        """Nothing runs once this returns; a call after it is answered with Unavailable."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._prefixes.close()

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        """One result per job: an Answer; DeadlineExceeded if its time ran out in the queue, between two passes
        or during the last; Unimplemented for a program that this engine can't execute. Any other failure is
        raised.
        """
        results: list[Answer | GuardError | None] = [None] * len(jobs)
        waiting: dict[int, _Run] = {}
        with self._lock:
            if self._closed:
                return [Unavailable("the engine is shut down") for _ in jobs]
            for index, job in enumerate(jobs):
                try:
                    waiting[index] = self._begin(index, job)
                except GuardError as error:
                    results[index] = error
            self._see([run for run in waiting.values() if run.job.pixels is not None])
            groups: dict[tuple[int, ...], list[_Run]] = defaultdict(list)
            for run in waiting.values():
                groups[run.prefix].append(run)
            for group in groups.values():
                self._group(group, results)
        return [result if result is not None else BundleError("a job was not run") for result in results]

    def _begin(self, index: int, job: Job) -> _Run:
        if not job.program.kinds <= self._capabilities.segments or len(job.program.choices) > SERVED_CHOICES:
            raise Unimplemented("this bundle does not execute what this mode needs", field="mode")
        shape = Shape.of(job.program)
        prefix, unread = job.split
        run = _Run(index, job, shape, prefix, (*unread, *shape.head), said=shape.head)
        run.check()
        return run

    def _see(self, runs: Sequence[_Run]) -> None:
        """The features of these runs' images, of which each has at least one."""
        began = time.monotonic()
        images = [run.job.pixels for run in runs if run.job.pixels is not None]
        seen = iter(self._images.features([image for each in images for image in each], self._passes.see))
        for run, own in zip(runs, images, strict=True):
            run.features = np.concatenate([next(seen) for _ in own])
            run.timings["vision"] = (time.monotonic() - began) * 1e3

    def _group(self, runs: Sequence[_Run], results: list[Answer | GuardError | None]) -> None:
        """Run jobs that share a prefix: those that only judge in one batch, the others one by one."""
        prefix = self._prefix(runs)
        thinking = [run for run in runs if run.shape.text is not None]
        judging = [run for run in runs if run.shape.text is None]
        if judging:
            for run, context in zip(judging, self._judge(prefix, judging), strict=True):
                results[run.index] = self._finished(run, context)
        for run in thinking:
            results[run.index] = self._thought(prefix, run)

    def _prefix(self, runs: Sequence[_Run]) -> Context:
        """The context of these runs' prefix, from the cache or computed."""
        began = time.monotonic()
        ids, context, reused = runs[0].prefix, self._passes.empty, False
        if ids:
            context, reused = self._prefixes.obtain(ids, lambda: self._passes.extend(self._passes.empty, ids))
        for run in runs:
            run.reused = context.length if reused else 0
            run.timings["prefix"] = (time.monotonic() - began) * 1e3
        return context

    def _thought(self, prefix: Context, run: _Run) -> Answer | GuardError:
        """Reasoning first, then the same forced verdict."""
        assert run.shape.text is not None
        began = time.monotonic()
        try:
            # The prompt is read with its images once; from here on the context is this job's own.
            context = self._passes.extend(prefix, run.unread[:-1], features=run.features)
            written = write_text(self._passes, context, run.unread[-1:], run.shape.text, run.check)
            run.said += (*written.ids, *run.shape.user_head)
            run.unread = (*written.unread, *run.shape.user_head)
            run.truncated, run.features = written.truncated, None
            run.timings["think"] = (time.monotonic() - began) * 1e3
            run.check()
            [context] = self._judge(written.context, [run])
        except GuardError as error:
            return error
        return self._finished(run, context)

    def _judge(self, context: Context, runs: Sequence[_Run]) -> list[Context]:
        """One pass that reads every choice of these runs. Returns the context of what each of them said."""
        began = time.monotonic()
        trees = [run.shape.tree(run.unread, run.features) for run in runs]
        candidates = sorted({id for run in runs for id in run.job.program.candidates})
        result = self._passes.run(context, trees, candidates)
        contexts = []
        for row, (run, tree) in enumerate(zip(runs, trees, strict=True)):
            user_says = self._choose(run, run.shape.user, candidates, result.logits[row, 0])
            path = list(range(len(tree.trunk)))
            if run.shape.response is None:
                run.unread = (user_says,)
            else:
                branch = int(user_says == run.shape.user.unsafe)
                run.said += run.shape.response_head
                response_says = self._choose(run, run.shape.response, candidates, result.logits[row, 1 + branch])
                path, run.unread = tree.path(branch), (response_says,)
            # Only a list goes on from here; the states are views that the next pass overwrites.
            goes_on = run.shape.names is not None
            contexts.append(context.extended(result.keys[:, row], result.values[:, row], path) if goes_on else context)
            run.timings["forward"] = (time.monotonic() - began) * 1e3
        return contexts

    @staticmethod
    def _choose(run: _Run, choice: Choice, candidates: Sequence[int], logits: FloatArray) -> int:
        """Record a choice's probabilities and what was said. A tie says unsafe, as in `label_from_choices`."""
        logprobs = log_softmax(logits[[candidates.index(id) for id in (choice.safe, choice.unsafe)]])
        run.logprobs.append(logprobs)
        said = choice.safe if logprobs[0] > logprobs[1] else choice.unsafe
        run.said += (said,)
        return said

    def _finished(self, run: _Run, context: Context) -> Answer | GuardError:
        """The answer, after the list that a category program ends with."""
        try:
            names = run.shape.names
            unsafe = any(row[0] <= row[1] for row in run.logprobs)
            if names is not None and unsafe:
                began = time.monotonic()
                write = write_line if names.items is None else write_names
                written: Written = write(self._passes, context, run.unread, names, run.check)
                run.said += written.ids
                run.timings["categories"] = (time.monotonic() - began) * 1e3
            run.check()
        except GuardError as error:
            return error
        return run.answer


def log_softmax(logits: FloatArray) -> FloatArray:
    """Over the last axis, in float64 on the way. NaN stays NaN: the verdict stage calls it indeterminate."""
    values = logits.astype(np.float64)
    shifted = values - values.max(axis=-1, keepdims=True)
    result: FloatArray = (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
    return np.minimum(result, np.float32(0.0))
