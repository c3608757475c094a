from __future__ import annotations

import random
import re
import unicodedata

import fuzz_answers
import pytest
from answer_mutations import MUTATIONS
from answer_oracle import reading
from fuzz_answers import breaks_a_promise, fuzz, grant, is_wrongly_safe, parse
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonguard.answer import MAX_NAMES, ParsedAnswer, UnreadableAnswer, parse_answer
from tritonguard.label import Safety
from tritonguard.request import Mode
from valid_answers import BUILT_IN, build

SAFE, UNSAFE = Safety.SAFE, Safety.UNSAFE


def read(
    text: str, mode: Mode = Mode.VERDICT, *, has_response: bool = False, names: tuple[str, ...] | None = BUILT_IN
) -> ParsedAnswer:
    return parse_answer(text, mode=mode, has_response=has_response, names=names)


def refusal(
    text: str, mode: Mode = Mode.VERDICT, *, has_response: bool = False, names: tuple[str, ...] | None = BUILT_IN
) -> str:
    with pytest.raises(UnreadableAnswer) as refused:
        read(text, mode, has_response=has_response, names=names)
    assert str(refused.value) == refused.value.reason
    return refused.value.reason


# What an answer is.


def test_a_verdict_on_a_prompt() -> None:
    assert read("User Safety: unsafe") == ParsedAnswer(UNSAFE, None, None, None)


def test_a_verdict_on_a_prompt_and_its_response() -> None:
    text = "User Safety: unsafe\nResponse Safety: safe\n"
    assert read(text, has_response=True) == ParsedAnswer(UNSAFE, SAFE, None, None)


def test_categories_come_in_the_spelling_of_the_policy() -> None:
    text = "User Safety: unsafe\nSafety Categories: guns and  illegal weapons,SEXUAL (MINOR), PII/Privacy"
    named = ("Guns and Illegal Weapons", "Sexual (minor)", "PII/Privacy")
    assert read(text, Mode.CATEGORIES).categories == named


def test_a_policy_of_free_text_takes_any_names() -> None:
    text = "User Safety: safe\nResponse Safety: unsafe\nSafety Categories: Trade Secret Leak, S1: Straße"
    parsed = read(text, Mode.CATEGORIES, has_response=True, names=None)
    assert parsed.categories == ("Trade Secret Leak", "S1: Straße")


def test_categories_are_none_only_where_they_were_not_asked_for() -> None:
    assert read("User Safety: safe", Mode.CATEGORIES).categories == ()
    assert read("User Safety: safe", Mode.VERDICT).categories is None


def test_an_unsafe_answer_without_its_categories_is_still_unsafe() -> None:
    assert read("User Safety: unsafe", Mode.CATEGORIES) == ParsedAnswer(UNSAFE, None, (), None)


def test_only_what_stands_behind_the_reasoning_is_read() -> None:
    text = "<think>\nUser Safety: safe\nso it is safe.\n</think>User Safety: unsafe\nResponse Safety: safe<end_of_turn>"
    parsed = read(text, Mode.THINK, has_response=True)
    assert parsed == ParsedAnswer(UNSAFE, SAFE, None, "User Safety: safe\nso it is safe.")


def test_an_empty_trace_is_no_reasoning() -> None:
    assert read("<think>\n\n</think>\nUser Safety: safe", Mode.THINK).reasoning is None


# What it is not.


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no verdict"),
        (" \n<end_of_turn>", "there is no verdict"),
        ("User Safety: saf", "User Safety is neither safe nor unsafe"),
        ("User Safety: indeterminate", "User Safety is neither safe nor unsafe"),
        ("User Safety: safe or unsafe", "User Safety is neither safe nor unsafe"),
        ("User Safety", "a line is no part of an answer"),
        ("User Safety: safe\nI am sure.", "a line is no part of an answer"),
        ("User Safety: safe\n\nUser Safety: safe", "a line is no part of an answer"),
        ("User Safety: safe\nuser safety: unsafe", "User Safety is given twice"),
        ("User Safety: safe\nResponse Safety: safe", "Response Safety is given without a response"),
        ("User Safety: safe\nSafety Categories: Violence", "Safety Categories is given unasked"),
        ("<think>x</think>User Safety: safe", "reasoning is given unasked"),
        ("User Safety: safe\ud800", "the answer is not UTF-8 text"),
    ],
)
def test_why_a_verdict_is_refused(text: str, reason: str) -> None:
    assert refusal(text) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("User Safety: safe", "Response Safety is missing"),
        ("Response Safety: safe", "User Safety is missing"),
        ("Response Safety: safe\nUser Safety: safe", "the lines are out of order"),
    ],
)
def test_why_a_verdict_on_a_response_is_refused(text: str, reason: str) -> None:
    assert refusal(text, has_response=True) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("User Safety: safe", "the answer does not begin with its reasoning"),
        ("So <think>x</think>User Safety: safe", "the answer does not begin with its reasoning"),
        ("<think>\nUser Safety: safe", "the reasoning was cut off"),
        ("<think>\nUser Safety: safe</think>", "there is no verdict"),
        ("<think>a</think><think>b</think>User Safety: safe", "the reasoning is marked more than once"),
        ("<think>a</think>b</think>User Safety: safe", "the reasoning is marked more than once"),
    ],
)
def test_why_reasoning_is_refused(text: str, reason: str) -> None:
    assert refusal(text, Mode.THINK) == reason


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("", "a category has no name"),
        ("Violence,", "a category has no name"),
        ("Violence, violence", "a category is given twice"),
        ("Violence, Kindness", "a category is unknown"),
        ("Violence; Threat", "a category is unknown"),
        ("\u017fexual\u200b", "a category is unknown"),
    ],
)
def test_why_categories_are_refused(listed: str, reason: str) -> None:
    assert refusal(f"User Safety: unsafe\nSafety Categories: {listed}", Mode.CATEGORIES) == reason


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        (", ".join(str(number) for number in range(MAX_NAMES + 1)), "there are too many categories"),
        ("x" * 129, "a category's name is too long"),
        ("Vio\u2028lence", "a category's name is not printable"),
        ("Vio\x00lence", "a category's name is not printable"),
        ("Violence User Safety: safe", "a category's name holds a key of the answer"),
    ],
)
def test_why_free_names_are_refused(listed: str, reason: str) -> None:
    assert refusal(f"User Safety: unsafe\nSafety Categories: {listed}", Mode.CATEGORIES, names=None) == reason


def test_categories_of_an_all_safe_answer_contradict_it() -> None:
    text = "User Safety: safe\nSafety Categories: Violence"
    assert refusal(text, Mode.CATEGORIES) == "Safety Categories is given though all is safe"


def test_a_policy_without_names_allows_none() -> None:
    assert (
        refusal("User Safety: unsafe\nSafety Categories: Violence", Mode.CATEGORIES, names=())
        == "a category is unknown"
    )


def test_a_cut_answer_never_becomes_safer() -> None:
    rng = random.Random(1)
    for _ in range(60):
        answer = build(rng)
        for end in range(len(answer.text)):
            parsed = parse(answer, answer.text[:end])
            assert parsed is None or (parsed.user, parsed.response) == (answer.user, answer.response)


def test_no_character_stands_for_a_letter_of_the_verdict() -> None:
    text = "User Safety: safe"
    folds: dict[str, list[str]] = {}
    for code in range(0x80, 0x20000):  # beyond are no letters that fold to Latin ones
        character = chr(code)
        for form in {character.lower(), character.casefold(), unicodedata.normalize("NFKC", character)}:
            folds.setdefault(form.lower(), []).append(character)
    tried = 0
    for at, letter in enumerate(text):
        for character in folds.get(letter.lower(), []):
            refusal(text[:at] + character + text[at + 1 :])
            tried += 1
    assert tried > 200


# Damaged answers.


def test_the_ways_of_damaging_are_many() -> None:
    assert len(MUTATIONS) >= 24


@given(st.randoms(use_true_random=False), st.sampled_from(sorted(MUTATIONS)))
@settings(max_examples=600)
def test_a_damaged_answer_is_never_wrongly_safe(rng: random.Random, name: str) -> None:
    effect, change = MUTATIONS[name]
    answer = build(rng)
    text = change(answer, rng)
    if text is None:
        return
    parsed, granted = parse(answer, text), grant(answer, text)
    assert not is_wrongly_safe(answer, effect, parsed, granted)
    assert not breaks_a_promise(answer, effect, parsed, granted)


@given(st.text(alphabet="User Safety:Responsaf\nun \tCgio,<think>/", max_size=60), st.sampled_from(Mode), st.booleans())
def test_any_text_is_read_as_the_oracle_reads_it(text: str, mode: Mode, has_response: bool) -> None:
    granted = reading(text, mode=mode.value, has_response=has_response, names=BUILT_IN)
    try:
        parsed = read(text, mode, has_response=has_response)
    except UnreadableAnswer:
        assert granted is None
    else:
        assert granted == fuzz_answers.sides(parsed)


def test_five_thousand_damaged_answers() -> None:
    tallies = fuzz(5000, seed=5)
    assert {name: tally.example for name, tally in tallies.items() if tally.example} == {}
    assert sum(tally.made for tally in tallies.values()) == 5000
    for name in ("nothing", "change_case", "change_blanks"):
        assert tallies[name].read == tallies[name].made


def test_the_judges_see_what_a_parser_does_that_searches_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def searches(text: str, *, mode: Mode, has_response: bool, names: object) -> ParsedAnswer:
        behind = text.split("</think>")[-1]
        found = [
            re.search(rf"^\s*{key} Safety\s*:\s*(safe|unsafe)\b", behind, re.IGNORECASE | re.MULTILINE)
            for key in ("User", "Response")
        ]
        if not found[0] or (has_response and not found[1]):
            raise UnreadableAnswer("not found")
        said = [Safety(match[1].casefold()) if match else None for match in found]
        return ParsedAnswer(said[0] or UNSAFE, said[1] if has_response else None, (), None)

    monkeypatch.setattr(fuzz_answers, "parse_answer", searches)
    tallies = fuzz(5000, seed=5)
    assert len([name for name, tally in tallies.items() if tally.wrongly_safe]) >= 20
