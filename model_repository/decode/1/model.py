"""Triton model `decode`: one engine over the bundle, batching across requests."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils
from tritonguard.errors import GuardError
from tritonguard.examples import CANARY
from tritonguard.request import MAX_DEADLINE_S, GuardRequest, to_tensors
from tritonguard.tensors import DECODED, MODEL_INPUT

from engines.bundle import Bundle, open_engine
from engines.stage import DecodeStage
from preprocessing.policies import PolicyStore
from preprocessing.prompt import PromptBuilder
from preprocessing.stage import PrepareStage
from serving.adapter import Adapter, bundle_folder


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        bundle = Bundle.open(bundle_folder())
        builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
        self._stage = DecodeStage(
            bundle,
            open_engine(bundle),
            encode=builder.encode_text,
            decode=builder.decode_text,
            end=builder.end_of_turn,
            image_size=bundle.image_size,
        )
        self._adapter = Adapter(pb_utils, inputs=MODEL_INPUT, outputs=DECODED)
        self._warm_up(builder)

    def _warm_up(self, builder: PromptBuilder) -> None:
        # First calls allocate, compile and fill the prefix cache: not in a caller's time.
        request = GuardRequest(prompt=CANARY[0].prompt, deadline_s=MAX_DEADLINE_S)
        prepared = PrepareStage(builder, PolicyStore(allow_callers=False)).run(to_tensors(request))
        (result,) = self._stage.run([prepared])
        if isinstance(result, GuardError):
            raise result

    def execute(self, requests: list[Any]) -> list[Any]:
        return self._adapter.batch(requests, self._stage.run)
