"""A pass waits for callers that lately came back at once, and for nobody else."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from tiny_checkpoint import tiny_config, write_checkpoint
from tiny_engine import job, tiny_engine, tiny_passes

from engines.local import turns
from engines.local.patience import Patience
from engines.protocol import Answer

PASS_S = 1.0
ROWS = 4


def asked_in_turn(patience: Patience, *, back_s: float | None, passes: int, now_s: float = 0.0) -> float:
    """So many passes that answer four rows, which come back one after the other so long after each; None: two of them
    do. Returns the end of a last pass, of which nobody has come back yet."""
    for _ in range(passes):
        patience.answered(ROWS, began_s=now_s, ended_s=now_s + PASS_S)
        now_s += PASS_S
        for number in range(2 if back_s is None else ROWS):
            patience.came(1, now_s + (back_s or 0.01) * (number + 1) / ROWS)
    patience.answered(ROWS, began_s=now_s, ended_s=now_s + PASS_S)
    return now_s + PASS_S


def test_nobody_waits_before_anything_is_known() -> None:
    patience = Patience()
    assert patience.left_s(0.0) == 0.0
    patience.answered(ROWS, began_s=0.0, ended_s=PASS_S)
    assert patience.left_s(PASS_S) == 0.0


def test_who_came_back_soon_is_waited_for_twice_as_long_as_usual() -> None:
    patience = Patience()
    now_s = asked_in_turn(patience, back_s=0.04, passes=3)
    assert patience.left_s(now_s) == pytest.approx(0.08)
    assert patience.left_s(now_s + 0.06) == pytest.approx(0.02)
    assert patience.left_s(now_s + 0.09) == 0.0


def test_a_wait_is_a_small_part_of_a_pass() -> None:
    patience = Patience()
    now_s = asked_in_turn(patience, back_s=0.12, passes=3)
    assert patience.left_s(now_s) == pytest.approx(0.15 * PASS_S)


def test_when_all_are_back_the_wait_is_over() -> None:
    patience = Patience()
    now_s = asked_in_turn(patience, back_s=0.04, passes=3)
    patience.came(ROWS - 1, now_s)
    assert patience.left_s(now_s) > 0.0
    patience.came(1, now_s)
    assert patience.left_s(now_s) == 0.0


@pytest.mark.parametrize("back_s", [None, 0.5], ids=["half of them", "late"])
def test_who_did_not_come_back_in_time_is_not_waited_for(back_s: float | None) -> None:
    patience = Patience()
    now_s = asked_in_turn(patience, back_s=back_s, passes=3)
    assert patience.left_s(now_s) == 0.0


def test_one_odd_pass_changes_nothing_and_many_do() -> None:
    patience = Patience()
    now_s = asked_in_turn(patience, back_s=0.04, passes=5)
    patience.answered(ROWS, began_s=now_s, ended_s=now_s + PASS_S)  # nobody came back
    now_s += PASS_S
    assert patience.left_s(now_s) == pytest.approx(0.08)
    now_s = asked_in_turn(patience, back_s=None, passes=3, now_s=now_s)
    assert patience.left_s(now_s) == 0.0
    now_s = asked_in_turn(patience, back_s=0.04, passes=3, now_s=now_s)
    assert patience.left_s(now_s) == pytest.approx(0.08)


def test_the_rows_that_are_waited_for_share_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OfTwo:
        """Waits, for ever, until two have come since the last pass."""

        def __init__(self) -> None:
            self.due = 2

        def came(self, rows: int, now_s: float) -> None:
            self.due -= rows

        def left_s(self, now_s: float) -> float:
            return 60.0 if self.due > 0 else 0.0

        def answered(self, rows: int, *, began_s: float, ended_s: float) -> None:
            self.due = 2

    monkeypatch.setattr(turns, "Patience", OfTwo)
    engine = tiny_engine(tiny_passes(write_checkpoint(tmp_path / "checkpoint", tiny_config())))
    answers = list[object]()
    callers = [threading.Thread(target=lambda n=n: answers.extend(engine.run([job(20, seed=n)]))) for n in range(2)]
    callers[0].start()
    time.sleep(0.2)
    assert not answers
    callers[1].start()
    for caller in callers:
        caller.join()
    assert [type(answer) for answer in answers] == [Answer, Answer]
    assert engine.statistics()["passes"] == 1
