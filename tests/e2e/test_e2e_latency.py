"""The latency benchmark on a real Triton: what its statistics tell fits what the client measured."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.latency.__main__ import MEASURED, main


def test_a_load_is_measured_judged_and_split(url: str, tmp_path: Path) -> None:
    load = ["--concurrencies", "2", "--seconds", "0.5", "--settle", "0", "--warm-up", "1"]
    assert main(["--url", url, *load, "--out", str(tmp_path)]) == MEASURED
    result = json.loads((tmp_path / "latency.json").read_text())
    (point,) = result["points"]
    assert point["errors"] == {}
    assert point["accuracy"]["labelled"] > 0
    assert [stage["model"] for stage in point["split"]["models"]] == ["preprocess", "decode", "verdict"]
    assert point["split"]["requests"] == point["answered"] >= 2
    assert point["split"]["engine_ms"] > max(stage["total_ms"] for stage in point["split"]["models"])
    assert 0 < point["split"]["total_ms"] <= point["latency"]["max"]
    assert {"preprocess", "forward", "server"} <= set(point["timings_ms"])
    ((engine, _, bundle, model),) = result["revisions"]
    assert engine
    assert bundle
    assert model
