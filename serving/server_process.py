"""One tritonserver process: started until it is ready, watched, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from serving import processes
from serving.errors import StartFailed
from serving.log_copy import LogCopy, LogTarget

POLL_S = 0.1
_KILL_AFTER_S = 5.0


class Aborted(StartFailed):
    """The server ended by SIGABRT while starting."""


class ServerProcess:
    """Runs from its making on. It leads a process group of its own, with its stages in it; where the main thread
    makes it, it gets SIGTERM when this process ends in whatever way.

    exit_timeout_s: what the server was told to give running requests at its end.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], target: LogTarget, *, exit_timeout_s: float
    ) -> None:
        self._exit_timeout_s = exit_timeout_s
        # A session of its own: Ctrl-C in a terminal must reach it through `end`, once.
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # The function only makes two system calls, for which no lock of another thread is needed.
            preexec_fn=processes.end_with_parent(),
        )
        assert self._process.stdout is not None
        self._log = LogCopy(self._process.stdout, target)
        self._stages: frozenset[int] = frozenset()
        self._shared_memory: frozenset[Path] = frozenset()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Raises StartFailed, with the end of the log, where it ends or `timeout_s` seconds pass before; Aborted
        where SIGABRT ended it."""
        give_up = time.monotonic() + timeout_s
        while not is_ready():
            status = self.status()
            if status is not None:
                self._log.close()
                failure = Aborted if status == -signal.SIGABRT else StartFailed
                raise failure(f"Triton ended with status {status} before it was ready.{self._log.tail()}")
            if time.monotonic() > give_up:
                raise StartFailed(f"Triton was not ready within {timeout_s:g} s.{self._log.tail()}")
            time.sleep(POLL_S)
        self._stages = processes.stubs(self.pid)
        # Noted now: a server that is killed leaves them behind, and then they can't be found any more.
        self._shared_memory = processes.shared_memory(self.pid)

    def status(self) -> int | None:
        """Its exit status (negative: the signal that ended it); None while it runs."""
        return self._process.poll()

    def has_lost_a_stage(self) -> bool:
        """Whether one of the Python stages that were there when it became ready is not there any more."""
        return bool(processes.missing(self._stages, self.pid))

    def tail(self) -> str:
        """The latest lines of its output."""
        return self._log.tail()

    def end(self) -> int:
        """Let running requests finish, and kill it where that takes too long. Its exit status."""
        if self.status() is None:
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self._exit_timeout_s + _KILL_AFTER_S)
        # Also after a clean end: stubs that lost their server would be left. There are none, as a rule.
        return self.kill()

    def kill(self) -> int:
        """End it and its stages at once. Its exit status."""
        left = self._shared_memory | processes.shared_memory(self.pid)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        for path in left:
            path.unlink(missing_ok=True)
        self._log.close()
        return status
