"""`python -m benchmarks.latency` against a server in this process that speaks Triton's protocol."""

from __future__ import annotations

import json
import os
import signal
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from answers import answer
from grpc_server import aborting, serving, tensors_of
from latency_stand_ins import CountingServer
from tritonguard import GuardRequest
from tritonguard.request import from_tensors
from tritonguard.verdict import to_tensors

from benchmarks.latency.__main__ import FELL_SHORT, INTERRUPTED, MEASURED, REFUSED, main

QUICK = ["--settle", "0", "--seconds", "0.4", "--warm-up", "2"]


@pytest.fixture
def server() -> CountingServer:
    return CountingServer()


@pytest.fixture
def url(server: CountingServer) -> Iterator[str]:
    with serving(server, workers=8) as (address, _):
        yield address


def judging(p_unsafe: Callable[[GuardRequest], float]) -> Callable[[Any, Any], dict[str, Any]]:
    def infer(call: Any, context: Any) -> dict[str, Any]:
        request = from_tensors(tensors_of(call))
        return to_tensors(answer(request, p_unsafe(request)))

    return infer


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "latency.json").read_text())
    return result


def test_a_sweep_leaves_tables_json_and_plots(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--rates", "20,40", "--concurrencies", "1,2", "--out", str(tmp_path), "--server", "a stand-in"]
    assert main(["--url", url, *asked, *QUICK]) == MEASURED
    result = result_of(tmp_path)
    assert [point["load"]["rate"] or point["load"]["concurrency"] for point in result["points"]] == [1, 2, 20, 40]
    assert all(point["latency"]["n"] == point["requests"] > 0 for point in result["points"])
    assert all(point["flips"]["flipped"] == 0 < point["flips"]["compared"] for point in result["points"])
    assert all(point["split"]["requests"] == point["answered"] for point in result["points"])
    assert all(point["split"]["engine_ms"] == pytest.approx(20) for point in result["points"])
    assert all(point["timings_ms"] == {"decode": 1.5} for point in result["points"])
    assert result["origin"]["server"] == "a stand-in"
    assert result["origin"]["command"].startswith("python -m benchmarks.latency --url ")
    assert result["revisions"] == [[None, None, None, "test"]]
    document, printed = (tmp_path / "latency.md").read_text(), capsys.readouterr()
    for told in (document, printed.out):
        assert "| open 40/s |" in told
        assert "preprocess queue" in told
    assert "open 40/s: 0 s to settle" in printed.err
    for name in ("open-latency", "open-throughput", "closed-latency", "closed-throughput"):
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")
        assert f"({name}.svg)" in document


def test_no_text_is_in_what_is_left_behind(url: str, tmp_path: Path) -> None:
    prompts = tmp_path / "own.jsonl"
    prompts.write_text('{"id": "1", "prompt": "A remarkable sentence."}\n')
    out = tmp_path / "out"
    asked = ["--prompts", str(prompts), "--concurrencies", "2", "--out", str(out)]
    assert main(["--url", url, *asked, *QUICK]) == MEASURED
    assert result_of(out)["verdicts"]
    assert not any(b"remarkable" in path.read_bytes() for path in out.iterdir())


def test_verdicts_of_another_run_are_flips_and_the_end_is_not_zero(
    server: CountingServer, url: str, tmp_path: Path
) -> None:
    server.infer = judging(lambda request: 0.2)
    asked = ["--url", url, "--concurrencies", "2", *QUICK]
    assert main([*asked, "--out", str(tmp_path)]) == MEASURED
    reference = ["--reference", str(tmp_path / "latency.json")]
    assert main([*asked, *reference]) == MEASURED
    server.infer = judging(lambda request: 0.2 if len(request.prompt) % 2 else 0.8)
    assert main([*asked, *reference, "--out", str(tmp_path / "second")]) == FELL_SHORT
    (point,) = result_of(tmp_path / "second")["points"]
    assert 0 < point["flips"]["flipped"] < point["flips"]["compared"]
    assert point["flips"]["p_moved"] == pytest.approx(0.6, abs=1e-6)


def test_a_verdict_that_changes_with_the_load_is_a_flip(server: CountingServer, url: str, tmp_path: Path) -> None:
    seen: list[str] = []

    def changing(request: GuardRequest) -> float:
        seen.append(request.prompt)
        return 0.9 if seen.count(request.prompt) > 1 else 0.1

    server.infer = judging(changing)
    (tmp_path / "one.jsonl").write_text('{"id": "1", "prompt": "bread"}\n')
    asked = ["--prompts", str(tmp_path / "one.jsonl"), "--concurrencies", "1", "--warm-up", "0"]
    main(["--url", url, *asked, *QUICK[:4], "--out", str(tmp_path)])
    (point,) = result_of(tmp_path)["points"]
    assert point["flips"]["flipped"] == point["flips"]["compared"] - 1 > 0


def test_the_limit_lies_between_what_held_and_what_did_not(
    server: CountingServer, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that judges one request at a time, each in 20 ms, has its limit below 50 a second."""
    turn, pause = threading.Lock(), threading.Event()

    def slow(request: GuardRequest) -> float:
        with turn:
            pause.wait(0.02)
        return 0.1

    server.infer = judging(slow)
    main(["--url", url, "--find-limit", "--slo-ms", "150", "--limit-share", "0.9", "--out", str(tmp_path), *QUICK])
    limit = result_of(tmp_path)["limit"]
    assert limit["fails_at"] is not None
    assert limit["per_s"] is None or limit["per_s"] < limit["fails_at"] < 500
    assert "90% of the requests within 150 ms" in capsys.readouterr().out


def test_a_server_that_judges_nothing_is_refused_at_the_warm_up(
    server: CountingServer, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.infer = aborting(grpc.StatusCode.UNAVAILABLE, "not yet")
    assert main(["--url", url, *QUICK]) == REFUSED
    assert "no verdict came, but unavailable" in capsys.readouterr().err


def test_a_load_without_a_verdict_falls_short(server: CountingServer, url: str, tmp_path: Path) -> None:
    server.infer = aborting(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    asked = ["--url", url, "--rates", "20", "--warm-up", "0", *QUICK[:4], "--out", str(tmp_path)]
    assert main(asked) == FELL_SHORT
    (point,) = result_of(tmp_path)["points"]
    assert point["errors"] == {"overloaded": point["requests"]}


def test_an_interrupt_writes_what_there_is(server: CountingServer, url: str, tmp_path: Path) -> None:
    asked = 0

    def interrupting(request: GuardRequest) -> float:
        nonlocal asked
        asked += 1
        if asked == 30:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.1

    server.infer = judging(interrupting)
    loads = ["--rates", "50", "--seconds", "30", "--settle", "0", "--warm-up", "0"]
    # A job that a shell has put into the background inherits a SIGINT that is ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["--url", url, *loads, "--out", str(tmp_path)]) == INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, inherited)
    result = result_of(tmp_path)
    (point,) = result["points"]
    assert result["interrupted"]
    assert point["interrupted"]
    assert 0 < point["latency"]["n"] < 60
    assert "interrupted" in (tmp_path / "latency.md").read_text()


@pytest.mark.parametrize(
    "asked",
    [
        ["--workload", "none"],
        ["--workload", "{folder}/bad.yaml"],
        ["--prompts", "{folder}/none.jsonl"],
        ["--prompts", "{folder}/bad.jsonl"],
        ["--reference", "{folder}/none.json"],
        ["--tls-ca", "{folder}/none.pem"],
        ["--bundle", "{folder}/none"],
        ["--url", "http://127.0.0.1:1"],
    ],
)
def test_what_can_t_be_measured_is_refused_in_a_line(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("guess: 1")
    (tmp_path / "bad.jsonl").write_text("no JSON")
    given = [word.format(folder=tmp_path) for word in asked]
    where = [] if {"--bundle", "--url"} & set(asked) else ["--url", "127.0.0.1:1"]
    assert main([*given, *where]) == REFUSED
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("latency: ")


@pytest.mark.parametrize(
    "asked",
    [
        "--rates 0",
        "--rates 1,x",
        "--concurrencies 0",
        "--seconds -1",
        "--limit-share 2",
        "--warm-up -1",
        "--settle nan",
    ],
)
def test_numbers_that_make_no_load_are_refused(asked: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(asked.split())
    assert end.value.code == 2


def test_help_explains_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("open loop", "closed loop", "flips", "--slo-ms", "Exit status"))
