"""The memory of large batches is asked for once, behind the first call, when nobody waits."""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import tiny_config, write_checkpoint
from tiny_engine import job, tiny_engine, tiny_passes

from engines.local import engine as engine_module
from engines.local.engine import LocalEngine
from engines.local.grouping import MOST_OF_ALL, MOST_ROWS, MOST_TOKENS
from engines.local.passes import Passes
from engines.local.runtime import Runtime
from engines.protocol import Answer

QUIET_S = 0.2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", tiny_config())


@pytest.fixture
def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    monkeypatch.setattr(engine_module, "_QUIET_S", QUIET_S)
    return tiny_engine(tiny_passes(folder))


def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(rows, tokens) of each pass from here on."""
    found = list[tuple[int, int]]()
    run = Runtime.run

    def counted(runtime: Runtime, **inputs: Any) -> Any:
        found.append((len(inputs["grid"]), len(inputs["ids"])))
        return run(runtime, **inputs)

    monkeypatch.setattr(Runtime, "run", counted)
    return found


def test_it_is_one_pass_as_large_as_a_batch_may_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = tiny_passes(folder)
    found = sizes(monkeypatch)
    passes.reserve()
    assert found == [(MOST_ROWS, MOST_TOKENS)]


def test_where_that_pass_would_take_long_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = tiny_passes(folder)
    found = sizes(monkeypatch)
    run = Runtime.run

    def slow(runtime: Runtime, **inputs: Any) -> Any:
        time.sleep(0.1)
        return run(runtime, **inputs)

    monkeypatch.setattr(Runtime, "run", slow)
    passes.extend(passes.empty, range(20))
    passes.reserve()
    assert found == [(1, 24)]


def test_each_half_of_cut_batches_has_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = tiny_passes(folder, pair=True)
    found = sizes(monkeypatch)
    passes.wait_for_pair()
    least = int(MOST_OF_ALL * MOST_TOKENS) - MOST_ROWS
    assert len(found) == 2
    assert all(rows == MOST_ROWS and least <= tokens < MOST_TOKENS for rows, tokens in found)


def test_it_waits_for_the_first_call_and_for_quiet(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    reserved = threading.Event()
    monkeypatch.setattr(Passes, "reserve", lambda passes: reserved.set())
    thread = threading.Thread(target=engine.reserve, daemon=True)
    thread.start()
    assert not reserved.wait(2 * QUIET_S), "nothing was asked yet"
    until, ended, longest = time.monotonic() + 3 * QUIET_S, math.inf, 0.0
    while time.monotonic() < until:
        longest = max(longest, time.monotonic() - ended)
        assert isinstance(engine.run([job(20)])[0], Answer)
        ended = time.monotonic()
        # A machine that stands still for so long is quiet, too.
        assert not reserved.is_set() or longest > 0.9 * QUIET_S, "somebody is there"
        time.sleep(QUIET_S / 10)
    assert reserved.wait(20 * QUIET_S)
    thread.join(20 * QUIET_S)
    assert not thread.is_alive(), "once is enough"


def test_who_comes_meanwhile_is_answered_behind_it(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def reserve(passes: Passes) -> None:
        begun.set()
        go_on.wait()

    monkeypatch.setattr(Passes, "reserve", reserve)
    engine.run([job(20)])
    threading.Thread(target=engine.reserve, daemon=True).start()
    assert begun.wait(20 * QUIET_S)
    answers = list[object]()
    caller = threading.Thread(target=lambda: answers.extend(engine.run([job(24)])))
    caller.start()
    caller.join(QUIET_S)
    assert caller.is_alive()
    go_on.set()
    caller.join()
    assert isinstance(answers[0], Answer)


def test_a_closed_engine_asks_for_nothing(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_QUIET_S", 3600.0)
    reserved = threading.Event()
    monkeypatch.setattr(Passes, "reserve", lambda passes: reserved.set())
    thread = threading.Thread(target=engine.reserve, daemon=True)
    thread.start()
    engine.run([job(20)])
    engine.close()
    thread.join(20 * QUIET_S)
    assert not thread.is_alive()
    assert not reserved.is_set()


def test_without_it_the_engine_goes_on(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(passes: Passes) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Passes, "reserve", fail)
    engine.run([job(20)])
    with caplog.at_level(logging.WARNING):
        engine.reserve()
    assert "memory for large batches" in caplog.text
    assert isinstance(engine.run([job(20)])[0], Answer)
    engine.close()
