"""Forms are timed in turn, the first round is not counted, and the median is what is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_checkpoint import tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from build_scripts.openvino import pass_times as script
from build_scripts.openvino.compile import compile_bundle
from build_scripts.openvino.pass_times import Form, halves_at_once, pass_times
from build_scripts.request_sizes import PREFIX, SUFFIX
from engines.local.engine_config import EngineConfig
from engines.manifest import write_manifest

F32 = EngineConfig("f32")


class Clocked:
    """Stands for a `TextRuntime`: every pass of a form takes the next of its seconds."""

    now = 0.0
    seconds: dict[str, Iterator[float]]
    passes: list[tuple[str, int, int, int]]
    loaded: list[tuple[str, EngineConfig]]

    def __init__(self, folder: Path, how: EngineConfig) -> None:
        self.name = folder.name
        self.loaded.append((folder.name, how))

    def run(self, **inputs: Any) -> None:
        Clocked.now += next(self.seconds[self.name])
        batch, length = inputs["grid"].shape
        self.passes.append((self.name, batch, length, inputs["past_keys"].shape[3]))


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> type[Clocked]:
    Clocked.now, Clocked.seconds, Clocked.passes, Clocked.loaded = 0.0, {}, [], []
    monkeypatch.setattr(script, "load_text_runtime", Clocked)
    monkeypatch.setattr(script, "time", SimpleNamespace(perf_counter=lambda: Clocked.now))
    return Clocked


def test_forms_go_in_turn_and_the_median_counts_without_the_first_round(tmp_path: Path, clocked: type[Clocked]) -> None:
    for name in ("a", "b"):
        write_checkpoint(tmp_path / name, tiny_config())
    # One batch after the other in each round: 1, 2, 1, 2, ...
    clocked.seconds = {"a": iter([90, 80, 1, 4, 3, 5, 2, 9]), "b": iter([50, 50, 7, 0.5, 7, 0.25, 6, 0.125])}
    forms = {"a": Form(tmp_path / "a", F32), "b": Form(tmp_path / "b", EngineConfig("bf16", 64))}
    found = pass_times(forms, batches=(1, 2))
    assert found == {"a": {1: 2000.0, 2: 5000.0}, "b": {1: 7000.0, 2: 250.0}}
    assert clocked.loaded == [("a", F32), ("b", EngineConfig("bf16", 64))]
    padded = -(-SUFFIX // 8) * 8
    turn = [(name, batch, padded, PREFIX) for name in ("a", "b") for batch in (1, 2)]
    assert clocked.passes == 4 * turn


def test_real_forms_take_time_and_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config())
    write_manifest(checkpoint, kind="checkpoint", inputs={}, vision="untrained")
    bundle = compile_bundle(checkpoint, tmp_path / "bundle", precision="f32")
    found = pass_times(
        {"one": Form(bundle, F32), "other": Form(bundle, EngineConfig("f32", 32))}, batches=(2,), rounds=1
    )
    assert {name: list(times) for name, times in found.items()} == {"one": [2], "other": [2]}
    assert all(0 < times[2] < 60_000 for times in found.values())
    for broken in (tmp_path / "none", checkpoint):
        with pytest.raises(BundleError, match=broken.name):
            pass_times({"one": Form(broken, F32)}, batches=(1,))


def test_halves_at_once_are_timed_beside_one_pass(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_config())
    write_manifest(checkpoint, kind="checkpoint", inputs={}, vision="untrained")
    bundle = compile_bundle(checkpoint, tmp_path / "bundle", precision="f32")
    two, four = halves_at_once(Form(bundle, F32), batches=(2, 4), rounds=1)
    assert (two.batch, four.batch) == (2, 4)
    assert min(two.one_pass, two.two_halves, four.one_pass, four.two_halves) > 0
    assert four.gain == pytest.approx(four.two_halves / four.one_pass)


def test_what_halves_gain_is_taken_within_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down for both in one round says nothing of either."""
    write_checkpoint(tmp_path / "form", tiny_config())
    # Warm-ups, then rounds whose ratios are 1.5, 1.2 and 0.5; the medians of each way alone would give 3 / 5.
    clock = iter([0.0, 0.0] * 2 + [0.0, 2.0, 0.0, 10.0, 0.0, 5.0])
    whole = iter([1.0] * 2 + [3.0, 12.0, 2.5])
    monkeypatch.setattr(script, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(script, "_seconds", lambda runtime, inputs: next(whole) if runtime == "whole" else 0.0)
    half = SimpleNamespace(beside=lambda: "half")
    monkeypatch.setattr(script, "load_text_runtime", lambda folder, how, *, streams: half if streams == 2 else "whole")
    [found] = halves_at_once(Form(tmp_path / "form", F32), batches=(8,), rounds=3)
    assert (found.one_pass, found.two_halves, found.gain) == (8 / 3, 8 / 5, 1.2)
