"""The order of pictures, what two ways are held to, and the whole command on a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import IMAGE_TOKENS
from tiny_engine import PROGRAM, VOCABULARY, load_tiny
from tritonguard.errors import BundleError, DeadlineExceeded

from benchmarks import repeated_images as script
from benchmarks.repeated_images import (
    WITH,
    WITHOUT,
    Round,
    Spent,
    Workload,
    ask,
    bars,
    compare,
    main,
    order,
    table,
)
from engines.bundle import Bundle
from engines.protocol import Answer, Capabilities, Job
from preprocessing.prompt import ModelInput

IDS = np.array([10, *[VOCABULARY] * IMAGE_TOKENS, 11, 12], np.int32)
WORKLOAD = Workload(ModelInput(IDS, 1), PROGRAM, size=16, repeated=0.8, seed=3)


class Script:
    """Answers with P(safe), one job after the other; each costs `vision` ms."""

    capabilities = Capabilities(frozenset(), 2, "none", 512)
    lanes = 1

    def __init__(self, name: str, log: list[str], *logprobs: float, vision: float = 2.0) -> None:
        self._name, self._log, self._logprobs, self._vision = name, log, list(logprobs), vision

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        self._log.append(self._name)
        row = np.array([[self._logprobs.pop(0), -3.0]], np.float32)
        return [Answer(row, (), 0, timings_ms={"vision": self._vision})]


@pytest.mark.parametrize(
    ("count", "repeated", "new"), [(50, 0.8, 10), (10, 0.0, 10), (7, 0.5, 3), (3, 0.99, 1), (1, 0.8, 1)]
)
def test_as_many_pictures_are_new_as_asked_for_and_each_is_before_it_is_repeated(
    count: int, repeated: float, new: int
) -> None:
    for seed in range(5):
        pictures = order(count, repeated, seed)
        assert len(pictures) == count
        assert list(dict.fromkeys(pictures)) == list(range(new))
    assert order(50, 0.8, 1) == order(50, 0.8, 1) != order(50, 0.8, 2)


def test_rounds_share_no_picture_and_repeat_their_own() -> None:
    rounds = [
        [job.pixels.tobytes() for job in WORKLOAD.round(number, 10) if job.pixels is not None] for number in (1, 2)
    ]
    assert [len(set(pictures)) for pictures in rounds] == [2, 2]
    assert not set(rounds[0]) & set(rounds[1])
    assert all(job.pixels is not None and job.pixels.shape == (1, 16, 16, 3) for job in WORKLOAD.round(1, 10))


def test_a_round_says_what_a_request_spent_and_how_far_the_answers_are_apart() -> None:
    log: list[str] = []
    ways: Any = {WITH: Script("a", log, -1, -2, vision=0.5), WITHOUT: Script("b", log, -1, -2.25, vision=4.0)}
    found = compare(ways, WORKLOAD.round(1, 2), turned=False)
    assert (found.spent[WITH].vision_ms, found.spent[WITHOUT].vision_ms, found.ratio) == (0.5, 4.0, 8.0)
    assert found.apart == 0.25
    turned: Any = {WITH: Script("a", log, -1, -2), WITHOUT: Script("b", log, -1, -2)}
    assert compare(turned, WORKLOAD.round(1, 2), turned=True).apart == 0
    assert "".join(log) == "aabbbbaa"


def test_an_error_of_the_engine_is_raised() -> None:
    class Late(Script):
        def run(self, jobs: Sequence[Job]) -> list[Answer]:
            return [DeadlineExceeded("late")]  # type: ignore[list-item]

    engine: Any = Late("a", [])
    with pytest.raises(DeadlineExceeded):
        ask(engine, WORKLOAD.round(1, 1))


def spent(with_cache: float, without: float, apart: float = 0.0) -> Round:
    return Round({WITH: Spent(with_cache, with_cache + 10), WITHOUT: Spent(without, without + 10)}, apart)


def test_the_medians_are_printed_and_decide() -> None:
    rounds = [spent(2, 10), spent(1, 30), spent(2, 2)]
    assert table(rounds).splitlines()[2:] == [
        "| without | 10.0 | 20.0 | 50.0 |",
        "| with the cache | 2.0 | 12.0 | 16.7 |",
    ]
    assert [bar.met for bar in bars(rounds, 5)] == [True, True]
    assert [bar.met for bar in bars(rounds, 5.1)] == [False, True]
    assert [bar.met for bar in bars([spent(1, 9, apart=2e-5)], 5)] == [True, False]
    assert [bar.met for bar in bars([spent(1, 9, apart=float("nan"))], 5)] == [True, False]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny engine's passes stand for the bundle's."""
    engine = load_tiny(tmp_path / "checkpoint", vision="trained")
    manifest = {"revision": "r", "precision": "f32", "capabilities": {}}
    bundle = Bundle(tmp_path / "checkpoint", manifest)
    monkeypatch.setattr(Bundle, "open", lambda folder: bundle)
    monkeypatch.setattr(Bundle, "capabilities", engine.capabilities)
    monkeypatch.setattr(script.Passes, "load", lambda folder: engine._passes)
    monkeypatch.setattr(Workload, "of", lambda bundle, repeated, seed: WORKLOAD)
    return tmp_path


def test_the_command_compares_equal_answers_and_writes_what_it_found(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--count", "10", "--rounds", "2", "--out", str(tiny / "found.json")]
    assert main([*arguments, "--least", "0"]) == 0
    printed = capsys.readouterr().out
    assert "10 requests a round, 80% with a known image" in printed
    assert "met: vision's time, without / with the cache" in printed
    written = json.loads((tiny / "found.json").read_text())
    assert len(written["found"]) == 2
    assert all(one["apart"] == 0 for one in written["found"])
    assert main([*arguments, "--least", "1e9"]) == 1


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(tmp_path / "none")]) == 2
    assert "repeated_images: none has no readable manifest.json" in capsys.readouterr().err
    with pytest.raises(BundleError, match="no bundle of the local engine with a vision tower"):
        Workload.of(Bundle(tmp_path, {"target": "tensorrt-llm"}), 0.8, 0)
    for wrong in (["--count", "0"], ["--rounds", "0"], ["--repeated", "1"]):
        with pytest.raises(SystemExit):
            main(wrong)
