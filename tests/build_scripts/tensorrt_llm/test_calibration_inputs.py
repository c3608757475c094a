"""What ModelOpt's calibration reads: the server's own ids, an answer as far as it is known, images before texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from parity_stand_ins import row
from small_guard import VOCABULARY, guard_config, write_guard
from tritonguard.errors import BundleError, PromptTooLong
from tritonguard.policy import Policy

from build_scripts.calibration import CalibrationSet, draw
from build_scripts.parity_corpus import Row
from build_scripts.tensorrt_llm.calibration_inputs import (
    Calibration,
    ModelPrompt,
    images_of,
    model_prompts,
    shipped_images,
)
from preprocessing.images import model_pixels, read_image
from preprocessing.prompt import PromptBuilder

KITCHEN = Policy(name="kitchen", custom_policy="Only cooking is allowed.")
SIDE = 16
LOAF = "example_loaf.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guard(tmp_path_factory.mktemp("guard") / "download")


@pytest.fixture(scope="module")
def builder(folder: Path) -> PromptBuilder:
    return PromptBuilder(folder, max_tokens=100_000)


def read(rows: list[Row], folder: Path, images: dict[str, bytes] | None = None) -> list[ModelPrompt]:
    drawn = CalibrationSet(tuple(rows), "file", "0" * 64, 0)
    return model_prompts(Calibration(drawn, images or {}), folder, image_size=SIDE)


def behind_the_prompt(prompt: ModelPrompt, asked: Row, builder: PromptBuilder) -> str:
    """The answer's text; the ids before it are the server's."""
    ids = builder.build(asked.request, asked.part).ids
    assert prompt.ids[: len(ids)].tolist() == ids.tolist()
    return builder.decode_text(prompt.ids[len(ids) :].tolist())


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (row(policy=KITCHEN, known=(True, None)), "User Safety: unsafe"),
        (row(known=(False, None)), "User Safety: safe"),
        (row(), "User Safety:"),
        (row(response="Yes.", known=(True, False)), "User Safety: unsafe\nResponse Safety: safe"),
        (row(response="Yes.", known=(True, None)), "User Safety: unsafe\nResponse Safety:"),
        (row(mode="categories", known=(True, None)), "User Safety: unsafe"),
        (row(mode="think", known=(True, None)), "<think>\n"),
    ],
)
def test_an_answer_goes_as_far_as_it_is_known(folder: Path, builder: PromptBuilder, asked: Row, answer: str) -> None:
    (prompt,) = read([asked], folder)
    assert behind_the_prompt(prompt, asked, builder) == answer
    assert prompt.pixels is None


def test_each_image_stands_before_one_of_the_rows_texts(folder: Path, builder: PromptBuilder) -> None:
    rows = [row("a", prompt="One?", known=(True, None)), row("b", prompt="Two?", policy=KITCHEN)]
    loaf = shipped_images()[LOAF]
    prompts = read(rows, folder, {f"{number}.png": loaf for number in range(3)})
    assert [prompt.pixels is not None for prompt in prompts] == [False, False, True, True, True]
    soft = guard_config()["image_token_index"]
    tokens = guard_config()["mm_tokens_per_image"]
    for prompt, asked in zip(prompts[2:], (rows[0], rows[1], rows[0]), strict=True):
        assert prompt.pixels is not None
        assert np.array_equal(prompt.pixels, model_pixels(read_image(loaf), SIDE)[None])
        assert (prompt.ids == soft).sum() == tokens
        with_image = asked.request.model_copy(update={"images": (loaf,)})
        ids = builder.build(with_image, asked.part).ids
        assert prompt.ids[: len(ids)].tolist() == ids.tolist()
        assert len(prompt.ids) > len(ids)


def test_the_shipped_set_is_read_whole(folder: Path) -> None:
    drawn, images = draw(), shipped_images()
    assert set(images) == {LOAF}
    prompts = read(list(drawn.rows), folder, images)
    assert len(prompts) == len(drawn.rows) + 1
    assert all(prompt.ids.min() >= 0 and prompt.ids.max() < VOCABULARY for prompt in prompts)
    assert all(prompt.ids.dtype == np.int64 for prompt in prompts)


def test_a_manifest_says_which_rows_and_which_images() -> None:
    described = Calibration(draw(count=3, seed=7), {"a.png": b"bytes"}).describe()
    assert described["rows"] == 3
    assert described["seed"] == 7
    assert described["file"] == "calibration_prompts.jsonl"
    assert list(described["images"]) == ["a.png"]
    assert len(described["images"]["a.png"]) == 64


def test_a_folder_of_images_is_read_by_name_and_a_bad_one_is_named(tmp_path: Path) -> None:
    loaf = shipped_images()[LOAF]
    for name in ("b.PNG", "a.png"):
        (tmp_path / name).write_bytes(loaf)
    (tmp_path / "notes.txt").write_text("no image")
    assert list(images_of(tmp_path)) == ["a.png", "b.PNG"]
    (tmp_path / "c.jpg").write_bytes(loaf[:50])
    with pytest.raises(BundleError, match=r"c\.jpg: not a readable image"):
        images_of(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no image"):
        images_of(tmp_path)
    with pytest.raises(BundleError, match="No such file"):
        images_of(tmp_path / "nowhere")


def test_a_row_that_is_longer_than_any_served_prompt_is_refused(folder: Path) -> None:
    with pytest.raises(PromptTooLong):
        read([row(prompt="word " * 5000)], folder)
