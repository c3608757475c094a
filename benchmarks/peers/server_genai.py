"""Child: OpenVINO GenAI behind a Triton of its own, the one that serves ours, asked with token ids over gRPC.

    python -m benchmarks.peers.server_genai PACKAGES BUNDLE

PACKAGES: folder of GenAI's own (`server_pipeline`). BUNDLE: any one, which the launcher wants to see. settings: those
of `genai`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.closed_loop import Run, answer_run, closed_loop
from benchmarks.peers.protocol import serve
from benchmarks.peers.question import PLAIN, TRICK, Question, Trick
from benchmarks.peers.server_pipeline import VARIABLE
from serving.launch import ENSEMBLE, ServerSettings, TritonServer

REPOSITORY = Path(__file__).with_name("server_repository")
MOST_S = 600.0


class ServedGenAi:
    def __init__(self, packages: str, bundle: Path) -> None:
        self._packages, self._bundle = packages, bundle
        self._resources = ExitStack()
        self._client: Any = None
        self._grpc: Any = importlib.import_module("tritonclient.grpc")

    def load(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Raises LaunchError."""
        began = time.perf_counter()
        os.environ[VARIABLE] = json.dumps({**message["settings"], "packages": self._packages})
        served = ServerSettings(self._bundle, REPOSITORY)
        server = self._resources.enter_context(TritonServer(served))
        self._client = self._grpc.InferenceServerClient(server.endpoints.grpc)
        self._resources.callback(self._client.close)
        return {"seconds": time.perf_counter() - began}

    def run(self, message: Mapping[str, Any]) -> dict[str, Any]:
        def run(questions: Sequence[Question], concurrency: int, way: str) -> Run:
            return closed_loop(questions, concurrency, {PLAIN: self._plain, TRICK: self._trick}[way])

        return answer_run(message, run)

    def close(self) -> None:
        self._resources.close()

    def _plain(self, question: Question) -> Sequence[int]:
        return self._complete(question.ids, question.tokens)

    def _trick(self, question: Question) -> Sequence[int]:
        return Trick(question).answered(lambda ids: self._complete(ids, 1)[0])

    def _complete(self, ids: Sequence[int], count: int) -> Sequence[int]:
        """The likeliest tokens behind the ids."""
        inputs = []
        for name, values in (("INPUT_IDS", ids), ("COUNT", [count])):
            array = np.array([values], np.int32)
            tensor = self._grpc.InferInput(name, list(array.shape), "INT32")
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        result = self._client.infer(ENSEMBLE, inputs, client_timeout=MOST_S)
        said: list[int] = result.as_numpy("SAID_IDS")[0].tolist()
        return said


if __name__ == "__main__":
    genai = ServedGenAi(sys.argv[1], Path(sys.argv[2]))
    try:
        serve({"load": genai.load, "run": genai.run})
    finally:
        genai.close()
