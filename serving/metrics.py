"""The engine's own numbers among Triton's metrics.

Triton's queue metrics stay near 0 for `decode`, whose `execute` returns at once: what to scale on is here.

tritonguard_<name>               a gauge for each number of the engine and its queue: waiting, running, ...
tritonguard_answers_total        a counter of requests answered, by `result`: "ok", or an error's kind
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

EVERY_S = 1.0
_PREFIX = "tritonguard_"
_DESCRIPTIONS = {"waiting": "requests that wait for the engine", "running": "requests that the engine is busy with"}


class Metrics:
    """Sets the metrics from a thread of its own, each `every_s` seconds, until it is closed.

    pb_utils: the module of that name inside Triton. gauges, answers: told from that thread.
    """

    def __init__(
        self,
        pb_utils: Any,
        *,
        gauges: Callable[[], Mapping[str, float]],
        answers: Callable[[], Mapping[str, int]],
        every_s: float = EVERY_S,
    ) -> None:
        self._pb = pb_utils
        self._gauges, self._answers = gauges, answers
        self._every_s = every_s
        self._known: dict[str, Any] = {}
        self._counted: dict[str, int] = {}
        # A family goes when the last name for it does, and its metrics with it.
        self._families: dict[str, Any] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Set them a last time, and return when no call into Triton is left."""
        self._closed.set()
        self._thread.join()

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
            self._metric(name, "GAUGE", _DESCRIPTIONS.get(name, name.replace("_", " "))).set(value)
        for result, count in self._answers().items():
            counter = self._metric("answers_total", "COUNTER", "requests answered", {"result": result})
            counter.increment(count - self._counted.get(result, 0))
            self._counted[result] = count

    def _metric(self, name: str, kind: str, description: str, labels: Mapping[str, str] | None = None) -> Any:
        key = f"{name}{sorted((labels or {}).items())}"
        if key not in self._known:
            if name not in self._families:
                family = self._pb.MetricFamily
                self._families[name] = family(name=_PREFIX + name, description=description, kind=getattr(family, kind))
            self._known[key] = self._families[name].Metric(labels=dict(labels or {}))
        return self._known[key]
