"""Keeps a served bundle answering: looks at the server all the time, and starts it again when it is dead."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Protocol

from tritonguard.guard import Guard
from tritonguard.health import Health
from tritonguard.tls import Tls

from serving.errors import LaunchError
from serving.launch import ENSEMBLE, Endpoints
from serving.log_lines import LogRecord, event
from serving.server_process import POLL_S
from serving.watch import Death, Restarts, Sign, Watch, WatchSettings, sign_of

FIRST_CANARY_S = 60.0
"""Deadline of the canary after a start, seconds."""

CANARY_EVERY_S = 30.0
"""While others get verdicts; a server that nobody asks anything is judged by its canary at every look."""

_METRICS_S = 2.0
_VERDICTS = re.compile(rf'^nv_inference_request_success\{{model="{ENSEMBLE}",version="1"\}} (\d+)', re.MULTILINE)


class Server(Protocol):
    """What is needed of a TritonServer."""

    tls: Tls | None

    @property
    def endpoints(self) -> Endpoints: ...
    def status(self) -> int | None: ...
    def has_lost_a_stage(self) -> bool: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...
    def tell(self, record: LogRecord) -> None: ...


MakeGuard = Callable[..., Guard]


def first_health(server: Server, make_guard: MakeGuard = Guard) -> Health:
    """Of a server that has just become ready, with time for its first requests."""
    with make_guard(server.endpoints.grpc, deadline_s=FIRST_CANARY_S, tls=server.tls) as guard:
        return guard.health()


def verdicts_given(metrics: str) -> int | None:
    """How many the server has given since its start; None where its metrics don't say. metrics: host:port."""
    try:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=_METRICS_S) as page:  # nosec B310  # http
            found = _VERDICTS.search(page.read().decode("utf-8", "replace"))
    except (OSError, ValueError):
        return None
    return int(found[1]) if found else None


class Watchdog:
    """settings.every_s is also the canary's deadline. clock, sleep: seconds, for tests."""

    def __init__(
        self,
        server: Server,
        settings: WatchSettings,
        *,
        make_guard: MakeGuard = Guard,
        count: Callable[[str], int | None] = verdicts_given,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._settings = settings
        self._make_guard = make_guard
        self._count = count
        self._clock = clock
        self._sleep = sleep
        self._restarts = Restarts(settings)
        self._given: int | None = None
        self._canary_due = 0.0

    def run(self) -> str:
        """Watch a server that is well. Returns only when it gave up, with the reason in words; the server is then
        killed."""
        while True:
            death, since = self._watch_one_life()
            self._tell(death.value, _MEANING[death], level="error", **self._ended())
            self._server.kill()
            while True:
                wait_s = self._restarts.next(self._clock())
                if wait_s is None:
                    number, minutes = self._settings.restarts, self._settings.window_s / 60
                    given_up = f"gave up after {number} restarts within {minutes:g} minutes"
                    self._tell("given_up", given_up, level="fatal")
                    return given_up
                self._sleep(wait_s)
                if self._restarted():
                    downtime_s = round(self._clock() - since, 1)
                    self._tell("restarted", "the server answers again", cause=death.value, downtime_s=downtime_s)
                    break

    def _watch_one_life(self) -> tuple[Death, float]:
        """Why the server is dead, and since when it is known not to be well."""
        since: float | None = None
        watch = Watch(self._settings, self._clock())
        self._given, self._canary_due = None, self._clock()
        with ExitStack() as stack:
            guard = stack.enter_context(
                self._make_guard(self._server.endpoints.grpc, deadline_s=self._settings.every_s, tls=self._server.tls)
            )
            due = self._clock() + self._settings.every_s
            while True:
                sign = self._process_sign()
                if sign is None and self._clock() >= due:
                    sign = self._look(guard)
                    # A look at a process that has just died can fail in any way.
                    sign = self._process_sign() or sign
                    due = self._clock() + self._settings.every_s
                if sign is None:
                    self._sleep(POLL_S)
                    continue
                now = self._clock()
                if sign in (Sign.RIGHT, Sign.BUSY):
                    since = None
                elif since is None:
                    since = now
                waiting = sign in (Sign.BUSY, Sign.SILENT)
                verdicts = self._count(self._server.endpoints.metrics) if waiting else None
                if (death := watch.see(sign, now, verdicts=verdicts)) is not None:
                    return death, now if since is None else since

    def _look(self, guard: Guard) -> Sign:
        """Verdicts for others are as good a sign as the canary's, and cost nothing; yet now and then it is asked."""
        given = self._count(self._server.endpoints.metrics)
        moved = None not in (given, self._given) and given != self._given
        self._given = given
        if moved and self._clock() < self._canary_due:
            return Sign.RIGHT
        health = guard.health()
        self._canary_due = self._clock() + CANARY_EVERY_S
        self._given = self._count(self._server.endpoints.metrics)
        return sign_of(health)

    def _process_sign(self) -> Sign | None:
        if self._server.status() is not None:
            return Sign.ENDED
        return Sign.STAGE_DEAD if self._server.has_lost_a_stage() else None

    def _restarted(self) -> bool:
        try:
            self._server.restart()
        except (LaunchError, OSError) as error:
            # The first line: what follows is the end of the log, where it already is.
            self._tell("restart_failed", str(error).partition("\n")[0], level="error")
            return False
        # Callers who waited for it may be there before its canary: a refusal because of load is a sign of life.
        if sign_of(first_health(self._server, self._make_guard)) in (Sign.RIGHT, Sign.BUSY):
            return True
        self._tell("restart_failed", "the server is ready and does not judge its canary right", level="error")
        self._server.kill()
        return False

    def _ended(self) -> dict[str, int]:
        status = self._server.status()
        return {} if status is None else {"status": status}

    def _tell(self, kind: str, message: str, *, level: str = "info", **more: str | float | int) -> None:
        self._server.tell(event(kind, message, datetime.now(UTC), level=level, **more))


_MEANING = {
    Death.ENDED: "Triton ended by itself and is started again",
    Death.STAGE_DEAD: "a process of a model died, after which Triton answers nothing; it is started again",
    Death.BROKEN: "Triton answers its canary with faults; it is started again",
    Death.HUNG: "Triton gives no verdicts any more; it is started again",
}
