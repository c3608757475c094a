"""The statements about GPUs: one source, two documents, and nothing recorded that no GPU has said."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu_day_one.day import GPUS
from benchmarks.gpu_day_one.findings import BehaviourError, Finding, compare, read_behaviour
from benchmarks.gpu_day_one.recording import Recording, behaviours_of, merge_recording
from benchmarks.gpu_day_one.statements import (
    BEGIN,
    END,
    ROOT,
    SOURCE,
    UNRECORDED,
    documents,
    full_table,
    read_statements,
    rendered,
    short_table,
    statements_text,
    with_results,
)
from benchmarks.real_size import GEMMA_4B
from build_scripts.tensorrt_llm.layout import data_bytes, quantized_layout
from build_scripts.tensorrt_llm.profiles import PROFILES

ASSUMED = {
    "one": {"value": True, "evidence": "guess", "source": "nowhere", "used_by": "engine.py"},
    "two": {"value": 32, "evidence": "issue", "source": "#1", "used_by": "sampling.py"},
}


def recording(**changes: object) -> Recording:
    values = {
        "evidence": "recorded",
        "date": "2027-01-02",
        "command": "python -m benchmarks.gpu_day_one --bundle b",
        "hardware": {"gpu": "NVIDIA H100 80GB HBM3", "driver": "590.48.01"},
        "versions": {"tensorrt_llm": "1.2.1"},
        "bundle": {"precision": "fp8"},
    }
    return Recording(**(values | changes))  # type: ignore[arg-type]


def test_both_documents_hold_the_table_of_the_source() -> None:
    for path, text in documents(ROOT, read_statements()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python -m benchmarks.gpu_day_one --render`"
    assert SOURCE.read_text(encoding="utf-8") == statements_text(read_statements())


def test_every_profile_has_a_row_for_each_gpu_that_can_run_it() -> None:
    ids = {one.id for one in read_statements()}
    without_fp8 = {"fp8", "fp8-kv"}
    for gpu in GPUS:
        for name in PROFILES:
            assert (f"loads-{name}-{gpu}" in ids) is not (gpu == "a10" and name in without_fp8)
    assert {f"parity-{name}" for name in PROFILES if name != "bf16"} <= ids


def test_each_row_that_a_finding_names_is_there() -> None:
    ids, named = {one.id for one in read_statements()}, set()
    for path in (ROOT / "benchmarks" / "gpu_day_one").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "statement" and isinstance(node.value, ast.Constant):
                named.add(node.value.value)
    assert len(named) >= 20
    assert named <= ids


def test_computed_bytes_are_those_of_the_profiles() -> None:
    rows = {one.id: one for one in read_statements()}
    for name in ("bf16", "fp8-kv", "int8-weight-only"):
        size = data_bytes(quantized_layout(GEMMA_4B, PROFILES[name]))
        assert f"{size:,} bytes" in rows[f"bytes-{name}"].statement
        assert rows[f"bytes-{name}"].result == "computed"


def test_a_recording_fills_in_its_rows_and_no_other() -> None:
    before = read_statements()
    after = with_results(before, recording(statements={"ids-text": "all 51", "unknown-row": "x"}))
    changed = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    [(old, new)] = changed
    assert not old.is_recorded
    assert (new.hardware, new.date, new.result) == ("NVIDIA H100 80GB HBM3, driver 590.48.01", "2027-01-02", "all 51")
    assert f"| {new.hardware} | 2027-01-02 | `{new.command}` | all 51 |" in full_table(after)
    assert full_table(after).count(UNRECORDED) == full_table(before).count(UNRECORDED) - 1
    assert "18 more" in short_table(before)
    assert " 1 are recorded" in short_table(after)


@pytest.mark.parametrize("evidence", ["double", "guess", ""])
def test_only_the_real_package_replaces_anything(evidence: str) -> None:
    fake = recording(evidence=evidence, behaviours={"one": {"value": False}}, statements={"ids-text": "x"})
    with pytest.raises(BehaviourError, match="only what the real"):
        merge_recording(ASSUMED, fake)
    with pytest.raises(BehaviourError, match="only what the real"):
        with_results(read_statements(), fake)


def test_answers_replace_assumptions_under_the_same_names() -> None:
    found = [Finding("two", "?", 64, "64"), Finding("one", "?", None, "not told"), Finding("three", "?", 3, "3")]
    real = recording(behaviours=behaviours_of(found, ASSUMED, evidence="recorded", source="an H100"))
    assert merge_recording(ASSUMED, real) == {
        "one": ASSUMED["one"],
        "two": {"value": 64, "evidence": "recorded", "source": "an H100", "used_by": "sampling.py"},
    }
    assert real.behaviours["three"]["value"] == 3


def test_a_finding_is_held_against_what_was_assumed() -> None:
    findings = [
        Finding("one", "Is it so?", False, "it is not", "change engine.py"),
        Finding("two", "How many?", 32, "32"),
        Finding("three", "And this?", 3, "3"),
        Finding("four", "Is it so?", False, "no", "change it", wanted=True),
        Finding("one", "Is it so?", None, "nobody knows", "ask again"),
    ]
    differs, same, figure, unwanted, untold = compare(findings, ASSUMED)
    assert [one.is_as_assumed for one in (differs, same, figure, unwanted, untold)] == [False, True, True, False, False]
    assert differs.lines == [
        "Is it so? it is not (DIFFERS)",
        "  assumed: true; found: false",
        "  what to do: change engine.py",
    ]
    assert untold.lines == ["Is it so? nobody knows (COULD NOT BE TOLD)", "  what to do: ask again"]
    assert figure.lines == ["And this? 3 (a figure)"]


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = recording(statements={"ids-text": "yes"}, behaviours=ASSUMED, differences=["a line"])
    one.write(tmp_path / "r.json")
    assert Recording.read(tmp_path / "r.json") == one
    (tmp_path / "r.json").write_text('{"format": "another"}')
    with pytest.raises(BehaviourError, match="no recording of this release"):
        Recording.read(tmp_path / "r.json")
    with pytest.raises(BehaviourError, match="from a checkout"):
        read_behaviour(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"result": "yes"}, "not all"),
        ({"hardware": "H100", "date": "2027-01-02", "command": "c"}, "not all"),
        ({"id": "b"}, "twice"),
        ({"about": "weather"}, "not guard or package"),
        ({"colour": "red"}, "no list of statements"),
    ],
)
def test_a_row_that_is_recorded_by_half_is_refused(tmp_path: Path, changes: dict[str, str], problem: str) -> None:
    rows = [{"id": name, "about": "guard", "statement": "s", "check": "c"} for name in "ab"]
    rows[0] |= changes
    (tmp_path / "s.json").write_text(json.dumps(rows))
    with pytest.raises(BehaviourError, match=problem):
        read_statements(tmp_path / "s.json")


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_document_without_its_marks_is_refused(text: str) -> None:
    with pytest.raises(BehaviourError, match="two marks"):
        rendered(text, "| a |")


def test_rendering_again_changes_nothing() -> None:
    table = full_table([replace(one, result=None) for one in read_statements()[:1]])
    once = rendered(f"before\n{BEGIN}\n{END}\nafter\n", table)
    assert rendered(once, table) == once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
