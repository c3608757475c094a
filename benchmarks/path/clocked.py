"""The served side: a client of a running server, with clocks at its seams."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tritonguard import AsyncGuard
from tritonguard.errors import Unavailable
from tritonguard.grpc_aio_transport import AsyncGrpcTransport
from tritonguard.retries import Retries
from tritonguard.tensors import Array
from tritonguard.transport import Readiness

from benchmarks.chaos.processes import PROC, servers, stubs
from benchmarks.latency.loops import VERDICT, Ask, Log, Reply, Sample, closed_loop, reply_of
from benchmarks.latency.mix import Planned
from benchmarks.latency.stages import MODELS
from benchmarks.path.bare import Run
from serving.launch import ENSEMBLE

CLIENT, SERVER = "client", "tritonserver"


class ClockedTransport:
    """Triton's gRPC endpoint; `seconds` is the time of every call, from its tensors to its answer's."""

    def __init__(self, url: str) -> None:
        self._inner = AsyncGrpcTransport(url, model=ENSEMBLE)
        self.seconds: list[float] = []

    async def infer(self, tensors: Mapping[str, Array], *, deadline_s: float, request_id: str) -> Mapping[str, Array]:
        began = time.perf_counter()
        reply = await self._inner.infer(tensors, deadline_s=deadline_s, request_id=request_id)
        self.seconds.append(time.perf_counter() - began)
        return reply

    async def readiness(self, *, deadline_s: float) -> Readiness:
        return await self._inner.readiness(deadline_s=deadline_s)

    async def aclose(self) -> None:
        await self._inner.aclose()


class Served:
    """Asks through client, Triton and all stages; an asynchronous context manager.

    plan: what is asked, in mode verdict, under the built-in policy. samples: of all rounds so far.
    """

    def __init__(self, url: str, plan: Sequence[Planned]) -> None:
        self.transport = ClockedTransport(url)
        self.samples: list[Sample] = []
        self._plan = plan
        # A second try would hide an error, and its time would be the first one's.
        self._guard = AsyncGuard(transport=self.transport, retries=Retries(attempts=1))
        self._processes = processes()

    async def __aenter__(self) -> Served:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._guard.aclose()

    async def run(self, concurrency: int) -> Run:
        """All requests once, so many at a time. Raises Unavailable where one of them gets no verdict."""
        before, own = cpu_s(self._processes), time.process_time()
        log = Log()
        await closed_loop(log, self._ask(), iter(self._plan), concurrency=concurrency, seconds=float("inf"))
        took = {CLIENT: time.process_time() - own, **grown(before, cpu_s(self._processes))}
        words = sorted({sample.reply.word for sample in log.samples} - {VERDICT})
        if words:
            raise Unavailable(f"the server did not judge all requests: {', '.join(words)}")
        self.samples += log.samples
        return Run([one.latency_s * 1e3 for one in log.samples], max(one.done for one in log.samples), took)

    def _ask(self) -> Ask:
        async def ask(planned: Planned) -> Reply:
            asked = planned.request
            # Not a ready request: to build one is the client's work too.
            return reply_of(await self._guard.check(asked.prompt, response=asked.response, deadline_s=asked.deadline_s))

        return ask


def processes(root: int | None = None, proc: Path = PROC) -> dict[str, int]:
    """The process of each part of the server under `root` (None: this process), by name."""
    root = os.getpid() if root is None else root
    found = {SERVER: servers(root, proc)} | {model: stubs(root, model, proc) for model in MODELS}
    return {name: pids[0] for name, pids in found.items() if pids}


def cpu_s(of: Mapping[str, int], proc: Path = PROC) -> dict[str, float]:
    """CPU seconds that each process has used so far, user and system together."""
    tick = os.sysconf("SC_CLK_TCK")
    used = {}
    for name, pid in of.items():
        # The name, in brackets, may hold spaces and brackets of its own.
        after = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        used[name] = (int(after[11]) + int(after[12])) / tick
    return used


def grown(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in after.items()}
