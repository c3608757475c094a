"""One key for one question: whatever differs in what decides an answer, or in whose it is, gives another."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tritonguard import tensors as wire
from tritonguard.errors import GuardError

from engines.answer_key import digest, place_of

SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
IDS = st.lists(st.integers(0, 2**31 - 1), max_size=6)
MODEL = {
    "bundle_revision": st.text(),
    "model_revision": st.none() | st.text(),
    "engine": st.sampled_from(["openvino", "tensorrt-llm"]),
    "precision": st.text(),
    "reasoning_source": st.text(),
}
PROMPT = st.fixed_dictionaries(
    {
        "part": st.sampled_from(["built-in", "custom", "floor"]),
        "names": st.none() | st.lists(st.text(), max_size=3),
        "mode": st.sampled_from(["verdict", "categories", "think"]),
        "sees": st.booleans(),
    }
)
QUESTION = {
    "ids": IDS,
    "lengths": IDS,
    "prefixes": IDS,
    "pixels": st.binary(max_size=8),
    "has_response": st.booleans(),
    "think_budget": st.integers(1, 32_768),
    "prompts": st.lists(PROMPT, max_size=3),
    "ttl_s": st.integers(1, 86_400),
    "tenant": st.none() | st.text(min_size=1),
    "policy": SHA,
    "floor": st.none() | SHA,
    **MODEL,
}
QUESTIONS = st.fixed_dictionaries(QUESTION)


def tensors(question: dict[str, Any], asked: dict[str, Any], deadline_ns: int = 0) -> dict[str, wire.Array]:
    return {
        "INPUT_IDS": wire.pack("INPUT_IDS", question["ids"]),
        "PROMPT_LENGTHS": wire.pack("PROMPT_LENGTHS", question["lengths"]),
        "PREFIX_LENGTHS": wire.pack("PREFIX_LENGTHS", question["prefixes"]),
        "PIXELS": wire.pack("PIXELS", [question["pixels"]]),
        "ANSWER": wire.pack_text("ANSWER", json.dumps(asked)),
        "DEADLINE_NS": wire.pack("DEADLINE_NS", [deadline_ns]),
    }


def asked_of(question: dict[str, Any], *, priority: int = 0) -> dict[str, Any]:
    return {
        **{name: question[name] for name in ("has_response", "think_budget", "prompts")},
        "priority": priority,
        "cache": {name: question[name] for name in ("ttl_s", "tenant", "policy", "floor")},
    }


def key(question: dict[str, Any], *, priority: int = 0, deadline_ns: int = 0) -> bytes:
    asked = asked_of(question, priority=priority)
    place = place_of(tensors(question, asked, deadline_ns), asked, {name: question[name] for name in MODEL})
    assert place is not None
    assert place.ttl_s == question["ttl_s"]
    return place.key


@given(QUESTIONS, st.data())
def test_any_single_difference_gives_another_key(question: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(QUESTION)))
    other = data.draw(QUESTION[name])
    assume(other != question[name])
    assert key({**question, name: other}) != key(question)


@given(QUESTIONS, QUESTIONS)
def test_two_questions_have_one_key_only_if_they_are_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (key(one) == key(other)) == (one == other)
    assert len(key(one)) == 32


@given(QUESTIONS, st.integers(0, 9), st.integers(0, 2**62))
def test_when_and_how_urgently_it_is_asked_is_not_in_the_key(
    question: dict[str, Any], priority: int, deadline_ns: int
) -> None:
    assert key(question, priority=priority, deadline_ns=deadline_ns) == key(question)


@given(st.lists(st.binary(max_size=3)), st.lists(st.binary(max_size=3)))
def test_parts_do_not_run_into_each_other(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_every_tensor_that_the_stage_gets_is_in_the_key_but_the_deadline() -> None:
    question = {"ids": [1], "lengths": [1], "prefixes": [0], "pixels": b""}
    asked = {"cache": {"ttl_s": 1, "tenant": None}}
    row = tensors(question, asked, time.monotonic_ns())
    assert set(row) == {spec.name for spec in wire.MODEL_INPUT}
    keys = {getattr(place_of(row, asked, {}), "key", None)}
    for name in sorted(set(row) - {"ANSWER", "DEADLINE_NS"}):
        other = {**row, name: wire.pack(name, [b"x"] if row[name].dtype == np.object_ else [7])}
        keys.add(getattr(place_of(other, asked, {}), "key", None))
    assert len(keys) == len(row) - 1


@pytest.mark.parametrize("asked", [{}, {"cache": None}])
def test_without_the_switch_there_is_no_place(asked: dict[str, Any]) -> None:
    assert place_of({}, asked, {}) is None


@pytest.mark.parametrize("ttl_s", [0, -1, 1e9, float("nan"), None, "60"])
def test_a_time_that_no_policy_can_have_is_refused(ttl_s: Any) -> None:
    question = {"ids": [1], "lengths": [1], "prefixes": [0], "pixels": b""}
    asked = {"cache": {"ttl_s": ttl_s, "tenant": None}}
    with pytest.raises(GuardError):
        place_of(tensors(question, asked), asked, {})
