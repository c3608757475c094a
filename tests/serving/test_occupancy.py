"""One time, shown by one process and read by another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.occupancy import VARIABLE, Occupancy


def test_what_another_process_shows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "occupancy"
    Occupancy.clear(path)
    here = Occupancy(path)
    assert here.done_ns() == 0
    program = "from serving.occupancy import Occupancy; Occupancy.of_server().show(2**63 - 1)"
    subprocess.run([sys.executable, "-c", program], env={VARIABLE: str(path)}, check=True)
    assert here.done_ns() == 2**63 - 1
    Occupancy.clear(path)
    assert Occupancy(path).done_ns() == 0


def test_a_stage_without_a_launcher_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Occupancy.of_server().done_ns() == 0


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="occupancy"):
        Occupancy(tmp_path / "occupancy")
