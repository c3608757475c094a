"""The decode stage: one bad row of a batch fails alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tritonguard import tensors as wire
from tritonguard.errors import GuardError, InternalError

from engines.bundle import Bundle
from engines.protocol import Answer, Capabilities, Job
from engines.stage import DecodeStage


class Counting:
    """An engine that says how many jobs came at once, as a probability no model would give."""

    capabilities = Capabilities(frozenset(), 1, "none", 64)

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        return [Answer(np.array([[-float(len(jobs)), 0.0]], np.float32), 0) for _ in jobs]


def stage() -> DecodeStage:
    manifest = {"target": "openvino", "precision": "f32", "revision": "r", "inputs": {"checkpoint_revision": "m"}}
    return DecodeStage(Bundle(Path(), manifest), Counting(), lambda text: [1])


def row(answer: str) -> dict[str, wire.Array]:
    return {
        "INPUT_IDS": wire.pack("INPUT_IDS", [2, 3, 4]),
        "PREFIX_LENGTH": wire.pack("PREFIX_LENGTH", [1]),
        "ANSWER": wire.pack_text("ANSWER", answer),
        "DEADLINE_NS": wire.pack("DEADLINE_NS", [1]),
    }


def test_one_malformed_row_fails_alone() -> None:
    good = json.dumps({"mode": "verdict", "has_response": False})
    first, bad, missing, last = stage().run([row(good), row("{"), row("{}"), row(good)])
    assert isinstance(bad, InternalError)
    assert isinstance(missing, InternalError)
    for decoded in (first, last):
        assert isinstance(decoded, dict)
        assert decoded["CHOICE_LOGPROBS"].tolist() == [[[-2.0, 0.0]]]
