"""The answer's program: forced text, choices in order, nothing else."""

from __future__ import annotations

import pytest
from tritonguard.errors import BundleError
from tritonguard.request import Mode

from engines.program import Choice, Forced, FreeText, NameList, Program, program_for

END = 106


def encode(text: str) -> list[int]:
    return [{" safe": 1, " unsafe": 2}[text]] if text in (" safe", " unsafe") else [ord(letter) for letter in text]


def kinds(mode: Mode, *, has_response: bool) -> list[type]:
    return [type(segment) for segment in program(mode, has_response=has_response).segments]


def program(mode: Mode, *, has_response: bool) -> Program:
    return program_for(mode, has_response=has_response, encode=encode, end=END)


def test_a_verdict_is_one_forced_head_and_one_choice() -> None:
    verdict = program(Mode.VERDICT, has_response=False)
    assert verdict.segments == (Forced(tuple(encode("User Safety:"))), Choice("user", 1, 2))


def test_a_response_adds_its_own_choice() -> None:
    assert kinds(Mode.VERDICT, has_response=True) == [Forced, Choice, Forced, Choice]


def test_categories_and_think_wrap_the_same_verdict() -> None:
    assert kinds(Mode.CATEGORIES, has_response=False) == [Forced, Choice, NameList]
    assert kinds(Mode.THINK, has_response=False) == [Forced, FreeText, Forced, Choice]


def test_a_list_holds_the_names_that_the_policy_allows_and_none_for_free_text() -> None:
    asked = program_for(Mode.CATEGORIES, has_response=False, encode=encode, end=END, names=("A", "Bc"))
    names = asked.segments[-1]
    assert isinstance(names, NameList)
    assert names.items == (tuple(encode(" A")), tuple(encode(" Bc")))
    free = program_for(Mode.CATEGORIES, has_response=False, encode=encode, end=END, names=None).segments[-1]
    assert isinstance(free, NameList)
    assert free.items is None


def test_a_tokenizer_that_splits_a_choice_is_refused() -> None:
    with pytest.raises(BundleError, match="splits"):
        program_for(Mode.VERDICT, has_response=False, encode=lambda text: [1, 2], end=END)
