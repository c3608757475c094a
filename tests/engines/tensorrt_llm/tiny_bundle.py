"""Bundles for TensorRT-LLM over a tiny random checkpoint, with a tokenizer of one word a token.

Two vocabularies. NARROW is as many tokens as the engine asks the package for (K = 20), so all of it is known at each
place and an answer must equal the definition's. WIDE is larger: at many places something is not known.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tiny_checkpoint import IMAGE_TOKENS, VISION, tiny_config, write_checkpoint

from engines.bundle import Bundle
from engines.manifest import write_manifest
from engines.program import Choice, Forced, FreeText, NameList, Program
from engines.tensorrt_llm.engine_config import EngineConfig

PAD, EOS, BOS, END, SAFE, UNSAFE, COMMA, IMAGE_MARK, IMAGE_END, UPPER = range(10)
FIRST_WORD = UPPER + 1
NARROW, WIDE = 20, 96
MAX_TOKENS = 512
_NAMED = ("<pad>", "<eos>", "<bos>", "<end_of_turn>", "safe", "unsafe", ",", "<start_of_image>", "<end_of_image>")
_SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}

USER, RESPONSE = Choice("user", SAFE, UNSAFE), Choice("response", SAFE, UNSAFE)
HEAD, BETWEEN, LIST_HEAD, THINK_HEAD, THINK_END = (10, 11), (12, 11), (13, 11), (14, 12), (15, 14)
VERDICT = Program((Forced(HEAD), USER))
PAIR = Program((*VERDICT.segments, Forced(BETWEEN), RESPONSE))
SHAPES = {
    "disjoint": ((16,), (17, 18), (19,)),
    "shared": ((16, 17, 18), (16, 17, 19), (16, 14), (13,)),
    "prefix": ((16,), (16, 17), (18,)),
    "single": ((16, 17),),
    "many": ((16, 16), (16, 17), (17, 16), (17, 17), (18,), (19, 18), (19, 19), (14, 14, 14)),
}
"""Allowed names, by how their trie looks."""


@dataclass(frozen=True)
class Tiny:
    """A bundle's folder, and prompts and programs in its tokens (`conformance.Words`)."""

    folder: Path
    vocabulary: int

    @property
    def image_token(self) -> int:
        return self.vocabulary

    def ids(
        self, length: int, *, seed: int = 0, images: int = 0, program: Program | None = None
    ) -> npt.NDArray[np.int32]:
        """A random prompt that begins with `<bos>`; images stand behind the first word of it."""
        words = np.random.default_rng(seed).integers(FIRST_WORD, self.vocabulary, length - 1).tolist()
        marks = [IMAGE_MARK, *[self.image_token] * IMAGE_TOKENS, IMAGE_END] * images
        return np.array([BOS, *words[:1], *marks, *words[1:]], np.int32)

    def pixels(self, images: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
        size = VISION["image_size"]
        return np.random.default_rng(seed).integers(0, 256, (images, size, size, 3)).astype(np.uint8)

    @property
    def verdict(self) -> Program:
        return VERDICT

    @property
    def pair(self) -> Program:
        return PAIR

    def names(self, shape: str, *, most: int = 24, pair: bool = False) -> Program:
        names = NameList(LIST_HEAD, SHAPES[shape], (COMMA,), END, most)
        return Program((*(PAIR if pair else VERDICT).segments, names))

    def line(self, most: int) -> Program:
        return Program((*VERDICT.segments, NameList(LIST_HEAD, None, (COMMA,), END, most)))

    def thinking(self, budget: int, *, pair: bool = False, without: frozenset[int] = frozenset()) -> Program:
        text = FreeText(budget, THINK_END, END, without)
        return Program((Forced(THINK_HEAD), text, *(PAIR if pair else VERDICT).segments))

    def bundle(self) -> Bundle:
        return Bundle.open(self.folder)


_TALKATIVE = {"query_pre_attn_scalar": 0.25}
"""Sharp attention: random weights then say something else behind each prompt."""


def write_tiny(folder: Path, vocabulary: int, *, max_tokens: int = MAX_TOKENS) -> Tiny:
    """The checkpoint, its tokenizer and all that makes it a bundle."""
    write_checkpoint(folder, tiny_config(vocab_size=vocabulary, **_TALKATIVE), seed=7)
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(vocabulary)))
    # The end of the text is not the tokenizer's own: in what circulates of Gemma's files that is the end of a turn.
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": "<end_of_turn>"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, END]}))
    warm_up = {"ids": [BOS], "prefix_length": 0, "answer": "{}"}
    known = {"encoded": {}, "decoded": [], "end": END, "warm_up": warm_up}
    (folder / "answers.json").write_text(json.dumps(known))
    EngineConfig.for_profile("bf16", max_tokens).write(folder)
    seal(folder, max_tokens=max_tokens)
    return Tiny(folder, vocabulary)


def seal(folder: Path, *, max_tokens: int = MAX_TOKENS) -> None:
    """Write the manifest, once more where a test has changed a file."""
    write_manifest(
        folder,
        kind="bundle",
        inputs={"checkpoint_revision": "0" * 64},
        target="tensorrt-llm",
        precision="bf16",
        capabilities={
            "segments": ["Choice", "Forced", "FreeText", "NameList"],
            "choices": 2,
            "vision": "trained",
            "max_tokens": max_tokens,
        },
        hardware=None,
        warmed=False,
    )


def _tokenizer(vocabulary: int) -> dict[str, Any]:
    """tokenizer.json. The token UPPER is written "W"; tokenised, its text is the word behind it."""
    words = [*_NAMED, "W", "w", *(f"w{id}" for id in range(FIRST_WORD, vocabulary))]
    added = [*(name for name in _NAMED if name.startswith("<")), "<image_soft_token>"]
    ids = {word: id for id, word in enumerate(words[:vocabulary])} | {"<image_soft_token>": vocabulary}
    return {
        "version": "1.0",
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "added_tokens": [{**_SPECIAL, "id": ids[name], "content": name} for name in added],
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<pad>"},
    }
