"""What is sent to perf_analyzer, what is read of it, and when the two agree."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc_server import serving
from latency_stand_ins import CountingServer, sample
from tritonguard.errors import Unavailable
from tritonguard.policy import Policy
from tritonguard.request import GuardRequest, to_tensors
from tritonguard.tensors import TENSORS

from benchmarks.latency import cross_check
from benchmarks.latency.cross_check import OURS, THEIRS, Analyzer, Compared, Told, input_data, table

REPORT = (
    "Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p95 latency,p99 latency\n"
    "8,25.5,12,250000,300000,310000,330500\n"
)


def test_each_tensor_is_written_without_its_batch_dimension() -> None:
    request = GuardRequest(prompt='Grüße\n"x"', response="Hm", policy=Policy(on_error="raise"), priority=3)
    (row,) = input_data(to_tensors(request))["data"]
    assert set(row) == set(to_tensors(request))
    assert row["PROMPT"] == {"content": ['Grüße\n"x"'], "shape": [1]}
    assert row["PRIORITY"] == {"content": [3], "shape": [1]}
    assert all(len(value["shape"]) == len(TENSORS[name].dims) for name, value in row.items())


def test_the_report_s_microseconds_are_read_as_milliseconds() -> None:
    assert Told.read(REPORT, 100) == Told(250.0, 330.5, 25.5)


@pytest.mark.parametrize("report", ["", REPORT.splitlines()[0], REPORT + REPORT.splitlines()[1]])
def test_a_report_of_no_or_several_measurements_is_refused(report: str) -> None:
    with pytest.raises(Unavailable):
        Told.read(report, 100)


def test_samples_without_a_verdict_are_no_measurement() -> None:
    assert Told.of([sample(0.0, 0.5), sample(0.5, 0.5)]) == Told(500.0, 500.0, 2.0)
    for samples in ([], [sample(0.0, 0.5), sample(0.5, 0.5, word="overloaded")]):
        with pytest.raises(Unavailable):
            Told.of(samples)


def compared(ours: float, theirs: float) -> Compared:
    """Both have p50 of so many ms, and throughputs to match."""
    runs = {OURS: [Told(ours, 2 * ours, 1000 / ours)] * 3, THEIRS: [Told(theirs, 2 * theirs, 1000 / theirs)] * 3}
    return Compared.of(1, runs)


def test_both_a_slower_and_a_faster_one_miss_the_bar() -> None:
    assert all(bar.met for bar in compared(105.0, 100.0).bars(0.1))
    assert not any(bar.met for bar in compared(115.0, 100.0).bars(0.1))
    assert not any(bar.met for bar in compared(100.0, 115.0).bars(0.1))
    assert table([compared(105.0, 100.0)]).splitlines()[2] == "| 1 | p50 ms | 100.00 | 105.00 | 1.050 |"


def program(folder: Path, body: str) -> Analyzer:
    made = folder / "perf_analyzer"
    made.write_text(f"#!/bin/sh\n{body}\n")
    made.chmod(0o755)
    return Analyzer(made, folder)


def test_the_program_is_given_the_request_and_its_report_is_read(tmp_path: Path) -> None:
    body = f"""echo "$@" > {tmp_path}/asked
    while [ "$1" != -f ]; do [ "$1" = --input-data ] && cp "$2" {tmp_path}/data; shift; done
    printf '%s' '{REPORT}' > "$2"
    """
    told = program(tmp_path, body).closed("127.0.0.1:9", GuardRequest(prompt="Is bread good?"), 8, 100)
    assert told == Told(250.0, 330.5, 25.5)
    assert "-m guard -u 127.0.0.1:9 -i grpc" in (tmp_path / "asked").read_text()
    assert "--concurrency-range 8 --request-count 100" in (tmp_path / "asked").read_text()
    assert "Is bread good?" in (tmp_path / "data").read_text()


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no such model"):
        program(tmp_path, "echo no such model >&2; exit 99").closed("127.0.0.1:9", GuardRequest(prompt="a"), 1, 10)


def test_the_two_are_asked_in_turn_at_each_concurrency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = CountingServer()
    body = 'while [ "$1" != -f ]; do shift; done\n' + f"printf '%s' '{REPORT}' > \"$2\""
    with serving(server) as (url, _):
        found = cross_check.compare(program(tmp_path, body), url, [1, 2], rounds=2, requests=3)
    assert [one.concurrency for one in found] == [1, 2]
    assert len(server.calls) == 2 * 2 + 2 * 2 * 3
    lines = [line.partition("round ")[2].partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines[:4] == [f"1, {OURS}", f"1, {THEIRS}", f"2, {THEIRS}", f"2, {OURS}"]


def test_the_libraries_are_those_of_the_triton_wheel() -> None:
    found = cross_check.wheel_libraries()
    assert set(found) == {"libb64.so.0d", "libcudart.so.12"}
    assert all(path.is_file() for path in found.values())
