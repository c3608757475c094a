"""The rows of a comparison: what is asked, under which part of a policy, and what the answer should be.

A corpus is JSONL, a row a line:

    {"id": "de-1", "prompt": "...", "response": "...", "language": "de", "mode": "verdict", "policy": {}, "label": ..}

Only `id` and `prompt` are needed. mode: verdict (default), categories or think. policy: the keys of a policy file.
label: "safe" or "unsafe" of the prompt, or {"user": .., "response": ..}. Each row is judged under one instruction:
a policy that also asks for the built-in one, or for a floor, has joined labels and no margin of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonguard.errors import GuardError
from tritonguard.policy import Policy
from tritonguard.policy_parts import PolicyPart, parts_of
from tritonguard.request import GuardRequest, Mode

SHIPPED = Path(__file__).with_name("parity_prompts.jsonl")
UNKNOWN_LANGUAGE = "-"
MAX_ROWS = 100_000

_KEYS = {"id", "prompt", "response", "language", "mode", "policy", "label"}
_UNSAFE = {"safe": False, "unsafe": True}


class CorpusError(ValueError):
    """A row that can't be read. Names its line, never its texts."""


@dataclass(frozen=True)
class Row:
    """known: is the user's text unsafe, is the response; None where nobody said."""

    id: str
    request: GuardRequest
    part: PolicyPart
    language: str = UNKNOWN_LANGUAGE
    known: tuple[bool | None, bool | None] = (None, None)

    @property
    def mode(self) -> Mode:
        return self.request.mode

    @property
    def has_response(self) -> bool:
        return self.request.response is not None


def read_corpus(path: Path = SHIPPED) -> list[Row]:
    """The rows of a file, at least one. Raises CorpusError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path.name} can't be read: {type(error).__name__}") from None
    rows = [_row(line, f"{path.name}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise CorpusError(f"{path.name} holds no row")
    if len(rows) > MAX_ROWS:
        raise CorpusError(f"{path.name} holds more than {MAX_ROWS} rows")
    if len({row.id for row in rows}) < len(rows):
        raise CorpusError(f"{path.name}: two rows have the same id")
    return rows


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` rows evenly from the whole file (all, where it has fewer): a file is often sorted by language."""
    if count >= len(rows):
        return list(rows)
    return [rows[index * len(rows) // count] for index in range(count)]


def _row(line: str, place: str) -> Row:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise CorpusError(f"{place}: not JSON") from None
    if not isinstance(values, dict):
        raise CorpusError(f"{place}: not an object")
    if unknown := sorted(set(values) - _KEYS):
        raise CorpusError(f"{place}: {len(unknown)} unknown key(s); known are {', '.join(sorted(_KEYS))}")
    name, language = values.get("id"), values.get("language") or UNKNOWN_LANGUAGE
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise CorpusError(f"{place}: id is a line of text")
    if not isinstance(language, str) or not language.isprintable():
        raise CorpusError(f"{place}: language is a line of text")
    try:
        policy = _policy(values.get("policy"))
        request = GuardRequest.create(
            prompt=values.get("prompt"),
            response=values.get("response"),
            mode=values.get("mode") or Mode.VERDICT,
            policy=policy,
        )
    except GuardError as error:
        raise CorpusError(f"{place}: {error.message}") from None
    parts = parts_of(policy)
    if len(parts) > 1:
        raise CorpusError(f"{place}: the policy is judged in {len(parts)} parts; a row is compared under one")
    return Row(name, request, parts[0], language, _known(values.get("label"), request.response is not None, place))


def _policy(values: Mapping[str, Any] | None) -> Policy:
    return Policy() if values is None else Policy.from_json(json.dumps(values))


def _known(label: Any, has_response: bool, place: str) -> tuple[bool | None, bool | None]:
    sides = label if isinstance(label, dict) else {"user": label}
    allowed = {None, *_UNSAFE}
    if set(sides) - {"user", "response"} or not all(
        value is None or (isinstance(value, str) and value in allowed) for value in sides.values()
    ):
        raise CorpusError(f'{place}: label is "safe", "unsafe" or {{"user": .., "response": ..}}')
    user, response = sides.get("user"), sides.get("response")
    if response is not None and not has_response:
        raise CorpusError(f"{place}: a label of a response that is not there")
    return (None if user is None else _UNSAFE[user], None if response is None else _UNSAFE[response])
