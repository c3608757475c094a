"""A served bundle that loses a process answers again, and its launcher never leaves a server behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonguard import CANARY, Guard, Retries

from benchmarks.cost_curves.curves import metrics
from serving import processes

UNHEALTHY_S, BACK_S, END_S, BUSY_S = 10, 60, 60, 6


@dataclass(frozen=True)
class Served:
    """A running `tritonguard-serve`. triton: process id of its server. stderr: file with what it said."""

    process: subprocess.Popen[str]
    grpc: str
    http: str
    metrics: str
    stderr: Path

    @property
    def triton(self) -> int:
        (child,) = children(self.process.pid)
        return child

    def events(self) -> list[dict[str, object]]:
        """Of the launcher. Every line must be a JSON object."""
        records = [json.loads(line) for line in self.stderr.read_text().splitlines()]
        return [record for record in records if "event" in record]


def children(parent: int) -> list[int]:
    every = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [process for process in every if not processes.missing([process], parent)]


def stage(triton: int, model: str) -> int:
    """Process id of a model's Python stage."""
    (found,) = (
        stub
        for stub in processes.stubs(triton)
        if f"/{model}/1/model.py" in Path(f"/proc/{stub}/cmdline").read_bytes().decode()
    )
    return found


def seconds_until(true: Callable[[], bool], *, most_s: float) -> float:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < most_s
        time.sleep(0.05)
    return time.monotonic() - start


@contextmanager
def serving(bundle: Path, folder: Path, *options: str) -> Iterator[Served]:
    free = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-m", "serving.cli", "--bundle", str(bundle), *free, *options]
    stderr = folder / "stderr"
    with (
        stderr.open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            places = dict(re.findall(r"(grpc|http|metrics) (127\.0\.0\.1:\d+)", line))
            assert "grpc" in places, (line, stderr.read_text())
            yield Served(process, places["grpc"], places.get("http", ""), places.get("metrics", ""), stderr)
        finally:
            process.terminate()
            process.wait(END_S)


def judges(grpc: str) -> bool:
    with Guard(grpc, deadline_s=5.0) as guard:
        return guard.health().healthy


def test_a_killed_stage_is_told_and_served_again_on_the_same_ports(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, "--watch-seconds", "2") as served:
        first = served.triton
        before = {*Path("/dev/shm").glob("triton_python_backend_shm_region*")} & processes.shared_memory(first)
        os.kill(stage(first, "decode"), signal.SIGKILL)
        unhealthy_s = seconds_until(lambda: not judges(served.grpc), most_s=UNHEALTHY_S)
        back_s = seconds_until(lambda: judges(served.grpc), most_s=BACK_S)
        print(f"unhealthy after {unhealthy_s:.1f} s, back after {unhealthy_s + back_s:.1f} s")
        assert before
        assert not [region for region in before if region.exists()]
        with Guard(served.grpc, deadline_s=30.0) as guard:
            assert [guard.check(example.prompt).allowed for example in CANARY] == [True, False]
        assert not processes.is_alive(first)
        seconds_until(lambda: len(served.events()) == 2, most_s=10)
        died, again = served.events()
        assert (died["event"], again["event"]) == ("stage_dead", "restarted")
        assert 0 < float(str(again["downtime_s"])) < BACK_S
        last = [served.triton, *processes.stubs(served.triton)]
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(END_S) == 0
        assert not [process for process in last if processes.is_alive(process)]


def test_a_busy_server_is_left_alone_and_a_killed_launcher_takes_its_server_with_it(
    bundle: Path, tmp_path: Path
) -> None:
    def ask(number: int, until: float) -> int:
        asked = 0
        with Guard(served.grpc, deadline_s=1.0, retries=Retries(attempts=1)) as guard:
            while time.monotonic() < until:
                asked += guard.check(f"How do I bake bread number {number} {asked}?").record is not None
        return asked

    with serving(bundle, tmp_path, "--queue", "2", "--watch-seconds", "0.2") as served:
        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(ask, range(16), [time.monotonic() + BUSY_S] * 16)) > 16
        # The crowd's last pass, which nobody waits for any more.
        seconds_until(lambda: metrics(f"http://{served.metrics}/metrics")["tritonguard_running"] == 0, most_s=END_S)
        assert judges(served.grpc)
        assert served.events() == []
        last = [served.triton, *processes.stubs(served.triton)]
        served.process.kill()
        seconds_until(lambda: not any(processes.is_alive(process) for process in last), most_s=END_S)
