"""GuardRequest -> ModelInput: the checkpoint's template, one `<bos>`, exact token ids, a token budget."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tritonguard.errors import BundleError, InvalidRequest, PromptTooLong
from tritonguard.policy_parts import BUILT_IN, PolicyPart
from tritonguard.request import GuardRequest, Mode

from preprocessing.image_marks import read_marks, with_images
from preprocessing.neutralise import SpecialStrings
from preprocessing.seams import common_prefix, cuts_at_newlines, is_seam, shared_ends
from preprocessing.template import ChatTemplate, Message

__all__ = ["ModelInput", "PromptBuilder", "common_prefix", "template_arguments"]

# A byte of a character that has no token of its own; the byte of "<" itself is no such thing.
_OTHER_BYTE = re.compile(r"<0x(?!3C)[0-9A-F]{2}>")
# First characters that tokenise differently; the shared prefix is what all of them leave alone.
_PROBES = ("a", "Z", "1", "中", "<", '"', "-", "é", "(", ".")
_LONG = 1 << 16
"""Bytes of a prompt that takes longer to tokenise than the vocabulary takes to look through."""


Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ModelInput:
    """`ids` int32 [n]: the whole prompt. The first `prefix_length` of them depend on the policy alone."""

    ids: Ids
    prefix_length: int


@dataclass(frozen=True)
class _Frame:
    """What every prompt under the same template arguments begins and ends with, as rendered, and its token ids."""

    head: str
    tail: str
    head_ids: Ids
    tail_ids: Ids

    def middle(self, rendered: str) -> str | None:
        """What stands in between; None where the ends are others, or are no seams here."""
        begins, ends = len(self.head), len(rendered) - len(self.tail)
        if not (begins < ends and rendered.startswith(self.head) and rendered.endswith(self.tail)):
            return None
        return rendered[begins:ends] if is_seam(rendered, begins) and is_seam(rendered, ends) else None


class PromptBuilder:
    """Renders and tokenises with the files of one checkpoint or bundle folder.

    max_tokens: longest prompt accepted, in tokens. Raises BundleError when the folder's files don't fit together.
    """

    def __init__(self, folder: Path, *, max_tokens: int) -> None:
        try:
            config = json.loads((folder / "tokenizer_config.json").read_text())
            source = (folder / "chat_template.jinja").read_text()
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises nothing narrower
            raise BundleError(f"{folder.name} lacks a readable tokenizer or chat template") from error
        self.folder = folder
        self.max_tokens = max_tokens
        self._bos: str = config["bos_token"]
        self._template = ChatTemplate(source, bos_token=self._bos)
        added = self.tokenizer.get_added_tokens_decoder()
        special = {token.content for token in added.values() if token.special}
        # A mark that is no special token could be written by a user: such a folder is not served.
        for name in ("bos_token", "eos_token", "boi_token", "eoi_token", "image_token"):
            if name in config and config[name] not in special:
                raise BundleError(f"{folder.name}: the tokenizer's {name} is not a special token")
        self._special = SpecialStrings(special)
        self._marks = read_marks(folder, config, self.tokenizer, special)
        # What stands between the template's own special tokens is text, whatever it spells.
        self.tokenizer.encode_special_tokens = True
        self._prefix = lru_cache(maxsize=64)(self._compute_prefix)
        self._frame = lru_cache(maxsize=128)(self._compute_frame)

    def build(self, request: GuardRequest, part: PolicyPart = BUILT_IN) -> ModelInput:
        """The prompt that asks about `request` under one part of its policy.

        Raises PromptTooLong over the budget (nothing is ever cut; an image counts with all its tokens),
        InvalidRequest when the template refuses, Unimplemented for images that the checkpoint can't read.
        """
        policy = template_arguments(request.mode, part)
        images = len(request.images)
        rendered = self._rendered(request.prompt, request.response, policy, images)
        # Tokenising a megabyte takes a second: what can't fit is refused by its length.
        size = len(self._special.unshield(rendered).encode())
        if size > _LONG and (least := size // self._longest_piece) > self.max_tokens:
            raise PromptTooLong(
                f"the prompt has {least} tokens or more, this server reads at most {self.max_tokens}", field="prompt"
            )
        key = tuple(sorted(policy.items()))
        frame = None if images else self._frame(key, request.response is not None)
        ids = _ids(self._tokenise(rendered, images)) if frame is None else self._framed(rendered, frame)
        if len(ids) > self.max_tokens:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens, this server reads at most {self.max_tokens}",
                field="prompt",
            )
        prefix = self._prefix(key)
        return ModelInput(ids, len(prefix) if np.array_equal(ids[: len(prefix)], prefix) else 0)

    def tokens(self, prompt: str, response: str | None, arguments: Mapping[str, Any], *, images: int = 0) -> list[int]:
        """Token ids of the prompt for these template arguments, whatever its length; `images` come before its text."""
        return self._tokenise(self._rendered(prompt, response, arguments, images), images)

    def render(self, request: GuardRequest, part: PolicyPart = BUILT_IN) -> str:
        """The prompt as a person would read it, one mark for an image; the user's special strings as written."""
        policy = template_arguments(request.mode, part)
        text = self._rendered(request.prompt, request.response, policy, len(request.images))
        return self._special.unshield(text)

    def _rendered(self, prompt: str, response: str | None, policy: Mapping[str, Any], images: int = 0) -> str:
        shield = self._special.shield
        content: str | list[Message] = shield(prompt)
        if images:
            content = [*[{"type": "image"}] * images, {"type": "text", "text": content}]
        messages: list[Message] = [{"role": "user", "content": content}]
        if response is not None:
            messages.append({"role": "assistant", "content": shield(response)})
        arguments = {name: shield(value) if isinstance(value, str) else value for name, value in policy.items()}
        return self._template.render(messages, **arguments)

    def _tokenise(self, rendered: str, images: int = 0) -> list[int]:
        parts = list(with_images(self._marks, self._special.split(rendered), images))
        if not parts or parts[0] != (True, self._bos):
            parts.insert(0, (True, self._bos))
        if sum(part == (True, self._bos) for part in parts) != 1:
            raise InvalidRequest("the rendered prompt has more than one <bos>")
        return self._ids_of(parts)

    def _ids_of(self, parts: Sequence[tuple[bool, str]]) -> list[int]:
        """parts: (is special, text as rendered)."""
        ids: list[int] = []
        for special, text in parts:
            if special:
                ids.append(self._special_id(text))
            else:
                ids += self.encode_text(self._special.unshield(text))
        return ids

    def _framed(self, rendered: str, frame: _Frame) -> Ids:
        """What `_tokenise` gives for a prompt without images, from the kept ids of both its ends where they fit."""
        middle = frame.middle(rendered)
        if middle is None or any(special for special, _ in self._special.split(middle)):
            return _ids(self._tokenise(rendered))
        own = _ids(self.encode_text(self._special.unshield(middle)))
        return np.concatenate([frame.head_ids, own, frame.tail_ids])

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: no `<bos>`, and no string in it becomes a special token."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode_text(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens spelled out; bytes that are no UTF-8 become U+FFFD."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    @cached_property
    def _longest_piece(self) -> int:
        """Bytes of one token's text at most; a space counts as the three bytes of its mark."""
        return max(len(piece.encode()) for piece in self.tokenizer.get_vocab())

    @property
    def end_of_turn(self) -> int:
        """Id of `<end_of_turn>`, which ends an answer. Raises BundleError."""
        return self._special_id("<end_of_turn>")

    @cached_property
    def mark_ids(self) -> frozenset[int]:
        """Ids of the tokens whose text holds a `<`: without them no text can spell `<think>` or `</think>`."""
        pieces = self.tokenizer.get_vocab().items()
        return frozenset(id for piece, id in pieces if "<" in piece and not _OTHER_BYTE.fullmatch(piece))

    def _special_id(self, text: str) -> int:
        index = self.tokenizer.token_to_id(text)
        if index is None:
            raise BundleError(f"the tokenizer has no token {text}")
        return int(index)

    @cached_property
    def _has_seams(self) -> bool:
        return cuts_at_newlines(self.tokenizer)

    def _compute_frame(self, policy: tuple[tuple[str, Any], ...], has_response: bool) -> _Frame | None:
        """None: nothing can be kept. What reads images is left to `_tokenise`, which counts their marks."""
        if not self._has_seams:
            return None
        texts = [self._rendered(probe, probe if has_response else None, dict(policy)) for probe in _PROBES]
        head, tail = shared_ends(texts)
        begins, ends = self._special.split(head), self._special.split(tail)
        bos, image = (True, self._bos), self._marks and (True, self._marks.start)
        if not head or not tail or begins.count(bos) != 1 or begins[0] != bos or image in begins:
            return None
        if bos in ends or image in ends:
            return None
        return _Frame(head, tail, _ids(self._ids_of(begins)), _ids(self._ids_of(ends)))

    def _compute_prefix(self, policy: tuple[tuple[str, Any], ...]) -> Ids:
        frame = self._frame(policy, False)
        texts = [self._rendered(probe, None, dict(policy)) for probe in _PROBES]
        prompts = [self._tokenise(text) if frame is None else self._framed(text, frame).tolist() for text in texts]
        return _ids(common_prefix(prompts))


def _ids(ids: Sequence[int]) -> Ids:
    return np.asarray(ids, np.int32)


def template_arguments(mode: Mode, part: PolicyPart) -> dict[str, Any]:
    """The keyword arguments of the published template (model-card names); those that are None are left out."""
    arguments = {
        "enable_thinking": mode is Mode.THINK,
        "request_categories": "/categories" if mode is Mode.CATEGORIES else "/no_categories",
        "custom_policy": part.custom_policy,
        "custom_taxonomy": part.custom_taxonomy,
    }
    return {name: value for name, value in arguments.items() if value is not None}
