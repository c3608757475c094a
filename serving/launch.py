"""A real Triton server as a context manager.

    settings = ServerSettings(bundle=Path("build/bundle"))
    with TritonServer(settings) as server, Guard(server.endpoints.grpc, tls=server.tls) as guard:
        ...

The wheel's Triton (2.51) is for this machine only: it has published holes through which anybody who reaches it can run
code, fixed in 25.07. What others shall reach runs on the production image.
"""

from __future__ import annotations

import http.client
import os
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tritonguard.grpc_transport import GrpcTransport
from tritonguard.tls import Tls

from serving.adapter import CACHE_VARIABLE, DEFAULT_CACHE_MB, QUEUE_VARIABLE
from serving.errors import BundleMissing, RepositoryMissing
from serving.flags import Ports, choose_ports, flags, listening
from serving.installation import Installation
from serving.log_copy import LogTarget
from serving.log_lines import LogFormat, LogRecord
from serving.occupancy import VARIABLE as OCCUPANCY_VARIABLE
from serving.occupancy import Occupancy
from serving.policy_switches import PolicySwitches
from serving.server_process import POLL_S, Aborted, ServerProcess
from serving.tls_files import TlsFiles

MODEL_REPOSITORY = Path(__file__).resolve().parent.parent / "model_repository"
ENSEMBLE = "guard"
DEFAULT_QUEUE = 32

_ASK_S = 1.0


@dataclass(frozen=True)
class ServerSettings:
    """What to serve, and where.

    bundle: folder with a manifest.json; whether its files are whole is checked by the stages that load it.
    model_repository: folder of the four models. host: an IPv4 address to listen on, or `localhost`; a loopback one
    where the server's release has the published holes.
    http_port, grpc_port, metrics_port: 0 takes a free one. http: False leaves HTTP out (metrics stay).
    tls: of gRPC; None: plain. policies: the operator's switches. queue: most requests that wait for the engine.
    cache_mb: megabytes of answers kept for policies that have it so; 0: none.
    log: file that the server's output is added to; None: standard error. log_format: of its lines.
    ready_timeout_s: seconds until every model must be loaded. exit_timeout_s: whole seconds that running
    requests get at the end.
    """

    bundle: Path
    model_repository: Path = MODEL_REPOSITORY
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    http: bool = True
    tls: TlsFiles | None = None
    log: Path | None = None
    log_format: LogFormat = "json"
    policies: PolicySwitches = field(default_factory=PolicySwitches)
    queue: int = DEFAULT_QUEUE
    cache_mb: int = DEFAULT_CACHE_MB
    ready_timeout_s: float = 180.0
    exit_timeout_s: int = 10


@dataclass(frozen=True)
class Endpoints:
    """host:port of each protocol for a caller on this machine, without a scheme. http: empty where it is not served."""

    http: str
    grpc: str
    metrics: str


class TritonServer:
    """A running server; starts on entering and stops on leaving. Not reusable while it runs.

    Raises LaunchError (its tree is in `serving.errors`) where the server can't be started. Started in the main
    thread, the server ends with this process, also where that is killed.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.tls: Tls | None = None
        """How a client on this machine connects; None: without TLS. Known after the start."""
        self._resources = ExitStack()
        self._process: ServerProcess | None = None
        self._endpoints: Endpoints | None = None
        self._target: LogTarget | None = None
        self._run: Callable[[], None] | None = None

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
            raise _not_started()
        return self._endpoints

    def start(self) -> None:
        """Start and wait until every model is ready. Raises LaunchError."""
        settings = self.settings
        installation = Installation.find()
        host = listening(settings.host, reachable=installation.reachable)
        refuse_missing(settings)
        settings.policies.refuse_broken()
        self.tls = self._canary_tls()
        try:
            folder = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="tritonguard-"))
            backends = installation.assemble(Path(folder))
            wanted = Ports(settings.http_port if settings.http else None, settings.grpc_port, settings.metrics_port)
            ports = choose_ports(host, wanted)
            self._endpoints = _endpoints(host, ports)
            target = self._target = LogTarget(settings.log, settings.log_format)
            self._resources.callback(target.close)
            occupancy = Path(folder, "occupancy")
            own = {
                QUEUE_VARIABLE: str(settings.queue),
                CACHE_VARIABLE: str(settings.cache_mb),
                OCCUPANCY_VARIABLE: str(occupancy),
            }
            base = {**os.environ, **settings.policies.environment(), **own}
            environment = installation.environment(base, bundle=settings.bundle)

            def run() -> None:
                Occupancy.clear(occupancy)
                arguments = flags(
                    settings.model_repository,
                    backends,
                    host=host,
                    ports=ports,
                    tls=settings.tls,
                    exit_timeout_s=settings.exit_timeout_s,
                    gpu_metrics=installation.reachable,
                )
                command = [str(installation.server), *arguments]
                self._process = ServerProcess(command, environment, target, exit_timeout_s=settings.exit_timeout_s)
                self._process.wait_ready(self._is_ready, timeout_s=settings.ready_timeout_s)

            self._run = run
            self._run_again_after_an_abort()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Kill what is left of the server, without its exit timeout, and start it again on the same ports.

        Raises LaunchError where it does not come up again; it can then be tried again.
        """
        if self._run is None:
            raise _not_started()
        self.kill()
        refuse_missing(self.settings)
        # The files may be newer ones by now.
        self.tls = self._canary_tls()
        try:
            self._run_again_after_an_abort()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End the server at once, without its exit timeout; `restart` and `stop` are what can follow."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def status(self) -> int | None:
        """The exit status of a server that has ended (negative: the signal that ended it); None while it runs."""
        return self._running.status()

    def has_lost_a_stage(self) -> bool:
        """Whether a Python stage died. This Triton then says for ever that it is ready, and answers nothing."""
        return self._running.has_lost_a_stage()

    def tail(self) -> str:
        """The latest lines of the server's output."""
        return self._running.tail()

    def wait(self) -> int:
        """Block until the server ends; its exit status."""
        process = self._running
        # Not a wait for the process: a signal that comes just before its system call would not end that call.
        while (status := process.status()) is None:
            time.sleep(POLL_S)
        return status

    def tell(self, record: LogRecord) -> None:
        """Add an event to the log; it goes to standard error as well."""
        if self._target is None:
            raise _not_started()
        self._target.tell(record)

    def stop(self) -> int | None:
        """End it: running requests are finished, then it is killed. Its exit status; None: it did not run."""
        process, self._process = self._process, None
        status = None if process is None else process.end()
        self._run = None
        self._resources.close()
        return status

    @property
    def _running(self) -> ServerProcess:
        if self._process is None:
            raise _not_started()
        return self._process

    def _run_again_after_an_abort(self) -> None:
        assert self._run is not None
        try:
            self._run()
        except Aborted:
            # Seen about once in 300 starts of this Triton, before any of our code runs; never twice.
            self._run()

    def _canary_tls(self) -> Tls | None:
        return self.settings.tls.canary() if self.settings.tls else None

    def _is_ready(self) -> bool:
        where = self.endpoints.http
        return _is_ready_over_http(where) if where else self._is_ready_over_grpc()

    def _is_ready_over_grpc(self) -> bool:
        host, port = self.endpoints.grpc.split(":")
        try:
            # A gRPC channel that is refused waits longer before each further try; a socket doesn't.
            socket.create_connection((host, int(port)), timeout=_ASK_S).close()
        except OSError:
            return False
        with closing(GrpcTransport(self.endpoints.grpc, model=ENSEMBLE, tls=self.tls)) as transport:
            return transport.readiness(deadline_s=_ASK_S).ready


def refuse_missing(settings: ServerSettings) -> None:
    """Raises BundleMissing or RepositoryMissing where a folder is not what it should be."""
    if not (settings.bundle / "manifest.json").is_file():
        raise BundleMissing(f"{settings.bundle} holds no bundle (no manifest.json); `make demo` builds one")
    if not (settings.model_repository / ENSEMBLE / "config.pbtxt").is_file():
        raise RepositoryMissing(f"{settings.model_repository} holds no model repository (no {ENSEMBLE}/config.pbtxt)")


def _is_ready_over_http(where: str) -> bool:
    connection = http.client.HTTPConnection(where, timeout=_ASK_S)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _endpoints(listening_on: str, ports: Ports) -> Endpoints:
    host = "127.0.0.1" if listening_on == "0.0.0.0" else listening_on  # nosec B104  # compared, not bound
    http = "" if ports.http is None else f"{host}:{ports.http}"
    return Endpoints(http, f"{host}:{ports.grpc}", f"{host}:{ports.metrics}")


def _not_started() -> RuntimeError:
    return RuntimeError("the server has not been started")
