"""The `tritonguard-serve` command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tritonguard.guard import Guard
from tritonguard.health import Health

from serving.adapter import (
    BUILT_IN_FLOOR,
    BUNDLE_VARIABLE,
    CALLER_POLICIES_VARIABLE,
    FLOOR_VARIABLE,
    POLICIES_VARIABLE,
    is_on,
)
from serving.errors import LaunchError
from serving.launch import MODEL_REPOSITORY, ServerSettings, TritonServer
from serving.policy_switches import PolicySwitches

EXIT_STOPPED, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_CANARY_DEADLINE_S = 60.0
_DEFAULT_BUNDLE = "build/bundle"
_EPILOG = """\
examples:
  tritonguard-serve --bundle build/bundle
  tritonguard-serve --bundle build/bundle --log triton.log
  tritonguard-serve --policies policies --floor --no-caller-policies
  tritonguard-serve --bundle build/bundle --http-port 0 --grpc-port 0 --metrics-port 0

then, in another terminal:
  tritonguard check "How do I bake bread?"
  tritonguard health

The files of --policies are named policies: a caller asks for kids-education.yaml as kids-education. Changes are
taken up while it serves; a broken file leaves the policy before it in force and is told in the log. --floor has
the built-in policy judged beside every other one, and the stricter answer wins; it is read once. Callers may send
policies of their own, since only this machine can call; --no-caller-policies leaves them the named ones and the
built-in one as it is, without thresholds of their own.

Once ready it prints one line on standard output. The server's own log goes to standard error, or to --log.

It listens on this machine only. The Triton in the wheel (2.51) has published holes that let anybody who can
reach it run code; for everything that others shall reach there is the production image (SECURITY.md).

exit codes:
  0  stopped by SIGINT (Ctrl-C) or SIGTERM; requests that were running got their verdicts
  1  could not start, gave a wrong canary verdict, or ended by itself
  2  usage
"""


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """`--bundle`, the same in every command of this room."""
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get(BUNDLE_VARIABLE) or _DEFAULT_BUNDLE),
        help=f"folder that `compile` wrote (${BUNDLE_VARIABLE}, else {_DEFAULT_BUNDLE})",
    )


class _Stopped(BaseException):
    """SIGINT or SIGTERM came. Like KeyboardInterrupt: no `except Exception` may keep it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes, and return the exit code. Wrong usage raises SystemExit(2)."""
    args = _parser().parse_args(argv)
    settings = ServerSettings(
        bundle=args.bundle,
        model_repository=args.model_repository,
        host=args.host,
        http_port=args.http_port,
        grpc_port=args.grpc_port,
        metrics_port=args.metrics_port,
        log=args.log,
        policies=PolicySwitches(args.policies, args.floor, args.caller_policies),
    )
    try:
        with _stopped_by_signals(), TritonServer(settings) as server:
            return _serve(server)
    except _Stopped:
        return EXIT_STOPPED
    except (LaunchError, OSError) as error:
        print(f"tritonguard-serve: {error}", file=sys.stderr)
        return EXIT_FAILED


def _serve(server: TritonServer) -> int:
    ends = server.endpoints
    with Guard(ends.grpc, deadline_s=_CANARY_DEADLINE_S) as guard:
        health = guard.health()
    if not health.healthy:
        print(f"tritonguard-serve: not served, {canary_line(health)}", file=sys.stderr)
        return EXIT_FAILED
    where = f"grpc {ends.grpc}, http {ends.http}, metrics {ends.metrics}"
    print(f"tritonguard ready: {where}; {canary_line(health)}", flush=True)
    status = server.wait()
    print(f"tritonguard-serve: Triton ended by itself, status {status}", file=sys.stderr)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tritonguard-serve",
        description="Serve a bundle with a real Triton Inference Server, on this machine, in the foreground.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_bundle(parser)
    parser.add_argument("--host", default="127.0.0.1", help="an address of this machine only (%(default)s)")
    for protocol, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(
            f"--{protocol}-port",
            type=_port,
            default=port,
            metavar="N",
            help="0: any free port (%(default)s)",
        )
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=MODEL_REPOSITORY,
        metavar="DIR",
        help="folder of the models guard, preprocess, decode and verdict (the one of this installation)",
    )
    _add_policies(parser)
    parser.add_argument("--log", type=Path, metavar="FILE", help="add the server's log to FILE (stderr)")
    return parser


def _add_policies(parser: argparse.ArgumentParser) -> None:
    folder = os.environ.get(POLICIES_VARIABLE)
    parser.add_argument(
        "--policies",
        type=Path,
        metavar="DIR",
        default=Path(folder) if folder else None,
        help=f"folder of named policies, *.yaml (${POLICIES_VARIABLE}, else none)",
    )
    parser.add_argument(
        "--floor",
        nargs="?",
        const=BUILT_IN_FLOOR,
        default=os.environ.get(FLOOR_VARIABLE) or None,
        metavar="FILE",
        help="judge the built-in policy beside every other one; FILE: with the thresholds of that policy "
        f"(${FLOOR_VARIABLE}, else no floor)",
    )
    try:
        callers = is_on(CALLER_POLICIES_VARIABLE, unset=True)
    except ValueError as error:
        parser.error(str(error))
    parser.add_argument(
        "--caller-policies",
        action=argparse.BooleanOptionalAction,
        default=callers,
        help=f"whether callers may send policies of their own (${CALLER_POLICIES_VARIABLE}, 0 or 1, else 1)",
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not between 0 and 65535")
    return port


if __name__ == "__main__":
    sys.exit(main())
