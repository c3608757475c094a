"""Where the time went, by Triton's own statistics: what each model's counters grew by during a measurement.

Triton counts, for each model, the time of successful requests from their arrival until the model has handled them, and
of that the time in its queue and in its backend. `decode` hands requests to the engine, which answers later: Triton
counts it until the handing over, and what the ensemble takes beyond its models is the time with the engine, waiting
and computing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tritonguard.grpc_messages import connection_options
from tritonguard.tls import Tls

from serving.launch import ENSEMBLE

MODELS = ("preprocess", "decode", "verdict")
"""In the order of the way through them."""
_ASK_S = 10.0


@dataclass(frozen=True)
class Counters:
    """Of one model, since its server began: requests and nanoseconds, summed over servers."""

    succeeded: int = 0
    failed: int = 0
    total_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    inferences: int = 0
    executions: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*(getattr(self, one.name) - getattr(other, one.name) for one in fields(self)))


@dataclass(frozen=True)
class Stage:
    """Means over the requests of one model, ms. batch: requests in one call of its backend; None: it was not called."""

    model: str
    requests: int
    failed: int
    total_ms: float
    queue_ms: float
    compute_ms: float
    batch: float | None


@dataclass(frozen=True)
class Split:
    """models: those of the ensemble that were called. requests, total_ms: the ensemble's own. engine_ms: of its total,
    what is in none of the models."""

    models: tuple[Stage, ...]
    requests: int
    total_ms: float
    engine_ms: float


def between(before: Mapping[str, Counters], after: Mapping[str, Counters]) -> Split | None:
    """What was done in between; None: the ensemble answered nothing. A model that was loaded anew in between counts
    from its beginning: its counters are below those before."""
    stages = {}
    for model, counters in sorted(after.items()):
        since = counters - before.get(model, Counters())
        if min(since.succeeded, since.total_ns, since.executions) < 0:
            since = counters
        if since.succeeded:
            stages[model] = _stage(model, since)
    whole = stages.pop(ENSEMBLE, None)
    if whole is None:
        return None
    models = tuple(stages[name] for name in (*MODELS, *sorted(set(stages) - set(MODELS))) if name in stages)
    return Split(
        models, whole.requests, whole.total_ms, max(0.0, whole.total_ms - sum(stage.total_ms for stage in models))
    )


def answers(before: Mapping[str, Counters], after: Mapping[str, Counters]) -> int:
    """Of the ensemble, in between; negative where it was loaded anew."""
    return (after.get(ENSEMBLE, Counters()) - before.get(ENSEMBLE, Counters())).succeeded


def _stage(model: str, since: Counters) -> Stage:
    def mean_ms(nanoseconds: int) -> float:
        return nanoseconds / since.succeeded / 1e6

    batch = since.inferences / since.executions if since.executions else None
    total, queue, compute = mean_ms(since.total_ns), mean_ms(since.queue_ns), mean_ms(since.compute_ns)
    return Stage(model, since.succeeded, since.failed, total, queue, compute, batch)


class Statistics:
    """Asks servers for their counters. urls: host:port of each gRPC endpoint."""

    def __init__(self, urls: Sequence[str], tls: Tls | None) -> None:
        library: Any = importlib.import_module("tritonclient.grpc.aio")
        self._failure: type[Exception] = importlib.import_module("tritonclient.utils").InferenceServerException
        self._clients = [library.InferenceServerClient(url, **connection_options(tls)) for url in urls]

    async def counters(self) -> dict[str, Counters] | None:
        """By model; None where a server does not tell (a restricted protocol, or none that answers)."""
        summed: dict[str, Counters] = {}
        for client in self._clients:
            try:
                told = await client.get_inference_statistics(client_timeout=_ASK_S)
            except self._failure:
                return None
            for model in told.model_stats:
                summed[model.name] = summed.get(model.name, Counters()) + _counters(model)
        return summed

    async def aclose(self) -> None:
        for client in self._clients:
            await client.close()


def _counters(model: Any) -> Counters:
    times = model.inference_stats
    return Counters(
        succeeded=times.success.count,
        failed=times.fail.count,
        total_ns=times.success.ns,
        queue_ns=times.queue.ns,
        compute_ns=times.compute_input.ns + times.compute_infer.ns + times.compute_output.ns,
        inferences=model.inference_count,
        executions=model.execution_count,
    )
