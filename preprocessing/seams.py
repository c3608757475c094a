"""Where a text can be cut so that its parts have, one after another, the tokens of the whole.

Most of a prompt is the same for every request under a policy. Its tokens can be kept only if the text beside them
can't change them, so a cut is made beside a newline, and only with a tokenizer that never looks across: Gemma's, where
a token with a newline in it holds nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from tokenizers import Tokenizer
from tokenizers.models import BPE

_NEWLINE = "\n"
_LOCAL = ("Replace", "Split")
T = TypeVar("T")


def cuts_at_newlines(tokenizer: Tokenizer) -> bool:
    """Whether the tokens of a text are those of its two parts, wherever it is cut between a newline and another
    character. False where that is not known. Special tokens must be encoded as text (`encode_special_tokens`).

    BPE joins two neighbours where the vocabulary has the joint piece, so no piece may reach over the cut. Neither may
    an added token, nor what comes before BPE, which here only replaces or splits at a text without a newline.
    """
    model = tokenizer.model
    if not isinstance(model, BPE) or model.dropout or model.ignore_merges:
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix or not tokenizer.encode_special_tokens:
        return False
    if not all(map(_is_local, (tokenizer.normalizer, tokenizer.pre_tokenizer))):
        return False
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip or token.single_word for token in added if not token.special):
        return False
    pieces = tokenizer.get_vocab()
    return _NEWLINE in pieces and not any(_NEWLINE in piece and piece.strip(_NEWLINE) for piece in pieces)


def _is_local(step: Any) -> bool:
    """Whether a normaliser or pre-tokenizer does nothing, or the same to a text wherever it stands."""
    if step is None:
        return True
    told = json.loads(step.__getstate__())
    pattern = told.get("pattern", {}).get("String", "")
    return told["type"] in _LOCAL and bool(pattern) and _NEWLINE not in pattern + told.get("content", "")


def shared_ends(texts: Sequence[str]) -> tuple[str, str]:
    """(head, tail): what all the texts begin and end with, each cut back to a seam of its own; "" where it has none.

    The character behind the head and the one before the tail are shared too, so that both are seams of every text.
    """
    head = "".join(common_prefix(texts))
    tail = "".join(common_prefix([text[::-1] for text in texts]))[::-1]
    begins = next((at for at in range(len(head) - 1, 0, -1) if is_seam(head, at)), 0)
    ends = next((at for at in range(1, len(tail)) if is_seam(tail, at)), len(tail))
    return head[:begins], tail[ends:]


def is_seam(text: str, at: int) -> bool:
    """Whether exactly one of the two characters at this cut is a newline; 0 < at < len(text)."""
    return (text[at - 1] == _NEWLINE) != (text[at] == _NEWLINE)


def common_prefix(sequences: Sequence[Sequence[T]]) -> list[T]:
    shared: list[T] = []
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared
