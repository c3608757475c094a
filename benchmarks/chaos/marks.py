"""Traces that must not be there: a marked text outside the answers, and the server's insides in an error.

A mark is one word that every text of a run holds, so one search finds any of them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from pathlib import Path

_INSIDES = {
    "a traceback": re.compile(r"Traceback"),
    "a Python frame": re.compile(r'File "|\.py\b'),
    "site-packages": re.compile(r"site-packages|dist-packages"),
    "a path": re.compile(r"(?<![\w./:-])/(?:[\w.+-]+/)+[\w.+-]*"),
}


def insides(text: str, folders: Iterable[Path] = ()) -> list[str]:
    """What an error's text tells of the server's insides: names of what was found, none for a clean text.

    folders: of the server; their absolute names count wherever they stand.
    """
    found = [name for name, pattern in _INSIDES.items() if pattern.search(text)]
    return found + ["a folder of the server" for folder in folders if str(folder.resolve()) in text][:1]


class Marks:
    """Counts the mark in everything that it is shown. Safe to share between threads."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.searched: dict[str, int] = {}
        """Bytes that were searched, by what they were."""
        self.found: dict[str, int] = {}
        """Marks in them."""
        self._needle = mark.encode()
        self._lock = threading.Lock()

    def look(self, what: str, content: bytes | str) -> int:
        """How often the mark is in `content`; added up under the name `what`."""
        data = content if isinstance(content, bytes) else content.encode("utf-8", errors="surrogateescape")
        count = data.count(self._needle)
        with self._lock:
            self.searched[what] = self.searched.get(what, 0) + len(data)
            if count:
                self.found[what] = self.found.get(what, 0) + count
        return count

    def look_in_folder(self, what: str, folder: Path) -> None:
        """Every file under a folder, and every file's name."""
        for path in sorted(folder.rglob("*")):
            self.look(what, str(path))
            if path.is_file() and not path.is_symlink():
                self.look(what, path.read_bytes())

    def look_at_processes(self, what: str, pids: Iterable[int]) -> None:
        """The command lines of running processes; one that has ended meanwhile has none."""
        for pid in pids:
            try:
                self.look(what, Path(f"/proc/{pid}/cmdline").read_bytes())
            except OSError:
                continue


MUST_BE_SEARCHED = ("logs", "metrics", "command lines")


def marks_problems(marks: Marks, *, errors: bool) -> list[str]:
    """Where the mark was, and where nothing was searched that should have been. errors: some must have come."""
    must = (*MUST_BE_SEARCHED, "error messages") if errors else MUST_BE_SEARCHED
    found = [f"{count} marks in the {what}" for what, count in sorted(marks.found.items())]
    return found + [f"nothing was searched: {what}" for what in must if not marks.searched.get(what)]
