"""The jobs of a start: one of each kind that the bundle serves, from the example data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.checkpoint import Checkpoint
from engines.program import FreeText
from engines.protocol import Capabilities
from engines.tensorrt_llm.engine import SERVED_CHOICES, SERVED_SEGMENTS
from engines.tensorrt_llm.warm_up import warm_up_jobs


@pytest.mark.parametrize("vision", ["trained", "untrained"])
def test_there_is_one_of_each_kind(base_folder: Path, vision: str) -> None:
    capabilities = Capabilities(SERVED_SEGMENTS, SERVED_CHOICES, vision, 4096)
    text, pair, think, *images = warm_up_jobs(base_folder, capabilities)
    assert [len(job.program.choices) for job in (text, pair)] == [1, 2]
    assert any(isinstance(segment, FreeText) and segment.without for segment in think.program.segments)
    assert text.pixels is pair.pixels is think.pixels is None
    assert len(images) == (vision == "trained")
    tower = Checkpoint.read_vision_config(base_folder)
    for job in images:
        assert tower is not None
        assert job.pixels is not None
        assert job.pixels.shape == (1, tower.image_size, tower.image_size, 3)
        soft = Checkpoint.read_image_token(base_folder)
        assert int(np.sum(job.ids == soft)) == tower.mm_tokens_per_image
