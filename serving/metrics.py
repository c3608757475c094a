"""The engine's own numbers among Triton's metrics.

Triton's queue metrics stay near 0 for `decode`, whose `execute` returns at once: what to scale on is here.

tritonguard_<name>               a gauge for each number of the engine and its queue: waiting, running, ...
tritonguard_answers_total        a counter of requests answered, by `result`: "ok", or an error's kind
tritonguard_answer_cache_lookups_total
                                 a counter of answers looked for among those that are kept: "hit", "miss"
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

EVERY_S = 1.0
_PREFIX = "tritonguard_"
_DESCRIPTIONS = {
    "waiting": "requests that wait for the engine",
    "running": "requests that the engine is busy with",
    "answers": "requests answered",
    "answer_cache_lookups": "answers looked for among those that are kept",
    "answer_cache_entries": "requests whose answers are kept",
    "answer_cache_bytes": "memory that kept answers take",
    "padding_tokens": "tokens by which passes were rounded up",
    "shelf_bytes": "memory of prefixes that share passes with others",
}


class Metrics:
    """Sets the metrics from a thread of its own, each `every_s` seconds, until it is closed.

    pb_utils: the module of that name inside Triton. gauges: numbers by name. counters: by name and result, what was
    counted so far. Both are called in that thread.
    """

    def __init__(
        self,
        pb_utils: Any,
        *,
        gauges: Callable[[], Mapping[str, float]],
        counters: Callable[[], Mapping[str, Mapping[str, int]]],
        every_s: float = EVERY_S,
    ) -> None:
        self._pb = pb_utils
        self._gauges, self._counters = gauges, counters
        self._every_s = every_s
        self._known: dict[str, Any] = {}
        self._counted: dict[tuple[str, str], int] = {}
        # A family goes when the last name for it does, and its metrics with it.
        self._families: dict[str, Any] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Set them a last time, and return when no call into Triton is left."""
        self._closed.set()
        self._thread.join()
        # Triton's process for a model tears itself down before what is still named here, and crashes when that goes
        # (triton-inference-server/server#8662).
        self._known.clear()
        self._families.clear()

    def _run(self) -> None:
        try:
            self._set()
            while not self._closed.wait(self._every_s):
                self._set()
            self._set()
        except Exception as error:
            # A server without metrics (--allow-metrics=false) refuses them; verdicts don't depend on any.
            self._pb.Logger.log_warn(f"the engine's metrics are not shown: {type(error).__name__}")

    def _set(self) -> None:
        for name, value in self._gauges().items():
            self._metric(name, "GAUGE").set(value)
        for name, counts in self._counters().items():
            for result, count in counts.items():
                counter = self._metric(name, "COUNTER", {"result": result})
                counter.increment(count - self._counted.get((name, result), 0))
                self._counted[name, result] = count

    def _metric(self, name: str, kind: str, labels: Mapping[str, str] | None = None) -> Any:
        key = f"{name}{sorted((labels or {}).items())}"
        if key not in self._known:
            if name not in self._families:
                family = self._pb.MetricFamily
                self._families[name] = family(
                    name=f"{_PREFIX}{name}{'_total' if kind == 'COUNTER' else ''}",
                    description=_DESCRIPTIONS.get(name, name.replace("_", " ")),
                    kind=getattr(family, kind),
                )
            self._known[key] = self._families[name].Metric(labels=dict(labels or {}))
        return self._known[key]
