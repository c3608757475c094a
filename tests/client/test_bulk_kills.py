"""The bulk command, killed as a process and started again: nothing lost, nothing doubled, nothing else."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_calls import steady

_PROGRAM = Path(__file__).with_name("bulk_process.py")
_ROWS = 300


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bulk") / "rows.jsonl"
    texts = ({"prompt": f"{'bad' if number % 7 == 0 else 'good'} {number}", "id": number} for number in range(_ROWS))
    file.write_text("".join(f"{json.dumps(row)}\n" for row in texts) + "no json\n", encoding="utf-8")
    return file


def start(rows: Path, out: Path, *more: str, sent: int = 0, moment: int = 0) -> subprocess.Popen[bytes]:
    """sent: the signal that the process gets with its request number `moment`."""
    argv = [sys.executable, str(_PROGRAM), str(sent), str(moment), "check", "--in", str(rows), "--out", str(out)]
    return subprocess.Popen([*argv, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, err = process.communicate(timeout=120)
    return process.returncode, err.decode("utf-8")


def whole_lines(out: Path) -> int:
    return out.read_bytes().count(b"\n")


def test_three_kills_change_nothing(rows: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert finish(start(rows, undisturbed))[0] == 2
    draw = random.Random(7)
    before = 0
    for _ in range(3):
        code, _ = finish(start(rows, killed, sent=signal.SIGKILL, moment=draw.randrange(40, 90)))
        assert code == -signal.SIGKILL
        assert before < whole_lines(killed) < _ROWS
        before = whole_lines(killed)
        # As where the kill comes within a write, which is seldom.
        killed.write_bytes(killed.read_bytes()[: -draw.randrange(400)])
    code, err = finish(start(rows, killed, "--format", "json"))
    assert code == 2
    assert steady(killed.read_bytes()) == steady(undisturbed.read_bytes())
    account = json.loads(err)
    assert (account["rows"], account["errors"]) == (_ROWS + 1, {"invalid_request": 1})
    assert before - 2 <= account["kept"] <= before


def test_ctrl_c_ends_with_130_and_whole_lines(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, err = finish(start(rows, out, sent=signal.SIGINT, moment=60))
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert 0 < whole_lines(out) < _ROWS
    assert out.read_bytes().endswith(b"\n")


def test_a_second_process_is_refused_while_the_first_one_works(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start(rows, out, sent=signal.SIGSTOP, moment=60)
    try:
        while first.poll() is None and not (out.exists() and out.read_bytes()):
            time.sleep(0.01)
        code, err = finish(start(rows, out))
    finally:
        first.kill()
        first.communicate(timeout=60)
    assert (code, "another run" in err) == (2, True)
