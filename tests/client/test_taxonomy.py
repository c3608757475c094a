from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonguard.taxonomy import CATEGORIES, SEXUAL_MINOR, Category, normalise, prompt_lines


def test_codes_run_from_s1_to_s24() -> None:
    assert [category.code for category in CATEGORIES] == [f"S{number}" for number in range(1, 25)]


def test_groups_have_the_published_sizes() -> None:
    groups = [category.group for category in CATEGORIES]
    assert groups == ["core"] * 13 + ["fine_grained"] * 10 + ["economic"]


def test_prompt_lines_are_the_prompts() -> None:
    lines = prompt_lines().split("\n")
    assert len(lines) == 24
    assert lines[0] == "S1: Violence."
    assert lines[6] == "S7: Sexual (minor)."
    assert lines[17] == "S18: High Risk Gov Decision Making."
    assert lines[23] == "S24: Economic Harm."


SPELLINGS = [(category, text) for category in CATEGORIES for text in (category.code, category.name, *category.aliases)]


@given(st.sampled_from(SPELLINGS), st.sampled_from([str.upper, str.lower, str.title, str]), st.text(" .,;:!\t"))
def test_case_and_punctuation_do_not_matter(spelling: tuple[Category, str], change: type[str], around: str) -> None:
    category, text = spelling
    assert normalise(around + change(text) + around) is category


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Guns/Illegal Weapons", "S4"),
        ("Sexual Minor", "S7"),
        ("High Risk Gov. Decision Making", "S18"),
        ("Controlled Substances", "S5"),
        ("Controlled/Regulated substances", "S5"),
        ("Political/Misinformation/Conspiracy", "S19"),
        ("S9: PII/Privacy.", "S9"),
        ("s22", "S22"),
    ],
)
def test_spellings_of_the_field_are_known(text: str, code: str) -> None:
    found = normalise(text)
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize("text", ["", "Trade Secret Leak", "S25", "S0", "S1: Malware", "Violence Malware", "S"])
def test_what_is_not_ours_is_unknown(text: str) -> None:
    assert normalise(text) is None


def test_sexual_and_sexual_minor_stay_apart() -> None:
    assert normalise("Sexual") is not SEXUAL_MINOR
    assert SEXUAL_MINOR.code == "S7"
