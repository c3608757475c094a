"""Each lever's two ways on a small random model, and what is told of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from small_guard import guard_config, write_guard

from benchmarks import levers as script
from benchmarks.levers import Bench, Labels, Lever, Measured, main, measure, table
from build_scripts.openvino.compile import compile_bundle
from engines.bundle import Bundle, open_engine
from engines.local.passes import Passes
from engines.manifest import write_manifest


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("small")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 16, "num_hidden_layers": 2}
    source = write_guard(folder / "checkpoint", guard_config(**sizes))
    write_manifest(source, kind="checkpoint", inputs={}, vision="untrained")
    return Bundle.open(compile_bundle(source, folder / "bundle", precision="f32"))


def test_both_ways_of_each_lever_judge_alike_where_the_model_answers_within_the_program(bundle: Bundle) -> None:
    engine = open_engine(bundle)
    levers = Bench(bundle, engine, Passes.load(bundle.folder)).levers()
    assert len({lever.name for lever in levers}) == len(levers) == 8
    for lever in levers:
        # What a random model writes of itself is no answer, and is not read as one.
        if "plain decoding" not in lever.name:
            assert lever.without(1) == lever.having(1)
    engine.close()


def test_rounds_turn_and_the_first_is_not_counted() -> None:
    log: list[str] = []

    def way(name: str, *labels: bool) -> script.Way:
        def run(number: int) -> Labels:
            log.append(f"{name}{number}")
            return list(labels)

        return run

    same = Lever("same", way("a", True), way("b", True))
    other = Lever("other", way("c", True), way("d", False))
    found = measure([same, other], 2)
    assert log == ["a0", "b0", "c0", "d0", "b1", "a1", "d1", "c1", "a2", "b2", "c2", "d2"]
    assert [(one.name, one.rounds, one.differing) for one in found] == [("same", 2, 0), ("other", 2, 3)]


def test_the_ratio_is_without_over_with() -> None:
    one = Measured("prefix", 900.0, 300.0, 5, 0)
    assert one.ratio == 3.0
    assert table([one]).splitlines()[-1] == "| prefix | 900 | 300 | 3.00 | 5 | 0 |"


def test_the_command_tells_every_lever_and_fails_where_the_labels_differ(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every = Bench.levers
    monkeypatch.setattr(Bench, "levers", lambda self: [one for one in every(self) if "plain" not in one.name])
    arguments = ["--bundle", str(bundle.folder), "--rounds", "1", "--out", str(tmp_path / "levers.json")]
    assert main(arguments) == 0
    assert "| policy prefix reused |" in capsys.readouterr().out
    written = json.loads((tmp_path / "levers.json").read_text())
    assert len(written["levers"]) == 6
    assert all(math.isfinite(one["ratio"]) for one in written["levers"])
    monkeypatch.setattr(Bench, "_whole_prompt", lambda self, number: [])
    assert main(arguments) == 1


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(tmp_path / "none")]) == 2
    assert "levers: none has no readable manifest.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--rounds", "0"])
