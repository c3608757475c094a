"""The preprocess stage: REQUEST tensors -> MODEL_INPUT and CONTEXT tensors."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from tritonguard import tensors as wire
from tritonguard.request import from_tensors, refuse_unbuilt

from preprocessing.prompt import PromptBuilder


def prepare(tensors: Mapping[str, wire.Array], builder: PromptBuilder) -> dict[str, wire.Array]:
    """The door of the server: validate, refuse what is not built, render and tokenise.

    Raises GuardError (InvalidRequest, UnsupportedContract, Unimplemented, PromptTooLong).
    """
    began = time.monotonic_ns()
    request = from_tensors(tensors)
    refuse_unbuilt(request)
    built = builder.build(request)
    has_response = request.response is not None
    context = {
        "request_id": request.request_id,
        "policy": request.policy.canonical_json(),
        "has_response": has_response,
        "prompt_tokens": len(built.ids),
        "prefix_tokens": built.prefix_length,
        "received_ns": began,
        "preprocess_ms": (time.monotonic_ns() - began) / 1e6,
    }
    return {
        "INPUT_IDS": wire.pack("INPUT_IDS", built.ids),
        "PREFIX_LENGTH": wire.pack("PREFIX_LENGTH", [built.prefix_length]),
        "ANSWER": wire.pack_text("ANSWER", json.dumps({"mode": request.mode.value, "has_response": has_response})),
        "DEADLINE_NS": wire.pack("DEADLINE_NS", [began + round(request.deadline_s * 1e9)]),
        "CONTEXT": wire.pack_text("CONTEXT", json.dumps(context)),
    }
