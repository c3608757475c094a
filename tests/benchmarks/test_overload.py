"""What counts as holding under overload, and the whole drive against a server of one lane that refuses."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_server import Server, serving, tensors_of
from tritonguard.errors import Overloaded, to_wire
from tritonguard.request import from_tensors
from tritonguard.testing import judged
from tritonguard.verdict import to_tensors

from benchmarks.chaos.texts import Known
from benchmarks.overload import __main__ as command
from benchmarks.overload.calls import Answered
from benchmarks.overload.judgement import Found, Memory, Phase, Told, deadline_for, found, phases, recovery, schedule
from benchmarks.overload.report import document, plots, values
from benchmarks.report import write_json
from benchmarks.soak_memory import Sample

RUN = phases(calm_s=10.0, overload_s=30.0, times=3.0)
BEFORE, OVERLOAD, AFTER = RUN
FLAT = [Sample(second / 60, 500.0, 4) for second in range(0, 50, 2)]


def answers(
    phase: Phase, count: int, seconds: float = 0.1, word: str = "right", begin: float = 0.0, late: float = 0.0
) -> list[Answered]:
    """`count` of a phase, evenly from `begin` seconds behind its start."""
    step = (phase.seconds - begin) / count
    moments = [phase.begin_s + begin + number * step for number in range(count)]
    return [Answered(word, moment + seconds, seconds, moment, late) for moment in moments]


GOOD = [
    *answers(BEFORE, 80),
    *answers(OVERLOAD, 300, 0.2),
    *answers(OVERLOAD, 600, 0.01, "overloaded"),
    *answers(AFTER, 80),
]


def judge(every: Sequence[Answered], samples: Sequence[Sample] = FLAT, **values: Any) -> Found:
    known: dict[str, Any] = {"capacity": 10.0, "lost": 0, "core_share": 0.1, **values}
    return found(RUN, every, samples, **known)


def missed(result: Found) -> list[str]:
    return [bar.name for bar in result.bars() if not bar.met]


def test_phases_follow_each_other_and_the_calm_ones_are_asked_alike() -> None:
    assert [(one.begin_s, one.end_s, one.times) for one in RUN] == [(0, 10, 0.8), (10, 40, 3), (40, 50, 0.8)]
    moments = schedule(RUN, 10.0, seed=1)
    assert moments == sorted(moments)
    own = {phase.name: [moment - phase.begin_s for moment in moments if phase.holds(moment)] for phase in RUN}
    assert own["before"] == pytest.approx(own["after"])
    assert len(own["overload"]) == pytest.approx(900, rel=0.1)


def test_a_server_that_holds_misses_nothing() -> None:
    result = judge(GOOD)
    assert missed(result) == []
    assert (result.before.sent, result.overload.sent, result.recovery_s) == (80, 900, 0.0)
    assert result.overload.words == {"overloaded": 600, "right": 300}


@pytest.mark.parametrize(
    ("every", "values", "name"),
    [
        pytest.param(
            [*GOOD[:80], *answers(OVERLOAD, 260, 0.2), *GOOD[-80:], *answers(OVERLOAD, 9, 0.01, "overloaded")],
            {},
            "goodput, of capacity",
            id="too few verdicts",
        ),
        pytest.param([*GOOD, *answers(OVERLOAD, 40, 0.25)], {}, "p99 of verdicts, times that of before", id="slow"),
        pytest.param(
            [*GOOD[:380], *answers(OVERLOAD, 40, 0.06, "overloaded")], {}, "p95 of refusals, ms", id="slow refusals"
        ),
        pytest.param(
            GOOD,
            {"samples": [Sample(one.minutes, 500 + 60 * one.minutes, 4) for one in FLAT]},
            "growth of memory",
            id="memory grows",
        ),
        pytest.param(GOOD, {"samples": []}, "growth of memory", id="memory is not known"),
        pytest.param([*GOOD, *answers(AFTER, 1, 0.01, "overloaded", 6.0)], {}, "recovery, s", id="refused afterwards"),
        pytest.param(
            [*GOOD, *answers(BEFORE, 2, 0.01, "overloaded")], {}, "refused before, of those sent", id="no calm"
        ),
        pytest.param(GOOD, {"lost": 1}, "requests without exactly one answer", id="lost"),
        pytest.param(
            [*GOOD, *answers(OVERLOAD, 1, 0.1, "wrong")], {}, "answers neither right nor a refusal", id="wrong"
        ),
        pytest.param(GOOD, {"core_share": 0.95}, "the callers' share of a core", id="the generator is the limit"),
    ],
)  # fmt: skip
def test_every_shortfall_is_told(every: list[Answered], values: dict[str, Any], name: str) -> None:
    assert name in missed(judge(every, **values))


def test_refusals_that_never_came_and_calm_without_a_verdict_meet_nothing() -> None:
    assert "p95 of refusals, ms" in missed(judge([one for one in GOOD if one.word == "right"]))
    assert {"p99 of verdicts, times that of before", "recovery, s"} <= set(missed(judge(GOOD[80:])))


def test_recovery_is_from_when_on_nothing_is_refused_or_slow() -> None:
    assert recovery(AFTER, answers(AFTER, 80), 100.0) == 0.0
    slow = [*answers(AFTER, 16, 0.5)[:8], *answers(AFTER, 64, begin=2.0)]
    slow = [one for one in slow if one.seconds == 0.1 or one.intended_s < AFTER.begin_s + 2]
    assert 1.5 < recovery(AFTER, slow, 100.0) <= 2.0
    refused = [*answers(AFTER, 80), Answered("overloaded", 43.01, 0.01, 43.0)]
    assert 3.0 <= recovery(AFTER, refused, 100.0) < 3.2
    never = [*answers(AFTER, 80), Answered("overloaded", 49.01, 0.01, 49.0)]
    assert recovery(AFTER, never, 100.0) == math.inf
    assert recovery(AFTER, answers(AFTER, 80, 0.12), 100.0) == math.inf
    assert recovery(AFTER, answers(AFTER, 80, 0.105), 100.0) == 0.0  # two windows differ by chance
    assert recovery(AFTER, [], 100.0) == math.inf
    assert recovery(AFTER, answers(AFTER, 80), None) == math.inf


def test_a_slow_server_gets_a_deadline_whose_backlog_a_calm_load_lets_it_work_off() -> None:
    assert deadline_for(1.0) == pytest.approx(1.6)
    # A fifth of the capacity works off what is above 1.1 times 4 s in 5 s.
    assert deadline_for(4.0) == pytest.approx(5.4)


def test_a_phase_counts_its_own_requests_from_its_own_beginning() -> None:
    told = Told.of(AFTER, [*answers(AFTER, 50), *answers(OVERLOAD, 30)], 10.0)
    assert (told.sent, told.rate, told.goodput, told.verdicts.n) == (50, 8.0, 5.0, 50)


def test_memory_is_compared_at_both_ends_of_the_overload_alone() -> None:
    samples = [Sample(0.0, 100.0, 4), *(Sample(second / 60, 400 + second, 4) for second in range(10, 41, 5))]
    memory = Memory.of([*samples, Sample(0.8, 900.0, 4)], OVERLOAD)
    assert (memory.first, memory.last) == (415.0, 435.0)
    assert memory.line.slope == pytest.approx(60.0)


class OneLane(Server):
    """Judges one request at a time, 20 ms each; refuses at once where four wait."""

    def __init__(self) -> None:
        super().__init__()
        self._lane, self._lock, self._waiting = threading.Lock(), threading.Lock(), 0
        self.infer = self._infer

    def _infer(self, call: Any, context: Any) -> Any:
        with self._lock:
            full, self._waiting = self._waiting >= 4, self._waiting + 1
        try:
            if full:
                context.abort(grpc.StatusCode.UNAVAILABLE, to_wire(Overloaded("too many")))
            with self._lane:
                time.sleep(0.02)
            request = from_tensors(tensors_of(call))
            return to_tensors(judged(request, 0.1))
        finally:
            with self._lock:
                self._waiting -= 1


def test_the_whole_drive_tells_verdicts_from_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WARM_UP_S", 0.1)
    known = [Known("a", "How do I bake bread?", "safe", 0.1)]
    args = argparse.Namespace(concurrency=4, capacity_seconds=0.5, seed=0, deadline=None)
    run = phases(calm_s=0.5, overload_s=1.0, times=4.0)
    with serving(OneLane(), workers=64) as (url, _):
        result, samples = asyncio.run(command.drive(url, known, run, args))
    assert result.capacity > 5
    assert set(result.overload.words) == {"overloaded", "right"}
    assert (result.lost, result.unexpected) == (0, 0)
    assert len({one.deadline_s for one in result.answers}) == 1
    assert result.overload.verdicts.n > 5
    assert result.core_share > 0
    assert samples
    facts = {"command": "`here`"}
    told = document(result, facts, ["a.svg"])
    assert "requests without exactly one answer 0" in told
    assert "![a.svg](a.svg)" in told
    write_json(tmp_path / "found.json", values(result, facts))
    written = json.loads((tmp_path / "found.json").read_text())
    assert len(written["answers"]) == sum(one.sent for one in (result.before, result.overload, result.after))
    drawn = plots(run, result.answers)
    assert set(drawn) == {"overload-rates.svg", "overload-latency.svg"}
    assert all(drawing.startswith("<svg") for drawing in drawn.values())


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "overload: none has no readable manifest.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--minutes", "0"])
