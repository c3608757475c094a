"""Both paths on a small random model: equal where nothing is broken, and told apart where something is."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from latency_stand_ins import ROWS
from small_guard import guard_config, write_guard
from tritonguard.errors import GuardError, InternalError
from tritonguard.request import Mode

from benchmarks.fast_paths import __main__ as command
from benchmarks.fast_paths.asked import Asked, Asking, Request
from benchmarks.fast_paths.compare import Compared, compared, exact_bars, most_and_p99
from benchmarks.fast_paths.concurrency import RandomFlight
from benchmarks.fast_paths.invariance import SIZES, vary
from benchmarks.fast_paths.plain_answers import PlainAnswers
from benchmarks.latency.mix import Mix
from benchmarks.latency.texts import Texts
from benchmarks.latency.workload import Workload
from build_scripts.openvino.compile import compile_bundle
from engines.bundle import Bundle, open_engine
from engines.local.passes import Passes
from engines.local.runtime import Runtime
from engines.manifest import write_manifest
from engines.protocol import Answer, Engine, Job
from engines.scheduler import Scheduler

WORKLOAD = {
    "length": {"uniform": [4, 60]},
    "response_length": {"fixed": 20},
    "responses": 0.4,
    "images": {"share": 0.2, "side": 16},
    "modes": {"verdict": 6, "categories": 3, "think": 1},
    "think_budget": 4,
    "policies": {"built_in": 3, "named": {"tax-assistant": 2}, "custom": 2, "custom_count": 2},
}
COUNT = 24


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("small")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 16, "num_hidden_layers": 2}
    source = write_guard(folder / "checkpoint", guard_config(**sizes))
    write_manifest(source, kind="checkpoint", inputs={}, vision="trained")
    return Bundle.open(compile_bundle(source, folder / "bundle", precision="f32"))


@pytest.fixture(scope="module")
def asking(bundle: Bundle) -> Asking:
    return Asking(bundle)


@pytest.fixture(scope="module")
def requests(asking: Asking) -> list[Request]:
    workload = Workload.model_validate({"name": "short", **WORKLOAD})
    mix = Mix(workload, Texts(ROWS), tokenizer=None, folder=Path())
    return asking.requests(mix, COUNT)


@pytest.fixture(scope="module")
def plain(bundle: Bundle, requests: list[Request]) -> PlainAnswers:
    answers = PlainAnswers(None, bundle=bundle.revision)
    answers.complete(Passes.load(bundle.folder), every(requests))
    return answers


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    engine = open_engine(bundle)
    yield engine
    engine.close()


class Wrapped:
    """An engine that is handed other jobs than it is asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.lanes, self.capabilities = engine.lanes, engine.capabilities
        self.statistics, self.health, self.close = engine.statistics, engine.health, engine.close

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        return self._engine.run([self.changed(job) for job in jobs])

    def changed(self, job: Job) -> Job:
        return job


def every(requests: Sequence[Request]) -> list[Asked]:
    return [asked for request in requests for asked in request.parts]


def ask(engine: Engine, requests: Sequence[Request], plain: PlainAnswers, asking: Asking) -> list[Compared]:
    scheduler = Scheduler(engine)
    flight = RandomFlight(scheduler, random.Random(1), most=8, gap_s=0.001)
    fast = [answer for results in flight.ask(requests) for answer in results]
    scheduler.close()
    assert sum(flight.seen.values()) == len(requests)
    assert max(flight.seen) > 1
    asked = every(requests)
    return [
        compared(one, plain[one.id], answer, list_of=asking.list_of) for one, answer in zip(asked, fast, strict=True)
    ]


def test_what_is_asked_holds_every_mode_form_and_image(requests: list[Request]) -> None:
    asked = every(requests)
    assert {one.row.mode for one in asked} == set(Mode)
    assert {one.policy for one in asked} == {"built-in", "list", "free text"}
    assert any(one.job.pixels is not None for one in asked)
    assert any(one.row.has_response for one in asked)
    assert {len(request.parts) for request in requests} == {1, 2}
    assert {request.priority for request in requests} <= {0, 1}


def test_every_fast_path_answers_as_the_plain_one(
    engine: Engine, requests: list[Request], plain: PlainAnswers, asking: Asking
) -> None:
    found = ask(engine, requests, plain, asking)
    assert [str(bar) for bar in exact_bars(found, 1e-3) if not bar.met] == []
    assert not any(one.wrote for one in found)
    assert {len(plain[one.id].ids) > 12 for one in every(requests)} == {True, False}  # some wrote a list or a text


def test_the_prefix_of_another_policy_is_noticed(
    engine: Engine, requests: list[Request], plain: PlainAnswers, asking: Asking
) -> None:
    other = next(one.job for one in every(requests) if one.policy == "free text")

    class Mixed(Wrapped):
        def changed(self, job: Job) -> Job:
            cut = min(job.prefix_length, other.prefix_length) if job.prefix_length else 0
            return replace(job, ids=np.concatenate([other.ids[:cut], job.ids[cut:]]))

    found = ask(Mixed(engine), requests, plain, asking)
    assert not all(bar.met for bar in exact_bars(found, 1e-3))
    assert [one.margin < 1e-3 for one in found].count(True) < len(found) / 2


def test_a_mask_that_lets_rows_and_branches_see_everything_is_noticed(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, requests: list[Request], plain: PlainAnswers, asking: Asking
) -> None:
    whole = Runtime.run

    def run(self: Runtime, **inputs: Any) -> Any:
        inputs["visible"] = np.ones_like(inputs["visible"])
        return whole(self, **inputs)

    monkeypatch.setattr(Runtime, "run", run)
    found = ask(engine, requests, plain, asking)
    assert not all(bar.met for bar in exact_bars(found, 1e-3))


def test_an_engine_that_fails_is_no_match(
    engine: Engine, requests: list[Request], plain: PlainAnswers, asking: Asking
) -> None:
    class Failing(Wrapped):
        def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
            return [InternalError("broken") for _ in jobs]

    found = ask(Failing(engine), requests, plain, asking)
    assert {one.error for one in found} == {"internal"}
    assert next(iter(exact_bars(found, 1e-3))).met is False
    assert all(np.isnan(most_and_p99(one.margin for one in found)))


def test_a_prompt_keeps_its_answer_in_any_company(engine: Engine, requests: list[Request], asking: Asking) -> None:
    scheduler = Scheduler(engine)
    found = vary(scheduler, every(requests), random.Random(2), prompts=2, companies=2, list_of=asking.list_of)
    scheduler.close()
    assert [one.size for one in found] == [size for _ in range(2) for size in SIZES for _ in range(2)]
    assert not any(one.compared.flipped or one.compared.error for one in found)
    assert max(one.compared.margin for one in found) < 1e-3


def test_plain_answers_are_kept_for_the_same_bundle_and_a_cut_line_is_not(
    tmp_path: Path, bundle: Bundle, requests: list[Request], plain: PlainAnswers
) -> None:
    path = tmp_path / "plain.jsonl"
    first, second = every(requests)[:2]
    kept = PlainAnswers(path, bundle=bundle.revision)
    kept._keep(first.id, plain[first.id])
    kept._keep(second.id, plain[second.id])
    path.write_text(path.read_text()[:-5])
    again = PlainAnswers(path, bundle=bundle.revision)
    np.testing.assert_array_equal(again[first.id].choice_logprobs, plain[first.id].choice_logprobs)
    assert again[first.id].ids == plain[first.id].ids
    for missing in (second.id, first.id):
        with pytest.raises(KeyError):
            (again if missing == second.id else PlainAnswers(path, bundle="another"))[missing]


@pytest.mark.parametrize(("precision", "status"), [("f32", 0), ("int8-dynamic", 1)])
def test_the_command_judges_by_the_bundles_arithmetic_and_writes_what_it_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bundle: Bundle,
    precision: str,
    status: int,
) -> None:
    monkeypatch.setattr(Bundle, "precision", precision)
    (tmp_path / "short.yaml").write_text(json.dumps({**WORKLOAD, "modes": {"verdict": 1}}))
    arguments = ["--bundle", str(bundle.folder), "--requests", "6", "--invariance-prompts", "1", "--companies", "1"]
    arguments += ["--workload", str(tmp_path / "short.yaml"), "--out", str(tmp_path / "out")]
    # The gate of other arithmetic asks for more rows than these.
    assert command.main(arguments) == status
    printed = capsys.readouterr().out
    assert ("met: flips, user 0" if precision == "f32" else "MISSED: all: compared") in printed
    written = json.loads((tmp_path / "out" / "fast_paths.json").read_text())
    assert written["met"] is (status == 0)
    assert len(written["varied"]) == len(SIZES)
    kept = (tmp_path / "out" / "plain.jsonl").read_text()
    assert command.main(arguments) == status
    assert (tmp_path / "out" / "plain.jsonl").read_text() == kept


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "fast_paths: none has no readable manifest.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--requests", "0"])
