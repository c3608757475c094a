"""What a real server answers where there is no verdict to give; the next good request is always right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from raw_requests import infer, refused, request_tensors
from tritonguard import (
    CANARY,
    DeadlineExceeded,
    Decision,
    Guard,
    GuardRequest,
    InternalError,
    InvalidRequest,
    Policy,
    PromptTooLong,
    Turn,
    Unimplemented,
    UnsupportedContract,
)
from tritonguard.request import to_tensors
from tritonguard.tensors import pack, pack_text

A_MILLISECOND = 0.001


@pytest.fixture(autouse=True)
def next_good_request_is_right(guard: Guard) -> Iterator[None]:
    yield
    example = CANARY[1]
    assert guard.check(example.prompt).label.user_safety is example.expected.user


def test_earlier_turns_are_refused_by_their_name(guard: Guard) -> None:
    with pytest.raises(Unimplemented) as refusal:
        guard.check_request(GuardRequest(prompt="How do I bake bread?", turns=(Turn(role="user", content="Hello"),)))
    assert refusal.value.field == "turns"


def test_a_policy_that_is_not_on_the_server_is_refused_by_its_field(guard: Guard) -> None:
    with pytest.raises(InvalidRequest, match="built-in") as refusal:
        guard.check("How do I bake bread?", policy_name="../policy")
    assert refusal.value.field == "policy_name"


def test_a_text_over_the_token_budget_is_refused_and_not_cut(guard: Guard) -> None:
    with pytest.raises(PromptTooLong) as refusal:
        guard.check("word " * 150_000)
    assert refusal.value.field == "prompt"


def test_bytes_that_are_no_text_are_refused(url: str) -> None:
    error, _ = refused(url, request_tensors(PROMPT=pack("PROMPT", [b"\xff\xfe\x00bomb"])))
    assert (type(error), error.field) == (InvalidRequest, "prompt")


@pytest.mark.parametrize("name", ["CONTRACT_VERSION", "REQUEST_ID", "PROMPT", "MODE", "DEADLINE_MS"])
@pytest.mark.parametrize("beside_an_optional_one", [False, True])
def test_a_missing_tensor_is_refused(url: str, name: str, beside_an_optional_one: bool) -> None:
    tensors = request_tensors(**{name: None})
    if beside_an_optional_one:
        # Triton only counts inputs: so many pass its own check.
        tensors["TENANT"] = pack_text("TENANT", "tenant-7")
    error, _ = refused(url, tensors)
    assert type(error) is InvalidRequest


def test_an_unknown_contract_version_is_refused(url: str) -> None:
    error, _ = refused(url, request_tensors(CONTRACT_VERSION=pack("CONTRACT_VERSION", [7])))
    assert type(error) is UnsupportedContract


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        pytest.param("mode", {"MODE": pack_text("MODE", "guess")}, id="unknown mode"),
        pytest.param("prompt", {"PROMPT": pack_text("PROMPT", " \n")}, id="blank prompt"),
        pytest.param("policy", {"POLICY": pack_text("POLICY", "{")}, id="policy that is no JSON"),
        pytest.param("policy.colour", {"POLICY": pack_text("POLICY", '{"colour": 1}')}, id="unknown key"),
        pytest.param("deadline_s", {"DEADLINE_MS": pack("DEADLINE_MS", [0])}, id="no time at all"),
        pytest.param("request_id", {"REQUEST_ID": pack_text("REQUEST_ID", "a\nb")}, id="two-line id"),
    ],
)
def test_a_wrong_value_is_refused_by_its_field(url: str, field: str, changes: dict[str, Any]) -> None:
    error, _ = refused(url, request_tensors(**changes))
    assert (type(error), error.field) == (InvalidRequest, field)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"MODE": np.array([[1]], np.int32)}, id="wrong type"),
        pytest.param({"DEADLINE_MS": np.array([[1, 2]], np.int32)}, id="wrong shape"),
        pytest.param({"COLOUR": np.array([[1]], np.int32)}, id="unknown tensor"),
    ],
)
def test_what_triton_itself_refuses_is_typed_too(url: str, changes: dict[str, Any]) -> None:
    error, _ = refused(url, request_tensors(**changes))
    assert type(error) is InvalidRequest


def test_two_requests_in_one_are_refused(url: str) -> None:
    pairs = {name: np.concatenate([array, array]) for name, array in request_tensors().items()}
    error, _ = refused(url, pairs)
    assert type(error) is InvalidRequest


def test_a_stage_called_by_itself_with_nonsense_tells_nothing_of_the_server(url: str) -> None:
    nonsense = {
        "INPUT_IDS": pack("INPUT_IDS", [1, 2, 3]),
        "PROMPT_LENGTHS": pack("PROMPT_LENGTHS", [3]),
        "PREFIX_LENGTHS": pack("PREFIX_LENGTHS", [0]),
        "PIXELS": pack("PIXELS", [b""]),
        "ANSWER": pack_text("ANSWER", "not JSON"),
        "DEADLINE_NS": pack("DEADLINE_NS", [0]),
    }
    error, text = refused(url, nonsense, model="decode")
    assert type(error) is InternalError
    assert "Traceback" not in text
    assert ".py" not in text


def test_a_deadline_that_passes_on_the_server_is_refused_there(url: str) -> None:
    error, _ = refused(url, request_tensors(DEADLINE_MS=pack("DEADLINE_MS", [1])))
    assert type(error) is DeadlineExceeded


def test_a_missed_deadline_blocks_by_default(guard: Guard) -> None:
    verdict = guard.check("How do I bake bread?", deadline_s=A_MILLISECOND)
    assert (verdict.decision, verdict.on_error_applied) == (Decision.BLOCK, True)
    assert verdict.label.indeterminate_reason == "deadline_exceeded"


def test_a_missed_deadline_allows_only_marked_and_where_the_policy_says_so(guard: Guard) -> None:
    verdict = guard.check("How do I bake bread?", deadline_s=A_MILLISECOND, policy=Policy(on_error="allow"))
    assert (verdict.decision, verdict.on_error_applied) == (Decision.ALLOW, True)
    assert verdict.label.is_indeterminate


def test_a_missed_deadline_raises_where_the_policy_says_so(guard: Guard) -> None:
    with pytest.raises(DeadlineExceeded):
        guard.check("How do I bake bread?", deadline_s=A_MILLISECOND, policy=Policy(on_error="raise"))


def test_a_request_of_another_clients_making_is_served_if_it_is_good(url: str) -> None:
    result = infer(url, to_tensors(GuardRequest(prompt=CANARY[1].prompt, deadline_s=60.0)))
    assert result.as_numpy("USER_SAFETY")[0, 0] == CANARY[1].expected.user.value.encode()
