"""When is a server dead, and when is it started again? Decided from observations and times alone.

A dead server is told from a busy one: under load the canary is refused or late, and still verdicts leave the server.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from tritonguard.errors import DeadlineExceeded, Overloaded
from tritonguard.health import Health


class Sign(Enum):
    """What a look at the server showed."""

    RIGHT = "right"
    """A right verdict on a canary."""
    BUSY = "busy"
    """The canary was refused because of load."""
    SILENT = "silent"
    """No answer to the canary in its time."""
    BROKEN = "broken"
    """A fault or a wrong verdict in answer to the canary: what a server with a dead stage answers for ever."""
    STAGE_DEAD = "stage_dead"
    """A process of a Python stage is gone."""
    ENDED = "ended"
    """The server's process is gone."""


class Death(Enum):
    """Why a server is given up."""

    ENDED = "server_ended"
    STAGE_DEAD = "stage_dead"
    BROKEN = "canary_failed"
    HUNG = "server_hung"


@dataclass(frozen=True)
class WatchSettings:
    """every_s: seconds between two looks. failures, failing_s: so many broken answers in a row, over at least so
    many seconds, are a dead server. hung_s: seconds without any verdict for anybody, while the canary waits for one.
    restarts, window_s: the most restarts within so many seconds. first_wait_s, most_wait_s: before the second
    restart of a window, doubled before each further one.
    """

    every_s: float = 5.0
    failures: int = 3
    failing_s: float = 3.0
    hung_s: float = 60.0
    restarts: int = 5
    window_s: float = 600.0
    first_wait_s: float = 1.0
    most_wait_s: float = 30.0


def sign_of(health: Health) -> Sign:
    """What the canaries say. A server that says itself that it is not ready, or nothing at all, is silent: under load
    that word comes late as well."""
    errors = [result.error for result in health.canary if result.error is not None]
    wrong = any(result.verdict is not None and not result.passed for result in health.canary)
    if wrong or not all(isinstance(error, (Overloaded, DeadlineExceeded)) for error in errors):
        return Sign.BROKEN
    if any(result.passed for result in health.canary):
        return Sign.RIGHT
    return Sign.BUSY if any(isinstance(error, Overloaded) for error in errors) else Sign.SILENT


class Watch:
    """One life of a server, which was well at `now` (seconds of a monotonic clock, as everywhere here)."""

    def __init__(self, settings: WatchSettings, now: float) -> None:
        self._settings = settings
        self._verdict_at = now
        self._verdicts: int | None = None
        self._broken_since: float | None = None
        self._broken = 0

    def see(self, sign: Sign, now: float, *, verdicts: int | None = None) -> Death | None:
        """Why the server is dead; None while it is not known to be.

        verdicts: how many the server has given to anybody since its start; None: could not be asked.
        """
        if sign is Sign.ENDED:
            return Death.ENDED
        if sign is Sign.STAGE_DEAD:
            return Death.STAGE_DEAD
        if sign is Sign.BROKEN:
            return self._failed(now)
        self._broken_since, self._broken = None, 0
        moved = verdicts is not None and verdicts != self._verdicts
        self._verdicts = verdicts if verdicts is not None else self._verdicts
        # A refusal is an answer; where verdicts can be counted, these say more.
        if sign is Sign.RIGHT or moved or (sign is Sign.BUSY and verdicts is None):
            self._verdict_at = now
        return Death.HUNG if now - self._verdict_at >= self._settings.hung_s else None

    def _failed(self, now: float) -> Death | None:
        if self._broken_since is None:
            self._broken_since = now
        self._broken += 1
        enough = self._broken >= self._settings.failures and now - self._broken_since >= self._settings.failing_s
        return Death.BROKEN if enough else None


class Restarts:
    """Counts restarts over the lives of a server."""

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        self._made: deque[float] = deque()

    def next(self, now: float) -> float | None:
        """Seconds to wait before the next restart, which is counted as made; None: there were too many."""
        while self._made and now - self._made[0] > self._settings.window_s:
            self._made.popleft()
        before = len(self._made)
        if before >= self._settings.restarts:
            return None
        self._made.append(now)
        if not before:
            return 0.0
        return min(self._settings.most_wait_s, self._settings.first_wait_s * 2.0 ** (before - 1))
