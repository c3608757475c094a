"""Servers of one run: all that they write lies in one folder, and all that they show is searched for the mark."""

from __future__ import annotations

import os
import random
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.marks import Marks
from benchmarks.chaos.processes import command, descendants
from benchmarks.chaos.texts import Known, at_rest
from benchmarks.chaos.wire import Outcome, Sent, Wire
from serving.launch import Endpoints, ServerSettings, TritonServer
from serving.policy_switches import PolicySwitches

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Run:
    """bundle: what is served. folder: for everything that servers write. short: fewer and shorter tries.

    known: the texts with their verdicts, once a server has judged them at rest.
    """

    bundle: Path
    folder: Path
    seed: int
    short: bool
    marks: Marks
    known: tuple[Known, ...] = field(default=())

    @property
    def policies(self) -> Path:
        return self.folder / "policies"

    @property
    def server_folders(self) -> tuple[Path, ...]:
        """Whose names no error may tell."""
        return ROOT, self.bundle, self.folder

    def random(self, part: str) -> random.Random:
        """The source of chance of one part, the same whichever other parts run."""
        return random.Random(f"{self.seed} {part}")

    def prepare(self) -> None:
        """The folders that servers are given."""
        shutil.copytree(ROOT / "policies", self.policies)
        (self.folder / "temporary").mkdir()

    def judge_at_rest(self, send: Callable[[Sent], Outcome]) -> tuple[Known, ...]:
        """The known texts; judged the first time that a server is there."""
        if not self.known:
            self.known = at_rest(send, self.marks.mark)
        return self.known

    def take_down(self, endpoints: Endpoints) -> None:
        """Search what a server shows only while it runs: its metrics and its processes' command lines."""
        try:
            address = f"http://{endpoints.metrics}/metrics"
            with urllib.request.urlopen(address, timeout=10) as page:  # nosec B310  # http
                self.marks.look("metrics", page.read())
        except OSError:
            # Without this page the search is not done, and says so: no bytes of it.
            self.marks.look("metrics", b"")
        self.marks.look_at_processes("command lines", [pid for pid in descendants(os.getpid()) if command(pid)])


@contextmanager
def served(run: Run, name: str) -> Iterator[TritonServer]:
    """A running server of this process; its log is `<name>.log` of the run's folder."""
    settings = ServerSettings(
        bundle=run.bundle,
        log=run.folder / f"{name}.log",
        policies=PolicySwitches(folder=run.policies),
    )
    with TritonServer(settings) as server:
        yield server
        run.take_down(server.endpoints)


@contextmanager
def wired(server: TritonServer) -> Iterator[Wire]:
    """A connection to a running server."""
    with Wire(server.endpoints.grpc, server.endpoints.http) as wire:
        yield wire
