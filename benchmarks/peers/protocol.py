"""An engine in a process of its own, in its own environment: a JSON object a line, one answer for each question.

The child answers `load` and `run` until `quit` or the end of its input. Engines write to standard output as they like,
so the child's own descriptor 1 becomes its standard error, and answers go out on a copy of the first one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

Operation = Callable[[Mapping[str, Any]], Mapping[str, Any]]
_LAST_LINES = 12
_ROOT = Path(__file__).parents[2]
QUIT_S = 30.0


class PeerError(Exception):
    """A child died, answered no JSON, or could not do what was asked. Says what it wrote last."""


def serve(operations: Mapping[str, Operation]) -> None:
    """The child's loop. An exception of an operation is an answer: {"error": its type and text}."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        if question["op"] == "quit":
            return
        try:
            answer = operations[question["op"]](question)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class Child:
    """The parent's side of one process. log: what the child writes to its standard error."""

    def __init__(self, command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=_ROOT,
                env={**os.environ, **(environment or {})},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Raises PeerError."""
        try:
            print(json.dumps({"op": op, **arguments}), file=self._in, flush=True)
            line = self._out.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"it died with status {self._process.wait()}; its last lines:\n{last_lines(self.log)}")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise PeerError(f"no JSON: {line[:200]!r}") from None
        if "error" in answer:
            raise PeerError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """Ask it to end, and end it where it does not."""
        try:
            if self._process.poll() is None:
                print(json.dumps({"op": "quit"}), file=self._in, flush=True)
            self._process.wait(QUIT_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            self._out.close()
            # What a dead child never read is still to be flushed.
            with suppress(BrokenPipeError):
                self._in.close()


def last_lines(log: Path) -> str:
    """The end of a log, "" where there is none."""
    try:
        with log.open(errors="replace") as lines:
            return "".join(deque(lines, _LAST_LINES))
    except OSError:
        return ""
