"""The guard's answer text, read or refused.

    User Safety: safe|unsafe
    Response Safety: safe|unsafe        exactly where a response was sent
    Safety Categories: A, B             mode `categories`, where a side is unsafe

In mode `think` the text begins with `<think>...</think>`, and only what stands behind it is read. The grammar
is closed: letters of either case and spaces or tabs around a key, a value or a name are the only freedom, blank
lines may surround the answer and one `<end_of_turn>` may end it. Everything else (a line too many, "safe?", a
look-alike letter) is no answer, so that no text becomes safe by being nearly one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tritonguard.label import Safety
from tritonguard.request import Mode

MAX_NAMES = 16
"""Most category names in an answer where any name is taken."""

MAX_NAME_CHARACTERS = 128
"""Most characters of such a name."""

_USER, _RESPONSE, _CATEGORIES = "User Safety", "Response Safety", "Safety Categories"
_ORDER = (_USER, _RESPONSE, _CATEGORIES)
_KEYS = {key.lower(): key for key in _ORDER}
_VALUES = {"safe": Safety.SAFE, "unsafe": Safety.UNSAFE}
_THINK, _THINK_END, _TURN_END = "<think>", "</think>", "<end_of_turn>"
_BLANKS = " \t"


class UnreadableAnswer(ValueError):
    """The text is no answer. reason: one stable line that holds nothing of the text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ParsedAnswer:
    """What an answer says.

    user, response: SAFE or UNSAFE, never INDETERMINATE; response is None exactly where none was sent.
    categories: in the answer's order; () for none; None in modes that don't ask for them.
    reasoning: the trace without surrounding blanks; None where there is none.
    """

    user: Safety
    response: Safety | None
    categories: tuple[str, ...] | None
    reasoning: str | None


def parse_answer(text: str, *, mode: Mode, has_response: bool, names: Collection[str] | None) -> ParsedAnswer:
    """The answer that `text` is, as a whole.

    names: the category names that the policy allows, the spelling that is returned; None: any names, at most
    `MAX_NAMES` of at most `MAX_NAME_CHARACTERS` printable characters each.
    An unsafe answer without its category line is still an unsafe answer, with no categories: to refuse it would
    leave it to `on_error`, which may allow it. A category line on an all-safe answer contradicts it and is
    refused.

    Raises UnreadableAnswer. A caller that knows that the text was cut must not hand it in: where a trace quotes
    `</think>` and a verdict, the text cannot show that it goes on.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # From None: that error quotes the text.
        raise UnreadableAnswer("the answer is not UTF-8 text") from None
    reasoning, rest = _split_reasoning(text, mode)
    fields = _fields(rest)
    user = _safety(fields, _USER)
    response = _safety(fields, _RESPONSE) if has_response else None
    if not has_response and _RESPONSE in fields:
        raise UnreadableAnswer(f"{_RESPONSE} is given without a response")
    listed = fields.get(_CATEGORIES)
    if mode is not Mode.CATEGORIES:
        if listed is not None:
            raise UnreadableAnswer(f"{_CATEGORIES} is given unasked")
        return ParsedAnswer(user, response, None, reasoning)
    if listed is None:
        return ParsedAnswer(user, response, (), reasoning)
    if Safety.UNSAFE not in (user, response):
        raise UnreadableAnswer(f"{_CATEGORIES} is given though all is safe")
    return ParsedAnswer(user, response, _names(listed, names), reasoning)


def _split_reasoning(text: str, mode: Mode) -> tuple[str | None, str]:
    """(the trace, what stands behind it). Behind `</think>` the model writes no newline."""
    if mode is not Mode.THINK:
        if _THINK in text or _THINK_END in text:
            raise UnreadableAnswer("reasoning is given unasked")
        return None, text
    begun = text.lstrip(_BLANKS + "\n")
    if not begun.startswith(_THINK):
        raise UnreadableAnswer("the answer does not begin with its reasoning")
    if begun.count(_THINK) > 1 or begun.count(_THINK_END) > 1:
        raise UnreadableAnswer("the reasoning is marked more than once")
    trace, end, rest = begun.removeprefix(_THINK).partition(_THINK_END)
    if not end:
        raise UnreadableAnswer("the reasoning was cut off")
    return trace.strip() or None, rest


def _fields(text: str) -> dict[str, str]:
    """Value by key, in the one order. Splits at "\\n" alone: other line ends are characters of the line."""
    whole = text.strip(_BLANKS + "\n").removesuffix(_TURN_END).rstrip(_BLANKS + "\n")
    if not whole:
        raise UnreadableAnswer("there is no verdict")
    fields: dict[str, str] = {}
    for line in whole.split("\n"):
        head, _, value = line.partition(":")
        key = _KEYS.get(head.strip(_BLANKS).lower())
        if key is None or ":" not in line:
            raise UnreadableAnswer("a line is no part of an answer")
        if key in fields:
            raise UnreadableAnswer(f"{key} is given twice")
        fields[key] = value.strip(_BLANKS)
    if list(fields) != [key for key in _ORDER if key in fields]:
        raise UnreadableAnswer("the lines are out of order")
    return fields


def _safety(fields: dict[str, str], key: str) -> Safety:
    if key not in fields:
        raise UnreadableAnswer(f"{key} is missing")
    safety = _VALUES.get(fields[key].lower())
    if safety is None:
        raise UnreadableAnswer(f"{key} is neither safe nor unsafe")
    return safety


def _names(listed: str, names: Collection[str] | None) -> tuple[str, ...]:
    written = [_one_spaced(name) for name in listed.split(",")]
    if not all(written):
        raise UnreadableAnswer("a category has no name")
    if len({name.casefold() for name in written}) < len(written):
        raise UnreadableAnswer("a category is given twice")
    if names is None:
        return _free_names(written)
    spelling = {_one_spaced(name).casefold(): name for name in names}
    found = [spelling.get(name.casefold()) for name in written]
    if None in found:
        raise UnreadableAnswer("a category is unknown")
    return tuple(name for name in found if name is not None)


def _free_names(written: list[str]) -> tuple[str, ...]:
    if len(written) > MAX_NAMES:
        raise UnreadableAnswer("there are too many categories")
    for name in written:
        if len(name) > MAX_NAME_CHARACTERS:
            raise UnreadableAnswer("a category's name is too long")
        if not name.isprintable():
            raise UnreadableAnswer("a category's name is not printable")
        if any(key in name.lower() for key in _KEYS):
            raise UnreadableAnswer("a category's name holds a key of the answer")
    return tuple(written)


def _one_spaced(name: str) -> str:
    """Without surrounding blanks, every run of blanks inside a single space."""
    return " ".join(part for part in name.replace("\t", " ").split(" ") if part)
