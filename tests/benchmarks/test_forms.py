"""The table of all forms and its bars, and a reference that is read once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from parity_stand_ins import SaidSide, pairs, reading, row

from benchmarks.forms import INT8, Measured, bars, main, table
from benchmarks.recalibrations import Remembered
from build_scripts.parity_figures import Figures
from build_scripts.parity_gate import Finding

SAME = Figures.of(pairs([2.0, -3.0, 1.0], [2.0, -3.0, 1.0]))
MISSED = Finding("all", "all", "drift_share", 0.2, "at most 0.04", False)
MET = Finding("all", "all", "drift_share", 0.02, "at most 0.04", True)


def measured(name: str, ms: float, *findings: Finding) -> Measured:
    return Measured(name, Path(name), 100.0, {1: ms / 6, 8: ms}, SAME, findings)


def forms(**ms: float) -> dict[str, Measured]:
    found = {"f32": measured("f32", ms.get("f32", 1600)), "bf16": measured("bf16", ms.get("bf16", 880), MET)}
    found[INT8] = measured(INT8, ms.get("int8", 640), MET)
    for name in ("int8-sq", "int8-static"):
        found[name] = measured(name, 500, MISSED)
    return found


def test_all_bars_can_be_met_and_each_can_be_missed() -> None:
    assert all(bar.met for bar in bars(forms(), vnni=True))
    assert [bar.name for bar in bars(forms(bf16=700), vnni=True) if not bar.met] == [
        f"{INT8}: times the throughput of bf16, batches of 8"
    ]
    assert [bar.name for bar in bars(forms(f32=1400), vnni=True) if not bar.met] == [
        f"{INT8}: times the throughput of f32, batches of 8"
    ]
    refused = forms() | {INT8: measured(INT8, 640, MISSED)}
    assert [bar.name for bar in bars(refused, vnni=True) if not bar.met] == [f"{INT8}: limits missed"]
    lenient = forms() | {"int8-sq": measured("int8-sq", 500, MET)}
    assert [bar.name for bar in bars(lenient, vnni=True) if not bar.met] == ["forms that the gate refuses"]


def test_without_vnni_int8_has_to_gain_what_it_can_there() -> None:
    over_f32 = f"{INT8}: times the throughput of f32, batches of 8"
    assert all(bar.met for bar in bars(forms(f32=800, bf16=5000), vnni=False))
    assert [bar.name for bar in bars(forms(f32=760, bf16=5000), vnni=False) if not bar.met] == [over_f32]


def test_where_bfloat16_is_as_fast_it_ships_and_is_held_to_the_bars() -> None:
    assert [bar.name for bar in bars(forms(bf16=600), vnni=True)] == [
        "bf16: limits missed",
        "bf16: times the throughput of f32, batches of 8",
        "forms that the gate refuses",
    ]
    assert not bars(forms(bf16=600) | {"bf16": measured("bf16", 600, MISSED)}, vnni=True)[0].met


def test_where_float32_is_the_fastest_no_other_form_is_held_to_the_bars() -> None:
    assert [bar.name for bar in bars(forms(f32=600), vnni=True)] == [
        "f32: limits missed",
        "forms that the gate refuses",
    ]
    assert all(bar.met for bar in bars(forms(f32=600), vnni=True))


def test_a_cpu_without_bfloat16_is_not_held_to_it() -> None:
    without = {name: one for name, one in forms().items() if name != "bf16"}
    assert len(bars(without, vnni=True)) == 3
    assert all(bar.met for bar in bars(without, vnni=True))


def test_the_table_says_of_each_form_what_the_gate_says() -> None:
    lines = table(list(forms().values())).splitlines()
    assert len(lines) == 2 + 5
    assert lines[2].endswith("| reference |")
    assert lines[4].startswith(f"| {INT8} | 100 |")
    assert "| 12.5 |" in lines[4]
    assert lines[4].endswith("| passed |")
    assert lines[5].endswith("| REFUSED: drift_share |")


def test_the_reference_and_the_form_that_ships_are_always_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--forms", "bf16"])
    assert f"f32 and {INT8} are always among them" in capsys.readouterr().err


def test_a_remembered_side_runs_each_row_once() -> None:
    side = SaidSide({name: reading(margin) for name, margin in (("a", 1.0), ("b", -2.0), ("c", 3.0))})
    remembered = Remembered(side)
    rows = [row("a"), row("b"), row("c")]
    first = remembered.read(rows[:2])
    assert [one.margins for one in remembered.read(rows)] == [(1.0,), (-2.0,), (3.0,)]
    assert remembered.read(rows)[:2] == first
    assert side.batches == [["a", "b"], ["c"]]
    assert remembered.describe() == side.describe()
    assert remembered.margin_limit == math.inf
