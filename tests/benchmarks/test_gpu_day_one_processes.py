"""A process of its own takes only itself with it; callers in a closed loop; a side that is kept."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_machine import be_there
from parity_stand_ins import SaidSide, failed, reading, row
from tritonguard.errors import GuardError, Overloaded

from benchmarks.gpu_day_one import origin
from benchmarks.gpu_day_one.apart import Broken, apart
from benchmarks.gpu_day_one.closed_loop import closed_loop
from benchmarks.gpu_day_one.day import gpu_row
from benchmarks.gpu_day_one.parity import KeptSide
from benchmarks.gpu_day_one.recording import DOUBLE, RECORDED
from engines.program import Program
from engines.protocol import Answer, Job

LONG_S = 60.0


def test_a_result_comes_back() -> None:
    assert apart(divmod, 7, 2, seconds=LONG_S) == (3, 1)


def test_an_error_is_told_and_stays_there() -> None:
    with pytest.raises(Broken, match="ZeroDivisionError"):
        apart(divmod, 7, 0, seconds=LONG_S)


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(Broken, match="exit status 3"):
        apart(os._exit, 3, seconds=LONG_S)


def test_a_process_that_hangs_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(Broken, match="no answer within"):
        apart(time.sleep, LONG_S, seconds=0.5)
    assert time.monotonic() - began < LONG_S / 2


def test_the_real_package_lies_where_it_was_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_there(monkeypatch, tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_llm", raising=False)
    beside = tmp_path / "beside" / "tensorrt_llm"
    installed = tmp_path / "records" / "tensorrt_llm"
    for folder in (beside, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    assert origin.evidence() == RECORDED
    monkeypatch.syspath_prepend(str(beside.parent))
    assert origin.evidence() == DOUBLE
    monkeypatch.syspath_prepend(str(installed.parent))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert origin.evidence() == DOUBLE


@dataclass
class Engine:
    """Answers every job, or refuses each `refused`th."""

    refused: int = 0
    seen: list[Job] = field(default_factory=list)

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        self.seen += jobs
        if self.refused and len(self.seen) % self.refused == 0:
            return [Overloaded("full")]
        return [Answer(np.zeros((1, 2), np.float32), (), 0)]


def load(engine: Any, concurrency: int) -> Any:
    jobs = [Job(np.array([n], np.int32), 0, Program(())) for n in range(3)]
    return closed_loop(engine, "verdict", jobs, concurrency=concurrency, seconds=0.0)


def test_every_caller_of_a_loop_asks() -> None:
    engine = Engine()
    one = load(engine, 8)
    assert (one.kind, one.concurrency, one.answered, one.failed) == ("verdict", 8, 8, {})
    assert {int(job.ids[0]) for job in engine.seen} == {0, 1, 2}
    assert 0 < one.p50_ms <= one.p95_ms
    assert one.per_s > 0


def test_refusals_are_counted_by_kind_and_not_timed() -> None:
    one = load(Engine(refused=1), 4)
    assert (one.answered, one.failed) == (0, {"overloaded": 4})
    assert np.isnan(one.p50_ms)


def test_a_kept_side_says_what_the_side_had_said() -> None:
    rows = [row("a"), row("b", mode="think"), row("c")]
    side = SaidSide({"a": reading(1.0), "b": failed(), "c": reading(-2.0)})
    kept = KeptSide.of(side, rows)
    asked = len(side.batches)
    assert [one.margins for one in kept.read(rows[::-1])] == [(-2.0,), (), (1.0,)]
    assert kept.prompt_ids(rows[0]) == side.ids
    assert (kept.describe(), kept.name, kept.taxonomy) == ({"kind": "said"}, "said", "t")
    assert len(side.batches) == asked


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10G", "a10"),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA L40", None),
        (None, None),
    ],
)
def test_the_row_of_a_gpu(name: str | None, expected: str | None) -> None:
    assert gpu_row(name) == expected
