"""What the run counts as right: a wrong answer, a late one, a lost one or a trace of a text makes it fall short."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.chaos.bad_kinds import KINDS
from benchmarks.chaos.bad_requests import canary_problems, problems
from benchmarks.chaos.deadlines import REFUSED, Missed, note
from benchmarks.chaos.load import not_allowed
from benchmarks.chaos.marks import Marks, insides, marks_problems
from benchmarks.chaos.report import Part, exit_code, last_line
from benchmarks.chaos.texts import Known, at_rest, judged
from benchmarks.chaos.wire import Outcome, Sent

KIND = next(kind for kind in KINDS if kind.name == "unknown-mode")
NO_MODEL = next(kind for kind in KINDS if kind.name == "unknown-model")
REFUSAL = "in ensemble 'guard', tritonguard:invalid_request field=mode: mode: not one of verdict, categories, think"
KNOWN = (Known("a", "bread", "safe", 0.1), Known("b", "bomb", "unsafe", 0.9))


def refused(kind: str = "invalid_request", text: str = REFUSAL, code: str = "INVALID_ARGUMENT") -> Outcome:
    return Outcome(0.1, kind=kind, code=code, text=text)


def answered(label: str = "safe", p_unsafe: float = 0.12, request_id: str = "7") -> Outcome:
    return Outcome(0.1, label=label, p_unsafe=p_unsafe, answered_id=request_id)


def test_the_refusal_of_the_table_is_no_problem() -> None:
    assert problems(KIND, refused(), mark="zqmark", folders=[Path("models")]) == []
    gone = refused("unavailable", "Request for unknown model: '../guard' is not found", "NOT_FOUND")
    assert problems(NO_MODEL, gone, mark="zqmark") == []


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(answered(), id="a verdict"),
        pytest.param(refused("internal"), id="another kind"),
        pytest.param(refused("no_answer", ""), id="nothing"),
        pytest.param(refused(text=f"{REFUSAL} zqmark"), id="the user's text"),
        pytest.param(refused(text=f"{REFUSAL}\nTraceback (most recent call last)"), id="a traceback"),
        pytest.param(refused(text='File "stage.py", line 3'), id="a frame"),
        pytest.param(refused(text="in /srv/models/decode: no such file"), id="a path"),
        pytest.param(refused(text=f"{Path('models').resolve()}"), id="the server's folder"),
    ],
)
def test_any_other_answer_is_a_problem(outcome: Outcome) -> None:
    assert problems(KIND, outcome, mark="zqmark", folders=[Path("models")])


def test_the_status_counts_where_the_table_names_one() -> None:
    assert problems(NO_MODEL, refused("unavailable", "", "UNAVAILABLE"), mark="zqmark")


@pytest.mark.parametrize(
    "text", ["Hate/Identity Hate", "8001/8002 requests", "and/or", "24 of 24", "http://127.0.0.1:80"]
)
def test_a_slash_alone_is_no_path(text: str) -> None:
    assert insides(text) == []


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (answered(), "right"),
        (answered(label="unsafe"), "wrong"),
        (answered(request_id="8"), "wrong"),
        (answered(p_unsafe=0.45), "wrong"),
        (answered(p_unsafe=float("nan")), "wrong"),
        (refused("overloaded"), "overloaded"),
        (Outcome(0.1), "nothing"),
    ],
)
def test_a_verdict_is_right_only_for_its_own_text_and_request(outcome: Outcome, word: str) -> None:
    assert judged(outcome, KNOWN[0], "7") == word


def test_the_canaries_of_a_server_that_says_safe_to_everything_are_a_problem() -> None:
    assert len(canary_problems(lambda sent: answered(), KNOWN)) == 2


def test_a_server_that_judges_nothing_right_at_rest_proves_nothing() -> None:
    def send(sent: Sent) -> Outcome:
        return answered("safe")

    with pytest.raises(RuntimeError, match="unsafe"):
        at_rest(send, "zqmark")


def test_a_mark_is_found_in_contents_names_and_command_lines(tmp_path: Path) -> None:
    marks = Marks("zqmark")
    assert marks.look("logs", "prompt zqmark zqmark") == 2
    (tmp_path / "zqmark.txt").write_text("nothing")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "core").write_bytes(b"\0zqmark\xff")
    marks.look_in_folder("files left", tmp_path)
    assert marks.found == {"logs": 2, "files left": 2}
    told = marks_problems(marks, errors=False)
    assert "2 marks in the logs" in told
    # What was not searched proves nothing.
    assert {"nothing was searched: metrics", "nothing was searched: command lines"} < set(told)


def test_a_clean_search_has_no_problem() -> None:
    marks = Marks("zqmark")
    for what in ("logs", "metrics", "command lines"):
        marks.look(what, "clean")
    assert marks_problems(marks, errors=False) == []
    assert marks_problems(marks, errors=True) == ["nothing was searched: error messages"]


def test_only_what_is_allowed_may_come_under_load() -> None:
    words = Counter({"right": 9, "unavailable": 2, "wrong": 1, "untyped RpcError": 1})
    assert not_allowed(words, {"right", "unavailable"}) == ["1 requests: untyped RpcError", "1 requests: wrong"]


GOOD_MISS = Missed("deadline_exceeded", 0.02, "right", 0.1)


@pytest.mark.parametrize(
    "missed",
    [
        Missed("a verdict", 0.02, "right", 0.1),
        Missed("overloaded", -0.2, "right", 0.1),
        Missed("deadline_exceeded", 0.3, "right", 0.1),
        Missed("deadline_exceeded", 0.02, "wrong", 0.1),
        Missed("deadline_exceeded", 0.02, "right", 1.5),
    ],
)
def test_a_deadline_is_kept_only_typed_on_time_and_with_a_free_engine_behind_it(missed: Missed) -> None:
    part = Part("deadline")
    note(part, "1 ms", [GOOD_MISS, missed])
    assert part.counts == {"on time": 1, "not so": 1}
    assert len(part.short) == 1


def test_behind_others_a_server_may_refuse_at_once() -> None:
    assert Missed("overloaded", -0.2, "right", 0.1).problems(REFUSED) == []


def test_the_last_line_counts_and_names_what_fell_short() -> None:
    good, bad = (
        Part("bad", Counter({"kinds": 30}), seconds=9.0),
        Part("kill", Counter(wrong=1), short=["1 requests: wrong"]),
    )
    assert last_line([good]) == "chaos, 9 s: bad 30 kinds; nothing fell short"
    assert last_line([good, bad]) == "chaos, 9 s: bad 30 kinds; kill 1 wrong; SHORT: kill (1)"
    assert [exit_code(parts) for parts in ([good], [good, bad], [])] == [0, 1, 1]
