"""The table of what the double assumes: each entry has its evidence, is marked in the double, and shown by a test."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DOUBLE = ROOT / "tests" / "tensorrt_llm_double"
TABLE: dict[str, dict[str, Any]] = json.loads((DOUBLE / "behaviour.json").read_text())
EVIDENCE = {"1.2.1 source", "neighbour", "issue", "guess", "recorded"}


def shown() -> set[str]:
    """The names in `@shows(...)` of the tests that use the double wrongly."""
    names: set[str] = set()
    for path in HERE.glob("test_conformance_double_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "shows":
                names |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    return names


def test_each_behaviour_is_shown() -> None:
    assert shown() == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_behaviour_has_its_evidence_its_source_and_who_depends_on_it(name: str) -> None:
    entry = TABLE[name]
    assert entry.keys() == {"value", "evidence", "source", "used_by"}
    assert entry["evidence"] in EVIDENCE
    assert "@" in entry["source"] or "#" in entry["source"]
    assert (ROOT / entry["used_by"].split()[0]).is_file()


def test_each_behaviour_is_named_where_the_double_has_it() -> None:
    sources = "".join(path.read_text() for path in (DOUBLE / "tensorrt_llm").rglob("*.py"))
    assert not [name for name in TABLE if name not in sources]
