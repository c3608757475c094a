"""A stage's process is killed while callers wait for their answers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tritonguard import Guard

from benchmarks.chaos.load import Load, not_allowed
from benchmarks.chaos.processes import stubs
from benchmarks.chaos.report import Part, say
from benchmarks.chaos.server import ROOT, Run
from benchmarks.chaos.wire import Wire
from serving.launch import Endpoints

CONCURRENCY = 4
MOST_UNTIL_SEEN_S = 10.0
MOST_UNTIL_BACK_S = 60.0
ALLOWED = frozenset({"right", "unavailable", "deadline_exceeded", "overloaded"})
"""What callers may be told while a stage is dead: a verdict that was computed, or a typed refusal."""

_HEALTH_DEADLINE_S = 5.0
_LOAD_DEADLINE_S = 10.0
_START_S = 240.0
_POLL_S = 0.25


@dataclass(frozen=True)
class Outage:
    """seen_s: from the kill until the service was first found unhealthy. back_s: until it was healthy again.

    None: it never was.
    """

    seen_s: float | None
    back_s: float | None

    def problems(self) -> list[str]:
        """What is longer than it may be."""
        found = []
        if self.seen_s is None or self.seen_s > MOST_UNTIL_SEEN_S:
            found.append(f"health failed after {told(self.seen_s)}, at most {MOST_UNTIL_SEEN_S:g} s")
        if self.back_s is None or self.back_s > MOST_UNTIL_BACK_S:
            found.append(f"back after {told(self.back_s)}, at most {MOST_UNTIL_BACK_S:g} s")
        return found


def watch_outage(
    healthy: Callable[[], bool],
    *,
    began: float,
    give_up_s: float = 2 * MOST_UNTIL_BACK_S,
    now: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> Outage:
    """Ask after a service's health from a kill at `began` on, until it is back or it is given up."""
    seen: float | None = None
    while now() - began < give_up_s:
        if not healthy():
            seen = now() - began if seen is None else seen
        elif seen is not None:
            return Outage(seen, now() - began)
        elif now() - began > 2 * MOST_UNTIL_SEEN_S:
            return Outage(None, None)
        wait(_POLL_S)
    return Outage(seen, None)


@contextmanager
def serve_command(run: Run) -> Iterator[tuple[int, Endpoints]]:
    """`tritonguard-serve` as an operator starts it: its process id and where it listens."""
    free = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-m", "serving.cli", "--bundle", str(run.bundle.resolve()), *free]
    command += ["--policies", str(run.policies), "--log", str(run.folder / "serve.log")]
    # The other parts' servers log as text: so both forms are searched.
    command += ["--log-format", "json"]
    with (
        (run.folder / "serve.stdout").open("wb") as out,
        (run.folder / "serve.stderr").open("wb") as err,
        subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT, start_new_session=True) as process,
    ):
        try:
            yield process.pid, _ready(run, process)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def endpoints(line: str) -> Endpoints | None:
    """Where a server listens, from the line that it prints once it is ready; None: not such a line."""
    found = {name: re.search(rf"\b{name} ([\d.]+:\d+)", line) for name in ("http", "grpc", "metrics")}
    if not line.startswith("tritonguard ready:") or not all(found.values()):
        return None
    return Endpoints(**{name: match[1] for name, match in found.items() if match})


def _ready(run: Run, process: subprocess.Popen[bytes]) -> Endpoints:
    give_up = time.monotonic() + _START_S
    while time.monotonic() < give_up and process.poll() is None:
        for line in (run.folder / "serve.stdout").read_text(errors="replace").splitlines():
            if found := endpoints(line):
                return found
        time.sleep(0.2)
    raise RuntimeError("the serve command did not become ready")


def run_kills(run: Run) -> Part:
    """The part `kill`: SIGKILL of `decode`, and (unless short) of the other two stages, under load."""
    part = Part("kill")
    with serve_command(run) as (pid, ends):
        with Wire(ends.grpc, ends.http) as wire:
            known = run.judge_at_rest(wire.send)
        with Guard(ends.grpc) as guard, Guard(ends.grpc, deadline_s=_HEALTH_DEADLINE_S) as prober:
            load = Load(guard, known, run.marks, deadline_s=_LOAD_DEADLINE_S)
            with load.running(CONCURRENCY):
                for model in ("decode",) if run.short else ("decode", "preprocess", "verdict"):
                    time.sleep(3.0)
                    _kill(part, model, pid, lambda: prober.health().healthy)
                healed = time.monotonic()
                time.sleep(5.0)
            words = load.words()
            part.require(load.words(after=healed)["right"] > 0, "no right verdict after the last kill")
        run.take_down(ends)
    part.counts += words
    part.short += not_allowed(words, ALLOWED)
    return part


def _kill(part: Part, model: str, pid: int, healthy: Callable[[], bool]) -> None:
    before = stubs(pid, model)
    if len(before) != 1:
        part.short.append(f"{model}: {len(before)} processes of it instead of one")
        return
    os.kill(before[0], signal.SIGKILL)
    began = time.monotonic()
    say(f"kill {model}: process {before[0]} killed")
    outage = watch_outage(healthy, began=began)
    part.figures[f"{model}: health failed / back after"] = f"{told(outage.seen_s)} / {told(outage.back_s)}"
    part.short += [f"{model}: {problem}" for problem in outage.problems()]
    after = stubs(pid, model)
    part.require(len(after) == 1 and after != before, f"{model}: not one new process of it afterwards")
    say(f"kill {model}: health failed after {told(outage.seen_s)}, back after {told(outage.back_s)}")


def told(seconds: float | None) -> str:
    """A time for people; None: it never came."""
    return "never" if seconds is None else f"{seconds:.1f} s"
