"""What the package counts in each iteration, as numbers with names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

_PATIENCE_S = 0.05
"""How long an iteration's figures are waited for."""
_MOST_S = 1.0
"""A busy engine has new figures before the last are read: then these will do."""

_FIGURES: Mapping[str, tuple[str, ...]] = {
    "requests_active": ("numActiveRequests",),
    "requests_in_prefill": ("inflightBatchingStats", "numContextRequests"),
    "requests_in_decode": ("inflightBatchingStats", "numGenRequests"),
    "iteration_ms": ("iterLatencyMS",),
    "gpu_memory_bytes": ("gpuMemUsage",),
    "kv_blocks_used": ("kvCacheStats", "usedNumBlocks"),
    "kv_blocks_total": ("kvCacheStats", "maxNumBlocks"),
}
"""Our name -> where the package has it."""


async def latest_iteration(llm: Any) -> Mapping[str, Any]:
    """The package's figures of the last iteration that has not been read; {}: none was run since."""
    last: Mapping[str, Any] = {}
    until = time.monotonic() + _MOST_S
    async for found in llm.get_stats_async(timeout=_PATIENCE_S):
        last = found if isinstance(found, Mapping) else last
        if time.monotonic() > until:
            break
    return last


def figures_of(iteration: Mapping[str, Any]) -> dict[str, float]:
    """Those of `_FIGURES` that are there, and `kv_utilisation`, the part of the blocks that is used."""
    figures = {}
    for name, path in _FIGURES.items():
        found: Any = iteration
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(found, int | float) and not isinstance(found, bool):
            figures[name] = float(found)
    if figures.get("kv_blocks_total") and "kv_blocks_used" in figures:
        figures["kv_utilisation"] = figures["kv_blocks_used"] / figures["kv_blocks_total"]
    return figures


class Statistics:
    """The latest figures; they stay what they were while no iteration is run. One reader at a time, on one loop."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._figures: dict[str, float] = {}
        self._reading = asyncio.Lock()

    async def read(self) -> dict[str, float]:
        async with self._reading:
            self._figures |= figures_of(await latest_iteration(self._llm))
            return dict(self._figures)
