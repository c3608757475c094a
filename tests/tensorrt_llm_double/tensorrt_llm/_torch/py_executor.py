"""The loop that batches requests in flight: `_torch/pyexecutor/py_executor.py` with its scheduler and worker.

One thread runs steps: all that came takes its prefill, all that goes on its next token, in one batch. Requests join
and leave between steps.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence

import numpy as np

from tensorrt_llm._behaviour import behaviour
from tensorrt_llm._controls import Controls, Logits
from tensorrt_llm._torch.model import Gemma3VLM
from tensorrt_llm._torch.request import LlmRequest
from tensorrt_llm._torch.sampler import sample
from tensorrt_llm.executor.result import IterationResult
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs

_STALE_FROM = 4


class PyExecutor:
    def __init__(self, model: Gemma3VLM, args: TorchLlmArgs, controls: Controls) -> None:
        self._model, self._args, self._controls = model, args, controls
        self._waiting: list[LlmRequest] = []
        self._active: list[LlmRequest] = []
        self._cancelled: set[int] = set()
        self._known_blocks: set[tuple[int, ...]] = set()
        self._closing = False
        self.error: Exception | None = None
        self.statistics: IterationResult | None = None
        self._thread = threading.Thread(target=self._loop, name="py-executor", daemon=True)
        self._thread.start()

    def enqueue(self, request: LlmRequest) -> None:
        with self._controls.changed:
            self._waiting.append(request)
            self._controls.changed.notify_all()

    def cancel(self, request_id: int) -> None:
        """behaviour: abort_between_steps. Looked at before the next step: what is being read is read to its end."""
        with self._controls.changed:
            self._cancelled.add(request_id)
            self._controls.changed.notify_all()

    @property
    def is_shutdown(self) -> bool:
        return self._closing or self.error is not None

    def shutdown(self) -> None:
        """Finish what is in flight, take nothing more."""
        with self._controls.changed:
            self._closing = True
            self._controls.changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _loop(self) -> None:
        controls = self._controls
        while True:
            with controls.changed:
                controls.changed.wait_for(lambda: not controls.held and (self._has_work() or self._closing))
                if controls.fatal is not None:
                    return self._die(controls.fatal)
                self._drop_cancelled()
                if self._closing and not self._waiting and not self._active:
                    return
                self._admit()
                batch = list(self._active)
                controls.most_together = max(controls.most_together, len(batch))
            if batch:
                self._step(batch)
            with controls.changed:
                controls.steps += 1
                controls.changed.notify_all()

    def _has_work(self) -> bool:
        return bool(self._waiting or self._active or self._cancelled or self._controls.fatal)

    def _drop_cancelled(self) -> None:
        for request in [*self._waiting, *self._active]:
            if request.result.request_id in self._cancelled:
                request.reason = "cancelled"
                request.respond()
                self._controls.aborted += 1
        self._waiting = [request for request in self._waiting if request.reason is None]
        self._active = [request for request in self._active if request.reason is None]
        self._cancelled.clear()

    def _admit(self) -> None:
        """In order of arrival, as long as batch and step have room.

        behaviour: no_max_tokens_serialises. Such a request holds the memory of a whole sequence: it runs alone.
        """
        room = (self._args.max_num_tokens or 8192) - len(self._active)
        while self._waiting and len(self._active) < (self._args.max_batch_size or 2048):
            request = self._waiting[0]
            alone = request.params.max_tokens is None or any(r.params.max_tokens is None for r in self._active)
            if behaviour("no_max_tokens_serialises") and alone and self._active:
                self._controls.serialised += 1
                return
            if len(request.ids) > room and self._active and not self._args.enable_chunked_prefill:
                return
            room -= len(request.ids)
            self._active.append(self._waiting.pop(0))

    def _step(self, batch: Sequence[LlmRequest]) -> None:
        """behaviour: step_error_fails_batch. Whatever goes wrong in a step is the end of every request in flight."""
        began = time.monotonic()
        contexts = sum(request.is_context for request in batch)
        try:
            self._check_images(batch)
            sample(batch, self._forward(batch))
        except Exception as error:
            for request in batch:
                request.fail(str(error))
            self._active = []
            return
        for request in batch:
            if self._controls.report is not None and request.log_probs:
                request.log_probs[-1] = self._controls.report(request.log_probs[-1])
            request.reason = request.reason and (self._controls.ended or request.reason)
            request.respond()
        self._active = [request for request in self._active if request.reason is None]
        self._count(began, contexts, len(batch) - contexts)

    def _forward(self, batch: Sequence[LlmRequest]) -> list[Logits]:
        """behaviour: cuda_graph_stale_plan. Decode-only steps alone replay a graph."""
        replayed = self._args.cuda_graph_config is not None and not any(request.is_context for request in batch)
        rows: list[Logits] = []
        for request in batch:
            unread = request.ids if request.is_context else (request.tokens[-1],)
            pixel_values = request.pixel_values if request.is_context else None
            request.context, logits = self._model.forward(request.context, unread, pixel_values)
            if self._controls.alter is not None:
                logits = self._controls.alter((*request.ids, *request.tokens), logits)
            rows.append(np.asarray(logits, np.float32))
        if replayed and len(batch) >= _STALE_FROM and behaviour("cuda_graph_stale_plan"):
            rows = [rows[-1], *rows[:-1]]
        return rows

    def _check_images(self, batch: Sequence[LlmRequest]) -> None:
        """behaviour: block_reuse_with_image, chunked_prefill_with_image. Custom masks know of no cached token."""
        began = [request for request in batch if request.is_context]
        size = self._args.kv_cache_config.tokens_per_block
        cached = False
        for request in began:
            blocks = [request.ids[:end] for end in range(size, len(request.ids), size)]
            cached |= self._args.kv_cache_config.enable_block_reuse and any(b in self._known_blocks for b in blocks)
            cached |= self._args.enable_chunked_prefill and len(request.ids) > (self._args.max_num_tokens or 8192)
            self._known_blocks.update(blocks)
        if any(request.pixel_values is not None for request in began):
            assert not cached, (
                "cached_token_lens should be 0 for context requests since chunked prefill and kv cache reuse must be "
                "disabled."
            )

    def _die(self, error: Exception) -> None:
        """behaviour: executor_death. The loop is gone, and with it every request, those here and those to come."""
        self.error = error
        for request in [*self._waiting, *self._active]:
            request.fail(error)
        self._waiting, self._active = [], []
        self._controls.changed.notify_all()

    def _count(self, began: float, contexts: int, generations: int) -> None:
        if not self._args.enable_iter_perf_stats or self.statistics is None:
            return
        used = sum(len(request.ids) + len(request.tokens) for request in self._active)
        block = self._args.kv_cache_config.tokens_per_block
        most = (self._args.max_batch_size or 2048) * (self._args.max_seq_len or 8192) // block
        values = {
            "iter": self._controls.steps,
            "iterLatencyMS": (time.monotonic() - began) * 1e3,
            "numActiveRequests": len(self._active),
            "numQueuedRequests": len(self._waiting),
            "numCompletedRequests": contexts + generations - len(self._active),
            "gpuMemUsage": 0,
            "cpuMemUsage": 0,
            "pinnedMemUsage": 0,
            "kvCacheStats": {
                "maxNumBlocks": most,
                "usedNumBlocks": -(-used // block),
                "freeNumBlocks": most + (-used // block),
                "tokensPerBlock": block,
                "allocTotalBlocks": 0,
                "allocNewBlocks": 0,
                "reusedBlocks": 0,
                "missedBlocks": 0,
                "cacheHitRate": 0.0,
            },
            "inflightBatchingStats": {
                "numScheduledRequests": contexts + generations,
                "numContextRequests": contexts,
                "numGenRequests": generations,
                "numPausedRequests": 0,
                "numCtxTokens": 0,
                "microBatchId": 0,
                "avgNumDecodedTokensPerIter": 1.0,
            },
        }
        self.statistics.queue.put(json.dumps(values))
