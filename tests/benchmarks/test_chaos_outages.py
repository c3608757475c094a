"""Kills and overload: outages are timed from the kill, processes are found by their model, no request is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonguard import Guard, MockTransport, Policy
from tritonguard.errors import Unavailable
from tritonguard.examples import CANARY
from tritonguard.request import GuardRequest
from tritonguard.verdict import Verdict, verdict_on_error

from benchmarks.chaos.kills import Outage, endpoints, watch_outage
from benchmarks.chaos.load import Load
from benchmarks.chaos.marks import Marks
from benchmarks.chaos.overload import overload_problems
from benchmarks.chaos.processes import descendants, servers, stubs
from benchmarks.chaos.texts import Known
from benchmarks.overload.calls import Answered, goodput


class Clock:
    def __init__(self, healthy: dict[range, bool]) -> None:
        self.time = 0.0
        self._healthy = healthy

    def is_healthy(self) -> bool:
        return next(says for span, says in self._healthy.items() if int(self.time) in span)

    def outage(self) -> Outage:
        return watch_outage(self.is_healthy, began=0.0, now=lambda: self.time, wait=self.wait)

    def wait(self, seconds: float) -> None:
        self.time += seconds


def test_an_outage_is_timed_from_the_kill() -> None:
    outage = Clock({range(3): True, range(3, 21): False, range(21, 999): True}).outage()
    assert outage == Outage(3.0, 21.0)
    assert outage.problems() == []


@pytest.mark.parametrize(
    ("healthy", "outage"),
    [
        ({range(999): True}, Outage(None, None)),
        ({range(2): True, range(2, 999): False}, Outage(2.0, None)),
        ({range(12): True, range(12, 15): False, range(15, 999): True}, Outage(12.0, 15.0)),
        ({range(1): True, range(1, 80): False, range(80, 999): True}, Outage(1.0, 80.0)),
    ],
)
def test_an_outage_that_is_not_seen_or_too_long_is_a_problem(healthy: dict[range, bool], outage: Outage) -> None:
    seen = Clock(healthy).outage()
    assert seen == outage
    assert seen.problems()


def test_the_ready_line_says_where_a_server_listens() -> None:
    line = "tritonguard ready: grpc 127.0.0.1:91, http 127.0.0.1:90, metrics 127.0.0.1:92; canary: en-bomb unsafe"
    found = endpoints(line)
    assert found is not None
    assert (found.http, found.grpc, found.metrics) == ("127.0.0.1:90", "127.0.0.1:91", "127.0.0.1:92")
    assert endpoints("tritonguard-serve: not served") is None


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    stub = "/opt/backends/python/triton_python_backend_stub"
    for pid, parent, state, line in (
        (1, 0, "S", "init"),
        (20, 1, "S", "python\0-m\0serving.cli"),
        (21, 20, "S", "/opt/bin/tritonserver\0--model-repository=/srv/decode/models"),
        (22, 21, "S", f"{stub}\0/srv/models/decode/1/model.py\0shm"),
        (23, 21, "S", f"{stub}\0/srv/models/verdict/1/model.py\0shm"),
        (24, 21, "Z", f"{stub}\0/srv/models/decode/1/model.py\0shm"),
        (30, 1, "S", f"{stub}\0/srv/models/decode/1/model.py\0of another server"),
    ):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (a) b (c)) {state} {parent} 1 1 0")
        (folder / "cmdline").write_text(line + "\0")
    (tmp_path / "self").mkdir()
    return tmp_path


def test_processes_are_found_under_their_server_and_by_their_model(proc: Path) -> None:
    assert descendants(20, proc) == [21, 22, 23]
    assert servers(20, proc) == [21]
    assert stubs(20, "decode", proc) == [22]
    assert stubs(20, "verdict", proc) == [23]
    assert stubs(20, "preprocess", proc) == []


def flooded(*words: str, seconds: float = 1.0) -> dict[str, list[Answered]]:
    return {str(number): [Answered(word, number / 10, seconds)] for number, word in enumerate(words)}


def judged(answers: dict[str, list[Answered]], sent: Iterator[str] | None = None, capacity: float = 5.0) -> list[str]:
    return overload_problems(answers, sent=list(sent or answers), capacity=capacity, window_s=1.0)


def test_goodput_of_capacity_with_typed_refusals_is_no_problem() -> None:
    assert judged(flooded(*["right"] * 5, *["overloaded"] * 4, "deadline_exceeded")) == []


def test_every_shortfall_under_overload_is_told() -> None:
    good = flooded(*["right"] * 5)
    assert judged(flooded(*["right"] * 4, "overloaded")) == ["goodput 4.00/s is 80% of capacity, at least 90%"]
    assert judged({**good, "x": [Answered("internal", 0.5, 1.0)]}) == ["1 requests: internal"]
    assert judged({**good, "x": [Answered("wrong", 0.5, 1.0)]}) == ["1 requests: wrong"]
    assert judged({**good, "x": [Answered("right", 0.5, 11.0)]}) == ["1 verdicts after their deadline"]
    assert judged(good, iter([*good, "lost"])) == ["1 requests without an outcome, 0 with more than one"]
    assert judged({**good, "0": good["0"] * 2}) == ["0 requests without an outcome, 1 with more than one"]
    assert judged({**good, "x": [Answered("right", 0.5, 1.0)]}, iter(good))
    assert judged(good, capacity=0.0) == ["no capacity was measured"]


def test_goodput_is_over_all_the_time_that_it_took_and_at_least_the_window() -> None:
    early, late = Answered("right", 0.5, 1.0), Answered("right", 4.0, 1.0)
    assert goodput([early], 2.0) == 0.5
    assert goodput([early, late], 2.0) == 0.5
    assert goodput([early, Answered("overloaded", 9.0, 1.0)], 2.0) == 0.5
    assert goodput([], 2.0) == 0.0


def loaded(handler: object) -> Load:
    marks, known = Marks("zqmark"), (Known("a", CANARY[0].prompt, "safe", 0.1),)
    guard = Guard(transport=MockTransport(handler))  # type: ignore[arg-type]
    load = Load(guard, known, marks, deadline_s=1.0)
    with load.running(2):
        while sum(load.words().values()) < 4:
            pass
    assert marks.found.get("error messages", 0) == load.words().get("unavailable", 0)
    return load


def test_a_caller_under_load_tells_errors_from_verdicts_that_are_not_its_own() -> None:
    def dead(request: GuardRequest) -> Verdict:
        raise Unavailable("the stage of zqmark is dead")

    def invented(request: GuardRequest) -> Verdict:
        # A verdict that nothing computed: it has no probability.
        allowing = request.model_copy(update={"policy": Policy(on_error="block")})
        return verdict_on_error(Unavailable("none"), allowing)

    assert set(loaded(dead).words()) == {"unavailable"}
    assert "right" not in loaded(invented).words()
