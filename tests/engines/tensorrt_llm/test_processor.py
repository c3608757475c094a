"""The ids that the model reads are those it was given, beside the pixels in the numbers of its own processor."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from tritonguard.errors import InternalError

from engines.tensorrt_llm.processor import PassthroughProcessor, inputs_of, pixel_levels

IDS = [2, 105, 255999, 262144, 256000]


def test_a_text_goes_as_its_ids_alone() -> None:
    assert inputs_of(tuple(IDS), None) == {"prompt_token_ids": IDS}


def test_ids_and_pixels_pass_through_unchanged() -> None:
    pixels = object()
    inputs = inputs_of(IDS, pixels)
    assert "prompt_token_ids" not in inputs
    assert inputs["prompt"]
    ids, extra = PassthroughProcessor(SimpleNamespace())(inputs, None)
    assert ids == IDS
    assert extra == {"multimodal_data": {"image": {"pixel_values": pixels}}}


@pytest.mark.parametrize("inputs", [{"prompt": "a text"}, {"prompt": "x", "mm_processor_kwargs": None}])
def test_a_text_is_not_tokenised(inputs: dict[str, object]) -> None:
    with pytest.raises(InternalError):
        PassthroughProcessor(SimpleNamespace())(inputs, None)


def test_everything_else_is_the_inner_processors_and_images_are_not_hashed() -> None:
    inner = SimpleNamespace(tokenizer="the tokenizer", multimodal_hashing_supported=None)
    processor = PassthroughProcessor(inner)
    assert processor.tokenizer == "the tokenizer"
    assert processor.multimodal_hashing_supported is False
    with pytest.raises(AttributeError):
        processor.get_mm_token_ids  # noqa: B018


def test_it_can_be_copied() -> None:
    assert copy.copy(PassthroughProcessor(SimpleNamespace(tokenizer=1))).tokenizer == 1


def test_pixels_become_levels_between_minus_one_and_one_channel_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    pixels[0, 0, 0] = (0, 255, 128)
    levels = pixel_levels(pixels)
    assert levels.shape == (2, 3, 4, 4)
    assert levels.dtype == np.float32
    assert levels.flags["C_CONTIGUOUS"]
    assert levels[0, :2, 0, 0].tolist() == [-1, 1]
    np.testing.assert_allclose(levels, (pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5, atol=1e-6)
