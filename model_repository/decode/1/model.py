"""Triton model `decode`: one engine over the bundle, with its own queue."""

from __future__ import annotations

import faulthandler
from typing import Any

import triton_python_backend_utils as pb_utils
from tritonguard.request import MAX_DEADLINE_S
from tritonguard.tensors import DECODED, MODEL_INPUT

from engines.answer_cache import AnswerCache
from engines.bundle import Bundle, open_engine
from engines.scheduler import MOST_WAITING, Scheduler
from engines.stage import DecodeStage, Done, Result, Tensors
from preprocessing.answer_text import AnswerText
from serving.adapter import Adapter, bundle_folder, cache_mb, most_waiting
from serving.metrics import Metrics
from serving.occupancy import Occupancy


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        faulthandler.enable(all_threads=False)  # a crash leaves its stack in the server's log
        bundle = Bundle.open(bundle_folder())
        self._text = text = AnswerText(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
        self._engine = engine = open_engine(bundle, keep_prefixes=True)
        scheduler = Scheduler(engine, most_waiting=most_waiting(MOST_WAITING), show=Occupancy.of_server().show)
        self._stage = stage = DecodeStage(
            bundle,
            scheduler,
            encode=text.encode,
            decode=text.decode,
            end=text.end,
            marks=text.marks,
            image_size=bundle.image_size,
            cache=AnswerCache(cache_mb() * 1_000_000),
        )
        self._adapter = Adapter(pb_utils, inputs=MODEL_INPUT, outputs=DECODED)
        stage.warm_up(text.warm_up(deadline_s=MAX_DEADLINE_S))
        self._metrics = Metrics(pb_utils, gauges=stage.statistics, counters=stage.counters)

    def is_ready(self) -> bool:
        return self._engine.health()  # asked by Triton 26.03 and newer

    def execute(self, requests: list[Any]) -> None:
        # Nothing is answered here: the engine has its own queue, and each response is sent when it is ready.
        self._adapter.defer(requests, self._submit)

    def _submit(self, tensors: Tensors, done: Done) -> None:
        def answered(result: Result) -> None:
            done(result)
            # Not before: nothing else runs here while the tokenizer is read, and the first answer would wait.
            self._text.read_soon()

        self._stage.submit(tensors, answered)

    def finalize(self) -> None:
        self._stage.close()
        self._metrics.close()
