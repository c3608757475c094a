"""The thread between the server's output and the log."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serving.log_copy import LogCopy, LogTarget
from serving.log_lines import MOST_BYTES, LogFormat, event


def copied(output: bytes, path: Path, form: LogFormat) -> tuple[list[str], str]:
    target = LogTarget(path, form)
    copy = LogCopy(io.BytesIO(output), target)  # type: ignore[arg-type]
    copy.close()
    target.close()
    return path.read_text().splitlines(), copy.tail()


@pytest.mark.parametrize("form", ["json", "text"])
def test_each_line_is_one_line_of_the_log(tmp_path: Path, form: LogFormat) -> None:
    lines, tail = copied(b"first\n\nthird\x1b[31m\nlast", tmp_path / "log", form)
    messages = [json.loads(line)["message"] for line in lines] if form == "json" else lines
    escaped = "third\x1b[31m" if form == "json" else "third\\x1b[31m"
    assert messages == ["first", "", escaped, "last"]
    assert "third\\x1b[31m" in tail
    assert "\x1b" not in (tmp_path / "log").read_text()


def test_a_line_without_an_end_does_not_grow_and_costs_no_other_line(tmp_path: Path) -> None:
    lines, _ = copied(b"x" * 5 * MOST_BYTES + b"\nafter\n", tmp_path / "log", "json")
    first, after = map(json.loads, lines)
    assert (len(first["message"]), first["cut"]) == (MOST_BYTES, True)
    assert after["message"] == "after"
    assert "cut" not in after


def test_the_log_is_added_to(tmp_path: Path) -> None:
    copied(b"one\n", tmp_path / "log", "text")
    assert copied(b"two\n", tmp_path / "log", "text")[0] == ["one", "two"]


@pytest.mark.parametrize("to_file", [True, False])
def test_an_event_is_always_on_standard_error_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], to_file: bool
) -> None:
    path = tmp_path / "log"
    target = LogTarget(path if to_file else None, "json")
    target.tell(event("restarted", "again", datetime.now(UTC)))
    target.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "restarted"
    assert not to_file or path.read_text() == line + "\n"
