"""The schema for editors is the model's, and says of every key what it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tritonguard import InvalidRequest, Policy
from tritonguard.policy import FORMAT
from tritonguard.policy_schema import SCHEMA_FILE, policy_schema, schema_text

SCHEMA = policy_schema()


def test_the_shipped_file_is_current() -> None:
    # If not: tritonguard policy schema > client/tritonguard/policy.schema.json
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()


def test_the_file_is_part_of_the_package() -> None:
    project = SCHEMA_FILE.parents[1] / "pyproject.toml"
    assert f'"{SCHEMA_FILE.name}"' in project.read_text(encoding="utf-8")


def test_it_has_every_key_of_a_file_and_no_other() -> None:
    assert list(SCHEMA["properties"]) == ["schema", *Policy.model_fields]
    assert SCHEMA["additionalProperties"] is False
    assert SCHEMA["properties"]["schema"]["const"] == FORMAT


def objects() -> list[dict[str, Any]]:
    return [SCHEMA, *SCHEMA["$defs"].values()]


def test_every_key_is_described() -> None:
    for each in objects():
        assert each["title"]
        assert each["description"]
        assert all(key.get("description") for key in each["properties"].values())


def test_defaults_are_the_models() -> None:
    default = {**json.loads(Policy().canonical_json()), "cache": None}
    assert {name: SCHEMA["properties"][name]["default"] for name in Policy.model_fields} == default


@pytest.mark.parametrize("key", ["name", "version"])
@pytest.mark.parametrize("text", ["strict", "1.0.0", "1.0", "", " a", "a b", "1.0.0-rc.1"])
def test_patterns_accept_what_the_model_accepts(key: str, text: str) -> None:
    matches = re.search(SCHEMA["properties"][key]["pattern"], text) is not None
    try:
        Policy.model_validate({key: text})
    except InvalidRequest:
        assert not matches
    else:
        assert matches


@pytest.mark.parametrize("key", ["inject", "custom_taxonomy"])
def test_lists_of_categories_take_plain_names_as_the_model_does(key: str) -> None:
    of_key = SCHEMA["properties"][key]
    (listed,) = [each for each in of_key.get("anyOf", [of_key]) if each.get("type") == "array"]
    assert {"$ref", "type"} <= {name for each in listed["items"]["anyOf"] for name in each}
    Policy.model_validate({key: ["Leak", {"name": "Other Leak", "definition": "d"}]})


def test_completions_for_suppress_are_all_accepted() -> None:
    known = SCHEMA["properties"]["suppress"]["items"]["anyOf"][0]["enum"]
    assert len(Policy(suppress=tuple(known)).suppress) == 23  # each by its name and its code
    assert "Sexual (minor)" not in known


def test_the_examples_point_to_the_schema() -> None:
    for file in sorted((Path(__file__).parents[2] / "policies").glob("*.yaml")):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        place = first.removeprefix("# yaml-language-server: $schema=")
        assert (file.parent / place).resolve() == SCHEMA_FILE.resolve()
