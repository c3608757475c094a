"""What `benchmarks.path` makes of rounds, clocks and processes, and a real engine asked alone."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from engine_stand_in import StandIn
from latency_stand_ins import planned
from tiny_engine import job, load_tiny
from tritonguard.errors import BundleError, GuardError, InvalidRequest, Unavailable
from tritonguard.testing import judged

from benchmarks.latency.loops import VERDICT, Reply, Sample
from benchmarks.latency.stages import Split, Stage
from benchmarks.path import __main__ as command
from benchmarks.path.bare import Bare, Run, closed
from benchmarks.path.clocked import Served, cpu_s, grown, processes
from benchmarks.path.figures import Added, Way
from benchmarks.path.report import Result, document
from engines.protocol import Answer, Job
from engines.scheduler import Scheduler


def run(ms: list[float], seconds: float, **cpu: float) -> Run:
    return Run(ms, seconds, cpu)


def test_what_is_added_is_the_middle_round_s_own_ratio() -> None:
    bare = [
        run([100.0, 100.0], 2.0, engine=1.0),
        run([100.0, 300.0], 2.0, engine=1.0),
        run([50.0, 50.0], 1.0, engine=1.0),
    ]
    served = [
        run([110.0, 110.0], 2.2, client=0.1),
        run([400.0, 400.0], 4.0, client=0.1),
        run([60.0, 60.0], 1.1, client=0.4),
    ]
    added = Added.of(8, bare, served)
    assert [round(p50, 3) for p50, _ in added.each] == [0.1, 1.0, 0.2]
    assert added.p50_added == pytest.approx(0.2)
    assert added.time_added == pytest.approx(0.1)
    assert added.cpu_ms == {"bare": {"engine": pytest.approx(500.0)}, "served": {"client": pytest.approx(100.0)}}
    assert "concurrency 8" in added.bar.name


def test_alone_the_latency_is_judged_and_together_the_throughput() -> None:
    bare, served = [run([100.0], 1.0, engine=0.1)], [run([126.0], 1.05, client=0.1)]
    assert not Added.of(1, bare, served).bar.met
    assert Added.of(8, bare, served).bar.met
    slower = [run([101.0], 1.2, client=0.1)]
    assert Added.of(1, bare, slower).bar.met
    assert not Added.of(32, bare, slower).bar.met


def told(**timings: float) -> Sample:
    """Of a request that took 100 ms, with these timings in its record."""
    what = planned()
    verdict = judged(what.request, 0.1)
    record = verdict.record.model_copy(update={"timings_ms": timings})
    return Sample(what, 0.0, 0.0, 0.1, Reply(VERDICT, replace(verdict, record=record)))


def stage(model: str, total_ms: float) -> Stage:
    return Stage(model, 1, 0, total_ms, 0.5, total_ms - 0.5, 1.0)


def test_the_parts_of_a_request_s_way_are_its_whole_time() -> None:
    split = Split((stage("preprocess", 3.0), stage("decode", 1.0), stage("verdict", 2.0)), 1, 90.0, 84.0)
    way = Way.of([told(preprocess=2.0, prefix=1.0, forward=80.0, server=88.0)], [0.097], split)
    assert (way.client, way.wire) == (pytest.approx(3.0), pytest.approx(7.0))
    assert (way.preprocess, way.handover, way.verdict) == (3.0, 1.0, 2.0)
    assert (way.passes, way.waiting, way.preprocess_stage) == (81.0, pytest.approx(3.0), 2.0)
    parts = way.client + way.wire + way.preprocess + way.handover + way.waiting + way.passes + way.verdict
    assert parts == pytest.approx(way.total) == pytest.approx(100.0)


class Counting(StandIn):
    """Notes how many jobs are in each call."""

    def __init__(self) -> None:
        self.ran = 0

    def run(self, jobs: list[Job]) -> list[Answer | GuardError]:
        self.ran += len(jobs)
        return [Unavailable("not today")] * len(jobs)


def test_an_engine_alone_answers_each_job_once(tmp_path: Path) -> None:
    scheduler = Scheduler(load_tiny(tmp_path / "tiny"))
    try:
        ran = closed(scheduler, [job(20 + seed, prefix=8, seed=seed) for seed in range(7)], 3)
        assert len(ran.ms) == 7
        assert min(ran.ms) > 0
        assert max(ran.ms) / 1e3 <= ran.seconds
        assert scheduler.answers() == {"ok": 7}
    finally:
        scheduler.close()


def test_an_engine_that_refuses_is_no_measurement() -> None:
    engine = Counting()
    scheduler = Scheduler(engine)
    with pytest.raises(Unavailable, match="not today"):
        closed(scheduler, [job(20, seed=seed) for seed in range(3)], 2)
    scheduler.close()
    assert engine.ran == 3


def test_what_the_engine_s_process_lacks_is_said_here(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="manifest"):
        Bare(tmp_path, [])


def test_a_server_that_gives_no_verdict_is_no_measurement() -> None:
    async def ask() -> None:
        async with Served("127.0.0.1:1", [planned()]) as served:
            await served.run(1)

    with pytest.raises(Unavailable, match="unavailable"):
        asyncio.run(ask())


def test_cpu_seconds_are_those_of_the_system() -> None:
    own = {"own": os.getpid()}
    before = cpu_s(own)
    while os.times().user + os.times().system < before["own"] + 0.05:
        pass
    assert grown(before, cpu_s(own))["own"] >= 0.03


def test_a_server_s_processes_are_found_by_name(tmp_path: Path) -> None:
    lines = {1: "python", 2: "/x/tritonserver", 3: "/t/triton_python_backend_stub\0/r/preprocess/1/model.py"}
    for pid, line in lines.items():
        folder = tmp_path / str(pid)
        folder.mkdir()
        folder.joinpath("cmdline").write_bytes(line.encode() + b"\0")
        folder.joinpath("stat").write_text(f"{pid} (a b) S {max(pid - 1, 0)} 0 0 0 0 0 0 0 0 0 150 50")
    assert processes(1, tmp_path) == {"tritonserver": 2, "preprocess": 3}
    assert cpu_s({"preprocess": 3}, tmp_path) == {"preprocess": 200 / os.sysconf("SC_CLK_TCK")}


@pytest.mark.parametrize("line", ["modes: {think: 1}", "images: {share: 0.5}", "policies: {built_in: 0, custom: 1}"])
def test_only_verdicts_on_texts_under_the_built_in_policy_are_compared(tmp_path: Path, line: str) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(f"name: w\n{line}\n")
    with pytest.raises(InvalidRequest, match="more than verdicts"):
        command.plan_of(str(file), 40, tmp_path)


def test_a_bundle_that_is_none_ends_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--bundle", str(tmp_path), "--requests", "2"]) == command.REFUSED
    assert capsys.readouterr().err.startswith("path: ")


def test_the_document_names_machine_command_and_bars() -> None:
    bare, served = [run([100.0], 1.0, engine=0.1)], [run([110.0], 1.1, client=0.01, decode=0.1)]
    split = Split((stage("preprocess", 3.0), stage("decode", 1.0), stage("verdict", 2.0)), 1, 90.0, 84.0)
    way = Way.of([told(preprocess=2.0, forward=80.0, server=88.0)], [0.097], split)
    text = document(
        Result("python -m benchmarks.path", "2026-01-01", "a CPU", 0.2, "f32", [Added.of(1, bare, served)], {1: way})
    )
    for wanted in (
        "a CPU",
        "load before: 0.2",
        "`python -m benchmarks.path`",
        "met: added to the p50",
        "| 1 | 100.0 | 110.0 | 10.0% |",
    ):
        assert wanted in text
