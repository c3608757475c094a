"""Figures from samples: percentiles, goodput, errors, accuracy, flips, and the split by Triton's counters."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latency_stand_ins import figures, planned, sample
from tritonguard.errors import InvalidRequest

from benchmarks.latency.figures import Latency, Load
from benchmarks.latency.report import notes
from benchmarks.latency.stages import Counters, between
from benchmarks.latency.verdicts import Accuracy, Flips, accuracy, flips, judged_of, read_reference
from benchmarks.report import write_json

MS = 1_000_000


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_percentiles_are_of_the_nearest_rank(times: list[float]) -> None:
    latency, ordered = Latency.of(times), sorted(times)
    for share, value in ((50, latency.p50), (95, latency.p95), (99, latency.p99)):
        assert value == ordered[math.ceil(share * len(times) / 100) - 1]
    assert latency.max == ordered[-1]
    assert latency.n == len(times)


def test_without_a_verdict_there_is_no_latency() -> None:
    assert Latency.of([]) == Latency(0)
    refused = figures([sample(1.0, 0.001, word="overloaded")] * 5)
    assert refused.latency == Latency(0)
    assert refused.errors == {"overloaded": 5}
    assert refused.within_slo == refused.goodput_per_s == refused.verdicts_per_s == 0


def test_errors_are_counted_and_never_a_latency() -> None:
    """A refusal in a millisecond would make a server that refuses look fast."""
    samples = [sample(n / 10, 0.2) for n in range(50)] + [sample(n / 10, 0.001, word="overloaded") for n in range(50)]
    mixed = figures(samples, slo_ms=300)
    assert mixed.latency.p50 == pytest.approx(200)
    assert mixed.requests == 100
    assert mixed.within_slo == 0.5


def test_goodput_counts_what_came_in_time_within_the_window() -> None:
    load = Load(10.0, None, 2.0, 10.0)
    samples = [
        sample(1.0, 0.05),  # settling
        sample(3.0, 0.05),
        sample(4.0, 0.5),  # too slow
        sample(11.9, 0.05),
        sample(11.99, 0.05),  # answered behind the window, still one of its requests
        sample(12.5, 0.05),
    ]
    counted = figures(samples, load, slo_ms=100)
    assert counted.requests == counted.latency.n == 4
    assert counted.verdicts_per_s == pytest.approx(0.3)
    assert counted.goodput_per_s == pytest.approx(0.2)
    assert counted.within_slo == 0.75
    assert counted.answered == 6


def test_an_interrupted_point_is_of_the_time_it_had() -> None:
    samples = [sample(n / 2, 0.01) for n in range(8)]
    cut = figures(samples, Load(2.0, None, 1.0, 9.0), until_s=4.0)
    assert cut.interrupted
    assert cut.verdicts_per_s == pytest.approx(2.0)


def test_a_generator_that_is_late_or_busy_is_the_limit() -> None:
    on_time = figures([sample(n / 10, 0.1) for n in range(100)])
    late = figures([sample(n / 10, 0.1, late=0.05 if n > 97 else 0.0) for n in range(100)])
    busy = figures([sample(1.0, 0.1)], core_share=0.95)
    hardly = figures([sample(n / 10, 2.0, late=0.05) for n in range(100)])  # beside what it measures
    assert [one.generator.limited for one in (on_time, late, busy, hardly)] == [False, True, True, False]
    assert on_time.generator.offered_per_s == 10.0


def test_kept_answers_are_counted_and_told() -> None:
    fresh = sample(1.0, 0.1)
    assert fresh.reply.verdict is not None
    verdict = fresh.reply.verdict
    record = verdict.record.model_copy(update={"cached": True})
    kept = replace(fresh, reply=replace(fresh.reply, verdict=replace(verdict, record=record)))
    mixed = figures([fresh, kept, kept])
    assert mixed.kept == 2
    assert "2 of 3 verdicts were kept answers" in notes(mixed)
    assert not any("kept" in note for note in notes(figures([fresh])))


def test_kinds_are_told_apart() -> None:
    samples = [sample(1.0, 0.1), sample(1.0, 0.9, what=planned(kind="think"))]
    by_kind = figures(samples).by_kind
    assert {kind: own.max for kind, own in by_kind.items()} == pytest.approx({"verdict": 100, "think": 900})


def test_right_and_wrong_are_of_labelled_texts_that_got_a_verdict() -> None:
    samples = [
        sample(0, 1, p_unsafe=0.9, what=planned(known=True)),
        sample(0, 1, p_unsafe=0.1, what=planned(known=True)),
        sample(0, 1, p_unsafe=0.1, what=planned(known=False)),
        sample(0, 1, p_unsafe=0.1, what=planned()),
        sample(0, 1, word="unavailable", what=planned(known=True)),
    ]
    assert accuracy(samples) == Accuracy(3, 2)
    assert accuracy(samples).share == pytest.approx(2 / 3)
    assert accuracy([]).share is None


def test_flips_are_other_labels_for_the_same_request() -> None:
    reference = judged_of([sample(0, 1, p_unsafe=0.4), sample(0, 1, p_unsafe=0.9, what=planned("bomb"))])
    same, moved, flipped = (sample(0, 1, p_unsafe=p) for p in (0.4, 0.45, 0.6))
    unknown, failed = sample(0, 1, what=planned("other")), sample(0, 1, word="internal")
    assert flips([same, unknown, failed], reference) == Flips(1, 0, 0.0)
    found = flips([same, moved, flipped], reference)
    assert (found.compared, found.flipped) == (3, 1)
    assert found.p_moved == pytest.approx(0.2, abs=1e-6)


def test_the_first_verdict_of_a_request_is_its_reference() -> None:
    samples = [sample(0, 1, word="unavailable"), sample(0, 1, p_unsafe=0.2), sample(0, 1, p_unsafe=0.8)]
    (judged,) = judged_of(samples).values()
    assert judged.user == "safe"


def test_a_reference_is_read_back_from_a_result(tmp_path: Path) -> None:
    verdicts = judged_of([sample(0, 1), sample(0, 1, p_unsafe=0.9, what=planned("bomb"))])
    path = tmp_path / "latency.json"
    write_json(path, {"verdicts": verdicts, "points": []})
    assert read_reference(path) == verdicts


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"verdicts": []}', '{"verdicts": {"a": {"user": 1}}}', '{"verdicts": {}}']
)
def test_what_is_no_result_is_no_reference(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(InvalidRequest):
        read_reference(path)
    with pytest.raises(InvalidRequest, match="can't be read"):
        read_reference(tmp_path / "none.json")


def counters(requests: int, *, total: int, queue: int = 0, compute: int = 0, executions: int = 1) -> Counters:
    return Counters(
        requests, 0, requests * total * MS, requests * queue * MS, requests * compute * MS, requests, executions
    )


def test_the_split_is_of_what_the_counters_grew_by() -> None:
    before = {
        "guard": counters(100, total=900),
        "preprocess": counters(100, total=500, queue=400, compute=100),
        "decode": counters(100, total=70, compute=70),
    }
    grown = {
        "guard": counters(10, total=40),
        "preprocess": counters(10, total=5, queue=2, compute=3, executions=4),
        "decode": counters(10, total=1, compute=1),
        "verdict": counters(10, total=2, compute=2, executions=10),
        "idle": Counters(),
    }
    after = {name: before.get(name, Counters()) + own for name, own in grown.items()}
    split = between(before, after)
    assert split is not None
    assert [stage.model for stage in split.models] == ["preprocess", "decode", "verdict"]
    preprocess = split.models[0]
    assert (preprocess.requests, preprocess.queue_ms, preprocess.compute_ms) == (10, 2.0, 3.0)
    assert preprocess.batch == pytest.approx(10 / 4)
    assert (split.requests, split.total_ms) == (10, 40.0)
    assert split.engine_ms == pytest.approx(40 - 5 - 1 - 2)


def test_a_model_that_was_loaded_anew_counts_from_its_beginning() -> None:
    split = between({"guard": counters(100, total=9)}, {"guard": counters(5, total=7)})
    assert split is not None
    assert (split.requests, split.total_ms) == (5, 7.0)


def test_a_server_that_answered_nothing_has_no_split() -> None:
    same = {"guard": counters(3, total=9)}
    assert between(same, same) is None
    assert between({}, {}) is None
