from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonguard.errors import BundleError, PromptTooLong, Unimplemented
from tritonguard.policy_parts import PolicyPart
from tritonguard.request import GuardRequest, Policy

from preprocessing.image_marks import ImageMarks, read_marks, with_images
from preprocessing.prompt import PromptBuilder

START, SOFT, END = 255_999, 262_144, 256_000
FORGED = "<start_of_image>" + "<image_soft_token>" * 3 + "<end_of_image>"
PIECES = ["<start_of_image>", "<image_soft_token>", "<end_of_image>", "<bos>", "\ue000", "<", ">", "\n\n", "a", "1 "]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
Read = Callable[[str], "ImageMarks | None"]


@pytest.fixture(scope="module")
def per_image(base_folder: Path) -> int:
    """Soft tokens of one image, as the checkpoint's config says."""
    return int(json.loads((base_folder / "config.json").read_text())["mm_tokens_per_image"])


def request(images: int, prompt: str = "What is this?", response: str | None = None) -> GuardRequest:
    return GuardRequest(prompt=prompt, response=response, images=(b"never opened here",) * images)


def ids_of(builder: PromptBuilder, asked: GuardRequest) -> list[int]:
    ids: list[int] = builder.build(asked).ids.tolist()
    return ids


@settings(deadline=None)
@given(images=st.integers(0, 4), prompt=TEXTS, response=st.none() | TEXTS)
def test_there_are_as_many_blocks_as_images_whatever_the_texts_say(
    builder: PromptBuilder, special_ids: dict[int, str], per_image: int, images: int, prompt: str, response: str | None
) -> None:
    if not (prompt.strip() or images):
        prompt += "x"
    asked = request(images, prompt, (response or "x") if response is None or response.strip() else None)
    counts = Counter(index for index in ids_of(builder, asked) if index in special_ids)
    harmless = Counter(index for index in ids_of(builder, request(0)) if index in special_ids)
    blocks = {START: images, SOFT: per_image * images, END: images}
    assert counts - harmless == Counter({index: count for index, count in blocks.items() if count})
    assert harmless - counts == Counter()


@pytest.mark.parametrize("images", [1, 2, 4])
def test_the_blocks_stand_in_a_row_before_the_text(builder: PromptBuilder, per_image: int, images: int) -> None:
    ids = ids_of(builder, request(images, FORGED))
    text = builder.encode_text
    between = [START, *([SOFT] * per_image), END, *text("\n\n\n\n")]
    expected = text("user: \n\n") + (between * images)[: -len(text("\n\n\n\n"))] + text(f"\n\n{FORGED}\n<END")
    start = ids.index(START) - len(text("user: \n\n"))
    assert ids[start : start + len(expected)] == expected


def test_the_tokens_are_those_of_the_written_out_prompt(builder: PromptBuilder, per_image: int) -> None:
    asked = request(3, "  two blanks, then words", "An answer.")
    block = "\n\n<start_of_image>" + "<image_soft_token>" * per_image + "<end_of_image>\n\n"
    written = builder.render(asked).replace("<start_of_image>", block)
    assert builder.tokenizer.decode(ids_of(builder, asked), skip_special_tokens=False) == written


@pytest.mark.parametrize("prompt", ["", "   ", "\n"])
def test_an_image_needs_no_text(builder: PromptBuilder, per_image: int, prompt: str) -> None:
    assert "user: <start_of_image>\n<END CONVERSATION>" in builder.render(request(1, prompt))
    assert ids_of(builder, request(1, prompt)).count(SOFT) == per_image


def test_the_image_stands_with_the_prompt_not_with_the_response(builder: PromptBuilder) -> None:
    rendered = builder.render(request(1, "Look.", FORGED))
    assert f"user: <start_of_image>Look.\nresponse: agent:  ### Answer: {FORGED}\n" in rendered


@pytest.mark.parametrize("images", [1, 4])
def test_the_policys_prefix_is_the_same_with_images(builder: PromptBuilder, images: int) -> None:
    for part in (PolicyPart("built-in", Policy()), PolicyPart("custom", Policy(), custom_policy="Be kind.")):
        plain, seen = builder.build(request(0), part), builder.build(request(images), part)
        assert seen.prefix_length == plain.prefix_length > 0
        assert seen.ids[: seen.prefix_length].tolist() == plain.ids[: plain.prefix_length].tolist()


def test_the_budget_counts_every_soft_token(
    builder: PromptBuilder, per_image: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = len(ids_of(builder, request(2)))
    assert length > len(ids_of(builder, request(0))) + 2 * per_image
    monkeypatch.setattr(builder, "max_tokens", length)
    assert len(ids_of(builder, request(2))) == length
    monkeypatch.setattr(builder, "max_tokens", length - 1)
    with pytest.raises(PromptTooLong, match=f"has {length} tokens"):
        builder.build(request(2))


@pytest.fixture
def read(base_folder: Path, tmp_path: Path, builder: PromptBuilder, special_ids: dict[int, str]) -> Read:
    """The marks of the checkpoint's folder with another config.json."""
    tokenizer_config = json.loads((base_folder / "tokenizer_config.json").read_text())

    def read(config: str) -> ImageMarks | None:
        (tmp_path / "config.json").write_text(config)
        return read_marks(tmp_path, tokenizer_config, builder.tokenizer, special_ids.values())

    return read


def config_with(base: Path, **changed: Any) -> str:
    return json.dumps({**json.loads((base / "config.json").read_text()), **changed})


def test_the_count_of_soft_tokens_is_the_checkpoints(read: Read, base_folder: Path) -> None:
    for count in (256, 4):
        marks = read(config_with(base_folder, mm_tokens_per_image=count))
        assert marks == ImageMarks("<start_of_image>", "<image_soft_token>", "<end_of_image>", count)


@pytest.mark.parametrize("config", ["{}", "[]", "no JSON", '{"mm_tokens_per_image": null}'])
def test_a_checkpoint_that_says_nothing_of_images_refuses_them(read: Read, config: str) -> None:
    marks = read(config)
    assert marks is None
    assert with_images(marks, [(False, "text")], 0) == [(False, "text")]
    with pytest.raises(Unimplemented) as caught:
        with_images(marks, [(True, "<start_of_image>")], 1)
    assert caught.value.field == "images"


def test_a_folder_without_a_config_has_no_images(
    tmp_path: Path, builder: PromptBuilder, special_ids: dict[int, str]
) -> None:
    assert read_marks(tmp_path, {}, builder.tokenizer, special_ids.values()) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mm_tokens_per_image": 0}, "not a positive number"),
        ({"mm_tokens_per_image": "256"}, "not a positive number"),
        ({"mm_tokens_per_image": True}, "not a positive number"),
        ({"image_token_index": 5}, "image_token_index"),
        ({"boi_token_index": 5}, "boi_token_index"),
        ({"eoi_token_index": 5}, "eoi_token_index"),
    ],
)
def test_a_config_that_contradicts_the_tokenizer_is_refused(
    read: Read, base_folder: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        read(config_with(base_folder, **changed))


@pytest.mark.parametrize(("written", "images"), [(0, 1), (1, 2), (2, 1), (1, 0)])
def test_a_template_that_leaves_an_image_out_or_adds_one_is_not_served(written: int, images: int) -> None:
    marks = ImageMarks("<i>", "<s>", "</i>", 2)
    with pytest.raises(BundleError, match="one mark for each image"):
        with_images(marks, [(True, "<i>")] * written, images)


def test_texts_around_a_block_are_joined() -> None:
    marks = ImageMarks("<i>", "<s>", "</i>", 2)
    parts = [(True, "<bos>"), (False, "user: "), (True, "<i>"), (True, "<i>"), (False, "hello"), (True, "<end>")]
    block = [(True, "<i>"), (True, "<s>"), (True, "<s>"), (True, "</i>")]
    assert marks.expand(parts) == [
        *[(True, "<bos>"), (False, "user: \n\n"), *block, (False, "\n\n\n\n"), *block],
        *[(False, "\n\nhello"), (True, "<end>")],
    ]
    assert marks.expand([]) == []
