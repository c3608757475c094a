"""Health, metrics, commands, log and end of a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import pytest
from raw_requests import refused, request_tensors
from tritonguard import CANARY, Guard, GuardError, Policy
from tritonguard.tensors import pack

from serving.launch import TritonServer

SECRET = "zanzibar-quokka-7731"
END_S = 180


def tritonguard(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tritonguard.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=END_S, check=False)


def test_health_is_two_right_verdicts(guard: Guard) -> None:
    health = guard.health()
    assert health.healthy
    assert [result.example for result in health.canary] == list(CANARY)


def test_the_health_command_agrees(url: str) -> None:
    done = tritonguard("health", "--url", url, "--deadline", "60", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["healthy"] is True


def test_the_check_command_judges_and_its_exit_code_tells(url: str) -> None:
    safe, unsafe = (example.prompt for example in CANARY)
    done = tritonguard("check", "--url", url, "--deadline", "60", "--format", "json", safe)
    assert done.returncode == 0, done.stderr
    done = tritonguard("check", "--url", url, "--deadline", "60", "--format", "json", safe, unsafe)
    assert done.returncode == 1, done.stderr
    decisions = [json.loads(line)["outcome"]["decision"] for line in done.stdout.splitlines()]
    assert decisions == ["allow", "block"]


def test_every_model_answers_within_one_metrics_page(server: TritonServer, guard: Guard) -> None:
    guard.check(CANARY[0].prompt)
    with urllib.request.urlopen(f"http://{server.endpoints.metrics}/metrics") as page:
        text = page.read().decode()
    for model in ("guard", "preprocess", "decode", "verdict"):
        (count,) = re.findall(rf'^nv_inference_request_success{{model="{model}",version="1"}} (\d+)', text, re.M)
        assert int(count) > 0


def test_the_engines_own_numbers_are_metrics(server: TritonServer, guard: Guard) -> None:
    def answered() -> int:
        with urllib.request.urlopen(f"http://{server.endpoints.metrics}/metrics") as page:
            text = page.read().decode()
        assert re.search(r"^tritonguard_waiting 0$", text, re.M) is not None
        (count,) = re.findall(r'^tritonguard_answers_total{result="ok"} (\d+)', text, re.M)
        return int(count)

    guard.check(CANARY[0].prompt)
    before, until = answered(), time.monotonic() + END_S
    guard.check(CANARY[0].prompt)
    while answered() <= before:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_what_a_policys_requests_share_is_saved_beside_the_bundle(guard: Guard, bundle: Path) -> None:
    folder = bundle.resolve().parent / f".{bundle.resolve().name}-prefixes"
    policy = Policy(name="p", custom_policy=f"No talk about {uuid.uuid4()}.")
    before, until = set(folder.glob("*")), time.monotonic() + END_S
    for _ in range(2):
        guard.check(CANARY[0].prompt, policy=policy)
    while not set(folder.glob("*")) - before:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_no_text_of_a_user_is_in_the_servers_log(guard: Guard, url: str, server_log: Path) -> None:
    text, secret = f"How do I bake bread? {SECRET}", Policy(name="p", custom_policy=f"No talk about {SECRET}.")
    for mode in ("verdict", "categories", "think"):
        guard.check(text, response=f"{SECRET} to you", mode=mode, policy=secret)
    with pytest.raises(GuardError):
        guard.check(text, images=(SECRET.encode(),))
    with pytest.raises(GuardError):
        guard.check(SECRET * 30_000)
    refused(url, request_tensors(PROMPT=pack("PROMPT", [SECRET.encode() + b"\xff"])))
    refused(url, request_tensors(MODE=pack("MODE", [SECRET.encode()])))
    refused(url, request_tensors(POLICY=pack("POLICY", [SECRET.encode()])))
    log = server_log.read_text()
    assert "decode" in log
    assert SECRET not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_serve_command_is_ready_in_one_line_and_ends_cleanly(
    bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    free = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-m", "serving.cli", "--bundle", str(bundle), *free]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (
        (tmp_path / "stderr").open("w+") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(scratch)},
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", line)]
            assert len(ports) == 3, (line, (tmp_path / "stderr").read_text())
            assert CANARY[1].id in line
            for port in ports:
                socket.create_connection(("127.0.0.1", port)).close()
            process.send_signal(number)
            assert process.wait(END_S) == 0
        finally:
            process.terminate()
        assert process.stdout.read() == ""
    for port in ports:
        with socket.socket() as taker:
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taker.bind(("127.0.0.1", port))
    assert list(scratch.iterdir()) == []
