"""The demo's judgement: at most two wrong verdicts, and an error is never a right one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from tritonguard import (
    Example,
    Expected,
    GuardRequest,
    IndeterminateVerdict,
    Label,
    Policy,
    Record,
    Safety,
    Unavailable,
    Verdict,
)
from tritonguard.label import TextLabel
from tritonguard.verdict import decide

from serving.demo import ASKED, MOST_WRONG, POLICIES, conclusion, judge, main, passed
from serving.demo_table import Row, marks, notes, table

P_UNSAFE = {Safety.SAFE: 0.125, Safety.UNSAFE: 0.875, Safety.INDETERMINATE: None, None: None}


def verdict(expected: Expected, **changed: object) -> Verdict:
    """The verdict that is expected, with some fields of its label changed."""
    fields: dict[str, object] = {
        "user_safety": expected.user,
        "response_safety": expected.response,
        "p_unsafe_user": P_UNSAFE[expected.user],
        "p_unsafe_response": P_UNSAFE[expected.response],
        "categories": expected.names or None,
        "flagged_by": expected.flagged_by or (),
        "indeterminate_reason": expected.indeterminate,
        "reasoning": "The user input is unsafe." if expected.reasoning_source else None,
        "reasoning_source": expected.reasoning_source,
    }
    if expected.text_only:
        fields["text_only"] = TextLabel(user_safety=expected.text_only, p_unsafe_user=P_UNSAFE[expected.text_only])
    label = Label.model_validate(fields | changed)
    policy = Policy()
    record = Record(
        contract_version=1,
        request_id="r",
        policy_name=policy.name,
        policy_sha256=policy.sha256,
        judged=expected.judged or (),
        engine="openvino",
    )
    return Verdict(label, decide(label, policy), record)


def wrong_verdict(expected: Expected) -> Verdict:
    other = Safety.SAFE if expected.user is Safety.UNSAFE else Safety.UNSAFE
    return verdict(replace(expected, user=other, indeterminate=None))


def rows(*, wrong: int = 0) -> list[Row]:
    return [
        Row(example, 1.0, wrong_verdict(example.expected) if index < wrong else verdict(example.expected))
        for index, example in enumerate(ASKED)
    ]


def shown(results: Sequence[Row], *, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    console.print(table(results, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("wrong", "expected"), [(0, True), (MOST_WRONG, True), (MOST_WRONG + 1, False), (len(ASKED), False)]
)
def test_all_but_two_must_match(wrong: int, expected: bool) -> None:
    assert MOST_WRONG == 2
    assert passed(rows(wrong=wrong)) is expected
    assert conclusion(rows(wrong=wrong)).plain.startswith("OK" if expected else "FAILED")


@pytest.mark.parametrize("safety", Safety)
def test_a_guard_that_calls_everything_the_same_fails(safety: Safety) -> None:
    reason = "no choices" if safety is Safety.INDETERMINATE else None
    said = Expected(safety, indeterminate=reason)
    with_response = replace(said, response=safety)
    same = [Row(e, 1.0, verdict(with_response if e.response else said)) for e in ASKED]
    assert not passed(same)


def test_examples_that_were_not_asked_do_not_pass() -> None:
    assert not passed(rows()[:-1])
    assert not passed([])


def test_an_error_is_a_wrong_answer_under_its_name() -> None:
    def check(request: GuardRequest) -> Verdict:
        raise Unavailable("gone")

    row = judge(ASKED[0], check)
    assert not row.as_expected
    assert row.said == "error: unavailable"
    assert not passed([judge(example, check) for example in ASKED])


def test_an_indeterminate_verdict_of_the_server_is_read_like_any_other() -> None:
    picture = next(example for example in ASKED if example.image and example.prompt)
    answered = verdict(picture.expected)

    def check(request: GuardRequest) -> Verdict:
        raise IndeterminateVerdict("indeterminate: vision_untrained", verdict=answered)

    assert judge(picture, check).as_expected
    assert not judge(ASKED[0], check).as_expected


def test_an_indeterminate_error_without_its_verdict_is_an_error() -> None:
    def check(request: GuardRequest) -> Verdict:
        raise IndeterminateVerdict("indeterminate")

    row = judge(next(example for example in ASKED if example.image), check)
    assert (row.as_expected, row.said) == (False, "error: indeterminate")


def test_each_example_is_sent_once_with_everything_that_belongs_to_it() -> None:
    sent: list[GuardRequest] = []

    def check(request: GuardRequest) -> Verdict:
        sent.append(request)
        return verdict(Expected(Safety.SAFE))

    for example in ASKED:
        judge(example, check)
    for example, request in zip(ASKED, sent, strict=True):
        assert (request.prompt, request.response, request.mode) == (example.prompt, example.response, example.mode)
        assert (request.policy_name, bool(request.images)) == (example.policy_name, example.image is not None)
        own = example.policy or Policy()
        assert request.policy.model_copy(update={"on_error": own.on_error}) == own
        # An answer that does not come must be seen as one.
        assert request.policy.on_error == "raise" or request.policy_name


def test_the_policies_that_examples_name_are_in_the_folder_that_is_served() -> None:
    names = {example.policy_name for example in ASKED if example.policy_name}
    assert names
    assert all((POLICIES / f"{name}.yaml").is_file() for name in names)


def test_a_wide_terminal_shows_what_is_sent() -> None:
    text = shown(rows(), width=160)
    header = text.splitlines()[0].split()
    assert header == ["id", "lang", "sent", "text", "expected", "verdict", "p_unsafe", "ms", "ok"]
    for part in (
        "image",
        "response",
        "free-text +built-in",
        "inject categories",
        "think",
        "kids-education",
        "(no text)",
    ):
        assert part in text
    assert "(0.125)" in text, "p_unsafe of the texts beside an image"
    assert "0.875/0.125" in text, "p_unsafe of both sides"


@pytest.mark.parametrize("width", [64, 80, 100, 120, 200])
def test_the_table_fits_a_terminal_with_every_verdict_whole(width: int) -> None:
    text = shown(rows(wrong=1), width=width)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    for example in ASKED:
        (line,) = [line for line in lines if line.split()[:1] == [example.id]]
        assert "/".join(side.value for side in example.expected.sides) in line
    assert text.count("NO") == 1


def test_at_80_columns_only_texts_and_languages_are_missing() -> None:
    header = shown(rows(), width=80).splitlines()[0].split()
    assert header == ["id", "sent", "expected", "verdict", "p_unsafe", "ms", "ok"]


def test_a_texts_control_characters_do_not_reach_the_terminal() -> None:
    example = Example("x", "en", "red \x1b[31m alert", Expected(Safety.SAFE), "")
    row = Row(example, 1.0, verdict(example.expected))
    assert "red ·[31m alert" in shown([row], width=120)
    traced = Row(example, 1.0, verdict(Expected(Safety.SAFE, reasoning_source="synthetic"), reasoning="a\x1b[31mb"))
    assert "\x1b" not in "".join(note.plain for note in notes([traced]))


def test_marks_say_what_comes_beside_the_prompt() -> None:
    assert marks(ASKED[0]) == ()
    assert {mark for example in ASKED for mark in marks(example)} == {
        *("image", "response", "categories", "think", "kids-education"),
        *("free-text", "list", "suppress", "inject", "allow-list", "+built-in"),
    }


def test_the_notes_explain_images_and_show_the_trace() -> None:
    told = [note.plain for note in notes(rows())]
    assert len(told) == 2
    assert "vision_untrained" in told[0]
    assert "indeterminate" in told[0]
    assert told[1].startswith("en-think reasoned (source: synthetic")
    assert told[1].endswith("The user input is unsafe.")


def test_the_notes_say_what_differs_where_a_verdict_is_wrong() -> None:
    listed = next(example for example in ASKED if example.expected.names)
    row = Row(listed, 1.0, verdict(listed.expected, categories=("Malware",)))
    (note,) = notes([row])
    assert note.plain == f"{listed.id} is not as expected: categories: Malware"


def test_a_server_that_does_not_start_fails_the_demo_in_words(tmp_path: Path) -> None:
    out = io.StringIO()
    assert main(["--bundle", str(tmp_path)], console=Console(file=out, width=200)) == 1
    assert "no bundle" in out.getvalue()
