"""Triton model `preprocess`: the server's door, policies, images, chat template and tokeniser."""

from __future__ import annotations

import faulthandler
from typing import Any

import triton_python_backend_utils as pb_utils
from tritonguard.tensors import CONTEXT, MODEL_INPUT, REQUEST

from engines.bundle import Bundle
from preprocessing.prompt import PromptBuilder
from preprocessing.stage import PrepareStage
from serving.adapter import Adapter, bundle_folder, policy_store
from serving.occupancy import Occupancy


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        faulthandler.enable(all_threads=False)  # a crash leaves its stack in the server's log
        bundle = Bundle.open(bundle_folder(), weights=False)
        builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
        self._stage = PrepareStage(
            builder,
            policy_store(self._report),
            vision=bundle.capabilities.vision,
            image_size=bundle.image_size,
            done_ns=Occupancy.of_server().done_ns,
        )
        self._adapter = Adapter(pb_utils, inputs=REQUEST, outputs=(*MODEL_INPUT, *CONTEXT))

    def execute(self, requests: list[Any]) -> list[Any]:
        return self._adapter.each(requests, self._stage.run)

    @staticmethod
    def _report(file: str, message: str) -> None:
        pb_utils.Logger.log_error(f"policy {file}: {message}")
