"""The options of `tritonguard-serve`, and its help."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

from serving.adapter import (
    BUILT_IN_FLOOR,
    BUNDLE_VARIABLE,
    CACHE_VARIABLE,
    CALLER_POLICIES_VARIABLE,
    DEFAULT_CACHE_MB,
    FLOOR_VARIABLE,
    POLICIES_VARIABLE,
    QUEUE_VARIABLE,
    cache_mb,
    is_on,
    most_waiting,
)
from serving.launch import DEFAULT_QUEUE, MODEL_REPOSITORY, ServerSettings
from serving.policy_switches import PolicySwitches
from serving.tls_files import TlsFiles
from serving.watch import WatchSettings

_DEFAULT_BUNDLE = "build/bundle"
_WATCH = WatchSettings()
_EPILOG = f"""\
examples:
  tritonguard-serve --bundle build/bundle
  tritonguard-serve --bundle build/bundle --log triton.log
  tritonguard-serve --policies policies --floor --no-caller-policies
  tritonguard-serve --bundle build/bundle --http-port 0 --grpc-port 0 --metrics-port 0
  tritonguard-serve --tls-cert server.pem --tls-key server.key --tls-client-ca clients.pem --no-http

then, in another terminal:
  tritonguard check "How do I bake bread?"
  tritonguard health

The files of --policies are named policies: a caller asks for kids-education.yaml as kids-education. Changes are
taken up while it serves; a broken file leaves the policy before it in force and is told in the log. --floor has
the built-in policy judged beside every other one, and the stricter answer wins; it is read once. Callers may send
policies of their own, since only this machine can call; --no-caller-policies leaves them the named ones and the
built-in one as it is, without thresholds of their own.

Once ready it prints one line on standard output. The server's own log goes to standard error, or to --log: one
JSON object a line with time (UTC), level, source, message, and request_id where it is about a request.

While it serves, it has two example texts judged every --watch-seconds seconds, or every 30 where others got verdicts
meanwhile. A server that has died (Triton ended,
a model's process is gone, or {_WATCH.failures} faults in a row) is killed and started again on the same ports;
so is one that gives no verdict for {_WATCH.hung_s:g} s. A busy one, which refuses or is late, is left alone. Each
event is one line on standard error: {{"event": "stage_dead"}}, "server_ended", "canary_failed", "server_hung",
"restarted" with downtime_s, "restart_failed". After {_WATCH.restarts} restarts within {_WATCH.window_s / 60:g} minutes
it says "given_up" and ends with 1. By hand there is nothing to do but to look into the log before such an event;
SIGTERM, then the same command again, starts everything anew.

It listens on this machine only, unless --host says otherwise in an image of Triton 25.07 or newer. The Triton in the
wheel (2.51) has published holes that let anybody who can reach it run code; for everything that others shall reach
there is the production image (SECURITY.md). TLS is for
gRPC; HTTP and metrics have none. Closed for everybody: model control, shared memory, trace and log settings.

exit codes:
  0  stopped by SIGINT (Ctrl-C) or SIGTERM; requests that were running got their verdicts
  1  could not start, gave a wrong canary verdict, or did not stay up
  2  usage
"""


def read_options(argv: Sequence[str] | None) -> tuple[ServerSettings, WatchSettings | None]:
    """What to serve, and how to watch it; None: not at all. Wrong usage raises SystemExit(2)."""
    parser = _parser()
    args = parser.parse_args(argv)
    settings = ServerSettings(
        bundle=args.bundle,
        model_repository=args.model_repository,
        host=args.host,
        http_port=args.http_port,
        grpc_port=args.grpc_port,
        metrics_port=args.metrics_port,
        http=args.http,
        tls=_tls(parser, args),
        log=args.log,
        log_format=args.log_format,
        policies=PolicySwitches(args.policies, args.floor, args.caller_policies),
        queue=args.queue,
        ready_timeout_s=args.ready_seconds,
        cache_mb=args.cache_mb,
    )
    return settings, WatchSettings(every_s=args.watch_seconds) if args.watch_seconds else None


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """`--bundle`, the same in every command of this room."""
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get(BUNDLE_VARIABLE) or _DEFAULT_BUNDLE),
        help=f"folder that `compile` wrote (${BUNDLE_VARIABLE}, else {_DEFAULT_BUNDLE})",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tritonguard-serve",
        description="Serve a bundle with a real Triton Inference Server, in the foreground.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_bundle(parser)
    _add_places(parser)
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=MODEL_REPOSITORY,
        metavar="DIR",
        help="folder of the models guard, preprocess, decode and verdict (the one of this installation)",
    )
    _add_policies(parser)
    _add_operation(parser)
    _add_tls(parser)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="an address to listen on; one that others reach only in an image of Triton 25.07 or newer (%(default)s)",
    )
    for protocol, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(
            f"--{protocol}-port", type=_port, default=port, metavar="N", help="0: any free port (%(default)s)"
        )
    parser.add_argument(
        "--http", action=argparse.BooleanOptionalAction, default=True, help="whether to serve HTTP beside gRPC (yes)"
    )


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


def _add_operation(parser: argparse.ArgumentParser) -> None:
    try:
        queue, kept = most_waiting(DEFAULT_QUEUE), cache_mb()
    except ValueError as error:
        parser.error(str(error))
    parser.add_argument(
        "--queue",
        type=_above_zero,
        default=queue,
        metavar="N",
        help="most requests that wait for the engine; the next is refused as overloaded "
        f"(${QUEUE_VARIABLE}, else {DEFAULT_QUEUE})",
    )
    parser.add_argument(
        "--ready-seconds",
        type=_above_zero,
        default=ServerSettings.ready_timeout_s,
        metavar="S",
        help="until every model must be loaded; the first start on a kind of GPU compiles kernels (%(default)g)",
    )
    parser.add_argument(
        "--cache-mb",
        type=_not_below_zero,
        default=kept,
        metavar="N",
        help="megabytes of answers kept for policies with a `cache`; 0: none are, whatever a policy says "
        f"(${CACHE_VARIABLE}, else {DEFAULT_CACHE_MB})",
    )
    parser.add_argument(
        "--watch-seconds",
        type=_seconds,
        default=_WATCH.every_s,
        metavar="S",
        help="between two looks at the server, and the canary's deadline; 0: a dead server stays dead (%(default)g)",
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="add the server's log to FILE (stderr)")
    parser.add_argument(
        "--log-format",
        choices=("json", "text"),
        default="json",
        help="of the log and of the events: one JSON object a line, or as Triton writes it (%(default)s)",
    )


def _add_tls(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TLS for gRPC (PEM files; keys without a password)")
    for name, text in (
        ("cert", "the server's certificate"),
        ("key", "its key"),
        ("client-ca", "authorities whose certificate every caller must have"),
        ("canary-cert", "what the launcher's own canary shows then (the server's certificate)"),
        ("canary-key", "its key"),
    ):
        group.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=text)


def _tls(parser: argparse.ArgumentParser, args: argparse.Namespace) -> TlsFiles | None:
    pairs = ((args.tls_cert, args.tls_key, ""), (args.tls_canary_cert, args.tls_canary_key, "canary-"))
    for certificate, key, kind in pairs:
        if (certificate is None) != (key is None):
            parser.error(f"--tls-{kind}cert and --tls-{kind}key come together")
    if args.tls_cert is None:
        if args.tls_client_ca or args.tls_canary_cert:
            parser.error("--tls-client-ca and --tls-canary-cert need --tls-cert and --tls-key")
        return None
    if args.tls_canary_cert and not args.tls_client_ca:
        parser.error("--tls-canary-cert is for --tls-client-ca")
    return TlsFiles(args.tls_cert, args.tls_key, args.tls_client_ca, args.tls_canary_cert, args.tls_canary_key)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not between 0 and 65535")
    return port


def _above_zero(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def _not_below_zero(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and (seconds == 0 or 0.1 <= seconds <= 60)):
        raise argparse.ArgumentTypeError(f"{text} is neither 0 nor between 0.1 and 60")
    return seconds
