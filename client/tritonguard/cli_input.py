"""Where the texts of `tritonguard check` come from. Every text becomes an item, a bad one too."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tritonguard.errors import InvalidRequest

_ROW_KEYS = frozenset({"prompt", "response", "id"})


@dataclass(frozen=True)
class Item:
    """id: what the answer is called. error: why there is nothing to ask; the texts are None then."""

    id: str
    prompt: str | None = None
    response: str | None = None
    error: InvalidRequest | None = None


def from_arguments(texts: Iterable[str]) -> Iterator[Item]:
    """An item per argument of the command line."""
    for number, text in enumerate(texts, start=1):
        yield Item(id=f"text {number}", prompt=text)


def from_files(names: Iterable[str]) -> Iterator[Item]:
    """An item per file, its whole content as one text; `-` is standard input."""
    for name in names:
        try:
            raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
            yield Item(id=name, prompt=raw.decode("utf-8"))
        except UnicodeDecodeError:
            yield Item(id=name, error=InvalidRequest("not valid UTF-8", field="file"))
        except OSError as error:
            yield Item(id=name, error=InvalidRequest(error.strerror or "cannot be read", field="file"))


@contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """The JSONL source `name`, `-` for standard input. Raises OSError."""
    if name == "-":
        yield sys.stdin.buffer
    else:
        with Path(name).open("rb") as stream:
            yield stream


def count_rows(name: str) -> int | None:
    """How many rows a JSONL file has, for the progress bar; None for standard input, which can't be read
    twice."""
    if name == "-":
        return None
    with opened(name) as stream:
        return sum(1 for line in stream if line.strip())


def from_jsonl(stream: BinaryIO) -> Iterator[Item]:
    """An item per row that is not blank. A row that is not what it should be is an item with an error."""
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                yield _row(line, number)
            except InvalidRequest as error:
                yield Item(id=f"line {number}", error=error)


def _row(line: bytes, number: int) -> Item:
    where = f"line {number}"
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{where}: not JSON in UTF-8", field="row") from None
    if not isinstance(row, dict):
        raise InvalidRequest(f"{where}: not a JSON object", field="row")
    unknown = sorted(set(row) - _ROW_KEYS)
    if unknown:
        known = ", ".join(sorted(_ROW_KEYS))
        raise InvalidRequest(f"{where}: unknown key (known: {known})", field=unknown[0])
    name = row.get("id", where)
    if not isinstance(name, (str, int)):
        raise InvalidRequest(f"{where}: id is neither text nor a whole number", field="id")
    prompt, response = row.get("prompt"), row.get("response")
    if not isinstance(prompt, str):
        raise InvalidRequest(f"{where}: prompt is missing or not text", field="prompt")
    if response is not None and not isinstance(response, str):
        raise InvalidRequest(f"{where}: response is not text", field="response")
    return Item(id=str(name), prompt=prompt, response=response)
