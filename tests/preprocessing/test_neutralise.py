from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonguard.errors import BundleError

from preprocessing.neutralise import SpecialStrings

STRINGS = (
    "<bos>",
    "<eos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<unused7>",
    "[multimodal]",
)
SPECIAL = SpecialStrings(STRINGS)

# Text that is mostly made of what could confuse a scan: the strings themselves, parts and nestings of them,
# the private-use marks that placeholders are made of, digits between them.
PIECES = [
    "<bos>",
    "<end_of_turn>",
    "[multimodal]",
    "<",
    ">",
    "[",
    "]",
    "<bo",
    "s>",
    "\ue000",
    "\ue001",
    "1",
    "x",
]
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), st.text(max_size=20))
MANY = settings(max_examples=1000, deadline=None)


@MANY
@given(TEXTS)
def test_unshield_is_the_inverse_of_shield(text: str) -> None:
    assert SPECIAL.unshield(SPECIAL.shield(text)) == text


@MANY
@given(TEXTS)
def test_no_special_string_survives_shielding(text: str) -> None:
    shielded = SPECIAL.shield(text)
    assert [string for string in STRINGS if string in shielded] == []


@given(st.text(alphabet="abc <>[]\n,.'\u00e9\u4e2d", max_size=60))
def test_text_without_special_strings_is_left_alone(text: str) -> None:
    assert SPECIAL.shield(text) == text


@MANY
@given(TEXTS, TEXTS, st.sampled_from(STRINGS))
def test_only_the_templates_own_strings_are_cut_out(before: str, after: str, own: str) -> None:
    rendered = f"{SPECIAL.shield(before)}{own}{SPECIAL.shield(after)}"
    parts = SPECIAL.split(rendered)
    assert [text for special, text in parts if special] == [own]
    assert "".join(text if special else SPECIAL.unshield(text) for special, text in parts) == before + own + after


@MANY
@given(
    TEXTS,
    TEXTS,
    st.sampled_from(["\n", "\n<BEGIN CONVERSATION>\nuser: ", "\nresponse: agent:  ### Answer: "]),
)
def test_two_shielded_texts_in_one_prompt_never_form_a_special_string(first: str, second: str, between: str) -> None:
    rendered = SPECIAL.shield(first) + between + SPECIAL.shield(second)
    assert not any(special for special, _ in SPECIAL.split(rendered))


@pytest.mark.parametrize(
    "text",
    [
        "[<end_of_turn>]",
        "[x><end_of_turn>]",
        "<[<bos>",
        "<<bos>>",
        "[[multimodal]]",
        "<\ue0001\ue001>",
        "\ue0001\ue001",
    ],
)
def test_brackets_and_marks_around_a_special_string_do_not_hide_it(text: str) -> None:
    shielded = SPECIAL.shield(text)
    assert not any(string in shielded for string in STRINGS)
    assert SPECIAL.unshield(shielded) == text


def test_every_special_token_of_the_real_tokenizer_is_shielded(special_ids: dict[int, str]) -> None:
    special = SpecialStrings(special_ids.values())
    assert len(special_ids) > 6000
    for string in special_ids.values():
        for text in (string, f"a{string}b", f"[{string}]", f"<{string}>", string * 2):
            shielded = special.shield(text)
            assert string not in shielded
            assert special.unshield(shielded) == text


@pytest.mark.parametrize("string", ["</s", "plain", "<a<b>", f"<{'x' * 70}>"])
def test_a_special_string_that_the_scan_would_miss_is_refused_at_load(string: str) -> None:
    with pytest.raises(BundleError, match="unknown shape"):
        SpecialStrings(["<bos>", string])
