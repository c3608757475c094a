"""Results of requests, as `tensorrt_llm/executor/result.py` hands them out: awaited, iterated or waited for."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Any

from tensorrt_llm._behaviour import behaviour
from tensorrt_llm.executor.utils import has_event_loop
from tensorrt_llm.sampling_params import SamplingParams

_NO_LOOP = "The asyncio event loop was not present during initialization, so async operations are not available."


@dataclass(slots=True)
class Logprob:
    """rank: from 1, the likeliest."""

    logprob: float
    rank: int | None = None


@dataclass
class CompletionOutput:
    """behaviour: logprobs_shape. logprobs: for each generated token {token id: Logprob}, best first."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    prompt_logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    generation_logits: Any = None

    @property
    def length(self) -> int:
        return len(self.token_ids)


_REASONS = {
    "end_id": "stop",
    "stop_words": "stop",
    "length": "length",
    "timed_out": "timeout",
    "cancelled": "cancelled",
}


@dataclass(frozen=True)
class Response:
    """What the executor sends of one request. reason: a key of `_REASONS`; None: it goes on."""

    token_ids: tuple[int, ...] = ()
    log_probs: tuple[dict[int, Logprob], ...] | None = None
    reason: str | None = None
    error: str | Exception | None = None


class AsyncQueue:
    """Filled from any thread, emptied in the loop that made it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[Any] = deque()
        self._filled = asyncio.Event()

    def put(self, item: Any) -> None:
        self._items.append(item)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._filled.set)

    async def get(self, timeout: float | None = None) -> Any:
        """behaviour: one_event_loop. Raises RuntimeError in another loop, asyncio.TimeoutError."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the result's queue is bound to a different event loop")
        while not self._items:
            self._filled.clear()
            await asyncio.wait_for(self._filled.wait(), timeout)
        return self._items.popleft()


class GenerationResult:
    """behaviour: await_without_loop. Made outside an event loop it can be waited for, but not awaited."""

    def __init__(
        self,
        id: int,
        prompt_token_ids: list[int],
        sampling_params: SamplingParams,
        *,
        abort: Callable[[int], None],
        background_error: Callable[[str | Exception | None], None],
    ) -> None:
        self.request_id = id
        self.prompt_token_ids = prompt_token_ids
        self.sampling_params = sampling_params
        self._abort = abort
        self._background_error = background_error
        self._done = self._aborted = False
        self._outputs = [CompletionOutput(0)]
        self.aqueue = AsyncQueue() if has_event_loop() else None
        self.queue: Queue[Response] | AsyncQueue = self.aqueue or Queue()

    @property
    def outputs(self) -> list[CompletionOutput]:
        return self._outputs

    @property
    def finished(self) -> bool:
        return self._done

    def abort(self) -> None:
        self._abort(self.request_id)
        self._aborted = True

    def aborted(self) -> bool:
        return self._aborted

    def result(self, timeout: float | None = None) -> GenerationResult:
        """behaviour: result_ignores_timeout. It waits for as long as it takes."""
        while not self._done:
            assert isinstance(self.queue, Queue), "the result was made in an event loop: await it there"
            self._handle(self.queue.get())
        return self

    async def aresult(self) -> GenerationResult:
        while not self._done:
            await self._astep()
        return self

    def __await__(self) -> Generator[Any, None, GenerationResult]:
        return self.aresult().__await__()

    def __aiter__(self) -> GenerationResult:
        return self

    async def __anext__(self) -> GenerationResult:
        if self._done:
            raise StopAsyncIteration
        await self._astep()
        return self

    async def _astep(self) -> None:
        assert self.aqueue is not None, _NO_LOOP
        self._handle(await self.aqueue.get())

    def _handle(self, response: Response) -> None:
        if response.error is not None:
            self._background_error(response.error)
        output = self._outputs[0]
        output.token_ids.extend(response.token_ids)
        if response.log_probs is not None:
            output.logprobs.extend(response.log_probs)
            assert len(output.logprobs) == output.length, "one entry of log-probabilities for each token"
        if response.reason is not None:
            self._done = True
            self._finish(output, response.reason)
        self._background_error(None)

    def _finish(self, output: CompletionOutput, reason: str) -> None:
        """behaviour: stop_ids_trimmed, logprobs_kept_of_trimmed_stop, end_id_stays."""
        output.finish_reason = _REASONS[reason]
        if reason == "end_id" and not behaviour("end_id_stays"):
            output.token_ids = output.token_ids[:-1]
        if reason != "stop_words":
            return
        for said, ids in self.sampling_params._get_stop_reasons_and_words():
            if output.token_ids[-len(ids) :] == ids:
                output.stop_reason = said
                if behaviour("stop_ids_trimmed") and not self.sampling_params.include_stop_str_in_output:
                    output.token_ids = output.token_ids[: -len(ids)]
                    if not behaviour("logprobs_kept_of_trimmed_stop"):
                        output.logprobs = output.logprobs[: output.length]
                break


class IterationResult:
    """behaviour: statistics_end_after_timeout. Iterations' statistics; over once none came for the timeout."""

    def __init__(self) -> None:
        self._done = False
        self._timeout: float | None = behaviour("statistics_timeout_s")
        self.aqueue = AsyncQueue() if has_event_loop() else None
        self.queue: Queue[str] | AsyncQueue = self.aqueue or Queue()

    def set_timeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def mark_undone(self) -> None:
        self._done = False

    def get_results(self) -> list[dict[str, Any]]:
        results = []
        while not self._done:
            assert isinstance(self.queue, Queue)
            try:
                results.append(json.loads(self.queue.get(timeout=self._timeout)))
            except Empty:
                self._done = True
        return results

    def __aiter__(self) -> IterationResult:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._done:
            raise StopAsyncIteration
        assert self.aqueue is not None, _NO_LOOP
        try:
            values: dict[str, Any] = json.loads(await self.aqueue.get(self._timeout))
            return values
        except TimeoutError:
            self._done = True
            raise StopAsyncIteration from None
