"""tritonserver's arguments, and the ports and the address that it may have."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from serving.errors import NotLoopback, PortInUse
from serving.tls_files import TlsFiles

RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
"""What nobody may call: it changes the server, its log or its files, or maps memory of this machine into it. Open
stay health, metadata, inference, statistics and model-config."""

_HEADER = "tritonguard-closed"


@dataclass(frozen=True)
class Ports:
    """http: None: not served."""

    http: int | None
    grpc: int
    metrics: int


def listening(host: str, *, reachable: bool) -> str:
    """`host` as an IPv4 address to listen on. Raises NotLoopback for what others could reach, and for no such address.

    reachable: whether the server's release is one that others may reach.
    """
    address = "127.0.0.1" if host == "localhost" else host
    try:
        if reachable or ipaddress.IPv4Address(address).is_loopback:
            return str(ipaddress.IPv4Address(address))
    except ValueError:
        pass
    if reachable:
        raise NotLoopback(f"{host} is refused: give an IPv4 address of this machine, or 0.0.0.0 for all of them")
    raise NotLoopback(
        f"{host} is refused: this Triton (2.51, release 24.10) has published holes that let anybody who can "
        "reach it run code without a password (fixed in 25.07 and later). It listens on 127.0.0.1 only; "
        "for everything that others shall reach, use the production image (see SECURITY.md)"
    )


def choose_ports(host: str, wanted: Ports) -> Ports:
    """Each free a moment ago; 0 is replaced by a free one. Raises PortInUse."""
    with ExitStack() as stack:
        # All held at once, so that no free port is chosen twice.
        def bound(port: int) -> int:
            return int(stack.enter_context(_bound(host, port)).getsockname()[1])

        http = None if wanted.http is None else bound(wanted.http)
        return Ports(http, bound(wanted.grpc), bound(wanted.metrics))


def _bound(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # As the server does it: connections of a server that has just ended do not count.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise PortInUse(
            f"port {port} on {host} can't be had ({error.strerror}); choose another, or 0 for any free one"
        ) from error
    return opened


def flags(
    repository: Path,
    backends: Path,
    *,
    host: str,
    ports: Ports,
    tls: TlsFiles | None,
    exit_timeout_s: int,
    gpu_metrics: bool = False,
) -> list[str]:
    """The arguments; other ones each time, see `_closed`. gpu_metrics: the wheel's server has none to show."""
    return [
        f"--model-repository={repository.resolve()}",
        f"--backend-directory={backends}",
        "--model-control-mode=none",
        # The configurations are complete; asking each model's Python for one costs seconds.
        "--disable-auto-complete-config",
        *_http(host, ports.http),
        f"--grpc-address={host}",
        f"--grpc-port={ports.grpc}",
        *_grpc_tls(tls),
        f"--metrics-address={host}",
        f"--metrics-port={ports.metrics}",
        *_closed(http=ports.http is not None),
        f"--allow-gpu-metrics={str(gpu_metrics).lower()}",
        "--pinned-memory-pool-byte-size=0",
        f"--exit-timeout-secs={exit_timeout_s}",
    ]


def _http(host: str, port: int | None) -> list[str]:
    return ["--allow-http=false"] if port is None else [f"--http-address={host}", f"--http-port={port}"]


def _grpc_tls(tls: TlsFiles | None) -> list[str]:
    if tls is None:
        return []
    files = [f"--grpc-server-cert={tls.certificate.resolve()}", f"--grpc-server-key={tls.key.resolve()}"]
    if tls.client_ca is None:
        return ["--grpc-use-ssl=true", *files]
    return ["--grpc-use-ssl-mutual=true", *files, f"--grpc-root-cert={tls.client_ca.resolve()}"]


def _closed(*, http: bool) -> list[str]:
    # Triton has no other way to close an endpoint than a header that nobody knows. Arguments can be read by
    # everybody on this machine, so the value ends with a line feed: no header can hold one.
    closed = f"{','.join(RESTRICTED)}:{_HEADER}={secrets.token_hex(32)}\n"
    return [*([f"--http-restricted-api={closed}"] if http else []), f"--grpc-restricted-protocol={closed}"]
