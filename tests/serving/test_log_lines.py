"""Every line of the server's output becomes one record, whatever it holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.log_lines import MOST_BYTES, copied_line, event, read_line

NOW = datetime(2026, 11, 25, 21, 40, tzinfo=UTC)
PREFIX = "1125 21:36:15.659103 2608 server.cc:336] "


def record(text: str, now: datetime = NOW) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(read_line(text.encode() + b"\n", now).line("json"))
    return parsed


@pytest.mark.parametrize(("letter", "level"), [("I", "info"), ("W", "warning"), ("E", "error"), ("F", "fatal")])
def test_a_line_of_tritons_is_taken_apart(letter: str, level: str) -> None:
    assert record(f"{letter}{PREFIX}\"successfully loaded 'verdict'\"") == {
        "time": "2026-11-25T21:36:15.659103Z",
        "level": level,
        "source": "server.cc:336",
        "message": "successfully loaded 'verdict'",
    }


def test_what_triton_escapes_is_read() -> None:
    assert record(f'E{PREFIX}"a \\"quoted\\" word\\nand a line"')["message"] == 'a "quoted" word\nand a line'


def test_the_message_of_a_table_is_empty_and_its_lines_follow() -> None:
    assert record(f"I{PREFIX}") | {"time": ""} == {
        "time": "",
        "level": "info",
        "source": "server.cc:336",
        "message": "",
    }
    assert record("+-----+") == {
        "time": "2026-11-25T21:40:00.000000Z",
        "level": "unknown",
        "source": "output",
        "message": "+-----+",
    }


@pytest.mark.parametrize(
    "text",
    [
        "X1125 21:36:15.659103 2608 server.cc:336] a",
        "I1325 21:36:15.659103 2608 server.cc:336] a",
        "I1125 29:36:15.659103 2608 server.cc:336] a",
        "I0230 21:36:15.659103 2608 server.cc:336] a",
        "Traceback (most recent call last):",
        "",
    ],
)
def test_another_form_is_kept_whole(text: str) -> None:
    assert record(text)["level"] == "unknown"
    assert record(text)["message"] == text


@pytest.mark.parametrize(
    ("request_id", "told"),
    [
        ("abc-1", "abc-1"),
        ("it's", "it's"),
        ('it\'s "both"', 'it\'s "both"'),
        ("new\nline: 'x': ", "new\nline: 'x': "),
        ("é", "é"),
        ("", ""),
        ("x" * 200, "x" * 127),
    ],
)
def test_the_request_is_named_as_the_adapter_writes_it(request_id: str, told: str) -> None:
    message = json.dumps(f"request {ascii(request_id)[:128]}: InternalError at stage.py:1 run")
    got = record(f"E{PREFIX}{message}")
    assert (got["request_id"], got["message"]) == (told, "InternalError at stage.py:1 run")


def test_tritons_own_way_to_name_a_request_is_read() -> None:
    assert record(f'E{PREFIX}"[request id: 7] no"') | {"time": ""} == {
        "time": "",
        "level": "error",
        "source": "server.cc:336",
        "message": "no",
        "request_id": "7",
    }
    assert "request_id" not in record(f'E{PREFIX}"[request id: <id_unknown>] no"')


@pytest.mark.parametrize(
    ("now", "line", "time"),
    [
        (datetime(2027, 1, 1, 0, 0, 1, tzinfo=UTC), "1231 23:59:59.000000", "2026-12-31T23:59:59.000000Z"),
        (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), "0101 00:00:00.000000", "2027-01-01T00:00:00.000000Z"),
        (datetime(2028, 3, 1, tzinfo=UTC), "0229 12:00:00.000000", "2028-02-29T12:00:00.000000Z"),
        (
            datetime(2026, 6, 1, 3, tzinfo=timezone(timedelta(hours=9))),
            "0531 18:00:00.000000",
            "2026-05-31T18:00:00.000000Z",
        ),
    ],
)
def test_the_year_is_the_one_that_brings_the_line_nearest(now: datetime, line: str, time: str) -> None:
    assert record(f"I{line} 1 a.cc:1] x", now)["time"] == time


def test_a_line_that_is_too_long_is_marked() -> None:
    raw = b"x" * MOST_BYTES
    assert json.loads(read_line(raw, NOW).line("json"))["cut"] is True
    assert copied_line(raw).endswith("x [cut]")
    assert "cut" not in record("x" * (MOST_BYTES - 1))


def test_an_event_has_its_values_in_both_forms() -> None:
    told = event("restarted", "up again", NOW, downtime_s=1.5, cause="stage_dead")
    assert json.loads(told.line("json")) == {
        "time": "2026-11-25T21:40:00.000000Z",
        "level": "info",
        "source": "tritonguard-serve",
        "message": "up again",
        "event": "restarted",
        "downtime_s": 1.5,
        "cause": "stage_dead",
    }
    assert told.line("text").endswith("up again event=restarted downtime_s=1.5 cause=stage_dead")


lines = st.binary(max_size=300).map(lambda raw: raw.replace(b"\n", b"")) | st.builds(
    lambda letter, source, message: f"{letter}{PREFIX}{source}{message}".encode(),
    st.sampled_from("IWEFX"),
    st.sampled_from(["", '"', "request 'a': ", 'request "', "[request id: "]),
    st.text(max_size=50).map(lambda text: text.replace("\n", "")),
)


@given(lines, st.booleans())
def test_any_line_becomes_one_printable_record(raw: bytes, ended: bool) -> None:
    whole = raw + b"\n" * ended
    for line in (read_line(whole, NOW).line("json"), read_line(whole, NOW).line("text"), copied_line(whole)):
        assert len(line.splitlines()) <= 1
        assert all(character.isprintable() or character == "\t" or ord(character) > 0x9F for character in line)
    parsed = json.loads(read_line(whole, NOW).line("json"))
    assert set(parsed) <= {"time", "level", "source", "message", "request_id"}
    assert datetime.fromisoformat(parsed["time"]).tzinfo is not None


@given(st.text(max_size=60), st.text(max_size=60))
def test_every_id_and_message_comes_back(request_id: str, message: str) -> None:
    logged = json.dumps(f"request {request_id!a}: {message}")
    got = record(f"E{PREFIX}{logged}")
    if len(ascii(request_id)) <= 128:
        assert (got["request_id"], got["message"]) == (request_id, message)
