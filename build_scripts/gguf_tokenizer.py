"""A `tokenizers` tokenizer from a Gemma GGUF's own vocabulary.

The converters that read `tokenizer.ggml.*` as a generic SentencePiece model lose Gemma's merges and
split " safe" into two pieces, so that a guard reads text it was never trained on. The BPE model here
is rebuilt from the vocabulary itself: a merge exists for every way to split a piece into two pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
IMAGE_SOFT_TOKEN = "<image_soft_token>"
# The file types these as user-defined, like runs of spaces; the published tokenizer makes them special.
IMAGE_MARKS = frozenset({"<start_of_image>", "<end_of_image>", "[multimodal]"})
SPACE = "▁"


@dataclass(frozen=True)
class Vocabulary:
    """pieces[i] is the text of token i (spaces written as U+2581); kinds[i] its GGUF token type."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]

    @classmethod
    def read(cls, reader: GGUFReader) -> Vocabulary:
        tokens, scores, kinds = (
            reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type")
        )
        return cls(tuple(token.replace(" ", SPACE) for token in tokens), tuple(scores), tuple(kinds))


def build_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Tokenizer with Gemma 3's ids; `<bos>` is added by `encode` unless `add_special_tokens=False`."""
    ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=[(vocabulary.pieces[left], vocabulary.pieces[right]) for left, right in _merges(vocabulary, ids)],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", ids["<bos>"])]
    )
    tokenizer.add_tokens(list(_added_tokens(vocabulary)))
    return tokenizer


def _added_tokens(vocabulary: Vocabulary) -> Iterator[AddedToken]:
    for piece, kind in zip(vocabulary.pieces, vocabulary.kinds, strict=True):
        if kind in (CONTROL, USER_DEFINED):
            special = kind == CONTROL or piece in IMAGE_MARKS
            yield AddedToken(piece, normalized=False, special=special)
    yield AddedToken(IMAGE_SOFT_TOKEN, normalized=False, special=True)


def _merges(vocabulary: Vocabulary, ids: dict[str, int]) -> Sequence[tuple[int, int]]:
    """Pairs (left id, right id) in rank order: user-defined pieces by falling length, then by falling score."""
    ranked: list[tuple[tuple[int, float, int, int], tuple[int, int]]] = []
    for piece, score, kind in zip(vocabulary.pieces, vocabulary.scores, vocabulary.kinds, strict=True):
        if kind not in (NORMAL, USER_DEFINED):
            continue
        first, order = (0, -float(len(piece))) if kind == USER_DEFINED else (1, -score)
        for cut in range(1, len(piece)):
            left, right = ids.get(piece[:cut]), ids.get(piece[cut:])
            if left is not None and right is not None:
                ranked.append(((first, order, left, right), (left, right)))
    return [pair for _, pair in sorted(ranked)]
