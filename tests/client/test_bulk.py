"""Bulk moderation: every row has one line, whatever happened on the way."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from answers import always, by_text
from cli_calls import Run, lines, steady
from hypothesis import given
from hypothesis import strategies as st
from tritonguard import Guard, GuardRequest, InvalidRequest, MockTransport, Policy, Unavailable, Verdict
from tritonguard.bulk import Question, answers
from tritonguard.bulk_file import held, keep, line_of
from tritonguard.cli_input import Item, rows_of
from tritonguard.cli_tally import Fate

ROWS = b"".join(
    [
        b'{"prompt": "good", "id": "first"}\n\n',
        b'{"prompt": "bad"}\r\n',
        b"not json\n",
        b'{"prompt": "good", "respnse": "typo"}\n',
        *(b'{"prompt": "good number %d"}\n' % number for number in range(20)),
        b'{"prompt": "bad", "response": "at the end, without a newline"}',
    ]
)
COUNT = 25


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(ROWS)
    return rows, tmp_path / "verdicts.jsonl"


def flaky(failing: set[str]) -> Callable[[GuardRequest], Verdict]:
    def handler(request: GuardRequest) -> Verdict:
        if request.prompt in failing:
            raise Unavailable("away")
        return by_text(request)

    return handler


def bulk(run: Run, files: tuple[Path, Path], *more: str, **options: Any) -> tuple[int, list[dict[str, Any]], str]:
    argv = ["check", "--in", str(files[0]), "--out", str(files[1]), "--retries", "0", *more]
    code, out, err = run(*argv, **options)
    assert out == ""
    return code, lines(files[1].read_text(encoding="utf-8")), err


def counted(err: str) -> dict[str, Any]:
    account: dict[str, Any] = json.loads(err.splitlines()[-1])
    assert account["rows"] == account["allow"] + account["review"] + account["block"] + sum(account["errors"].values())
    return account


def test_every_row_has_one_line_with_its_number_and_hash(run: Run, files: tuple[Path, Path]) -> None:
    code, answers, err = bulk(run, files, "--format", "json")
    assert code == 2
    assert [answer["row"] for answer in answers] == list(range(1, COUNT + 1))
    raw = [line.strip() for line in ROWS.splitlines() if line.strip()]
    assert [answer["row_sha256"] for answer in answers] == [hashlib.sha256(row).hexdigest()[:16] for row in raw]
    assert [answer["id"] for answer in answers[:4]] == ["first", "line 3", "line 4", "line 5"]
    assert [answer["error"]["kind"] for answer in answers if "error" in answer] == ["invalid_request"] * 2
    assert {key: counted(err)[key] for key in ("allow", "block", "review", "errors", "kept")} == {
        "allow": 21,
        "block": 2,
        "review": 0,
        "errors": {"invalid_request": 2},
        "kept": 0,
    }


def test_the_old_name_and_the_new_one_are_the_same(run: Run, files: tuple[Path, Path]) -> None:
    bulk(run, files)
    new = files[1].read_bytes()
    files[1].unlink()
    assert run("check", "--jsonl", str(files[0]), "--format", "json", "--out", str(files[1]))[0] == 2
    assert steady(files[1].read_bytes()) == steady(new)


def test_rows_are_under_way_together_and_answered_in_order(run: Run, tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def handler(request: GuardRequest) -> Verdict:
        together.wait(timeout=20)  # broken, and so an error, unless four are here at once
        return by_text(request)

    rows = tmp_path / "rows"
    rows.write_text("\n".join(json.dumps({"prompt": f"good {n}", "id": n}) for n in range(8)), encoding="utf-8")
    code, answers, _ = bulk(run, (rows, tmp_path / "out"), "--concurrency", "4", handler=handler)
    assert (code, [answer["id"] for answer in answers]) == (0, [str(n) for n in range(8)])


def test_a_finished_output_is_not_asked_again(run: Run, files: tuple[Path, Path]) -> None:
    bulk(run, files)
    before = files[1].read_bytes()
    asked: list[GuardRequest] = []

    def handler(request: GuardRequest) -> Verdict:
        asked.append(request)
        return by_text(request)

    code, _, err = bulk(run, files, "--format", "json", handler=handler)
    assert (code, asked, files[1].read_bytes()) == (2, [], before)
    assert counted(err)["kept"] == COUNT


@given(cut=st.integers(0, 12_000), zeros=st.sampled_from([0, 0, 1, 4096]))
def test_any_beginning_of_an_output_becomes_the_whole_one(cut: int, zeros: int) -> None:
    whole = _output(ROWS, "q")
    beginning = whole[: cut % (len(whole) + 1)]
    kept: list[Fate] = []
    stream = io.BytesIO(beginning + bytes(zeros))
    left = keep(stream, rows_of(io.BytesIO(ROWS)), "q", kept.append, name="out")
    assert len(kept) == beginning.count(b"\n")
    for row in left:
        stream.write(line_of(row, "q", _ANSWER))
    assert stream.getvalue() == whole


_ANSWER = {
    "id": "ü\u2028",
    "label": {"indeterminate_reason": None},
    "outcome": {"decision": "allow"},
    "record": {"bundle_revision": None},
}


def _output(rows: bytes, question: str) -> bytes:
    return b"".join(line_of(row, question, _ANSWER) for row in rows_of(io.BytesIO(rows)))


@given(foreign=st.binary(min_size=1, max_size=60).filter(lambda raw: raw.strip(b"\0") != b""))
def test_a_file_of_something_else_is_refused_and_left_as_it_is(foreign: bytes) -> None:
    stream = io.BytesIO(foreign)
    beginning = b'{"row": 1, "row_sha256": "'
    if beginning.startswith(foreign.rstrip(b"\0")):
        return
    with pytest.raises(InvalidRequest):
        list(keep(stream, rows_of(io.BytesIO(ROWS)), "q", lambda fate: None, name="out"))
    assert stream.getvalue() == foreign


@pytest.mark.parametrize("cut", [1, 40, 900, -1])
def test_a_cut_output_is_gone_on_with(run: Run, files: tuple[Path, Path], cut: int) -> None:
    bulk(run, files)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:cut])
    _, answers, err = bulk(run, files, "--format", "json")
    assert steady(files[1].read_bytes()) == steady(whole)
    assert counted(err)["kept"] == whole[:cut].count(b"\n")
    assert len(answers) == COUNT


@pytest.mark.parametrize(
    ("change", "argv", "said"),
    [
        (lambda rows: rows.replace(b"good number 7", b"good number x"), [], "row 12 (line 13 of the input) answers"),
        (lambda rows: b'{"prompt": "new"}\n' + rows, [], "answers another row"),
        (lambda rows: b"".join(rows.splitlines(keepends=True)[:8]), [], ""),
        (lambda rows: rows, ["--mode", "categories"], "another policy, mode or think budget"),
        (lambda rows: rows, ["--policy-name", "strict"], "another policy"),
        (lambda rows: rows, ["--mode", "think", "--think-budget", "7"], "another policy"),
    ],
)
@pytest.mark.parametrize("again", [[], ["--retry-errors"]])
def test_an_output_of_another_input_or_question_is_refused(
    run: Run,
    files: tuple[Path, Path],
    change: Callable[[bytes], bytes],
    argv: list[str],
    said: str,
    again: list[str],
) -> None:
    bulk(run, files)
    before = files[1].read_bytes()
    files[0].write_bytes(change(ROWS))
    code, _, err = bulk(run, files, *argv, *again)
    assert code == 2
    assert said in err
    assert "good number" not in err
    assert files[1].read_bytes() == before
    _, answers, _ = bulk(run, files, "--restart")
    assert len(answers) == len([line for line in change(ROWS).splitlines() if line.strip()])


def test_an_output_with_more_lines_than_the_input_has_rows_is_refused(run: Run, files: tuple[Path, Path]) -> None:
    bulk(run, files)
    files[0].write_bytes(b"".join(ROWS.splitlines(keepends=True)[:8]))
    assert "after the last row answers a row that the input does not have" in bulk(run, files)[2]
    assert "more lines than the input has rows" in bulk(run, files, "--retry-errors")[2]


def test_a_retry_begun_for_another_input_is_named(run: Run, files: tuple[Path, Path]) -> None:
    bulk(run, files)
    beside = files[1].with_name("verdicts.jsonl.retry")
    beside.write_text("somebody's notes", encoding="utf-8")
    code, _, err = bulk(run, files, "--retry-errors")
    assert (code, beside.read_text(encoding="utf-8")) == (2, "somebody's notes")
    assert "verdicts.jsonl.retry" in err
    assert "without that file" in err


def test_rows_added_to_the_input_are_judged(run: Run, files: tuple[Path, Path]) -> None:
    bulk(run, files)
    files[0].write_bytes(ROWS + b'\n{"prompt": "good", "id": "added"}')
    _, answers, err = bulk(run, files, "--format", "json")
    assert (len(answers), answers[-1]["id"], counted(err)["kept"]) == (COUNT + 1, "added", COUNT)


def test_exactly_the_rows_that_the_server_failed_are_judged_again(run: Run, files: tuple[Path, Path]) -> None:
    failing = {"good number 3", "good number 11"}
    code, first, err = bulk(run, files, "--format", "json", handler=flaky(failing))
    assert (code, counted(err)["server_failures"]) == (3, 2)
    asked: list[str] = []

    def handler(request: GuardRequest) -> Verdict:
        asked.append(request.prompt)
        return by_text(request)

    code, second, err = bulk(run, files, "--retry-errors", "--format", "json", handler=handler)
    assert (code, set(asked), len(asked)) == (2, failing, 2)
    assert [(a["row"], b["row"]) for a, b in zip(first, second, strict=True) if a != b] == [(8, 8), (16, 16)]
    assert (counted(err)["server_failures"], counted(err)["kept"]) == (0, COUNT - 2)
    assert sorted(path.name for path in files[1].parent.iterdir()) == ["rows.jsonl", "verdicts.jsonl"]


def test_an_interrupted_retry_leaves_the_output_and_is_gone_on_with(run: Run, files: tuple[Path, Path]) -> None:
    failing = {"good number 3", "good number 11"}
    bulk(run, files, handler=flaky(failing))
    before = files[1].read_bytes()

    def handler(request: GuardRequest) -> Verdict:
        if request.prompt == "good number 11":
            raise KeyboardInterrupt
        return by_text(request)

    code, _, err = bulk(run, files, "--retry-errors", handler=handler)
    assert (code, files[1].read_bytes()) == (130, before)
    assert "interrupted" in err
    asked: list[str] = []

    def recording(request: GuardRequest) -> Verdict:
        asked.append(request.prompt)
        return by_text(request)

    _, answers, _ = bulk(run, files, "--retry-errors", handler=recording)
    assert asked == ["good number 11"]
    assert [answer["row"] for answer in answers if "outcome" not in answer] == [3, 4]
    assert len(answers) == COUNT


def test_a_retry_also_goes_on_with_a_cut_output(run: Run, files: tuple[Path, Path]) -> None:
    bulk(run, files)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) // 2])
    bulk(run, files, "--retry-errors")
    assert steady(files[1].read_bytes()) == steady(whole)


def test_ctrl_c_keeps_what_is_judged_and_says_how_to_go_on(run: Run, files: tuple[Path, Path]) -> None:
    def handler(request: GuardRequest) -> Verdict:
        if request.prompt == "good number 9":
            raise KeyboardInterrupt
        return by_text(request)

    code, answers, err = bulk(run, files, handler=handler)
    assert code == 130
    assert [answer["row"] for answer in answers] == list(range(1, 14))
    assert "interrupted: rows 13: allow 10" in err
    assert "the same command goes on" in err
    _, answers, _ = bulk(run, files)
    assert [answer["row"] for answer in answers] == list(range(1, COUNT + 1))


def test_a_second_run_can_not_write_the_same_output(run: Run, files: tuple[Path, Path]) -> None:
    with held(files[1]):
        code, answers, err = bulk(run, files)
    assert (code, answers) == (2, [])
    assert "another run" in err
    with files[1].open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InvalidRequest), held(files[1]):
            pass
    assert bulk(run, files)[0] == 2


def test_a_full_disk_is_told_and_gone_on_from(
    run: Run, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def write(self: Any, line: bytes) -> None:
        nonlocal written
        written += 1
        if written == 6:
            self._stream.write(line[:50])
            self._stream.flush()
            raise OSError(28, "No space left on device")
        self._stream.write(line)

    with monkeypatch.context() as patch:
        patch.setattr("tritonguard.bulk_file.Writer.write", write)
        argv = ["check", "--in", str(files[0]), "--out", str(files[1])]
        code, _, err = run(*argv)
    assert code == 2
    assert "stopped: rows 5" in err
    assert "No space left" in err
    assert files[1].read_bytes().count(b"\n") == 5
    assert len(bulk(run, files)[1]) == COUNT


def test_standard_input_goes_to_a_file_and_on_there(run: Run, tmp_path: Path) -> None:
    files = (Path("-"), tmp_path / "out")
    bulk(run, files, stdin=ROWS)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:1500])
    assert len(bulk(run, files, stdin=ROWS)[1]) == COUNT
    assert steady(files[1].read_bytes()) == steady(whole)


@pytest.mark.parametrize("more", [["--format", "json"], ["--out", "-"]])
def test_standard_output_gets_the_same_lines(run: Run, files: tuple[Path, Path], more: list[str]) -> None:
    code, out, err = run("check", "--in", "-", *more, stdin=ROWS)
    assert (code, len(lines(out))) == (2, COUNT)
    assert "rows" in err
    bulk(run, files)
    assert steady(out.encode("utf-8")) == steady(files[1].read_bytes())


def test_a_pipe_is_read_once(run: Run, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feeder = threading.Thread(target=pipe.write_bytes, args=(ROWS,))
    feeder.start()
    assert len(bulk(run, (pipe, tmp_path / "out"))[1]) == COUNT
    feeder.join()


def test_the_input_is_never_the_output(run: Run, tmp_path: Path) -> None:
    for name in ("v.jsonl", "v.jsonl.retry"):
        (tmp_path / name).write_bytes(ROWS)
        code, _, err = run("check", "--in", str(tmp_path / name), "--out", str(tmp_path / "v.jsonl"), "--restart")
        assert (code, (tmp_path / name).read_bytes()) == (2, ROWS)
        assert "the same file" in err


def test_a_device_is_a_stream(run: Run) -> None:
    code, out, _ = run("check", "--in", "-", "--out", "/dev/null", stdin=ROWS)
    assert (code, out) == (2, "")


def test_a_file_without_one_good_row_does_not_gather_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonguard.bulk._MOST_WAITING", 50)
    read: list[int] = []

    def items() -> Iterator[Item]:
        for number in range(200):
            read.append(number)
            yield Item(id=str(number), error=InvalidRequest("row: not JSON"))

    question = Question(Policy(), None, "verdict", None, 10.0)
    with Guard(transport=MockTransport(by_text)) as guard:
        judged = answers(items(), guard, question, concurrency=2)
        next(judged)
        assert len(read) == 50
        assert len([*judged]) == 199


def test_no_text_of_a_user_is_told(run: Run, files: tuple[Path, Path]) -> None:
    _, _, err = bulk(run, files, handler=always(None))
    assert "good" not in err
    assert "number" not in files[1].read_text(encoding="utf-8").replace("line number", "")


def test_the_account_for_people_names_kinds_and_the_way_on(run: Run, files: tuple[Path, Path]) -> None:
    err = bulk(run, files, handler=flaky({"good number 1"}))[2]
    assert "rows 25: allow 20, review 0, block 3, errors 2 (invalid_request 2)" in err
    assert "indeterminate 1, failed on the server's side 1" in err
    assert "--retry-errors" in err
