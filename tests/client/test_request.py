from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from contract_strategies import requests
from hypothesis import given
from hypothesis import strategies as st
from tritonguard import (
    GuardRequest,
    InvalidRequest,
    Mode,
    Policy,
    Turn,
    Unimplemented,
    UnsupportedContract,
)
from tritonguard import tensors as wire
from tritonguard.request import MAX_TEXT_BYTES, from_tensors, refuse_unbuilt, to_tensors


def refused(**values: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        GuardRequest.create(**values)
    return caught.value


@given(requests())
def test_a_request_comes_back_from_its_tensors(request: GuardRequest) -> None:
    assert from_tensors(to_tensors(request)) == request


@given(requests())
def test_its_tensors_are_those_of_the_table(request: GuardRequest) -> None:
    tensors = to_tensors(request)
    required = {spec.name for spec in wire.REQUEST if not spec.optional}
    assert required <= set(tensors) <= {spec.name for spec in wire.REQUEST}
    for name in tensors:
        assert wire.unpack(tensors, name) is not None


def test_a_plain_request_sends_only_the_required_tensors() -> None:
    tensors = to_tensors(GuardRequest(prompt="hello"))
    assert set(tensors) == {spec.name for spec in wire.REQUEST if not spec.optional}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n\t"}, "prompt"),
        ({}, "prompt"),
        ({"prompt": b"bytes"}, "prompt"),
        ({"prompt": "lone \ud800"}, "prompt"),
        ({"prompt": "x" * (MAX_TEXT_BYTES + 1)}, "prompt"),
        ({"prompt": "é" * (MAX_TEXT_BYTES // 2 + 1)}, "prompt"),
        ({"prompt": "x", "response": " "}, "response"),
        ({"prompt": "x", "response": "lone \udfff"}, "response"),
        ({"prompt": "x", "images": ["https://example.org/a.png"]}, "images.0"),
        ({"prompt": "x", "images": [b""]}, "images.0"),
        ({"prompt": "x", "mode": "verdicts"}, "mode"),
        ({"prompt": "x", "think_budget": 5}, "think_budget"),
        ({"prompt": "x", "mode": "think", "think_budget": 0}, "think_budget"),
        ({"prompt": "x", "deadline_s": 0}, "deadline_s"),
        ({"prompt": "x", "deadline_s": -1.0}, "deadline_s"),
        ({"prompt": "x", "deadline_s": 601.0}, "deadline_s"),
        ({"prompt": "x", "deadline_s": float("inf")}, "deadline_s"),
        ({"prompt": "x", "deadline_s": float("nan")}, "deadline_s"),
        ({"prompt": "x", "deadline_s": None}, "deadline_s"),
        ({"prompt": "x", "priority": -1}, "priority"),
        ({"prompt": "x", "priority": 2**31}, "priority"),
        ({"prompt": "x", "tenant": "na\u00efve"}, "tenant"),
        ({"prompt": "x", "request_id": ""}, "request_id"),
        ({"prompt": "x", "request_id": "a\n"}, "request_id"),
        ({"prompt": "x", "request_id": "a" * 129}, "request_id"),
        ({"prompt": "x", "turns": []}, "turns"),
        ({"prompt": "x", "turns": [{"role": "system", "content": ""}]}, "turns.role"),
        ({"prompt": "x", "policy_name": ""}, "policy_name"),
        ({"prompt": "x", "policy_name": "a\n"}, "policy_name"),
        ({"prompt": "x", "policy_name": "a", "policy": {"thresholds": {"user": 0.9}}}, "policy_name"),
        ({"prompt": "x", "policy": {"on_error": "shrug"}}, "policy.on_error"),
        ({"prompt": "x", "promt": "y"}, "promt"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: dict[str, Any], field: str) -> None:
    error = refused(**values)
    assert error.field == field
    assert field in error.message


def test_the_constructor_refuses_the_same_way() -> None:
    with pytest.raises(InvalidRequest):
        GuardRequest(prompt="")


def test_a_blank_prompt_is_fine_beside_an_image() -> None:
    assert GuardRequest(prompt="", images=(b"png",)).prompt == ""


def test_the_largest_text_fits() -> None:
    assert len(GuardRequest(prompt="x" * MAX_TEXT_BYTES).prompt) == MAX_TEXT_BYTES


def test_refusals_do_not_quote_the_text() -> None:
    error = refused(prompt="my secret \ud800")
    assert "secret" not in error.message
    assert "d800" not in error.message
    assert error.__suppress_context__


@pytest.mark.parametrize("deadline_s", [1e-9, 0.0004, 0.001])
def test_a_tiny_deadline_stays_a_deadline(deadline_s: float) -> None:
    assert GuardRequest(prompt="x", deadline_s=deadline_s).deadline_s == 0.001


def test_requests_get_their_own_ids() -> None:
    assert GuardRequest(prompt="x").request_id != GuardRequest(prompt="x").request_id


def test_earlier_turns_are_refused_by_their_name() -> None:
    request = GuardRequest(prompt="x", turns=(Turn(role="user", content="before"),))
    with pytest.raises(Unimplemented) as caught:
        refuse_unbuilt(request)
    assert (caught.value.field, caught.value.request_id) == ("turns", request.request_id)


@given(requests())
def test_everything_else_passes_the_door(request: GuardRequest) -> None:
    refuse_unbuilt(request.model_copy(update={"turns": None}))


def test_a_name_and_the_policy_of_nobody_go_together() -> None:
    request = GuardRequest(prompt="x", policy=Policy(), policy_name="strict")
    assert from_tensors(to_tensors(request)).policy_name == "strict"
    assert "POLICY" not in to_tensors(request)


def tampered(name: str, array: wire.Array | None) -> dict[str, wire.Array]:
    tensors = to_tensors(GuardRequest(prompt="my secret", request_id="r1"))
    tensors.pop(name, None)
    return tensors if array is None else tensors | {name: array}


def test_another_contract_version_is_refused_before_anything_else() -> None:
    tensors = tampered("CONTRACT_VERSION", wire.pack("CONTRACT_VERSION", [99])) | {"FUTURE": np.zeros((1, 1))}
    with pytest.raises(UnsupportedContract, match="99") as caught:
        from_tensors(tensors)
    assert caught.value.request_id == "r1"


@pytest.mark.parametrize("name", [spec.name for spec in wire.REQUEST if not spec.optional])
def test_a_missing_required_tensor_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_tensors(tampered(name, None))
    assert caught.value.field == name.lower()


@pytest.mark.parametrize(
    ("name", "array", "field"),
    [
        pytest.param("PROMPT", np.array([[b"\xff"]], dtype=np.object_), "prompt", id="invalid UTF-8"),
        pytest.param("PROMPT", wire.pack_text("PROMPT", " "), "prompt", id="blank"),
        pytest.param("MODE", wire.pack_text("MODE", "guess"), "mode", id="unknown mode"),
        pytest.param("DEADLINE_MS", wire.pack("DEADLINE_MS", [0]), "deadline_s", id="no time left"),
        pytest.param("DEADLINE_MS", wire.pack("DEADLINE_MS", [-5]), "deadline_s", id="negative time"),
        pytest.param("POLICY", wire.pack_text("POLICY", "{"), "policy", id="policy is no JSON"),
        pytest.param("POLICY", wire.pack_text("POLICY", "[]"), "policy", id="policy is a list"),
        pytest.param("POLICY", wire.pack_text("POLICY", '{"flor":true}'), "policy.flor", id="policy key"),
        pytest.param("POLICY_NAME", wire.pack_text("POLICY_NAME", ""), "policy_name", id="empty name"),
        pytest.param("POLICY_NAME", wire.pack("POLICY_NAME", [b"\xff"]), "policy_name", id="name is no text"),
        pytest.param("TURNS", wire.pack_text("TURNS", "{}"), "turns", id="turns are no list"),
        pytest.param("TURNS", wire.pack_text("TURNS", "nope"), "turns", id="turns are no JSON"),
        pytest.param("TURNS", wire.pack_text("TURNS", "[]"), "turns", id="no turns"),
        pytest.param("FUTURE", np.zeros((1, 1), np.int32), "future", id="unknown tensor"),
    ],
)
def test_a_malformed_tensor_is_refused_by_its_name(name: str, array: wire.Array, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_tensors(tampered(name, array))
    assert caught.value.field == field
    assert caught.value.request_id == "r1"
    assert "secret" not in caught.value.message


def test_a_policy_beside_a_name_is_refused_at_the_door() -> None:
    policy = wire.pack_text("POLICY", Policy(on_error="allow").canonical_json())
    with pytest.raises(InvalidRequest) as caught:
        from_tensors(tampered("POLICY_NAME", wire.pack_text("POLICY_NAME", "strict")) | {"POLICY": policy})
    assert caught.value.field == "policy_name"


def test_a_broken_request_id_is_not_repeated() -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_tensors(tampered("REQUEST_ID", wire.pack("REQUEST_ID", [b"evil\nlog line"])))
    assert (caught.value.field, caught.value.request_id) == ("request_id", None)


@given(st.dictionaries(st.sampled_from([spec.name for spec in wire.REQUEST]), st.binary()))
def test_no_bytes_at_the_door_are_worse_than_refused(elements: dict[str, bytes]) -> None:
    tensors = to_tensors(GuardRequest(prompt="x"))
    for name, element in elements.items():
        if wire.TENSORS[name].dtype == "BYTES":
            tensors[name] = wire.pack(name, [element])
    with contextlib.suppress(InvalidRequest):
        assert isinstance(from_tensors(tensors), GuardRequest)


def test_mode_is_text_to_people() -> None:
    assert GuardRequest.create(prompt="x", mode="think").mode is Mode.THINK
