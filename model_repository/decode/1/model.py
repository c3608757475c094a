"""Triton model `decode`: one engine over the bundle, with its own queue."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils
from tritonguard.errors import GuardError
from tritonguard.examples import CANARY
from tritonguard.request import MAX_DEADLINE_S, GuardRequest, to_tensors
from tritonguard.tensors import DECODED, MODEL_INPUT

from engines.bundle import Bundle, open_engine
from engines.scheduler import MOST_WAITING, Scheduler
from engines.stage import DecodeStage
from preprocessing.policies import PolicyStore
from preprocessing.prompt import PromptBuilder
from preprocessing.stage import PrepareStage
from serving.adapter import Adapter, bundle_folder, most_waiting
from serving.occupancy import Occupancy


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        bundle = Bundle.open(bundle_folder())
        builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
        self._stage = DecodeStage(
            bundle,
            Scheduler(open_engine(bundle), most_waiting=most_waiting(MOST_WAITING), show=Occupancy.of_server().show),
            encode=builder.encode_text,
            decode=builder.decode_text,
            end=builder.end_of_turn,
            marks=builder.mark_ids,
            image_size=bundle.image_size,
        )
        self._adapter = Adapter(pb_utils, inputs=MODEL_INPUT, outputs=DECODED)
        self._warm_up(builder)

    def _warm_up(self, builder: PromptBuilder) -> None:
        # First calls allocate, compile and fill the prefix cache: not in a caller's time.
        request = GuardRequest(prompt=CANARY[0].prompt, deadline_s=MAX_DEADLINE_S)
        prepared = PrepareStage(builder, PolicyStore(allow_callers=False)).run(to_tensors(request))
        result = self._stage.run(prepared)
        if isinstance(result, GuardError):
            raise result

    def execute(self, requests: list[Any]) -> None:
        # Nothing is answered here: the engine has its own queue, and each response is sent when it is ready.
        self._adapter.defer(requests, self._stage.submit)

    def finalize(self) -> None:
        self._stage.close()
