"""The line through memory, what of it counts, and which answers of a long run are unexpected."""

from __future__ import annotations

import math
import random
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from tritonguard import Guard, MockTransport, Verdict
from tritonguard.errors import Overloaded
from tritonguard.request import GuardRequest, Mode
from tritonguard.verdict import verdict_on_error

from benchmarks.chaos.wire import Outcome
from benchmarks.soak import bars, tables
from benchmarks.soak_load import WEIGHTS, Asker, Counts, ask_until, verdict_problem
from benchmarks.soak_memory import Sample, Sampler, after_warm_up, fit, measure, plot, pss_bytes, warm_up_minutes


def growing(slope: float, *, noise: tuple[float, ...] = (0.0,), minutes: int = 60) -> list[Sample]:
    return [Sample(at / 2, 500 + slope * at / 2 + noise[at % len(noise)], 4) for at in range(2 * minutes)]


def test_a_line_is_found_exactly() -> None:
    line = fit(growing(0.25))
    assert line.slope == pytest.approx(0.25)
    assert line.start == pytest.approx(500)
    assert line.error == pytest.approx(0, abs=1e-9)


def test_noise_widens_the_error_and_not_the_slope() -> None:
    line = fit(growing(0.25, noise=(-3.0, 3.0)))
    assert line.slope == pytest.approx(0.25, abs=0.02)
    assert 0.005 < line.error < 0.05


def test_the_error_is_the_textbook_one() -> None:
    # y = 0, 1, 1, 2 over x = 0, 1, 2, 3: slope 0.6, residuals' squares 0.2, spread 5.
    line = fit([Sample(x, y, 1) for x, y in ((0.0, 0.0), (1.0, 1.0), (2.0, 1.0), (3.0, 2.0))])
    assert line.slope == pytest.approx(0.6)
    assert line.error == pytest.approx(math.sqrt(0.2 / 2 / 5))


@pytest.mark.parametrize("samples", [[], [Sample(0, 1, 1)], [Sample(2, 1, 1), Sample(2, 5, 1)]])
def test_too_few_samples_have_no_slope_and_meet_no_bar(samples: list[Sample]) -> None:
    line = fit(samples)
    assert math.isnan(line.slope)
    assert not bars(line, Counts())[0].met


def test_the_warm_up_does_not_count() -> None:
    assert [warm_up_minutes(minutes) for minutes in (5, 20, 60)] == [0.5, 2.0, 6.0]
    samples = growing(0.0)
    assert after_warm_up(samples, 60)[0].minutes == 6.0
    jump = [Sample(one.minutes, one.megabytes - (300 if one.minutes < 6 else 0), 4) for one in samples]
    assert fit(after_warm_up(jump, 60)).slope == pytest.approx(0)


@pytest.mark.parametrize(("slope", "met"), [(0.99, True), (1.0, False), (1.5, False), (-2.0, True)])
def test_memory_must_grow_by_less_than_a_megabyte_a_minute(slope: float, met: bool) -> None:
    assert bars(fit(growing(slope)), Counts())[0].met is met


def test_one_unexpected_answer_misses_the_bar() -> None:
    counts = Counts()
    counts.note("think", None, 1.0)
    assert [bar.met for bar in bars(fit(growing(0.1)), counts)] == [True, True, True]
    counts.note("think", "overloaded", 1.0)
    assert [bar.met for bar in bars(fit(growing(0.1)), counts)] == [True, False, True]
    assert "think: overloaded | 1 |" in tables(growing(0.1), fit(growing(0.1)), counts, 60)


def test_memory_is_the_sum_over_the_processes_under_the_root(tmp_path: Path) -> None:
    for pid, parent, kilobytes in ((10, 1, 999), (11, 10, 2000), (12, 11, 500)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (x) S {parent} 0")
        (tmp_path / str(pid) / "smaps_rollup").write_text(
            f"00-ff ---p\nRss: 9 kB\nPss:   {kilobytes} kB\nPss_Dirty: 1 kB\n"
        )
    sample = measure(10, time.monotonic(), tmp_path)
    assert (sample.megabytes, sample.processes) == (pytest.approx(2500 * 1024 / 1e6), 2)
    assert pss_bytes(99, tmp_path) is None


def test_a_sampler_samples_until_it_is_left() -> None:
    with Sampler(lambda: Sample(0, 1, 1), every_s=0.001) as sampler:
        while len(sampler.samples) < 3:
            time.sleep(0.001)
    count = len(sampler.samples)
    time.sleep(0.01)
    assert len(sampler.samples) == count


def test_the_plot_is_whole_even_of_nothing() -> None:
    for samples in ([], growing(0.5)):
        assert ElementTree.fromstring(plot(samples, fit(samples))).tag.endswith("svg")


def failed(request: GuardRequest) -> Verdict:
    return verdict_on_error(Overloaded("busy"), request)


def test_a_verdict_is_held_against_its_request() -> None:
    request, other = GuardRequest(prompt="bread"), GuardRequest(prompt="bread")
    assert verdict_problem("verdict", request, failed(request)) == "indeterminate: overloaded"
    assert verdict_problem("image", request, failed(request)) == "indeterminate: overloaded"
    assert verdict_problem("verdict", other, failed(request)) == "of another request"


class NoWire:
    def send(self, sent: object) -> Outcome:
        return Outcome(0.1, label="safe")


def asker(handler: Any, counts: Counts, seed: int = 0) -> Asker:
    return Asker(Guard(transport=MockTransport(handler)), NoWire(), random.Random(seed), counts)  # type: ignore[arg-type]


def test_all_that_is_weighed_is_asked_and_what_fails_is_counted() -> None:
    seen: set[tuple[Mode, bool, bool, bool]] = set()

    def handler(request: GuardRequest) -> Verdict:
        seen.add((request.mode, request.response is None, bool(request.images), request.policy_name is None))
        raise Overloaded("busy")

    counts = Counts()
    one = asker(handler, counts)
    for _ in range(300):
        one.ask()
    assert set(counts.asked) == set(WEIGHTS)
    assert sum(counts.asked.values()) == sum(counts.unexpected.values()) == 300
    assert {mode for mode, *_ in seen} == set(Mode)
    assert any(images for _, _, images, _ in seen)
    assert any(not unnamed for *_, unnamed in seen)


def test_an_asker_goes_on_whatever_happens() -> None:
    def broken(request: GuardRequest) -> Verdict:
        raise KeyError("a fault of the test's server")

    counts = Counts()
    threads = ask_until(lambda: sum(counts.asked.values()) >= 20, [asker(broken, counts)])
    for thread in threads:
        thread.join(10)
    assert any("untyped KeyError" in what for what in counts.unexpected)
