"""The comparison of a killed bulk run with an undisturbed one finds what it is there to find."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tritonguard.cli_input import Item, item_of, rows_of

from benchmarks.bulk_kills import Comparison, compare, write_rows

ROWS = 6


def line(row: int) -> dict[str, Any]:
    label = {
        "user_safety": "safe",
        "response_safety": None,
        "p_unsafe_user": 0.25,
        "p_unsafe_response": None,
        "indeterminate_reason": None,
    }
    record = {"bundle_revision": "b", "request_id": str(row)}
    head = {"row": row, "row_sha256": f"{row:016x}", "question": "q", "id": f"row-{row}"}
    return {**head, "label": label, "outcome": {"decision": "allow"}, "record": record}


def compared(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> Comparison:
    for name in ("undisturbed", "disturbed"):
        found = [line(row) for row in range(1, ROWS + 1)]
        if name == "disturbed":
            change(found)
        (folder / name).write_text("".join(json.dumps(entry) + "\n" for entry in found), encoding="utf-8")
    return compare(folder / "undisturbed", folder / "disturbed", rows=ROWS, tolerance=1e-6)


def label_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    label: dict[str, Any] = found[2]["label"]
    return label


def test_equal_outputs_are_equal_whatever_their_request_ids(tmp_path: Path) -> None:
    found = compared(tmp_path, lambda lines: lines[0]["record"].update(request_id="other"))
    assert found.is_equal
    assert found.summary() == "bulk: rows 6, lost 0, doubled 0, different 0"


@pytest.mark.parametrize(
    ("change", "lost", "doubled", "different"),
    [
        (lambda lines: lines.pop(2), 1, 0, 0),
        (lambda lines: lines.insert(2, lines[2]), 0, 1, 0),
        (lambda lines: lines.reverse(), 0, 0, 1),
        (lambda lines: lines[2].update(id="other"), 0, 0, 1),
        (lambda lines: lines[2].update(row_sha256="other"), 0, 0, 1),
        (lambda lines: lines[2]["outcome"].update(decision="block"), 0, 0, 1),
        (lambda lines: label_of(lines).update(user_safety="unsafe"), 0, 0, 1),
        (lambda lines: label_of(lines).update(user_safety="unsafe", p_unsafe_user=0.75), 0, 0, 1),
        (lambda lines: label_of(lines).update(p_unsafe_user=0.2501), 0, 0, 1),
        (lambda lines: label_of(lines).update(p_unsafe_user=None), 0, 0, 1),
        (lambda lines: label_of(lines).update(p_unsafe_user=0.2500001), 0, 0, 0),
    ],
)
def test_every_fault_is_counted(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], lost: int, doubled: int, different: int
) -> None:
    found = compared(tmp_path, change)
    assert (found.lost, found.doubled, found.different) == (lost, doubled, different)
    assert found.is_equal == (not (lost or doubled or different))


def test_a_label_may_cross_one_half_within_the_tolerance_and_is_counted(tmp_path: Path) -> None:
    def near(lines: list[dict[str, Any]], p_unsafe: float) -> None:
        safety = "unsafe" if p_unsafe >= 0.5 else "safe"
        label_of(lines).update(user_safety=safety, p_unsafe_user=p_unsafe)
        lines[2]["outcome"].update(decision="block" if safety == "unsafe" else "allow")

    outputs = [tmp_path / "one", tmp_path / "other"]
    for output, p_unsafe in zip(outputs, (0.495, 0.505), strict=True):
        found = [line(row) for row in range(1, ROWS + 1)]
        near(found, p_unsafe)
        output.write_text("".join(json.dumps(entry) + "\n" for entry in found), encoding="utf-8")
    within = compare(*outputs, rows=ROWS, tolerance=0.02)
    assert (within.crossed, within.different, within.is_equal) == (1, 0, True)
    beyond = compare(*outputs, rows=ROWS, tolerance=0.001)
    assert (beyond.crossed, beyond.different) == (0, 1)


def test_a_row_that_the_server_failed_is_no_success(tmp_path: Path) -> None:
    found = compared(tmp_path, lambda lines: label_of(lines).update(indeterminate_reason="unavailable"))
    assert (found.failed, found.is_equal) == (1, False)


def test_the_rows_are_good_ones_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_rows(one, 50, seed=3)
    write_rows(other, 50, seed=3)
    assert one.read_bytes() == other.read_bytes()
    with one.open("rb") as stream:
        items: list[Item] = [item_of(row, folder=tmp_path) for row in rows_of(stream)]
    assert len({item.id for item in items}) == 50
    assert not [item.error for item in items if item.error]
    assert any(item.response for item in items)
