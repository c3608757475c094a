"""What an answer may be read as, told without the parser.

The verdict lines of all answers are a handful of texts, so they are written out; a text is brought to their form
character by character and looked up. Nothing of `tritonguard.answer` is used, nor its ways (no split, no strip).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from typing import NamedTuple

_SMALL = {chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)}
_LIST_HEAD = "\nsafety categories:"


class Reading(NamedTuple):
    """ "safe" or "unsafe" for each side; response None where none was sent."""

    user: str
    response: str | None


def reading(text: str, *, mode: str, has_response: bool, names: Collection[str] | None) -> Reading | None:
    """The only reading that `text` grants; None: none. mode: "verdict", "categories" or "think"."""
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return None
    body = _behind_reasoning(text) if mode == "think" else text
    if body is None or _places(body, "<think>") or _places(body, "</think>"):
        return None
    written = _normal(_without_turn_end(body))
    for head, granted in _heads(has_response).items():
        if written == head:
            return granted
        if mode == "categories" and "unsafe" in granted and written[: len(head + _LIST_HEAD)] == head + _LIST_HEAD:
            return granted if _is_list(written[len(head + _LIST_HEAD) :], names) else None
    return None


def _heads(has_response: bool) -> dict[str, Reading]:
    words = ("safe", "unsafe")
    if not has_response:
        return {f"user safety:{word}": Reading(word, None) for word in words}
    return {
        f"user safety:{user}\nresponse safety:{response}": Reading(user, response)
        for user in words
        for response in words
    }


def _places(text: str, mark: str) -> list[int]:
    return [at for at in range(len(text)) if text[at] == mark[0] and text[at : at + len(mark)] == mark]


def _behind_reasoning(text: str) -> str | None:
    opened, closed = _places(text, "<think>"), _places(text, "</think>")
    if len(opened) != 1 or len(closed) != 1 or opened[0] > closed[0]:
        return None
    for at in range(opened[0]):
        if text[at] not in " \t\n":
            return None
    return text[closed[0] + 8 :]


def _without_turn_end(text: str) -> str:
    end = len(text)
    while end and text[end - 1] in " \t\n":
        end -= 1
    return text[: end - 13] if text[:end][-13:] == "<end_of_turn>" else text


def _normal(text: str) -> str:
    """Small ASCII letters; no blanks at a line's ends, beside its first colon and beside commas; no outer newlines."""
    out: list[str] = []
    blanks: list[str] = []
    at_border, colon_seen = True, False
    for character in text:
        if character in " \t":
            blanks.append(character)
            continue
        border = character in ",\n" or (character == ":" and not colon_seen)
        if not border and not at_border:
            out += blanks
        blanks.clear()
        if character == "\n":
            colon_seen = False
        elif character == ":":
            colon_seen = True
        at_border = border
        out.append(_SMALL.get(character, character))
    while out and out[0] == "\n":
        del out[0]
    while out and out[-1] == "\n":
        del out[-1]
    return "".join(out)


def _folded(name: str) -> str:
    out: list[str] = []
    for character in name:
        if character not in " \t":
            out += character.casefold()
        elif out and out[-1] != " ":
            out.append(" ")
    return "".join(out[:-1] if out and out[-1] == " " else out)


def _is_list(listed: str, names: Collection[str] | None) -> bool:
    items, item = [], ""
    for character in listed + ",":
        if character == ",":
            items.append(_folded(item))
            item = ""
        else:
            item += character
    if "" in items or len(set(items)) != len(items):
        return False
    if names is not None:
        return set(items) <= {_folded(name) for name in names}
    printable = all(c == " " or unicodedata.category(c)[0] not in "CZ" for item in items for c in item)
    plain = not any(key in item for item in items for key in ("user safety", "response safety", "safety categories"))
    return len(items) <= 16 and max(map(len, items)) <= 128 and printable and plain
