"""Writes a bundle's answers.json (`preprocessing.answer_text`)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from tritonguard import tensors as wire
from tritonguard.errors import BundleError, GuardError
from tritonguard.examples import CANARY
from tritonguard.request import GuardRequest, Mode, to_tensors

from engines import program
from engines.program import Choice, Forced, program_for
from preprocessing import answer_text, prompt, stage
from preprocessing.answer_text import ANSWERS
from preprocessing.policies import PolicyStore
from preprocessing.prompt import PromptBuilder
from preprocessing.stage import PrepareStage

MAX_TOKENS = 4096
"""Of the longest prompt that a bundle serves, unless it is compiled for another; as NVIDIA's examples serve the model
(--max-model-len 4096)."""
SOURCES = (answer_text, program, prompt, stage)
"""With this file, the code that a bundle's answers.json depends on."""


def write_answers(folder: Path, *, max_tokens: int) -> None:
    """By the tokenizer in `folder`.

    Raises BundleError where that is none, splits " safe" or " unsafe", or has no prompt of at most `max_tokens` for an
    example text.
    """
    builder = PromptBuilder(folder, max_tokens=max_tokens)
    encoded: dict[str, list[int]] = {}

    def encode(text: str) -> list[int]:
        return encoded.setdefault(text, builder.encode_text(text))

    answers: list[list[int]] = []
    for has_response in (False, True):
        for mode in Mode:  # the other modes' programs are known as well
            program = program_for(mode, has_response=has_response, encode=encode, end=builder.end_of_turn)
            if mode is Mode.VERDICT:
                parts = [
                    [segment.ids] if isinstance(segment, Forced) else [(segment.safe,), (segment.unsafe,)]
                    for segment in program.segments
                    if isinstance(segment, Forced | Choice)
                ]
                answers += [list(itertools.chain(*ids)) for ids in itertools.product(*parts)]
    known = {
        "encoded": encoded,
        "decoded": [[ids, builder.decode_text(ids)] for ids in answers],
        "end": builder.end_of_turn,
        "warm_up": _warm_up(builder),
    }
    (folder / ANSWERS).write_text(json.dumps(known, ensure_ascii=False) + "\n")


def _warm_up(builder: PromptBuilder) -> dict[str, object]:
    request = GuardRequest(prompt=CANARY[0].prompt)
    try:
        tensors = PrepareStage(builder, PolicyStore(allow_callers=False)).run(to_tensors(request))
    except GuardError as error:
        raise BundleError(f"an example text has no prompt: {error}") from error
    ids = wire.unpack(tensors, "INPUT_IDS")
    assert ids is not None
    return {
        "ids": ids.tolist(),
        "prefix_length": wire.require_int(tensors, "PREFIX_LENGTHS"),
        "answer": wire.require_text(tensors, "ANSWER"),
    }
