"""The command refuses in words, and serves nothing that gets its canary wrong."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonguard import (
    CANARY,
    Guard,
    GuardRequest,
    MockTransport,
    Overloaded,
    Policy,
    Readiness,
    Record,
    Verdict,
)
from tritonguard.label import Safety, label_from_choices
from tritonguard.verdict import decide

from serving import cli
from serving.errors import StartFailed
from serving.launch import Endpoints, ServerSettings
from serving.log_lines import LogRecord
from serving.policy_switches import PolicySwitches
from serving.serve_options import read_options
from serving.tls_files import TlsFiles
from serving.watch import WatchSettings


def verdict_of(request: GuardRequest, p_unsafe: float) -> Verdict:
    label = label_from_choices(np.log([[1 - p_unsafe, p_unsafe]]).astype(np.float32), has_response=False)
    record = Record(
        contract_version=1,
        request_id=request.request_id,
        policy_name=request.policy.name,
        policy_sha256=request.policy.sha256,
    )
    return Verdict(label, decide(label, Policy()), record)


def right(request: GuardRequest) -> Verdict:
    unsafe = {example.prompt for example in CANARY if example.expected.user is Safety.UNSAFE}
    return verdict_of(request, 0.9 if request.prompt in unsafe else 0.1)


def always_safe(request: GuardRequest) -> Verdict:
    return verdict_of(request, 0.1)


def overloaded(request: GuardRequest) -> Verdict:
    raise Overloaded("busy")


class StandIn:
    """A server that is at once ready. `settings`: of the last one. `ends`: what `wait` does."""

    settings: ServerSettings
    ends: Callable[[], int]
    endpoints = Endpoints("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")

    def __init__(self, settings: ServerSettings) -> None:
        type(self).settings = settings

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *problem: object) -> None:
        pass

    tls = None

    def wait(self) -> int:
        return type(self).ends()

    def status(self) -> int:
        return type(self).ends()

    def kill(self) -> None:
        pass

    def restart(self) -> None:
        raise StartFailed("Triton ended with status 1")

    def tell(self, record: LogRecord) -> None:
        print(record.line("json"), file=sys.stderr)


Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def serve(*argv: str, judge: Any = right, ends: Any = None, ready: bool = True) -> int:
        readiness = Readiness(live=True, ready=ready, model_ready=ready)
        monkeypatch.setattr(cli, "TritonServer", StandIn)
        monkeypatch.setattr(
            cli,
            "Guard",
            lambda url, **options: Guard(url, transport=MockTransport(judge, readiness=readiness)),
        )
        StandIn.ends = staticmethod(ends or (lambda: signal.raise_signal(signal.SIGTERM) or 0))
        return cli.main(argv)

    return serve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0(run: Run, number: signal.Signals) -> None:
    assert run(ends=lambda: signal.raise_signal(number)) == 0


def test_the_signals_are_given_back(run: Run) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_one_line_says_where_and_what_the_canary_got(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    (line,) = capsys.readouterr().out.splitlines()
    for part in ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "en-recipe safe", "en-bomb unsafe"):
        assert part in line


@pytest.mark.parametrize("judge", [always_safe, overloaded])
def test_a_server_with_a_wrong_canary_is_not_served(run: Run, capsys: pytest.CaptureFixture[str], judge: Any) -> None:
    assert run(judge=judge) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "WRONG, expected unsafe" in err


def test_a_server_that_says_that_it_is_not_ready_is_not_served(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ready=False) == 1
    assert "not ready" in capsys.readouterr().err


def test_unwatched_a_server_that_ends_by_itself_is_a_failure(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--watch-seconds", "0", ends=lambda: 0) == 1
    assert "ended by itself, status 0" in capsys.readouterr().err


def test_watched_a_server_that_does_not_come_back_is_given_up(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert run(ends=lambda: -9) == 1
    err = capsys.readouterr().err
    assert err.count('"event": "restart_failed"') == 5
    assert "gave up after 5 restarts within 10 minutes" in err


def test_the_arguments_reach_the_server(run: Run, tmp_path: Path) -> None:
    log, bundle = tmp_path / "log", tmp_path / "bundle"
    run(
        "--bundle",
        str(bundle),
        "--host",
        "localhost",
        "--http-port",
        "0",
        "--grpc-port",
        "9",
        "--log",
        str(log),
    )
    settings = StandIn.settings
    assert (settings.bundle, settings.host, settings.log) == (bundle, "localhost", log)
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (0, 9, 8002)


@pytest.mark.parametrize(
    ("argv", "environment", "expected"),
    [
        ([], {}, PolicySwitches()),
        (["--policies", "p", "--floor", "--no-caller-policies"], {}, PolicySwitches(Path("p"), "built-in", False)),
        (["--floor", "f.yaml"], {}, PolicySwitches(floor="f.yaml")),
        (
            [],
            {
                "TRITONGUARD_POLICIES": "p",
                "TRITONGUARD_FLOOR": "built-in",
                "TRITONGUARD_CALLER_POLICIES": "0",
            },
            PolicySwitches(Path("p"), "built-in", False),
        ),
        (["--caller-policies"], {"TRITONGUARD_CALLER_POLICIES": "0"}, PolicySwitches()),
    ],
)
def test_the_switches_come_from_the_arguments_then_from_the_environment(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    environment: dict[str, str],
    expected: PolicySwitches,
) -> None:
    for variable in ("TRITONGUARD_POLICIES", "TRITONGUARD_FLOOR", "TRITONGUARD_CALLER_POLICIES"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    run(*argv)
    assert StandIn.settings.policies == expected


def test_a_switch_that_is_neither_on_nor_off_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITONGUARD_CALLER_POLICIES", "no")
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 2
    assert "TRITONGUARD_CALLER_POLICIES is neither 0 nor 1" in capsys.readouterr().err


def test_a_broken_policy_is_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "bad.yaml").write_text("nonsense")
    assert cli.main(["--bundle", str(tmp_path), "--policies", str(tmp_path)]) == 1
    assert "bad.yaml: policy: not a mapping" in capsys.readouterr().err


def test_a_refused_address_is_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--bundle", str(tmp_path), "--host", "0.0.0.0"]) == 1
    assert "published holes" in capsys.readouterr().err


def test_a_missing_bundle_is_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--bundle", str(tmp_path)]) == 1
    assert "no bundle" in capsys.readouterr().err


def test_the_options_of_operation_reach_the_settings() -> None:
    numbers = ["--queue", "5", "--cache-mb", "0", "--watch-seconds", "1.5", "--ready-seconds", "900"]
    settings, watch = read_options([*numbers, "--log-format", "text", "--no-http"])
    assert (settings.queue, settings.log_format, settings.http, settings.tls) == (5, "text", False, None)
    assert (settings.cache_mb, settings.ready_timeout_s) == (0, 900)
    assert watch == WatchSettings(every_s=1.5)


def test_the_defaults_of_operation() -> None:
    settings, watch = read_options([])
    assert (settings.queue, settings.log_format, settings.http, settings.tls) == (32, "json", True, None)
    assert settings.cache_mb == 64
    assert watch == WatchSettings(every_s=5.0)
    assert read_options(["--watch-seconds", "0"])[1] is None


def test_queue_and_cache_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONGUARD_QUEUE", "9")
    monkeypatch.setenv("TRITONGUARD_CACHE_MB", "3")
    assert read_options([])[0].cache_mb == 3
    assert read_options([])[0].queue == 9
    assert read_options(["--queue", "5"])[0].queue == 5


def test_the_files_of_tls_reach_the_settings() -> None:
    names = ("cert", "key", "client-ca", "canary-cert", "canary-key")
    settings, _ = read_options([part for name in names for part in (f"--tls-{name}", name)])
    assert settings.tls == TlsFiles(*map(Path, names))


@pytest.mark.parametrize(
    "argv",
    [
        ["--queue", "0"],
        ["--queue", "many"],
        ["--ready-seconds", "0"],
        ["--cache-mb", "-1"],
        ["--cache-mb", "1.5"],
        ["--watch-seconds", "-1"],
        ["--watch-seconds", "nan"],
        ["--watch-seconds", "0.01"],
        ["--log-format", "xml"],
        ["--tls-cert", "a"],
        ["--tls-key", "a"],
        ["--tls-client-ca", "a"],
        ["--tls-canary-cert", "a", "--tls-canary-key", "b"],
        ["--tls-cert", "a", "--tls-key", "b", "--tls-canary-cert", "c", "--tls-canary-key", "d"],
        ["--tls-cert", "a", "--tls-key", "b", "--tls-client-ca", "c", "--tls-canary-key", "d"],
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(argv)
    assert ended.value.code == 2
    assert argv[0].removesuffix("-key") in capsys.readouterr().err


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_is_none_is_wrong_usage(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--http-port", port])
    assert ended.value.code == 2
    assert "--http-port" in capsys.readouterr().err


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for part in (
        "examples:",
        "exit codes:",
        "tritonguard check",
        "TRITONGUARD_BUNDLE",
        "production image",
        "--floor",
        "given_up",
    ):
        assert part in shown
