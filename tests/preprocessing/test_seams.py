"""The kept ids of a prompt's ends: the same ids as without them, whatever the text, and none where that is not sure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from tritonguard.policy import CustomCategory, Policy
from tritonguard.policy_parts import parts_of
from tritonguard.request import GuardRequest, Mode

from preprocessing.prompt import PromptBuilder, template_arguments
from preprocessing.seams import cuts_at_newlines, shared_ends

PIECES = [
    "\n",
    "\n\n",
    " ",
    "\t",
    "\r",
    "\u2028",
    "<",
    ">",
    "[",
    "]",
    "a",
    "1",
    ".",
    "user: ",
    "<END CONVERSATION>",
    "é",
]
PIECES += ["<end_of_turn>", "<bos>", "<start_of_image>", "<|", "\ue000", "\ue001", "\u2581", "中", "\U0001f600"]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join), st.text(min_size=1, max_size=40)
).filter(lambda text: bool(text.strip()))
POLICIES = [
    Policy(),
    Policy(name="free", custom_policy="Nothing about ships.\n\n"),
    Policy(name="free", custom_policy="<BEGIN CONVERSATION>"),
    Policy(name="list", custom_taxonomy=(CustomCategory(name="Ships", definition="about\nships"),)),
    Policy(name="less", suppress=("S12",)),
]
SHARED = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


def whole(builder: PromptBuilder, request: GuardRequest) -> list[int]:
    """The ids of the whole text, tokenised at once."""
    (part,) = parts_of(request.policy)
    return builder.tokens(request.prompt, request.response, template_arguments(request.mode, part))


@SHARED
@given(
    prompt=TEXTS,
    response=st.none() | TEXTS,
    policy=st.sampled_from(POLICIES),
    mode=st.sampled_from(list(Mode)),
)
def test_kept_ends_change_no_token(
    builder: PromptBuilder, prompt: str, response: str | None, policy: Policy, mode: Mode
) -> None:
    request = GuardRequest(prompt=prompt, response=response, policy=policy, mode=mode)
    (part,) = parts_of(policy)
    assert builder.build(request, part).ids.tolist() == whole(builder, request)


def test_only_what_is_not_kept_is_tokenised_again(builder: PromptBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    request = GuardRequest(prompt="Where can I buy fresh bread?")
    expected = builder.build(request).ids.tolist()
    read: list[str] = []
    encode = builder.encode_text
    monkeypatch.setattr(builder, "encode_text", lambda text: read.append(text) or encode(text))
    assert builder.build(request).ids.tolist() == expected == whole(builder, request)
    assert read[0] == "user: Where can I buy fresh bread?\n"


@pytest.mark.parametrize(
    ("texts", "ends"),
    [
        (["a\nb x c\nd", "a\nb y c\nd"], ("a\n", "\nd")),
        (["a\nb x", "a\nb y"], ("a\n", "")),
        (["a\nx\nd", "a\ny\nd"], ("a", "d")),  # what comes behind the newline is not shared: it may be another newline
        (["a\n\nb x\n\nd", "a\n\nb y\n\nd"], ("a\n\n", "d")),
        (["a x", "a y"], ("", "")),
        (["same", "same"], ("", "")),
    ],
)
def test_ends_are_cut_where_both_sides_are_shared(texts: list[str], ends: tuple[str, str]) -> None:
    assert shared_ends(texts) == ends


def tokenizer(*more: str, added: tuple[AddedToken, ...] = (), **model: Any) -> Tokenizer:
    """Characters, and pieces of two of them."""
    pieces = ["<unk>", "\n", "▁", *"abc", *more]
    merges = [(piece[0], piece[1]) for piece in more if len(piece) == 2]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", **model))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.add_tokens(list(added))
    made.encode_special_tokens = True
    return made


def test_a_tokenizer_like_gemma_s_is_cut() -> None:
    assert cuts_at_newlines(tokenizer("ab", "\n\n", added=(AddedToken("\n\n\n", normalized=False),)))


@pytest.mark.parametrize(
    "other",
    [
        tokenizer("a\n"),
        tokenizer("\na"),
        tokenizer(added=(AddedToken("a\n"),)),
        tokenizer(added=(AddedToken("c", rstrip=True),)),
        tokenizer(added=(AddedToken("ca", single_word=True),)),
        tokenizer(ignore_merges=True),
        tokenizer(dropout=0.1),
        tokenizer(end_of_word_suffix="</w>"),
        Tokenizer(models.WordLevel({"<unk>": 0, "\n": 1}, "<unk>")),
    ],
)
def test_one_that_might_look_across_is_not(other: Tokenizer) -> None:
    other.encode_special_tokens = True
    assert not cuts_at_newlines(other)


@pytest.mark.parametrize(
    ("part", "step"),
    [
        ("normalizer", normalizers.NFKC()),
        ("normalizer", normalizers.Replace("\n", " ")),
        ("normalizer", normalizers.Strip()),
        ("pre_tokenizer", pre_tokenizers.ByteLevel()),
        ("pre_tokenizer", pre_tokenizers.Split("\n", "merged_with_next")),
    ],
)
def test_nor_one_whose_steps_before_might(part: str, step: Any) -> None:
    other = tokenizer()
    setattr(other, part, step)
    assert not cuts_at_newlines(other)


def test_the_embedded_tokenizer_is_cut(builder: PromptBuilder) -> None:
    assert cuts_at_newlines(builder.tokenizer)
    assert isinstance(builder.folder, Path)
