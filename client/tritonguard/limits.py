"""Every limit on what is read from outside, in one place.

A limit is checked by size, before the value is decoded, parsed or searched: refusing costs no more than counting.
The server's door (`request.from_tensors`) holds every tensor against `REQUEST_BYTES`; `refuse_excess` holds parsed
JSON and YAML against the number and depth of their values; `policy`, `policy_yaml` and `request` hold the rest.
Bytes are of UTF-8. What a request costs beyond reading it is bounded by the bundle's token budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from unicodedata import combining

MAX_TEXT_BYTES = 1 << 20
"""Of a prompt, a response, a turn; far above any token budget, it only bounds the work of refusing."""

MAX_NAME_BYTES = 128
"""Of REQUEST_ID, TENANT, POLICY_NAME, MODE, and the name of a category (there: characters)."""

MAX_IMAGES = 4
MAX_IMAGE_BYTES = 20 * 1024 * 1024
"""Of one encoded file."""
MAX_IMAGE_PIXELS = 25_000_000
MAX_IMAGE_SIDE = 16_384

MAX_TURNS_BYTES = 4 << 20
"""Of the JSON of all earlier turns."""
MAX_TURNS = 256

MAX_DEADLINE_S = 600.0
MAX_THINK_BUDGET = 32_768
"""Tokens of reasoning."""

MAX_POLICY_BYTES = 1 << 20
"""Of a policy's JSON, as it is sent and in its canonical form."""
MAX_POLICY_FILE_BYTES = 2 * MAX_POLICY_BYTES
"""Of a YAML file, with comments."""
MAX_CATEGORIES = 1024
"""In `custom_taxonomy`, `inject` and `suppress`, each."""
MAX_DEFINITION_BYTES = 8 * 1024
MAX_ALLOWED_LINES = 1024
MAX_ALLOWED_LINE_BYTES = 16 * 1024
"""Of one line of `allow_list`."""
MAX_MARKS = 30
"""Combining marks in a row in a line of `allow_list`: Unicode's own limit for text in streams (UAX #15). Such lines are
compared in a normal form, which takes time with the square of the run: 64 KiB of marks kept a core busy for seconds."""
MAX_CACHE_TTL_S = 86_400
"""Seconds that a policy may have an answer kept."""

MAX_VALUES = 20_000
"""Values in one JSON or YAML text, those inside lists and mappings counted too."""
MAX_DEPTH = 8
"""Lists and mappings inside each other; a policy and a list of turns have three."""
MAX_YAML_MAPPING = 1000
"""Keys of one YAML mapping; merge keys (`<<`) are refused."""
MAX_YAML_ALIASES = 64
MAX_YAML_PLAIN = 64
"""Characters of a number, a date or another YAML value that is no text."""

REQUEST_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "REQUEST_ID": MAX_NAME_BYTES,
        "PROMPT": MAX_TEXT_BYTES,
        "RESPONSE": MAX_TEXT_BYTES,
        "MODE": MAX_NAME_BYTES,
        "POLICY": MAX_POLICY_BYTES,
        "POLICY_NAME": MAX_NAME_BYTES,
        "TENANT": MAX_NAME_BYTES,
        "TURNS": MAX_TURNS_BYTES,
        "IMAGES": MAX_IMAGE_BYTES,
    }
)
"""Most bytes of one element, for every BYTES tensor of a request."""


def exceeds(text: str, most_bytes: int) -> bool:
    """Whether `text` has more than `most_bytes` in UTF-8. A text that can't be sent counts as if it could."""
    # Characters first: they are never more than the bytes, and nothing is copied to count them.
    return len(text) > most_bytes or len(text.encode("utf-8", "surrogatepass")) > most_bytes


def stacks_marks(text: str) -> bool:
    """Whether more than `MAX_MARKS` combining marks follow each other."""
    if text.isascii():
        return False
    run = 0
    for character in text:
        run = run + 1 if combining(character) else 0
        if run > MAX_MARKS:
            return True
    return False


def refuse_excess(data: Any) -> None:
    """Hold parsed JSON or YAML against `MAX_VALUES` and `MAX_DEPTH`. Raises ValueError, whose text holds no values.

    What a YAML alias repeats is counted each time; at most `MAX_VALUES` values are looked at.
    """
    left = MAX_VALUES
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside += value.values()
            elif isinstance(value, (list, tuple)):
                inside += value
            if len(inside) > left:
                raise ValueError(f"more than {MAX_VALUES} values")
        if not inside:
            return
        left -= len(inside)
        level = inside
    raise ValueError(f"lists and mappings more than {MAX_DEPTH} deep")
