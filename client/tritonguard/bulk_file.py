"""The output of a bulk run: JSON lines, one per row, that a run ended at any byte can go on with.

Every line begins with the same head, which says what it answers and what was asked:

    {"row": 17, "row_sha256": "5f0c...", "question": "a91e...", "id": ...

So a line belongs to a row of an input or it does not, and so does the torn beginning of one. Nothing is cut or
overwritten that does not belong. How the file is kept on the disk: every line is flushed to the system (a killed
process loses none), and every `SYNC_LINES` lines or `SYNC_S` seconds, whichever comes first, to the disk.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from tritonguard.cli_input import Row
from tritonguard.cli_tally import Fate
from tritonguard.errors import InvalidRequest

SYNC_LINES = 500
SYNC_S = 5.0
RETRY_SUFFIX = ".retry"
"""Of the file beside an output in which `--retry-errors` works until it is whole."""


def head_of(row: Row, question: str) -> bytes:
    """How the line of `row` begins. question: what was asked of it, as a short hash."""
    return json.dumps({"row": row.number, "row_sha256": row.sha256, "question": question})[:-1].encode() + b", "


def line_of(row: Row, question: str, answer: dict[str, Any]) -> bytes:
    """The whole line. answer: its other keys; at least one."""
    return head_of(row, question) + json.dumps(answer, ensure_ascii=False)[1:].encode("utf-8") + b"\n"


def read_line(line: bytes, row: Row | None, question: str, *, name: str) -> Fate:
    """What a whole line says about `row`; None: the input has no row left.

    Raises InvalidRequest where the line is none of ours, or answers another row or another question.
    """
    try:
        found = json.loads(line)
        fate = Fate.of_line(found)
        number, sha256, asked = found["row"], found["row_sha256"], found["question"]
    except (ValueError, KeyError, RecursionError):
        raise _foreign(name, row, "is no answer of a bulk run, or is damaged") from None
    if row is None:
        raise _foreign(name, row, "answers a row that the input does not have")
    if (number, sha256) != (row.number, row.sha256):
        raise _foreign(name, row, "answers another row: the input is not the one it was made from")
    if asked != question or not line.startswith(head_of(row, question)):
        raise _foreign(name, row, "was asked under another policy, mode or think budget")
    return fate


def keep(
    stream: BinaryIO, rows: Iterator[Row], question: str, seen: Callable[[Fate], None], *, name: str
) -> Iterator[Row]:
    """Keep what is whole in an output, cut its torn end, and return the rows that have no line yet.

    stream: the output, open for reading and writing, at its beginning; left at its end. seen: told of each line
    that is kept. A torn end is the beginning of the next row's line, or zeros that a power loss left.
    Raises InvalidRequest, and changes nothing then, where the file does not belong to these rows.
    """
    end, torn = 0, b""
    for line in stream:
        if not line.endswith(b"\n"):
            torn = line.rstrip(b"\0")
            break
        seen(read_line(line, next(rows, None), question, name=name))
        end += len(line)
    upcoming = next(rows, None)
    expected = b"" if upcoming is None else head_of(upcoming, question)
    if torn[: len(expected)] != expected[: len(torn)]:
        raise _foreign(name, upcoming, "has begun as something else than the answer to that row")
    stream.seek(end)
    stream.truncate()
    return rows if upcoming is None else chain([upcoming], rows)


def _foreign(name: str, row: Row | None, what: str) -> InvalidRequest:
    where = "after the last row" if row is None else f"for row {row.number} (line {row.line} of the input)"
    way_on = "--restart begins anew and discards what is there"
    if name.endswith(RETRY_SUFFIX):
        way_on = "it is of an interrupted --retry-errors, which without that file begins anew"
    return InvalidRequest(f"{name}: its line {where} {what}; {way_on}", field="out")


@contextmanager
def held(path: Path) -> Iterator[BinaryIO]:
    """The file, made where it is missing, open for reading and writing at its beginning, under an exclusive lock.

    Raises InvalidRequest where another run holds it, and OSError. On systems without flock nothing is locked.
    """
    with path.open("a+b") as stream:
        if os.name == "posix":
            fcntl: Any = importlib.import_module("fcntl")
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                    raise BlockingIOError  # replaced by the run that has just let go of it
            except (BlockingIOError, FileNotFoundError):
                raise InvalidRequest(f"{path}: another run is writing it", field="out") from None
        stream.seek(0)
        yield stream


def replace(new: Path, old: Path) -> None:
    """Put `new`, which is on the disk, in the place of `old`; after a power loss there is one or the other."""
    os.replace(new, old)
    with contextlib.suppress(OSError):  # not every system can open a folder
        folder = os.open(old.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Writer:
    """Adds lines to a stream and sees to it that they stay; a context manager that syncs at its end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._unsynced = 0
        self._synced_s = time.monotonic()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *raised: object) -> None:
        self.sync()

    def write(self, line: bytes) -> None:
        """Raises OSError, as where the disk is full; what is torn then is cut by the next run."""
        self._stream.write(line)
        self._stream.flush()
        self._unsynced += 1
        if self._unsynced >= SYNC_LINES or time.monotonic() - self._synced_s >= SYNC_S:
            self.sync()

    def sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._unsynced, self._synced_s = 0, time.monotonic()
