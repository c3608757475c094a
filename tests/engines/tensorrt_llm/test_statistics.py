"""The package's figures as numbers with names, as many as it has."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from engines.tensorrt_llm import statistics
from engines.tensorrt_llm.statistics import Statistics, figures_of, latest_iteration

ITERATION = {
    "iterLatencyMS": 7.5,
    "numActiveRequests": 3,
    "gpuMemUsage": 12_000_000_000,
    "inflightBatchingStats": {"numContextRequests": 1, "numGenRequests": 2},
    "kvCacheStats": {"usedNumBlocks": 4, "maxNumBlocks": 16},
}


def llm(*iterations: Any) -> Any:
    async def given(timeout: float) -> AsyncIterator[Any]:
        for iteration in iterations:
            yield iteration

    return SimpleNamespace(get_stats_async=given)


def test_every_figure_has_its_name() -> None:
    assert figures_of(ITERATION) == {
        "requests_active": 3,
        "requests_in_prefill": 1,
        "requests_in_decode": 2,
        "iteration_ms": 7.5,
        "gpu_memory_bytes": 12e9,
        "kv_blocks_used": 4,
        "kv_blocks_total": 16,
        "kv_utilisation": 0.25,
    }


@pytest.mark.parametrize(
    "iteration",
    [
        {},
        {"kvCacheStats": None},
        {"kvCacheStats": {"usedNumBlocks": 4}},
        {"iterLatencyMS": "7"},
        {"numActiveRequests": True},
    ],
)
def test_what_is_missing_or_no_number_is_left_out(iteration: dict[str, Any]) -> None:
    assert set(figures_of(iteration)) <= {"kv_blocks_used"}


def test_without_blocks_there_is_no_utilisation() -> None:
    assert "kv_utilisation" not in figures_of({"kvCacheStats": {"usedNumBlocks": 0, "maxNumBlocks": 0}})


def test_the_last_iteration_counts() -> None:
    assert asyncio.run(latest_iteration(llm({"iter": 1}, {"iter": 2}))) == {"iter": 2}
    assert asyncio.run(latest_iteration(llm())) == {}


def test_an_engine_that_never_rests_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_MOST_S", 0.0)

    async def endless(timeout: float) -> AsyncIterator[Any]:
        for number in itertools.count():
            yield {"iter": number}

    assert asyncio.run(latest_iteration(SimpleNamespace(get_stats_async=endless)))["iter"] >= 0


def test_figures_stay_while_no_iteration_is_run() -> None:
    package = llm(ITERATION)
    figures = Statistics(package)
    first = asyncio.run(figures.read())
    package.get_stats_async = llm().get_stats_async
    assert asyncio.run(figures.read()) == first == figures_of(ITERATION)
