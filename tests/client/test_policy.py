from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from contract_strategies import policies
from hypothesis import given
from hypothesis import strategies as st
from tritonguard import Caching, InvalidRequest, Policy, Thresholds


def refused(**values: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        Policy.model_validate(values)
    return caught.value


def test_the_default_is_the_builtin_policy_and_blocks_on_error() -> None:
    policy = Policy()
    assert policy.is_builtin
    assert policy.on_error == "block"
    assert policy.thresholds == Thresholds(user=0.5, response=0.5, review_margin=0.0)


def test_the_hash_of_the_builtin_policy_is_pinned() -> None:
    canonical = (
        '{"allow_list":[],"also_builtin":false,"custom_policy":null,"custom_taxonomy":null,"floor":false,'
        '"inject":[],"name":"built-in","on_error":"block","suppress":[],'
        '"thresholds":{"response":0.5,"review_margin":0.0,"user":0.5},"version":"1.0.0"}'
    )
    assert Policy().canonical_json() == canonical
    assert Policy().sha256 == hashlib.sha256(canonical.encode()).hexdigest()


@given(policies())
def test_canonical_json_gives_the_same_policy_and_hash(policy: Policy) -> None:
    again = Policy.from_json(policy.canonical_json())
    assert again == policy
    assert again.sha256 == policy.sha256


@given(policies(), policies())
def test_different_policies_have_different_hashes(one: Policy, other: Policy) -> None:
    assert (one == other) == (one.sha256 == other.sha256)


def test_how_a_policy_was_written_does_not_change_its_hash() -> None:
    assert Policy(suppress=("S12", "violence")).sha256 == Policy(suppress=("Violence", "Profanity")).sha256
    assert Policy(thresholds=Thresholds(user=-0.0)).sha256 == Policy(thresholds=Thresholds(user=0.0)).sha256


def test_a_copy_has_a_hash_of_its_own_also_where_nobody_has_validated_it() -> None:
    policy = Policy(name="mine")
    assert policy.model_copy(update={"name": "other"}).sha256 == Policy(name="other").sha256 != policy.sha256
    # A list has no hash, so that such a copy can be no key.
    with pytest.warns(UserWarning, match="suppress"):
        listed = policy.model_copy(update={"suppress": ["Violence"]}).sha256
    assert listed == Policy(name="mine", suppress=("Violence",)).sha256


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"supress": ["S1"]}, "policy.supress"),
        ({"thresholds": {"usr": 0.5}}, "policy.thresholds.usr"),
        ({"thresholds": {"user": 1.5}}, "policy.thresholds.user"),
        ({"thresholds": {"user": float("nan")}}, "policy.thresholds.user"),
        ({"thresholds": {"user": "0.5"}}, "policy.thresholds.user"),
        ({"version": "1.0"}, "policy.version"),
        ({"name": ""}, "policy.name"),
        ({"on_error": "ignore"}, "policy.on_error"),
        ({"cache": {"ttl_s": 0}}, "policy.cache.ttl_s"),
        ({"cache": {"ttl_s": 86_401}}, "policy.cache.ttl_s"),
        ({"cache": {"ttl_s": 1.5}}, "policy.cache.ttl_s"),
        ({"cache": {"ttl_s": True}}, "policy.cache.ttl_s"),
        ({"cache": {}}, "policy.cache.ttl_s"),
        ({"cache": {"ttl_s": 60, "size": 1}}, "policy.cache.size"),
        ({"cache": True}, "policy.cache"),
        ({"floor": "yes"}, "policy.floor"),
        ({"suppress": ["Not a category"]}, "policy.suppress"),
        ({"custom_policy": "  "}, "policy.custom_policy"),
        ({"custom_taxonomy": ()}, "policy.custom_taxonomy"),
        ({"custom_taxonomy": ["Leak", "a, b"]}, "policy.custom_taxonomy.1.name"),
        ({"inject": [{"name": "Leak", "severity": "S4"}]}, "policy.inject.0.severity"),
        ({"inject": [7]}, "policy.inject.0"),
        ({"schema": "tritonguard/policy/v1"}, "policy.schema"),
        ({"custom_policy": "a", "custom_taxonomy": "b"}, "policy"),
        ({"custom_policy": "a", "suppress": ["S1"]}, "policy"),
        ({"custom_policy": "a", "allow_list": ["b"]}, "policy"),
        ({"custom_taxonomy": ["Leak", "leak"]}, "policy"),
        ({"inject": ["Violence"]}, "policy"),
        ({"also_builtin": True}, "policy"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: dict[str, Any], field: str) -> None:
    error = refused(**values)
    assert error.field == field
    assert field in error.message


@pytest.mark.parametrize("spelling", ["S7", "Sexual (minor)", "sexual MINOR", "CSAM"])
def test_sexual_minor_can_be_neither_suppressed_nor_allowed(spelling: str) -> None:
    assert refused(suppress=[spelling]).field == "policy.suppress"
    assert refused(allow_list=[f"art that shows {spelling} scenes"]).field == "policy.allow_list"


def test_a_suppressed_category_can_be_replaced_by_an_injected_one() -> None:
    policy = Policy.model_validate({"suppress": ["Profanity"], "inject": [{"name": "Profanity", "definition": "d"}]})
    assert [category.name for category in policy.inject] == list(policy.suppress) == ["Profanity"]


def test_refusals_do_not_quote_the_policy() -> None:
    error = refused(custom_taxonomy=["a secret, text"])
    assert "secret" not in error.message
    assert error.__suppress_context__


def test_builtin_is_what_asks_the_model_nothing_of_its_own() -> None:
    assert Policy(
        name="mine", version="2.0.0", thresholds=Thresholds(user=0.3), on_error="raise", floor=True
    ).is_builtin
    for values in (
        {"custom_policy": "text"},
        {"custom_taxonomy": "- Leak"},
        {"suppress": ["S1"]},
        {"inject": ["Leak"]},
    ):
        assert not Policy.model_validate(values).is_builtin
    assert not Policy(allow_list=("chess",)).is_builtin


def test_a_file_may_name_its_format_which_is_no_part_of_the_policy() -> None:
    plain = Policy.from_yaml("name: mine\n")
    assert Policy.from_yaml("schema: tritonguard/policy/v1\nname: mine\n").sha256 == plain.sha256


@pytest.mark.parametrize("value", ["tritonguard/policy/v2", "1", "1.0", "null", "[]"])
def test_another_format_is_refused_before_anything_else(value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"not tritonguard/policy/v1.*, line 2$") as caught:
        Policy.from_yaml(f"name: 5\nschema: {value}\n")
    assert caught.value.field == "policy.schema"


def test_yaml_text_and_yaml_file_are_read(tmp_path: Path) -> None:
    text = "name: strict\nthresholds: {user: 0.35}\ncustom_taxonomy:\n- Leak\n- {name: B, definition: d}\n"
    file = tmp_path / "policy.yaml"
    file.write_text(text, encoding="utf-8")
    policy = Policy.from_yaml(text)
    assert policy == Policy.from_yaml(file)
    assert policy.thresholds.user == 0.35
    assert [category.name for category in policy.custom_taxonomy or () if not isinstance(category, str)] == [
        "Leak",
        "B",
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: a\n\nthresold: 1", "unknown key 'policy.thresold', line 3"),
        ("thresholds:\n  user: 0.1\n  usr: 0.2", "unknown key 'policy.thresholds.usr', line 3"),
        ("inject:\n- fine\n- name: a\n  definition: d\n- 'a, b'", "surrounding spaces, line 5"),
        ("inject:\n- name: a\n  severity: S4", "unknown key 'policy.inject.0.severity', line 3"),
        ("name: a\nname: b", "repeated key, line 2"),
        ("thresholds: {user: 0.1, user: 0.9}", "repeated key"),
        ("[1, 2", "line 1"),
        ("just text", "not a mapping"),
        ("", "not a mapping"),
        ("!!python/object/apply:os.system [echo]", "could not determine a constructor"),
        ("? [a, b]\n: 1", "policy"),
    ],
)
def test_yaml_that_is_no_policy_is_refused(text: str, part: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(part)):
        Policy.from_yaml(text)


@given(st.text())
def test_no_text_is_worse_than_refused(text: str) -> None:
    for read in (Policy.from_yaml, Policy.from_json):
        with contextlib.suppress(InvalidRequest):
            assert isinstance(read(text), Policy)


def test_deeply_nested_json_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not JSON"):
        Policy.from_json("[" * 100_000)


def test_canonical_json_is_plain_json_with_every_field() -> None:
    cached = Policy(cache=Caching(ttl_s=60))
    assert set(json.loads(cached.canonical_json())) == set(Policy.model_fields)
    # One that was hashed before there was a cache has the hash that it had.
    assert set(json.loads(Policy().canonical_json())) == set(Policy.model_fields) - {"cache"}


def test_nothing_is_cached_unless_the_policy_says_for_how_long() -> None:
    assert Policy().cache is None
    assert Policy.from_yaml("cache: null") == Policy.from_yaml("name: built-in") == Policy()
    policy = Policy.from_yaml("name: mine\ncache: {ttl_s: 60}\n")
    assert policy.cache == Caching(ttl_s=60)
    assert policy.sha256 not in {Policy(name="mine").sha256, Policy(name="mine", cache=Caching(ttl_s=61)).sha256}
