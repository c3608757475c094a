"""The `tritonguard-serve` command."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from tritonguard.guard import Guard
from tritonguard.health import Health

from serving.errors import LaunchError
from serving.launch import TritonServer
from serving.serve_options import read_options
from serving.watch import WatchSettings
from serving.watchdog import Watchdog, first_health

EXIT_STOPPED, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


class _Stopped(BaseException):
    """SIGINT or SIGTERM came. Like KeyboardInterrupt: no `except Exception` may keep it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes, and return the exit code. Wrong usage raises SystemExit(2)."""
    settings, watch = read_options(argv)
    try:
        with _stopped_by_signals(), TritonServer(settings) as server:
            return _serve(server, watch)
    except _Stopped:
        return EXIT_STOPPED
    except (LaunchError, OSError) as error:
        print(f"tritonguard-serve: {error}", file=sys.stderr)
        return EXIT_FAILED


def _serve(server: TritonServer, watch: WatchSettings | None) -> int:
    ends = server.endpoints
    health = first_health(server, Guard)
    if not health.healthy:
        print(f"tritonguard-serve: not served, {canary_line(health)}", file=sys.stderr)
        return EXIT_FAILED
    places = {"grpc": ends.grpc, "http": ends.http, "metrics": ends.metrics}
    where = ", ".join(f"{protocol} {place}" for protocol, place in places.items() if place)
    print(f"tritonguard ready: {where}; {canary_line(health)}", flush=True)
    if watch is None:
        why = f"Triton ended by itself, status {server.wait()}"
    else:
        why = Watchdog(server, watch, make_guard=Guard).run()
    print(f"tritonguard-serve: {why}", file=sys.stderr)
    return EXIT_FAILED


def canary_line(health: Health) -> str:
    """The canary's verdicts on one line, right or wrong."""
    if not health.canary:
        return "canary: the server says that it is not ready"
    told = []
    for result in health.canary:
        label = result.verdict.label if result.verdict else None
        got = label.user_safety.value if label else f"error {result.error.kind}" if result.error else "nothing"
        p_unsafe = f" p_unsafe {label.p_unsafe_user:.3f}" if label and label.p_unsafe_user is not None else ""
        wrong = "" if result.passed else f" (WRONG, expected {result.example.expected.user.value})"
        told.append(f"{result.example.id} {got}{p_unsafe}{wrong}")
    return f"canary: {', '.join(told)}"


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `_Stopped`, once: a second one would cut the clean end short."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
