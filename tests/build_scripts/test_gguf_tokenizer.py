"""tokenizer.json of the embedded checkpoint, against ids in tests/data/tokenizer_golden.jsonl.

The ids come from a build that agreed with Gemma 3's published tokenizer on a larger set of texts.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from build_scripts.gguf_tokenizer import CONTROL, NORMAL, USER_DEFINED, Vocabulary, build_tokenizer

GOLDEN = Path(__file__).parents[1] / "data" / "tokenizer_golden.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
LANGUAGES = {"en", "de", "fr", "es", "it", "pt", "ru", "ar", "hi", "zh", "ja", "ko", "hard"}


@pytest.fixture(scope="module")
def tokenizer(base_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(base_folder / "tokenizer.json"))


def test_the_golden_file_covers_every_language_and_the_hard_cases() -> None:
    counts = Counter(row["language"] for row in ROWS)
    assert set(counts) == LANGUAGES
    assert min(counts.values()) >= 5
    assert len(ROWS) >= 60


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_ids_equal_the_golden_ones(tokenizer: Tokenizer, language: str) -> None:
    for row in ROWS:
        if row["language"] == language:
            assert tokenizer.encode(row["text"]).ids == row["ids"], row["text"]


def test_plain_text_comes_back_by_decoding(tokenizer: Tokenizer) -> None:
    for row in ROWS:
        if "\u2581" not in row["text"]:  # stands for a space in the vocabulary, so it decodes to one
            assert tokenizer.decode(row["ids"][1:], skip_special_tokens=False) == row["text"]


@pytest.mark.parametrize(
    ("token", "index"),
    [
        ("<pad>", 0),
        ("<eos>", 1),
        ("<bos>", 2),
        ("<unk>", 3),
        ("<start_of_turn>", 105),
        ("<end_of_turn>", 106),
        ("\n", 107),
        ("\u2581safe", 6338),
        ("\u2581unsafe", 25793),
        ("<start_of_image>", 255999),
        ("<end_of_image>", 256000),
        ("<image_soft_token>", 262144),
    ],
)
def test_tokens_that_the_guard_relies_on_have_gemmas_ids(tokenizer: Tokenizer, token: str, index: int) -> None:
    assert tokenizer.token_to_id(token) == index


def small_vocabulary() -> Vocabulary:
    pieces = ["<pad>", "<bos>", "<unk>", "a", "b", "ab", "abab", "\u2581", "\u2581\u2581", "\u2581a"]
    pieces += ["<turn>", *(f"<0x{byte:02X}>" for byte in range(256))]
    control = {"<pad>", "<bos>", "<unk>", "<turn>"}
    kinds = [CONTROL if piece in control else 6 if piece.startswith("<0x") else NORMAL for piece in pieces]
    kinds[pieces.index("\u2581\u2581")] = USER_DEFINED
    return Vocabulary(tuple(pieces), tuple(-float(index) for index in range(len(pieces))), tuple(kinds))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("abab", ["<bos>", "abab"]),
        ("aab", ["<bos>", "a", "ab"]),
        ("a  b", ["<bos>", "a", "\u2581\u2581", "b"]),
        ("b a", ["<bos>", "b", "\u2581a"]),
        ("\u00e9", ["<bos>", "<0xC3>", "<0xA9>"]),
        ("a<turn>b", ["<bos>", "a", "<turn>", "b"]),
    ],
    ids=["longest", "left rest", "whitespace run", "space joins", "byte fallback", "control token"],
)
def test_a_tokenizer_is_rebuilt_from_the_vocabulary_alone(text: str, pieces: list[str]) -> None:
    assert build_tokenizer(small_vocabulary()).encode(text).tokens == pieces
