"""Where the texts and images of `tritonguard check` come from. Every text becomes an item, a bad one too."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from tritonguard.errors import ImageTooLarge, InvalidRequest

MAX_IMAGE_FILE_BYTES = 64 << 20
"""Far above what a server takes; it only bounds what is read of a file that is no picture."""

_ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_ROW_KEYS = frozenset({"prompt", "response", "id", "images", "mode", "policy_name", "think_budget"})
_HASH_CHARACTERS = 16


@dataclass(frozen=True)
class Row:
    """A row of JSONL as it stands there.

    number: 1 for the first row; blank lines are not counted. line: of the file, from 1, the blank ones counted.
    raw: its bytes without the line's end.
    """

    number: int
    line: int
    raw: bytes

    @property
    def sha256(self) -> str:
        """The first 16 hex characters of the SHA-256 of `raw`."""
        return hashlib.sha256(self.raw).hexdigest()[:_HASH_CHARACTERS]


@dataclass(frozen=True)
class Item:
    """id: what the answer is called. error: why there is nothing to ask; the texts are None then.

    images: files, read by `read_images` only when it is their turn. mode, policy_name, think_budget: of a row, as
    they stand there; None: as the command line says. row: the one of JSONL that it was.
    """

    id: str
    prompt: str | None = None
    response: str | None = None
    images: tuple[Path, ...] = ()
    mode: Any = None
    policy_name: Any = None
    think_budget: Any = None
    error: InvalidRequest | None = None
    row: Row | None = None


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


def with_extras(items: Iterable[Item], *, response: str | None, images: Sequence[Path]) -> Iterator[Item]:
    """The one text of the command line, with its response and its images; images alone are an item too."""
    for item in items:
        yield replace(item, response=response, images=tuple(images))


def read_response(name: str) -> str:
    """The assistant's text in a file, `-` for standard input. Raises OSError and InvalidRequest."""
    raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("response: not valid UTF-8", field="response") from None


def read_images(item: Item) -> tuple[bytes, ...]:
    """The content of an item's image files. Raises InvalidRequest and ImageTooLarge; `field` says which one."""
    return tuple(_read_image(path, f"images.{number}") for number, path in enumerate(item.images))


def _read_image(path: Path, field: str) -> bytes:
    if _ADDRESS.match(path.as_posix()):
        raise InvalidRequest(f"{field}: an address; only files of this machine are read", field=field)
    try:
        # A pipe or a device would be read for ever.
        if path.exists() and not path.is_file():
            raise InvalidRequest(f"{field}: not a plain file", field=field)
        with path.open("rb") as stream:
            content = stream.read(MAX_IMAGE_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "cannot be read"
        raise InvalidRequest(f"{field}: {why}", field=field) from None
    if len(content) > MAX_IMAGE_FILE_BYTES:
        raise ImageTooLarge(f"{field}: more than {MAX_IMAGE_FILE_BYTES} bytes", field=field)
    return content


@contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """The JSONL source `name`, `-` for standard input. Raises OSError."""
    if name == "-":
        yield sys.stdin.buffer
    else:
        with Path(name).open("rb") as stream:
            yield stream


def count_rows(name: str) -> int | None:
    """How many rows a JSONL file has, for the progress; None for what can't be read twice, such as a pipe."""
    if not Path(name).is_file():  # `-` neither
        return None
    with opened(name) as stream:
        return sum(1 for line in stream if line.strip())


def rows_of(stream: BinaryIO) -> Iterator[Row]:
    """The rows that are not blank."""
    number = 0
    for line, raw in enumerate(stream, start=1):
        if raw.strip():
            number += 1
            yield Row(number, line, raw.rstrip(b"\r\n"))


def item_of(row: Row, *, folder: Path) -> Item:
    """What a row asks for. A row that is not what it should be is an item with an error.

    folder: what the row's image files are relative to.
    """
    try:
        return replace(_read(row.raw, f"line {row.line}", folder), row=row)
    except InvalidRequest as error:
        return Item(id=f"line {row.line}", error=error, row=row)


def _read(raw: bytes, where: str, folder: Path) -> Item:
    try:
        row: Any = json.loads(raw)
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
    images = row.get("images")
    if images is None:
        images = []
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise InvalidRequest(f"{where}: images is not a list of file names", field="images")
    prompt, response = row.get("prompt", "" if images else None), row.get("response")
    if not isinstance(prompt, str):
        raise InvalidRequest(f"{where}: prompt is missing or not text", field="prompt")
    if response is not None and not isinstance(response, str):
        raise InvalidRequest(f"{where}: response is not text", field="response")
    return Item(
        id=str(name),
        prompt=prompt,
        response=response,
        images=tuple(_image_path(image, folder) for image in images),
        mode=row.get("mode"),
        policy_name=row.get("policy_name"),
        think_budget=row.get("think_budget"),
    )


def _image_path(name: str, folder: Path) -> Path:
    # An address stays one, so that it is refused as what it is.
    return Path(name) if _ADDRESS.match(name) else folder / name
