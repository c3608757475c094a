"""Triton model: OpenVINO GenAI's pipeline, of which one thread takes all steps, as `decode` serves our engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from benchmarks.peers.server_pipeline import Pipeline


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._pipeline = Pipeline.of_environment()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            ids, count = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0].tolist()
                for name in ("INPUT_IDS", "COUNT")
            )
            self._answer(request.get_response_sender(), ids, count[0])

    def _answer(self, sender: Any, ids: list[int], count: int) -> None:
        def done(said: list[int] | Exception) -> None:
            if isinstance(said, Exception):
                response = pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(said)))
            else:
                tensor = pb_utils.Tensor("SAID_IDS", np.array([said], np.int32))
                response = pb_utils.InferenceResponse(output_tensors=[tensor])
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        self._pipeline.submit(ids, count, done)

    def finalize(self) -> None:
        self._pipeline.close()
