"""The image marks of a rendered prompt, written out as Gemma 3 reads them.

The chat template writes one `<start_of_image>` for an image. The model expects a block in its place: an empty
line, that mark, N soft tokens (each is replaced by a feature of the vision tower), `<end_of_image>`, an empty
line. N is `mm_tokens_per_image` of config.json.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tritonguard.errors import BundleError, Unimplemented

_AROUND = "\n\n"
_GEMMA_NAMES = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
_CONFIG_KEYS = {"boi_token": "boi_token_index", "image_token": "image_token_index", "eoi_token": "eoi_token_index"}


@dataclass(frozen=True)
class ImageMarks:
    """start, soft, end: the strings of the three special tokens. count: soft tokens of one image."""

    start: str
    soft: str
    end: str
    count: int

    def expand(self, parts: Sequence[tuple[bool, str]]) -> list[tuple[bool, str]]:
        """Parts of a prompt, (is special, text), with a block for each `start`; texts side by side are joined."""
        expanded: list[tuple[bool, str]] = []
        for special, text in parts:
            if (special, text) == (True, self.start):
                block = [(True, self.start), *[(True, self.soft)] * self.count, (True, self.end)]
                _append(expanded, (False, _AROUND))
                expanded += block
                _append(expanded, (False, _AROUND))
            else:
                _append(expanded, (special, text))
        return expanded


def _append(parts: list[tuple[bool, str]], part: tuple[bool, str]) -> None:
    # One text between two special tokens is tokenised as one: cut in two it could get other tokens.
    if parts and not part[0] and not parts[-1][0]:
        part = (False, parts.pop()[1] + part[1])
    parts.append(part)


def read_marks(
    folder: Path, tokenizer_config: Mapping[str, Any], tokenizer: Tokenizer, special: Collection[str]
) -> ImageMarks | None:
    """The marks of a checkpoint or bundle folder; None: its files describe no images.

    special: the strings of the tokenizer's special tokens. Raises BundleError where config.json and the
    tokenizer disagree about an id: the engine would put the features in other places.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        count = config.get("mm_tokens_per_image")
    except (OSError, ValueError, AttributeError):
        return None  # whether the folder needs a config.json is the engine's business
    names = {key: tokenizer_config.get(key, default) for key, default in _GEMMA_NAMES.items()}
    if count is None or not set(names.values()) <= set(special):
        return None
    if type(count) is not int or count < 1:
        raise BundleError(f"{folder.name}: mm_tokens_per_image is not a positive number")
    for key, name in names.items():
        index = config.get(_CONFIG_KEYS[key])
        if index is not None and index != tokenizer.token_to_id(name):
            raise BundleError(f"{folder.name}: {_CONFIG_KEYS[key]} of config.json is not the tokenizer's {key}")
    return ImageMarks(names["boi_token"], names["image_token"], names["eoi_token"], count)


def with_images(marks: ImageMarks | None, parts: Sequence[tuple[bool, str]], images: int) -> Sequence[tuple[bool, str]]:
    """The parts of a prompt with a block for each of its `images` images.

    Raises Unimplemented for a checkpoint without images, BundleError when its template leaves an image out.
    """
    if marks is None:
        if images:
            raise Unimplemented("images: the served checkpoint reads no images", field="images")
        return parts
    # An image that the template says nothing of would not be judged, and the text alone might be safe.
    if sum(part == (True, marks.start) for part in parts) != images:
        raise BundleError("the chat template does not write one mark for each image")
    return marks.expand(parts)
