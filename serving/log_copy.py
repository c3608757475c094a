"""Where log lines go, and the thread that copies the server's output there."""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from serving.log_lines import MOST_BYTES, LogFormat, LogRecord, copied_line, read_line

_TAIL_LINES = 40
_JOIN_S = 2.0


class LogTarget:
    """A file that is added to, or standard error. Safe to share between threads: lines never mix.

    Raises OSError where the file can't be opened.
    """

    def __init__(self, path: Path | None, form: LogFormat) -> None:
        self.form: LogFormat = form
        self._file = path.open("a", encoding="utf-8") if path else None
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        """One line, without its end. A full disk or a closed pipe costs the line, never the server."""
        with self._lock, suppress(OSError, ValueError):
            # Looked up each time: whoever replaced standard error meanwhile wants it there.
            target = self._file or sys.stderr
            target.write(line + "\n")
            target.flush()

    def tell(self, record: LogRecord) -> None:
        """An event of the launcher's: in the log, and always on standard error."""
        line = record.line(self.form)
        self.write(line)
        if self._file is not None:
            with suppress(OSError, ValueError):
                print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._file is not None:
            with self._lock:
                self._file.close()


class LogCopy:
    """Copies one server's output to a target as it comes, and keeps its end for error messages."""

    def __init__(self, stream: IO[bytes], target: LogTarget) -> None:
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._stream = stream
        self._target = target
        self._thread = threading.Thread(target=self._copy, name="triton-log", daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        with self._stream:
            while raw := self._stream.readline(MOST_BYTES):
                text = copied_line(raw)
                self._lines.append(text)
                self._target.write(
                    text if self._target.form == "text" else read_line(raw, datetime.now(UTC)).line("json")
                )
                # The rest of a line that is too long: read and dropped, so that no line grows without bound.
                while raw and not raw.endswith(b"\n"):
                    raw = self._stream.readline(MOST_BYTES)

    def tail(self) -> str:
        """The latest lines, as the server wrote them."""
        return " The end of its log:\n" + "".join(f"  {line}\n" for line in list(self._lines))

    def close(self) -> None:
        """Once the server has ended: wait for its last lines."""
        self._thread.join(timeout=_JOIN_S)
