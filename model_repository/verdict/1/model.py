"""Triton model `verdict`: label, decision and record."""

from __future__ import annotations

import faulthandler
from typing import Any

import triton_python_backend_utils as pb_utils
from tritonguard.tensors import CONTEXT, DECODED, VERDICT

from engines.stage import conclude
from serving.adapter import Adapter


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        faulthandler.enable(all_threads=False)  # a crash leaves its stack in the server's log
        self._adapter = Adapter(pb_utils, inputs=(*DECODED, *CONTEXT), outputs=VERDICT)

    def execute(self, requests: list[Any]) -> list[Any]:
        return self._adapter.each(requests, conclude)
