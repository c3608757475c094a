"""The engine on TensorRT-LLM 1.2.1: decode programs as greedy requests, each draft verified (`walk`).

The package batches what its callers have under way, so `run` is called from several threads at once, up to `lanes`;
it knows no priority, no deadline and no limit to its queue: those are the scheduler's. It forbids the reuse of keys and
values beside images, so each request reads the whole prompt.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
from tritonguard.errors import (
    BundleError,
    DeadlineExceeded,
    GuardError,
    InternalError,
    PromptTooLong,
    Unavailable,
    Unimplemented,
)

from engines.bundle import Bundle
from engines.checkpoint import Checkpoint
from engines.protocol import Answer, Capabilities, Job
from engines.tensorrt_llm.draft import Draft
from engines.tensorrt_llm.engine_config import EngineConfig
from engines.tensorrt_llm.machine import read_machine
from engines.tensorrt_llm.preflight import check_machine, require
from engines.tensorrt_llm.processor import inputs_of, pixel_values
from engines.tensorrt_llm.replies import read_reply, typed
from engines.tensorrt_llm.runtime import Runtime
from engines.tensorrt_llm.sampling import sampling_params
from engines.tensorrt_llm.statistics import Statistics
from engines.tensorrt_llm.walk import THINK, Request, longest, walk
from engines.tensorrt_llm.warm_up import warm_up_jobs

SERVED_SEGMENTS = frozenset({"Forced", "Choice", "NameList", "FreeText"})
SERVED_CHOICES = 2
STALLED_S = 30.0
"""A request that is this late behind its deadline has no executor any more: the package would wait for ever."""
_log = logging.getLogger(__name__)


class TensorRtLlmEngine:
    """Thread-safe. lanes: calls of `run` that the package batches. max_tokens: of a prompt and its answer together.
    image_token: the id that stands for a piece of an image; tokens_per_image: such pieces, 0 without a tower."""

    def __init__(
        self,
        runtime: Runtime,
        capabilities: Capabilities,
        *,
        lanes: int,
        max_tokens: int,
        image_token: int,
        tokens_per_image: int,
    ) -> None:
        self._runtime = runtime
        self._capabilities = capabilities
        self._max_tokens = max_tokens
        self._image_token = image_token
        self._tokens_per_image = tokens_per_image
        self._statistics = Statistics(runtime.llm)
        self._calls = self._jobs = 0
        self._closed = self._dead = False
        self._changed = threading.Condition()
        self.lanes = lanes

    @classmethod
    def load(cls, bundle: Bundle) -> TensorRtLlmEngine:
        """Check this machine, load the bundle and run one job of each kind. Raises BundleError, with what to do."""
        config = EngineConfig.read(bundle.folder)
        require(check_machine(bundle.folder, bundle.manifest, config, read_machine()))
        tower = Checkpoint.read_vision_config(bundle.folder)
        engine = cls(
            Runtime.open(bundle.folder, config),
            bundle.capabilities,
            lanes=config.max_batch_size,
            max_tokens=config.max_seq_len,
            image_token=Checkpoint.read_image_token(bundle.folder),
            tokens_per_image=0 if tower is None else tower.mm_tokens_per_image,
        )
        try:
            for job in warm_up_jobs(bundle.folder, bundle.capabilities):
                (result,) = engine.run([job])
                if isinstance(result, GuardError):
                    raise result
        except BaseException as error:
            engine.close()
            if isinstance(error, GuardError):
                raise BundleError(f"the bundle was loaded and answers no example: {error.message}") from error
            raise
        return engine

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        """One result per job, all of them under way together: an Answer, or

        Unimplemented (a program that the bundle does not declare), BundleError (an image, and no tower),
        PromptTooLong, DeadlineExceeded (before a request or while one runs), Unavailable (closed, or the executor
        died), InternalError with the cause.
        """
        with self._call(len(jobs)) as is_open:
            if not is_open:
                return [Unavailable("the engine is shut down") for _ in jobs]
            begun = [self._begin(job) for job in jobs]
            return [each if isinstance(each, GuardError) else each.result() for each in begun]

    def health(self) -> bool:
        """Whether the engine is open and its executor has not been seen to die."""
        return not (self._closed or self._dead)

    def statistics(self) -> dict[str, float]:
        """Jobs under way, and the package's figures of its last iteration as far as it has them (`statistics`)."""
        figures: dict[str, float] = {"jobs_under_way": self._jobs}
        with self._call() as is_open:
            try:
                return figures | self._runtime.submit(self._statistics.read()).result() if is_open else figures
            except Exception:
                _log.warning("the package gave no statistics", exc_info=True)
                return figures

    def close(self) -> None:
        """Refuse what comes from now on, finish what is under way, and shut the package down. A second call waits
        for nothing."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.wait_for(lambda: not self._calls)
        self._runtime.close()

    @contextmanager
    def _call(self, jobs: int = 0) -> Iterator[bool]:
        """Whether the engine is open; it stays so until the call is over."""
        with self._changed:
            is_open = not self._closed
            self._calls += is_open
            self._jobs += jobs * is_open
        try:
            yield is_open
        finally:
            with self._changed:
                self._calls -= is_open
                self._jobs -= jobs * is_open
                self._changed.notify_all()

    def _begin(self, job: Job) -> Future[Answer | GuardError] | GuardError:
        try:
            self._check(job)
            # Here and not on the loop, where every other request would wait for it.
            pixels = None if job.pixels is None else pixel_values(job.pixels)
            return self._runtime.submit(self._result(job, pixels))
        except Exception as error:
            return error if isinstance(error, GuardError) else InternalError.of(error)

    def _check(self, job: Job) -> None:
        """Raises the reason why a job can't be run. What is wrong in a request can end the executor, so all of it
        is found out before."""
        program = job.program
        if not program.kinds <= self._capabilities.segments or len(program.choices) > self._capabilities.choices:
            raise Unimplemented("this bundle does not execute what this mode needs", field="mode")
        # The package itself compares the prompt alone, with another key (llm.py, _check_arguments).
        length, answer = len(job.ids), longest(program.segments)
        if length + answer > self._max_tokens:
            raise PromptTooLong(
                f"the prompt has {length} tokens and its answer up to {answer}, this server reads {self._max_tokens}",
                field="prompt",
            )
        images = 0 if job.pixels is None else len(job.pixels)
        if images and not self._tokens_per_image:
            raise BundleError("the bundle has no vision tower")
        if int((job.ids == self._image_token).sum()) != images * self._tokens_per_image:
            raise InternalError(f"the prompt's image tokens are not those of {images} images")
        _left_s(job)

    async def _result(self, job: Job, pixels: Any) -> Answer | GuardError:
        try:
            return await self._answer(job, pixels)
        except Exception as error:
            known = typed(error)
            if isinstance(known, Unavailable) and not self._dead:
                self._dead = True
                _log.error("the executor is gone: the server has to be started again", exc_info=error)
            return known

    async def _answer(self, job: Job, pixels: Any) -> Answer:
        """Walk the program, with a request wherever the walk asks for one."""
        timings: dict[str, float] = defaultdict(float)
        walking = walk(job.program)
        draft: Draft | None = None
        while True:
            try:
                request = next(walking) if draft is None else walking.send(draft)
            except StopIteration as end:
                said = end.value
                break
            began = time.monotonic()
            draft = await self._draft(job, request, pixels)
            timings[request.phase] += (time.monotonic() - began) * 1e3
        _left_s(job)
        return Answer(
            np.array(said.rows, np.float32).reshape(-1, 2),
            said.ids,
            prefix_reused=0,
            truncated=said.truncated,
            timings_ms=dict(timings),
            bounded=said.bounded,
        )

    async def _draft(self, job: Job, request: Request, pixels: Any) -> Draft:
        ids = [*job.ids.tolist(), *request.said]
        ends = self._runtime.ends
        left_s = _left_s(job)
        output = self._runtime.llm.generate_async(
            inputs_of(ids, pixels), sampling_params=sampling_params(request, ends), streaming=False
        )
        # A prefill that runs out of time is left to end, and discarded: the package does not stop in one. Reasoning
        # would go on for seconds, so it is aborted.
        aborts = request.phase == THINK
        patience_s = None if left_s is None else left_s if aborts else left_s + STALLED_S
        try:
            await asyncio.wait_for(output.aresult(), patience_s)
        except TimeoutError:
            if aborts:
                output.abort()
                raise DeadlineExceeded("the deadline passed while the model reasoned") from None
            raise Unavailable("the engine no longer answers") from None
        return read_reply(output, ids, request, ends)


def _left_s(job: Job) -> float | None:
    """Seconds until the job's deadline; None: it has none. Raises DeadlineExceeded when its time is over."""
    if job.deadline_ns is None:
        return None
    left_ns = job.deadline_ns - time.monotonic_ns()
    if left_ns <= 0:
        raise DeadlineExceeded("the deadline passed while the model ran")
    return left_ns / 1e9
