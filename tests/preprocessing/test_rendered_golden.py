"""Prompts against tests/data/prompts_golden.jsonl, which transformers wrote (tests/reference)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tritonguard.errors import InvalidRequest
from tritonguard.request import GuardRequest, Mode

from preprocessing.prompt import PromptBuilder
from preprocessing.template import ChatTemplate

GOLDEN = Path(__file__).parents[1] / "data" / "prompts_golden.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
MODES = {
    "{}": Mode.VERDICT,
    '{"request_categories": "/categories"}': Mode.CATEGORIES,
    '{"enable_thinking": true}': Mode.THINK,
}


def request_of(row: dict[str, Any]) -> GuardRequest | None:
    """The request whose prompt a golden row is; None where only the template can render it."""
    mode = MODES.get(json.dumps(row["kwargs"]))
    contents = [message["content"] for message in row["messages"]]
    if mode is None or not all(isinstance(content, str) for content in contents):
        return None
    return GuardRequest(prompt=contents[0], response=contents[1] if len(contents) == 2 else None, mode=mode)


REQUESTS = [(request, row) for row in ROWS if (request := request_of(row)) is not None]


@pytest.fixture(scope="module")
def template(base_folder: Path) -> ChatTemplate:
    return ChatTemplate((base_folder / "chat_template.jinja").read_text(), bos_token="<bos>")


def test_the_golden_rows_cover_modes_pairs_and_policies() -> None:
    assert len(REQUESTS) >= 40
    assert {request.mode for request, _ in REQUESTS} == set(Mode)
    assert sum(request.response is not None for request, _ in REQUESTS) >= 12
    assert {name for row in ROWS for name in row["kwargs"]} == {
        "custom_policy",
        "custom_taxonomy",
        "enable_thinking",
        "request_categories",
    }


@pytest.mark.parametrize(("request_", "row"), REQUESTS)
def test_ids_and_text_of_a_request_equal_transformers(
    builder: PromptBuilder, request_: GuardRequest, row: dict[str, Any]
) -> None:
    assert builder.render(request_) == row["text"]
    assert builder.build(request_).ids.tolist() == row["ids"]


@pytest.mark.parametrize("row", ROWS)
def test_the_template_renders_as_transformers_does(template: ChatTemplate, row: dict[str, Any]) -> None:
    assert template.render(row["messages"], **row["kwargs"]) == row["text"]


@pytest.mark.parametrize(
    "roles",
    [["assistant"], ["user", "user"], ["system", "user"], ["user", "assistant", "user"]],
)
def test_a_conversation_that_the_template_would_drop_parts_of_is_refused(
    template: ChatTemplate, roles: list[str]
) -> None:
    with pytest.raises(InvalidRequest, match="chat template refuses"):
        template.render([{"role": role, "content": "Hello"} for role in roles])


def test_a_policy_replaces_the_taxonomy_word_for_word(template: ChatTemplate) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    builtin = template.render(messages)
    mode_b = template.render(messages, custom_taxonomy="S1: Only this.")
    mode_a = template.render(messages, custom_policy="Be kind.")
    assert "S24: Economic Harm.\n<BEGIN CONVERSATION>" in builtin
    assert "fall into.\nS1: Only this.\n<BEGIN CONVERSATION>" in mode_b
    assert "S24" not in mode_b
    assert mode_a.startswith("<bos><start_of_turn>user\nBe kind.\n<BEGIN CONVERSATION>\nuser: Hello\n")
    assert "from the custom policy. Omit" in mode_a
