"""The engine's numbers become metrics, and nothing depends on them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from recording_triton import RecordingTriton

from serving.metrics import Metrics

WAIT_S = 10.0


class Numbers:
    """What `Metrics` reads; `read` counts how often it did."""

    def __init__(self) -> None:
        self.waiting, self.ok = 3.0, 5
        self.read = threading.Semaphore(0)

    def gauges(self) -> Mapping[str, float]:
        return {"waiting": self.waiting, "kv_blocks_used": 7.0}

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        self.read.release()
        return {"answers": {"ok": self.ok, "overloaded": 1}, "lookups": {"ok": 2}}


def values(triton: RecordingTriton) -> dict[tuple[str, Any], float]:
    return {
        (family.name, metric.labels.get("result")): metric.value
        for family in triton.families
        for metric in family.metrics
    }


def test_gauges_hold_the_latest_and_counters_add_up() -> None:
    triton, numbers = RecordingTriton(), Numbers()
    metrics = Metrics(triton, gauges=numbers.gauges, counters=numbers.counters, every_s=0.01)
    assert numbers.read.acquire(timeout=WAIT_S)
    numbers.waiting, numbers.ok = 1.0, 9
    metrics.close()
    assert values(triton) == {
        ("tritonguard_waiting", None): 1.0,
        ("tritonguard_kv_blocks_used", None): 7.0,
        ("tritonguard_answers_total", "ok"): 9,
        ("tritonguard_answers_total", "overloaded"): 1,
        ("tritonguard_lookups_total", "ok"): 2,
    }
    assert [family.kind for family in triton.families] == ["gauge", "gauge", "counter", "counter"]


def test_a_server_without_metrics_says_so_once_and_goes_on() -> None:
    triton, numbers = RecordingTriton(), Numbers()
    triton.MetricFamily.refused = True
    Metrics(triton, gauges=numbers.gauges, counters=numbers.counters, every_s=0.01).close()
    assert triton.logged == ["the engine's metrics are not shown: RuntimeError"]
