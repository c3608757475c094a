"""The decode stage: one bad row of a batch fails alone, and a row's prompts come back together."""

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
        return [Answer(np.array([[-float(len(jobs)), 0.0]], np.float32), (len(job.ids),), 0) for job in jobs]


def stage() -> DecodeStage:
    manifest = {"target": "openvino", "precision": "f32", "revision": "r", "inputs": {"checkpoint_revision": "m"}}
    return DecodeStage(Bundle(Path(), manifest), Counting(), encode=lambda text: [1], decode=str, end=106)


PROMPT = {"part": "custom", "mode": "verdict", "names": None, "sees": False}
GOOD = json.dumps({"has_response": False, "think_budget": 8, "prompts": [PROMPT, PROMPT]})


def row(answer: str) -> dict[str, wire.Array]:
    return {
        "INPUT_IDS": wire.pack("INPUT_IDS", [2, 3, 4]),
        "PROMPT_LENGTHS": wire.pack("PROMPT_LENGTHS", [1, 2]),
        "PREFIX_LENGTHS": wire.pack("PREFIX_LENGTHS", [1, 0]),
        "PIXELS": wire.pack("PIXELS", [b""]),
        "ANSWER": wire.pack_text("ANSWER", answer),
        "DEADLINE_NS": wire.pack("DEADLINE_NS", [1]),
    }


def test_one_malformed_row_fails_alone() -> None:
    first, bad, missing, last = stage().run([row(GOOD), row("{"), row("{}"), row(GOOD)])
    assert isinstance(bad, InternalError)
    assert isinstance(missing, InternalError)
    for decoded in (first, last):
        assert isinstance(decoded, dict)
        assert decoded["CHOICE_LOGPROBS"].tolist() == [[[-4.0, 0.0], [-4.0, 0.0]]]
        assert decoded["OUTPUT_TEXT"].tolist() == [[b"(1,)", b"(2,)"]]
