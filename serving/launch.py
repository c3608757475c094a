"""A real Triton server as a context manager.

    settings = ServerSettings(bundle=Path("build/bundle"), http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(settings) as server, Guard(server.endpoints.grpc) as guard:
        ...

For this machine only: the wheel's Triton (2.51) has published holes through which anybody who reaches it can
run code, fixed in 25.07. What others shall reach runs on the production image.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from serving.errors import (
    BundleMissing,
    NotLoopback,
    PortInUse,
    RepositoryMissing,
    StartFailed,
)
from serving.installation import Installation
from serving.policy_switches import PolicySwitches

MODEL_REPOSITORY = Path(__file__).resolve().parent.parent / "model_repository"
ENSEMBLE = "guard"

_TAIL_LINES = 40
_POLL_S = 0.1
_KILL_AFTER_S = 5.0


@dataclass(frozen=True)
class ServerSettings:
    """What to serve, and where.

    bundle: folder with a manifest.json; whether its files are whole is checked by the stages that load it.
    model_repository: folder of the four models. host: an IPv4 loopback address or `localhost`.
    http_port, grpc_port, metrics_port: 0 takes a free one. policies: the operator's switches.
    log: file that the server's output is added to; None: standard error.
    ready_timeout_s: seconds until every model must be loaded. exit_timeout_s: whole seconds that running
    requests get at the end.
    """

    bundle: Path
    model_repository: Path = MODEL_REPOSITORY
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    log: Path | None = None
    policies: PolicySwitches = field(default_factory=PolicySwitches)
    ready_timeout_s: float = 180.0
    exit_timeout_s: int = 10


@dataclass(frozen=True)
class Endpoints:
    """host:port of each protocol, without a scheme."""

    http: str
    grpc: str
    metrics: str


class TritonServer:
    """A running server; starts on entering and stops on leaving. Not reusable while it runs.

    Raises LaunchError (its tree is in `serving.errors`) where the server can't be started.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._resources = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoints: Endpoints | None = None

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoints(self) -> Endpoints:
        """Where it listens. RuntimeError before the start."""
        if self._endpoints is None:
            raise RuntimeError("the server has not been started")
        return self._endpoints

    def start(self) -> None:
        """Start and wait until every model is ready. Raises LaunchError."""
        host = loopback(self.settings.host)
        refuse_missing(self.settings)
        self.settings.policies.refuse_broken()
        installation = Installation.find()
        try:
            backends = installation.assemble(
                Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="tritonguard-")))
            )
            ports = choose_ports(host, self.settings)
            self._endpoints = Endpoints(*(f"{host}:{port}" for port in ports))
            command = [str(installation.server), *flags(self.settings, host, ports, backends)]
            base = {**os.environ, **self.settings.policies.environment()}
            environment = installation.environment(base, bundle=self.settings.bundle)
            try:
                self._run(command, environment)
            except _Aborted:
                # Seen about once in 300 starts of this Triton, before any of our code runs; never twice.
                self._run(command, environment)
        except BaseException:
            self.stop()
            raise

    def wait(self) -> int:
        """Block until the server ends; its exit status (negative: the signal that ended it)."""
        process = self._process
        if process is None:
            raise RuntimeError("the server has not been started")
        # Not process.wait(): a signal that comes just before its system call would not end that call.
        while (status := process.poll()) is None:
            time.sleep(_POLL_S)
        return status

    def stop(self) -> int | None:
        """End it: running requests are finished, then it is killed. Its exit status; None: it never ran."""
        process, self._process = self._process, None
        status = None if process is None else self._end(process)
        self._resources.close()
        return status

    def _run(self, command: list[str], environment: dict[str, str]) -> None:
        # A session of its own: Ctrl-C in a terminal must reach it through `stop`, once.
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        log = _Log(self._process.stdout, self.settings.log)
        self._resources.callback(log.close)
        give_up = time.monotonic() + self.settings.ready_timeout_s
        while not self._is_ready():
            status = self._process.poll()
            if status is not None:
                log.close()
                failure = _Aborted if status == -signal.SIGABRT else StartFailed
                raise failure(f"Triton ended with status {status} before it was ready.{log.tail()}")
            if time.monotonic() > give_up:
                raise StartFailed(f"Triton was not ready within {self.settings.ready_timeout_s:g} s.{log.tail()}")
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.endpoints.http, timeout=1.0)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(self.settings.exit_timeout_s + _KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            # Stubs that lost their server; after a clean end there are none.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class _Aborted(StartFailed):
    """The server ended by SIGABRT while starting."""


class _Log:
    """Copies the server's output to a file or to standard error, and keeps its end for error messages."""

    def __init__(self, stream: IO[bytes], path: Path | None) -> None:
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._stream = stream
        self._target = path.open("a", encoding="utf-8") if path else None
        self._thread = threading.Thread(target=self._copy, name="triton-log", daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        with self._stream:
            for raw in self._stream:
                line = raw.decode("utf-8", errors="replace")
                self._lines.append(line)
                # Looked up each time: whoever replaced standard error meanwhile wants it there.
                target = self._target or sys.stderr
                with suppress(OSError, ValueError):
                    target.write(line)
                    target.flush()

    def tail(self) -> str:
        return " The end of its log:\n" + "".join(f"  {line}" for line in list(self._lines))

    def close(self) -> None:
        """Once the server has ended."""
        self._thread.join(timeout=2.0)
        if self._target is not None:
            self._target.close()


def loopback(host: str) -> str:
    """`host` as an IPv4 loopback address. Raises NotLoopback for everything that others could reach."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        if ipaddress.IPv4Address(address).is_loopback:
            return address
    except ValueError:
        pass
    raise NotLoopback(
        f"{host} is refused: this Triton (2.51, release 24.10) has published holes that let anybody who can "
        "reach it run code without a password (fixed in 25.07 and later). It listens on 127.0.0.1 only; "
        "for everything that others shall reach, use the production image (see SECURITY.md)"
    )


def refuse_missing(settings: ServerSettings) -> None:
    """Raises BundleMissing or RepositoryMissing where a folder is not what it should be."""
    if not (settings.bundle / "manifest.json").is_file():
        raise BundleMissing(f"{settings.bundle} holds no bundle (no manifest.json); `make demo` builds one")
    if not (settings.model_repository / ENSEMBLE / "config.pbtxt").is_file():
        raise RepositoryMissing(f"{settings.model_repository} holds no model repository (no {ENSEMBLE}/config.pbtxt)")


def choose_ports(host: str, settings: ServerSettings) -> tuple[int, int, int]:
    """The ports for HTTP, gRPC and metrics, each free a moment ago. Raises PortInUse."""
    wanted = (settings.http_port, settings.grpc_port, settings.metrics_port)
    with ExitStack() as stack:
        # All held at once, so that no free port is chosen twice.
        sockets = [stack.enter_context(_bound(host, port)) for port in wanted]
        http_port, grpc_port, metrics_port = (opened.getsockname()[1] for opened in sockets)
    return http_port, grpc_port, metrics_port


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


def flags(settings: ServerSettings, host: str, ports: tuple[int, int, int], backends: Path) -> list[str]:
    """tritonserver's arguments."""
    http_port, grpc_port, metrics_port = ports
    return [
        f"--model-repository={settings.model_repository.resolve()}",
        f"--backend-directory={backends}",
        "--model-control-mode=none",
        # The configurations are complete; asking each model's Python for one costs seconds.
        "--disable-auto-complete-config",
        f"--http-address={host}",
        f"--http-port={http_port}",
        f"--grpc-address={host}",
        f"--grpc-port={grpc_port}",
        f"--metrics-address={host}",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        f"--exit-timeout-secs={settings.exit_timeout_s}",
    ]
