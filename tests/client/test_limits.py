"""What is too large, too deep or too many is refused by its size: before it is decoded, parsed or compared."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import numpy as np
import pytest
import yaml
from tritonguard import GuardRequest, InvalidRequest, Policy, limits, policy, request
from tritonguard import tensors as wire
from tritonguard.errors import ImageTooLarge
from tritonguard.request import from_tensors, to_tensors

HUGE = bytes(64 << 20)


class Untouched(bytes):
    """Bytes that fail the test where anything but their length is looked at."""

    def decode(self, *_: Any, **__: Any) -> NoReturn:
        raise AssertionError("decoded before its size was looked at")


def fail(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("work before the size was looked at")


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy.json, "loads", fail)
    monkeypatch.setattr(yaml.SafeLoader, "__init__", fail)


def with_tensor(name: str, elements: list[bytes]) -> dict[str, wire.Array]:
    tensors = to_tensors(GuardRequest(prompt="x", request_id="r1"))
    return tensors | {name: wire.pack(name, elements)}


def at_the_door(name: str, *elements: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        from_tensors(with_tensor(name, list(elements)))
    return caught.value


def test_every_bytes_tensor_of_a_request_has_a_limit() -> None:
    assert set(limits.REQUEST_BYTES) == {spec.name for spec in wire.REQUEST if spec.dtype == "BYTES"}


@pytest.mark.parametrize("name", limits.REQUEST_BYTES)
def test_a_huge_tensor_is_refused_before_it_is_read(name: str, no_parser: None) -> None:
    error = at_the_door(name, Untouched(HUGE))
    assert (error.field or "").split(".")[0] == name.lower()
    assert error.request_id == (None if name == "REQUEST_ID" else "r1")
    assert isinstance(error, ImageTooLarge) == (name == "IMAGES")


@pytest.mark.parametrize("name", ["PROMPT", "RESPONSE", "POLICY", "TURNS"])
def test_one_byte_more_is_too_much(name: str) -> None:
    most = limits.REQUEST_BYTES[name]
    assert "larger" not in getattr(outcome(with_tensor(name, [b"x" * most])), "message", "")
    assert "larger" in at_the_door(name, b"x" * (most + 1)).message


def outcome(tensors: dict[str, wire.Array]) -> GuardRequest | InvalidRequest:
    try:
        return from_tensors(tensors)
    except InvalidRequest as error:
        return error


def test_a_million_images_are_refused_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"IMAGES": np.full((1, 1_000_000), b"x", dtype=np.object_)}
    monkeypatch.setattr(request.wire, "unpack", fail)
    with pytest.raises(ImageTooLarge, match="1000000 images") as caught:
        request._refuse_large(tensors)
    assert caught.value.field == "images"


def test_a_million_elements_of_a_single_value_are_a_wrong_shape() -> None:
    many = np.empty((1, 1_000_000), dtype=np.object_)
    many[:] = Untouched(b"x")
    tensors = with_tensor("PROMPT", [b"x"]) | {"PROMPT": many}
    with pytest.raises(InvalidRequest, match="shape"):
        from_tensors(tensors)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("[" * (1 << 20), "not JSON", id="a nested bomb"),
        pytest.param('{"inject":' + "[" * 500 + "]" * 500 + "}", "deep", id="nested as deep as the parser goes"),
        pytest.param('{"inject":[' + '"a",' * 100_000 + '"b"]}', "values", id="many categories"),
        pytest.param('{"x":[' + "[]," * 100_000 + "[]]}", "values", id="many lists"),
        pytest.param("{" + ",".join(f'"k{n}":1' for n in range(30_000)) + "}", "values", id="many keys"),
        pytest.param('{"thresholds":{"user":' + "9" * 100_000 + "}}", "not JSON", id="a long number"),
    ],
)
def test_json_that_is_larger_than_it_looks_is_refused_before_it_is_a_policy(
    text: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "model_validate", fail)
    with pytest.raises(InvalidRequest, match=problem) as caught:
        Policy.from_json(text)
    assert caught.value.field == "policy"


@pytest.mark.parametrize("turns", ["[" * 1000, "[" + "{}," * 300 + "{}]", '[{"role":' + "[" * 20 + "]" * 20 + "}]"])
def test_turns_have_limits_too(turns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request.Turn, "model_validate", fail)
    assert at_the_door("TURNS", turns.encode()).field == "turns"


@pytest.mark.parametrize("key", ["custom_taxonomy", "inject"])
def test_a_million_categories_are_refused_before_the_first_is_read(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy.CustomCategory, "model_validate", fail)
    with pytest.raises(InvalidRequest, match="more than 1024 categories") as caught:
        Policy.model_validate({key: ["a"] * 1_000_000})
    assert caught.value.field == f"policy.{key}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("suppress", ["S1"] * 1_000_000),
        ("suppress", ["S1" * 1000]),
        ("allow_list", ["a"] * 1_000_000),
        ("allow_list", ["a" * (limits.MAX_ALLOWED_LINE_BYTES + 1)]),
        ("allow_list", ["a" + "\u0315\u0300" * 4000]),
    ],
)
def test_texts_are_refused_before_they_are_compared(
    key: str, value: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "words", fail)
    monkeypatch.setattr(policy, "normalise", fail)
    with pytest.raises(InvalidRequest) as caught:
        Policy.model_validate({key: value})
    assert caught.value.field == f"policy.{key}"


def test_a_long_definition_is_refused_and_the_longest_is_not() -> None:
    longest = "x" * limits.MAX_DEFINITION_BYTES
    assert Policy.model_validate({"inject": [{"name": "Leak", "definition": longest}]}).inject
    with pytest.raises(InvalidRequest) as caught:
        Policy.model_validate({"inject": [{"name": "Leak", "definition": longest + "x"}]})
    assert caught.value.field == "policy.inject.0.definition"


def test_writing_with_many_accents_is_fine() -> None:
    # Vietnamese taken apart, Hebrew with points, Devanagari.
    lines = [
        "tie\u0302\u0301ng Vie\u0323\u0302t",
        "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
        "\u0915\u094d\u0937\u093f",
    ]
    assert Policy.model_validate({"allow_list": lines}).allow_list == tuple(lines)


@pytest.mark.parametrize("source", [b"x" * (limits.MAX_POLICY_FILE_BYTES + 1), "x" * (64 << 20)])
def test_a_large_yaml_text_is_refused_before_it_is_parsed(source: str | bytes, no_parser: None) -> None:
    with pytest.raises(InvalidRequest, match="a file of more than"):
        Policy.from_yaml(source)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("[" * 100_000, "deep, line 1", id="nested lists"),
        pytest.param("- " * 100_000, "deep, line 1", id="nested blocks"),
        pytest.param("{a: " * 100_000, "deep, line 1", id="nested mappings"),
        pytest.param(LAUGHS, "values", id="a billion laughs"),
        pytest.param("a: &a [x]\nb: [" + "*a, " * 100 + "]", "64 aliases", id="many aliases"),
        pytest.param("inject: &a [*a]", "deep", id="a list within itself"),
        pytest.param("a: &a {x: 1}\nb: {<<: [*a, *a]}", "merge", id="merged mappings"),
        pytest.param("thresholds: {user: 1" + ":59" * 50_000 + "}", "no text", id="a number of base 60"),
        pytest.param("".join(f"k{n}: 1\n" for n in range(1001)), "1000 keys", id="many keys"),
        pytest.param("inject: [" + "a," * 50_000 + "]", "values", id="many values"),
    ],
)
def test_yaml_that_is_larger_than_it_looks_is_refused(text: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "model_validate", fail)
    with pytest.raises(InvalidRequest, match=problem):
        Policy.from_yaml(text)


def test_an_anchor_can_still_say_a_text_twice() -> None:
    read = Policy.from_yaml("inject:\n- {name: A, definition: &d words}\n- {name: B, definition: *d}\n")
    assert [category.definition for category in read.inject] == ["words", "words"]


def test_the_limits_leave_every_shape_of_the_contract_room() -> None:
    most = [{"name": f"n{n}", "definition": "d"} for n in range(limits.MAX_CATEGORIES)]
    limits.refuse_excess(json.loads(Policy.model_validate({"inject": most}).canonical_json()))


@pytest.mark.parametrize("depth", [limits.MAX_DEPTH, limits.MAX_DEPTH + 1])
def test_depth_is_counted_exactly(depth: int) -> None:
    nested: Any = "x"
    for _ in range(depth):
        nested = [nested]
    if depth > limits.MAX_DEPTH:
        with pytest.raises(ValueError, match="deep"):
            limits.refuse_excess(nested)
    else:
        limits.refuse_excess(nested)
