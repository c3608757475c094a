"""Images and their part of the prompt, against transformers' Gemma 3 processor on the same files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from transformers import Gemma3Processor, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from tritonguard.request import GuardRequest

from preprocessing.images import model_pixels, read_image
from preprocessing.prompt import PromptBuilder

SIZE = 896
SHAPES = [(896, 896), (1, 1), (3, 700), (480, 640), (1200, 333), (1500, 2000), (56, 56)]


def noise(height: int, width: int) -> Pillow.Image:
    """Blocks of colour with hard edges at every scale."""
    random = np.random.default_rng(height * 10_000 + width)
    coarse = random.integers(0, 256, (1 + height // 9, 1 + width // 7, 3), np.uint8)
    return Pillow.fromarray(coarse.repeat(9, 0).repeat(7, 1)[:height, :width])


def png(picture: Pillow.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


@pytest.fixture(scope="module")
def processor(base_folder: Path) -> Any:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base_folder)
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<image_soft_token>")
    return Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": SIZE, "width": SIZE}),
        tokenizer=tokenizer,
        chat_template=(base_folder / "chat_template.jinja").read_text(),
        image_seq_length=json.loads((base_folder / "config.json").read_text())["mm_tokens_per_image"],
    )


@pytest.fixture(scope="module")
def builder(base_folder: Path) -> PromptBuilder:
    return PromptBuilder(base_folder, max_tokens=10_000)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_models_square_is_transformers_to_the_last_level(processor: Any, height: int, width: int) -> None:
    picture = noise(height, width)
    made = processor.image_processor(picture, return_tensors="np")["pixel_values"][0]
    levels = np.rint((made + 1) * 127.5).astype(int).transpose(1, 2, 0)
    square = model_pixels(read_image(png(picture)), SIZE)
    assert (square == levels).all()
    assert np.allclose(square.transpose(2, 0, 1) / 255 * 2 - 1, made, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_other_modes_reach_the_model_as_transformers_converts_them(processor: Any, mode: str) -> None:
    out = io.BytesIO()
    noise(200, 300).convert(mode).save(out, "JPEG")
    made = processor.image_processor(Pillow.open(out), return_tensors="np")["pixel_values"][0]
    levels = np.rint((made + 1) * 127.5).astype(int).transpose(1, 2, 0)
    assert (model_pixels(read_image(out.getvalue()), SIZE) == levels).all()


@pytest.mark.parametrize("images", [1, 2, 4])
@pytest.mark.parametrize(
    "prompt", ["What is in this picture?", "", "  two blanks first", "\n\nlines\n\n", "\u4e2d\u6587 \U0001f600"]
)
@pytest.mark.parametrize("response", [None, "A cat on a mat."])
def test_the_tokens_of_an_image_message_are_transformers(
    processor: Any, builder: PromptBuilder, images: int, prompt: str, response: str | None
) -> None:
    pictures = [noise(20, 30)] * images
    parts: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]
    if response is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": response}]})
    # The template writes <bos> itself: a second one is the tokenizer's own, and not wanted.
    expected = processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"add_special_tokens": False},
    )["input_ids"]
    request = GuardRequest(prompt=prompt, response=response, images=tuple(png(picture) for picture in pictures))
    built = builder.build(request).ids.tolist()
    assert built == [int(index) for index in np.asarray(expected).reshape(-1)]
