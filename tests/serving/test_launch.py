"""The life of the server process; a script stands in for tritonserver, which the end-to-end tests run."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving import server_process
from serving.errors import BundleMissing, NotLoopback, PortInUse, RepositoryMissing, StartFailed, TlsFilesRefused
from serving.installation import Installation
from serving.launch import ServerSettings, TritonServer
from serving.log_lines import LogFormat
from serving.policy_switches import PoliciesRefused, PolicySwitches
from serving.tls_files import TlsFiles

READY = """
import http.server, os, signal, sys, threading
port = next(int(a.split("=")[1]) for a in sys.argv if a.startswith("--http-port="))
class Door(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Door)
signal.signal(signal.SIGTERM, lambda *a: threading.Thread(target=server.shutdown).start())
print("listening", flush=True)
server.serve_forever()
"""
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY.replace(
    "signal.signal(signal.SIGTERM, lambda", "(lambda *a: None)(signal.SIGTERM, lambda"
)
ABORT_ONCE = """
import os, pathlib
seen = pathlib.Path(__file__).with_suffix(".seen")
if not seen.exists():
    seen.touch()
    os.abort()
"""

Serve = Callable[[str], ServerSettings]


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    return ServerSettings(
        bundle=tmp_path / "bundle",
        log=tmp_path / "triton.log",
        ready_timeout_s=30.0,
        exit_timeout_s=1,
    )


@pytest.fixture
def serve(tmp_path: Path, settings: ServerSettings, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Lets a Python text be the server."""

    def stand_in(program: str) -> ServerSettings:
        server = tmp_path / "server.py"
        server.write_text(f"#!{sys.executable}\n{program}")
        server.chmod(0o755)
        parts = Installation(server, tmp_path, tmp_path, tmp_path, None)
        monkeypatch.setattr(Installation, "find", lambda: parts)
        monkeypatch.setattr(Installation, "assemble", lambda self, folder: folder)
        return settings

    return stand_in


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_reachable_address_is_refused_before_anything_starts(settings: ServerSettings) -> None:
    with pytest.raises(NotLoopback), TritonServer(replace(settings, host="0.0.0.0")):
        pass
    assert settings.log is not None
    assert not settings.log.exists()


def test_a_release_without_holes_is_served_to_others_and_asked_on_loopback(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = serve(READY.replace("127.0.0.1", "0.0.0.0"))
    parts = replace(Installation.find(), reachable=True)
    monkeypatch.setattr(Installation, "find", lambda: parts)
    with TritonServer(replace(settings, host="0.0.0.0")) as server:
        assert server.endpoints.grpc.startswith("127.0.0.1:")


def test_a_folder_without_a_bundle_is_refused(settings: ServerSettings, tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match="make demo"), TritonServer(replace(settings, bundle=tmp_path)):
        pass


def test_a_folder_without_models_is_refused(settings: ServerSettings, tmp_path: Path) -> None:
    with pytest.raises(RepositoryMissing), TritonServer(replace(settings, model_repository=tmp_path)):
        pass


def test_a_port_in_use_is_named(serve: Serve, taken: int) -> None:
    with pytest.raises(PortInUse, match=str(taken)), TritonServer(replace(serve(READY), grpc_port=taken)):
        pass


def test_tls_files_that_are_not_there_are_refused_before_anything_starts(settings: ServerSettings) -> None:
    nowhere = settings.bundle / "nowhere.pem"
    with pytest.raises(TlsFilesRefused), TritonServer(replace(settings, tls=TlsFiles(nowhere, nowhere))):
        pass
    assert settings.log is not None
    assert not settings.log.exists()


def test_a_broken_policy_is_refused_before_anything_starts(settings: ServerSettings, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("nonsense", encoding="utf-8")
    broken = replace(settings, policies=PolicySwitches(tmp_path))
    with pytest.raises(PoliciesRefused, match=r"bad\.yaml"), TritonServer(broken):
        pass
    assert settings.log is not None
    assert not settings.log.exists()


def test_the_switches_reach_the_server_whatever_the_shell_says(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONGUARD_POLICIES", "/somewhere/else")
    monkeypatch.setenv("TRITONGUARD_QUEUE", "1")
    monkeypatch.setenv("TRITONGUARD_CACHE_MB", "1")
    monkeypatch.setenv("TRITONGUARD_OCCUPANCY", "/somewhere/else")
    told = tmp_path / "told"
    program = (
        "import os, pathlib\n"
        f"pathlib.Path({str(told)!r}).write_text("
        "' '.join(f'{k}={v}' for k, v in sorted(os.environ.items()) "
        "if k.startswith('TRITONGUARD_') and k != 'TRITONGUARD_BUNDLE'))\n"
    )
    with TritonServer(
        replace(serve(program + READY), policies=PolicySwitches(None, "built-in", False), queue=7, cache_mb=0)
    ):
        pass
    variables = dict(pair.split("=", 1) for pair in told.read_text().split())
    occupancy = variables.pop("TRITONGUARD_OCCUPANCY")
    assert occupancy.startswith(tempfile.gettempdir())
    assert variables == {
        "TRITONGUARD_CACHE_MB": "0",
        "TRITONGUARD_CALLER_POLICIES": "0",
        "TRITONGUARD_FLOOR": "built-in",
        "TRITONGUARD_POLICIES": "",
        "TRITONGUARD_QUEUE": "7",
    }


def test_a_server_is_ready_inside_and_gone_outside(serve: Serve) -> None:
    with TritonServer(serve(READY)) as server:
        host, port = server.endpoints.http.split(":")
        socket.create_connection((host, int(port))).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


@pytest.mark.parametrize(("form", "read"), [("json", lambda line: json.loads(line)["message"]), ("text", str)])
def test_the_log_goes_to_the_file(serve: Serve, form: LogFormat, read: Callable[[str], str]) -> None:
    settings = replace(serve(READY), log_format=form)
    with TritonServer(settings):
        pass
    assert settings.log is not None
    assert [read(line) for line in settings.log.read_text().splitlines()] == ["listening"]


def test_without_a_file_the_log_goes_to_standard_error(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    with TritonServer(replace(serve(READY), log=None)):
        pass
    assert "listening" in capsys.readouterr().err


def test_a_server_that_dies_is_told_with_the_end_of_its_log(serve: Serve) -> None:
    program = "import sys\nprint('first')\nprint('the model does not load')\nsys.exit(1)"
    with pytest.raises(StartFailed, match="status 1") as failed, TritonServer(serve(program)):
        pass
    assert "the model does not load" in str(failed.value)


def test_a_server_that_never_gets_ready_is_ended_and_told_with_its_log(serve: Serve, tmp_path: Path) -> None:
    program = (
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "print('loading', flush=True)\ntime.sleep(600)"
    )
    with (
        pytest.raises(StartFailed, match="not ready within") as failed,
        TritonServer(replace(serve(program), ready_timeout_s=3.0)),
    ):
        pass
    assert "loading" in str(failed.value)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_abort_at_the_start_is_tried_once_more(serve: Serve) -> None:
    with TritonServer(serve(ABORT_ONCE + READY)) as server:
        assert server.endpoints.http


def test_a_second_abort_is_an_error(serve: Serve) -> None:
    with pytest.raises(StartFailed, match="status -6"), TritonServer(serve("import os\nos.abort()")):
        pass


def test_a_server_that_ignores_the_request_to_end_is_killed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "_KILL_AFTER_S", 0.0)
    server = TritonServer(replace(serve(DEAF), exit_timeout_s=1))
    server.start()
    assert server.stop() == -9


def test_a_clean_end_has_the_servers_status(serve: Serve) -> None:
    server = TritonServer(serve(READY))
    server.start()
    assert server.stop() == 0
    assert server.stop() is None


def test_a_restart_kills_at_once_and_keeps_the_ports(serve: Serve) -> None:
    server = TritonServer(replace(serve(DEAF), exit_timeout_s=60))
    server.start()
    try:
        ends, first = server.endpoints, server._process
        assert first is not None
        began = time.monotonic()
        server.restart()
        assert time.monotonic() - began < 30
        assert first.status() == -signal.SIGKILL
        assert server.endpoints == ends
        host, port = ends.http.split(":")
        socket.create_connection((host, int(port))).close()
        assert server.status() is None
    finally:
        server.kill()
    assert server.stop() is None


def test_a_server_that_ended_by_itself_is_started_again(serve: Serve) -> None:
    with TritonServer(serve(READY)) as server:
        assert server._process is not None
        os.kill(server._process.pid, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        server.restart()
        assert server.status() is None
        assert server.stop() == 0


def test_a_restart_that_fails_can_be_tried_again(serve: Serve, tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    with TritonServer(serve(f"import os, sys\nif os.path.exists({str(fail)!r}): sys.exit(3)\n" + READY)) as server:
        fail.touch()
        with pytest.raises(StartFailed, match="status 3"):
            server.restart()
        fail.unlink()
        server.restart()
        assert server.status() is None


def test_a_server_that_was_not_started_has_no_status(settings: ServerSettings) -> None:
    server = TritonServer(settings)
    for question in (server.status, server.has_lost_a_stage, server.wait, server.restart):
        with pytest.raises(RuntimeError, match="not been started"):
            question()
