"""The server's door: a prompt for each part of the policy, images read once, nothing unread passed on."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonguard import tensors as wire
from tritonguard.errors import InvalidImage, Overloaded, PromptTooLong, Unimplemented
from tritonguard.policy import Policy
from tritonguard.request import DEFAULT_THINK_BUDGET, GuardRequest, Turn, to_tensors

from preprocessing.policies import PolicyStore
from preprocessing.prompt import PromptBuilder
from preprocessing.stage import PrepareStage

SIZE = 28


@pytest.fixture(scope="module")
def stage(builder: PromptBuilder) -> PrepareStage:
    return with_vision(builder, "untrained")


def with_vision(builder: PromptBuilder, vision: str) -> PrepareStage:
    size = 0 if vision == "none" else SIZE
    return PrepareStage(builder, PolicyStore(allow_callers=True), vision=vision, image_size=size)


def picture(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


def run(stage: PrepareStage, **values: Any) -> tuple[dict[str, wire.Array], dict[str, Any], dict[str, Any]]:
    """The tensors, and the JSON of ANSWER and of CONTEXT."""
    tensors = stage.run(to_tensors(GuardRequest.create(**{"prompt": "How are you?", **values})))
    return tensors, json.loads(tensors["ANSWER"][0, 0]), json.loads(tensors["CONTEXT"][0, 0])


def asked(answer: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(prompt["part"], prompt["sees"]) for prompt in answer["prompts"]]


def test_a_plain_request_is_one_prompt_under_the_built_in_policy(stage: PrepareStage, builder: PromptBuilder) -> None:
    tensors, answer, context = run(stage)
    assert asked(answer) == [("built-in", False)]
    ids = builder.build(GuardRequest(prompt="How are you?")).ids
    np.testing.assert_array_equal(tensors["INPUT_IDS"][0], ids)
    assert tensors["PROMPT_LENGTHS"].tolist() == [[len(ids)]]
    assert tensors["PIXELS"].tolist() == [[b""]]
    assert context["vision"] is None
    assert Policy.from_json(context["policy"]) == Policy()


def test_a_custom_policy_beside_the_built_in_one_is_two_prompts(stage: PrepareStage, builder: PromptBuilder) -> None:
    policy = Policy(name="topics", custom_taxonomy=("Chess", "Tea"), also_builtin=True)
    tensors, answer, _ = run(stage, policy=policy, mode="categories")
    assert asked(answer) == [("custom", False), ("built-in", False)]
    assert answer["prompts"][0]["names"] == ["Chess", "Tea"]
    first, second = np.split(tensors["INPUT_IDS"][0], np.cumsum(tensors["PROMPT_LENGTHS"][0])[:-1])
    assert "- Chess\n- Tea" in builder.decode_text(first)
    assert "S24: Economic Harm." in builder.decode_text(second)


def test_free_text_leaves_the_names_open(stage: PrepareStage) -> None:
    _, answer, _ = run(stage, policy=Policy(name="text", custom_policy="No talk about chess."))
    assert answer["prompts"][0]["names"] is None


def test_thinking_has_a_budget_and_is_refused_where_it_would_not_fit(builder: PromptBuilder) -> None:
    stage = with_vision(builder, "none")
    assert run(stage, mode="think")[1]["think_budget"] == DEFAULT_THINK_BUDGET
    assert run(stage, mode="think", think_budget=7)[1]["think_budget"] == 7
    small = PromptBuilder(builder.folder, max_tokens=700)
    with pytest.raises(PromptTooLong) as caught:
        run(with_vision(small, "none"), mode="think", think_budget=600)
    assert caught.value.field == "think_budget"


@pytest.mark.parametrize(
    ("vision", "prompts"),
    [
        ("trained", [("built-in", True)]),
        ("untrained", [("built-in", True), ("built-in", False)]),
        ("none", [("built-in", False)]),
    ],
)
def test_images_that_cannot_be_judged_leave_the_texts_to_be_judged_alone(
    builder: PromptBuilder, vision: str, prompts: list[tuple[str, bool]]
) -> None:
    tensors, answer, context = run(with_vision(builder, vision), images=[picture(), picture("blue")])
    assert asked(answer) == prompts
    assert context["vision"] == vision
    assert len(set(context["image_sha256"])) == 2
    pixels = tensors["PIXELS"][0, 0]
    assert len(pixels) == (0 if vision == "none" else 2 * SIZE * SIZE * 3)
    if vision != "none":
        first = np.frombuffer(pixels, np.uint8).reshape(2, SIZE, SIZE, 3)[0]
        assert (first == [255, 0, 0]).all()


def test_an_image_alone_has_no_text_to_judge(stage: PrepareStage) -> None:
    assert asked(run(stage, prompt="", images=[picture()])[1]) == [("built-in", True)]


def test_what_the_queue_would_refuse_is_refused_before_it_is_tokenised(
    builder: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    done_ns = time.monotonic_ns() + round(60e9)
    stage = PrepareStage(builder, PolicyStore(allow_callers=True), done_ns=lambda: done_ns)
    run(stage, deadline_s=120.0)
    run(stage, deadline_s=30.0, priority=1)  # it may take another's place
    monkeypatch.setattr(PromptBuilder, "build", None)
    with pytest.raises(Overloaded):
        run(stage, deadline_s=30.0)


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenised(
    builder: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = with_vision(PromptBuilder(builder.folder, max_tokens=700), "none")

    def fail(*_: Any) -> None:
        raise AssertionError("tokenised before its length was looked at")

    monkeypatch.setattr(PromptBuilder, "_tokenise", fail)
    with pytest.raises(PromptTooLong, match="tokens or more") as caught:
        run(stage, prompt="a" * (1 << 20))
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("text", [" " * 20_000, "\n" * 20_000, "<bos>" * 4000, "\ue000" * 7000, "\u4e2d" * 7000])
def test_the_least_number_of_tokens_is_never_more_than_there_are(builder: PromptBuilder, text: str) -> None:
    text = f"x{text}x"
    least = len(text.encode()) // builder._longest_piece
    assert 0 < least <= len(builder.encode_text(text))


def test_what_cannot_be_read_or_is_not_served_is_refused(stage: PrepareStage) -> None:
    with pytest.raises(InvalidImage):
        run(stage, images=[b"https://example.org/cat.png"])
    with pytest.raises(Unimplemented):
        run(stage, turns=(Turn(role="user", content="Hi"),))
