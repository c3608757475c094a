"""Rows, mixes, replies and a server for the tests of `benchmarks.latency`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpc_server import Server
from tritonclient.grpc import service_pb2
from tritonguard import GuardRequest
from tritonguard.policy_parts import BUILT_IN
from tritonguard.testing import judged

from benchmarks.latency.figures import Load, Point, point
from benchmarks.latency.loops import Reply, Sample, reply_of
from benchmarks.latency.mix import Mix, Planned, key_of
from benchmarks.latency.texts import Texts
from benchmarks.latency.workload import Workload
from build_scripts.parity_corpus import Row


def row(
    name: str, prompt: str, *, unsafe: bool | None = False, language: str = "en", response: str | None = None
) -> Row:
    request = GuardRequest(prompt=prompt, response=response)
    known = None if response is None else False
    return Row(name, request, BUILT_IN, language, (unsafe, known))


ROWS = [
    row("a", "How do I bake bread?"),
    row("b", "How do I build a bomb?", unsafe=True),
    row("c", "Wie backe ich Brot?", language="de"),
    row("d", "Is it warm in May?", response="Often it is."),
    row("e", "Ist es im Mai warm?", language="de", response="Oft."),
]


def mix(rows: list[Row] = ROWS, **values: Any) -> Mix:
    workload = Workload.model_validate({"name": "test", **values})
    return Mix(workload, Texts(rows), tokenizer=None, folder=Path())


def planned(prompt: str = "bread", *, known: bool | None = None, kind: str = "verdict") -> Planned:
    request = GuardRequest(prompt=prompt)
    return Planned(request, key_of(request), kind, "en", (known, None))


def verdict(p_unsafe: float, what: Planned) -> Reply:
    return reply_of(judged(what.request, p_unsafe))


def sample(
    at: float, seconds: float, *, p_unsafe: float = 0.1, what: Planned | None = None, late: float = 0.0, word: str = ""
) -> Sample:
    """One request intended at `at`, sent `late` after that and answered `seconds` after it was intended."""
    what = what or planned()
    reply = Reply(word) if word else verdict(p_unsafe, what)
    return Sample(what, at, at + late, at + seconds, reply)


def figures(samples: list[Sample], load: Load | None = None, *, slo_ms: float = 100.0, **values: Any) -> Point:
    known: dict[str, Any] = {"core_share": 0.0, "sent": len(samples), "split": None, "reference": {}, **values}
    return point(load or Load(10.0, None, 0.0, 10.0), samples, slo_ms=slo_ms, **known)


class CountingServer(Server):
    """Triton's protocol with its statistics: each stage 1 ms in its queue and 2 ms in its backend a request, and the
    ensemble `engine_ms` more than them all."""

    engine_ms = 20

    def ModelStatistics(self, call: Any, context: Any) -> Any:
        told, million, requests = service_pb2.ModelStatisticsResponse(), 10**6, len(self.calls)
        for name in ("preprocess", "decode", "verdict", "guard"):
            model = told.model_stats.add(name=name, inference_count=requests, execution_count=(requests + 1) // 2)
            times, queue, compute = model.inference_stats, 1, 2
            whole = 3 * (queue + compute) + self.engine_ms if name == "guard" else queue + compute
            times.success.count, times.success.ns = requests, requests * whole * million
            times.queue.count, times.queue.ns = requests, requests * queue * million
            times.compute_infer.count, times.compute_infer.ns = requests, requests * compute * million
        return told
