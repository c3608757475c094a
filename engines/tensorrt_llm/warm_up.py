"""One job of each kind, from the example data: what is compiled or allocated at first use is not in a caller's time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tritonguard.examples import CANARY, EXAMPLES
from tritonguard.request import GuardRequest, Mode

from engines.checkpoint import Checkpoint
from engines.program import program_for
from engines.protocol import Capabilities, Job
from preprocessing.images import model_pixels, read_images
from preprocessing.prompt import PromptBuilder


def warm_up_jobs(folder: Path, capabilities: Capabilities) -> Iterator[Job]:
    """A text, an exchange, reasoning and, for a bundle that was trained to see, an image. Raises BundleError for a
    tokenizer that makes no prompts, PromptTooLong where an example does not fit."""
    builder = PromptBuilder(folder, max_tokens=capabilities.max_tokens)
    yield _job(builder, CANARY[0].request())
    yield _job(builder, next(each.request() for each in EXAMPLES if each.response is not None))
    yield _job(builder, next(each.request() for each in EXAMPLES if each.mode is Mode.THINK))
    tower = Checkpoint.read_vision_config(folder)
    if capabilities.vision == "trained" and tower is not None:
        yield _job(builder, next(each.request() for each in EXAMPLES if each.image), tower.image_size)


def _job(builder: PromptBuilder, request: GuardRequest, image_size: int = 0) -> Job:
    program = program_for(
        request.mode,
        has_response=request.response is not None,
        encode=builder.encode_text,
        end=builder.end_of_turn,
        marks=builder.mark_ids,
    )
    images = [model_pixels(image, image_size) for image in read_images(request.images)]
    return Job(builder.build(request).ids, 0, program, np.stack(images) if images else None)
