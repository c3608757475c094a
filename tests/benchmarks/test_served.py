"""Questions through a guard, and the file that lets an interrupted run go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tritonguard import Guard, GuardRequest, InternalError, Label, MockTransport, Record, Safety, Unavailable, Verdict
from tritonguard.verdict import decide

from benchmarks.served import Answers, Question, Reply, ask_all, bundle_revision, followed

Handler = Callable[[GuardRequest], Verdict]


def verdict(request: GuardRequest, label: Label, *, bundle: str = "one") -> Verdict:
    record = Record(
        contract_version=1,
        request_id=request.request_id,
        policy_name=request.policy.name,
        policy_sha256=request.policy.sha256,
        model_revision="model",
        bundle_revision=bundle,
        timings_ms={"forward": 2.0},
    )
    return Verdict(label, decide(label, request.policy), record)


def by_length(request: GuardRequest) -> Verdict:
    """p_unsafe: a hundredth for each character of the prompt."""
    p_unsafe = len(request.prompt) / 100
    return verdict(
        request, Label(user_safety=Safety.UNSAFE if p_unsafe >= 0.5 else Safety.SAFE, p_unsafe_user=p_unsafe)
    )


def guard(handler: Handler) -> Guard:
    return Guard(transport=MockTransport(handler))


def questions(count: int) -> list[Question]:
    return [Question(f"row {n}", GuardRequest(prompt="x" * (n + 1))) for n in range(count)]


def p_of(replies: list[Reply]) -> list[float | None]:
    return [reply.label.p_unsafe_user for reply in replies]


def test_replies_come_in_the_order_of_the_questions() -> None:
    replies = ask_all(guard(by_length), questions(40), concurrency=8, title="test")
    assert [reply.id for reply in replies] == [f"row {n}" for n in range(40)]
    assert p_of(replies) == pytest.approx([(n + 1) / 100 for n in range(40)])
    assert {(reply.answered, reply.bundle, reply.timings_ms["forward"]) for reply in replies} == {(True, "one", 2.0)}


def test_an_error_is_an_indeterminate_reply_that_no_server_gave() -> None:
    def fails(request: GuardRequest) -> Verdict:
        raise (Unavailable if len(request.prompt) % 2 else InternalError)("no")

    replies = ask_all(guard(fails), questions(2), concurrency=1, title="test")
    assert [reply.answered for reply in replies] == [False, False]
    assert [reply.label.indeterminate_reason for reply in replies] == ["unavailable", "internal"]


def test_what_the_file_holds_is_not_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    first = ask_all(guard(by_length), questions(5), concurrency=2, title="", answers=Answers(file, bundle="one"))
    asked: list[str] = []

    def counted(request: GuardRequest) -> Verdict:
        asked.append(request.prompt)
        return by_length(request)

    again = ask_all(guard(counted), questions(8), concurrency=2, title="", answers=Answers(file, bundle="one"))
    assert sorted(asked, key=len) == ["x" * 6, "x" * 7, "x" * 8]
    assert again[:5] == first
    assert len(file.read_text().splitlines()) == 8


def test_a_reply_comes_back_from_the_file_as_it_was(tmp_path: Path) -> None:
    label = Label(
        user_safety=Safety.UNSAFE,
        response_safety=Safety.SAFE,
        p_unsafe_user=0.7,
        p_unsafe_response=0.1,
        reasoning="line one\u2028line two",
        reasoning_source="synthetic",
        reasoning_truncated=True,
        reasoning_contradicts=True,
    )
    reply = Reply("a", label, True, 1.5, {"think": 3.0}, "one")
    file = tmp_path / "answers.jsonl"
    Answers(file, bundle="one").add(reply)
    assert Answers(file, bundle="one").get("a") == reply


def test_a_line_that_was_cut_is_dropped_and_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    ask_all(guard(by_length), questions(3), concurrency=1, title="", answers=Answers(file, bundle="one"))
    file.write_text(file.read_text()[:-20])
    answers = Answers(file, bundle="one")
    assert [answers.get(f"row {n}") is not None for n in range(3)] == [True, True, False]
    ask_all(guard(by_length), questions(3), concurrency=1, title="", answers=answers)
    reread = Answers(file, bundle="one")
    assert all(reread.get(f"row {n}") for n in range(3))


def test_answers_of_another_bundle_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    ask_all(guard(by_length), questions(1), concurrency=1, title="", answers=Answers(file, bundle="one"))
    assert Answers(file, bundle="two").get("row 0") is None
    assert Answers(file, bundle="one").get("row 0") is not None


def test_what_no_server_answered_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"

    def down(request: GuardRequest) -> Verdict:
        raise Unavailable("down")

    ask_all(guard(down), questions(2), concurrency=1, title="", answers=Answers(file, bundle="one"))
    replies = ask_all(guard(by_length), questions(2), concurrency=1, title="", answers=Answers(file, bundle="one"))
    assert p_of(replies) == pytest.approx([0.01, 0.02])


def test_an_interrupt_keeps_what_was_answered_and_sends_no_more(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    asked: list[str] = []

    def interrupted(request: GuardRequest) -> Verdict:
        asked.append(request.prompt)
        if len(request.prompt) == 3:
            raise KeyboardInterrupt
        return by_length(request)

    with pytest.raises(KeyboardInterrupt):
        ask_all(guard(interrupted), questions(500), concurrency=1, title="", answers=Answers(file, bundle="one"))
    assert len(asked) < 500
    answers = Answers(file, bundle="one")
    assert [answers.get(f"row {n}") is not None for n in range(3)] == [True, True, False]


def test_the_bundle_is_the_one_that_answers() -> None:
    assert bundle_revision(guard(by_length)) == "one"

    def down(request: GuardRequest) -> Verdict:
        raise Unavailable("down")

    with pytest.raises(RuntimeError, match="unavailable"):
        bundle_revision(guard(down))


def test_a_log_gets_a_last_line_with_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(followed(iter("abc"), total=3, title="letters")) == ["a", "b", "c"]
    assert "letters: 3 of 3" in capsys.readouterr().err
