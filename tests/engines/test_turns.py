"""Rows that join between passes: each is answered as if alone, and nobody waits for another's long answer."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import IMAGE_TOKENS, tiny_config, write_checkpoint
from tiny_engine import END, PAIR, PROGRAM, VOCABULARY, job, tiny_engine, tiny_passes

from engines.local import grouping, turns
from engines.local.engine import LocalEngine
from engines.local.grouping import MOST_ROWS
from engines.local.passes import Passes
from engines.program import Forced, FreeText, NameList, Program
from engines.protocol import Answer, Job

ITEMS = ((20, 21), (20,), (22, 23, 24), (25,))
NAMES = NameList((4, 9), ITEMS, (10,), END, 24)
LINE = NameList((4, 9), None, (10,), END, 6)
PROGRAMS = (
    PROGRAM,
    PAIR,
    Program((*PROGRAM.segments, NAMES)),
    Program((*PAIR.segments, NAMES)),
    Program((*PAIR.segments, LINE)),
    Program((Forced((11, 12)), FreeText(12, (91, 92), END), *PAIR.segments)),
)


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Passes:
    return tiny_passes(
        write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", tiny_config(), scale=0.3), tower=True
    )


@pytest.fixture
def engine(passes: Passes) -> LocalEngine:
    return tiny_engine(passes, vision="trained")


@pytest.fixture(scope="module", params=[False, True], ids=["whole passes", "passes cut in two"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passes]:
    """Which cut even the smallest batches."""
    folder = write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", tiny_config(), scale=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "LEAST_HALF", 1)
        passes = tiny_passes(folder, tower=True, pair=request.param)
        passes.wait_for_pair()
        yield passes


def mixed(count: int, *, with_images: bool = True) -> list[Job]:
    """All kinds of programs, lengths and prefixes, some with images."""
    random, jobs = np.random.default_rng(7), list[Job]()
    for number in range(count):
        prefix = int(random.choice([0, 10, 20]))
        asked = job(prefix + int(random.integers(2, 60)), prefix=prefix, seed=number, program=PROGRAMS[number % 6])
        if with_images and number % 5 == 0:
            ids = np.concatenate([asked.ids, np.full(IMAGE_TOKENS, VOCABULARY), [9, 9]]).astype(np.int32)
            pixels = random.integers(0, 256, (1, 16, 16, 3), np.uint8)
            asked = replace(asked, ids=ids, pixels=pixels)
        jobs.append(asked)
    return jobs


def same(ours: Any, alone: Any) -> None:
    assert isinstance(ours, Answer)
    assert isinstance(alone, Answer)
    assert (ours.ids, ours.truncated) == (alone.ids, alone.truncated)
    np.testing.assert_allclose(ours.choice_logprobs, alone.choice_logprobs, atol=1e-4)


def test_rows_that_join_between_passes_are_answered_as_if_alone(either: Passes, passes: Passes) -> None:
    jobs = mixed(48)
    engine = tiny_engine(either, vision="trained")
    plain = tiny_engine(passes, vision="trained")
    alone = [plain.run([asked])[0] for asked in jobs]
    random = np.random.default_rng(3)
    delays = random.uniform(0, 0.3, len(jobs))

    def ask(number: int) -> Any:
        time.sleep(delays[number])
        return engine.run([jobs[number]])[0]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(len(jobs))))
    for ours, theirs in zip(answers, alone, strict=True):
        same(ours, theirs)
    counted = engine.statistics()
    assert counted["pass_rows"] > counted["passes"], "some rows shared a pass"


def test_lists_and_reasoning_of_several_rows_go_on_in_one_pass(engine: LocalEngine, passes: Passes) -> None:
    jobs = [job(20 + number, prefix=10, seed=number, program=PROGRAMS[5]) for number in range(6)]
    alone = [tiny_engine(passes).run([asked])[0] for asked in jobs]
    for ours, theirs in zip(engine.run(jobs), alone, strict=True):
        same(ours, theirs)
    assert not engine._turns._stacks, "nothing is held for rows that are gone"
    # First steps in one pass, then one for each further token and one for the verdicts: not six of each.
    assert engine.statistics()["passes"] < 2 * (12 + 2)


def test_rows_of_many_policies_share_a_pass_and_each_is_behind_its_own(passes: Passes) -> None:
    jobs = [job(60 + 3 * number, prefix=20 + 3 * number, seed=number) for number in range(MOST_ROWS)]
    alone = [tiny_engine(passes).run([one])[0] for one in jobs]
    engine = tiny_engine(passes)
    engine.run(jobs)
    before = engine.statistics()["passes"]
    for ours, theirs in zip(engine.run(jobs), alone, strict=True):
        same(ours, theirs)
    assert engine.statistics()["passes"] == before + 1


def test_rows_behind_a_very_long_prefix_share_passes_only_with_their_own(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MOST_PREFIX", 30)
    engine = tiny_engine(passes)
    jobs = [job(60, prefix=prefix, seed=number) for number, prefix in enumerate((20, 40, 30, 40))]
    engine.run(jobs)
    before = engine.statistics()["passes"]
    assert all(isinstance(answer, Answer) for answer in engine.run(jobs))
    assert engine.statistics()["passes"] == before + 2


@pytest.mark.parametrize(("program", "kept"), [(PROGRAMS[0], 0), (PROGRAMS[1], 0), (PROGRAMS[2], 2), (PROGRAMS[5], 2)])
def test_keys_and_values_of_a_rows_last_step_are_not_read(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, program: Program, kept: int
) -> None:
    found = list[int]()
    ready = Passes.ready

    def counted(self: Passes, past: Any, trees: Sequence[Any], candidates: Sequence[int]) -> Any:
        results = ready(self, past, trees, candidates)()
        found.append(sum(result.states is not None for result in results))
        return lambda: results

    monkeypatch.setattr(Passes, "ready", counted)
    tiny_engine(passes).run([job(30, seed=number, program=program) for number in range(2)])
    assert found[0] == kept


def test_a_long_prompt_is_read_in_pieces_with_others_between_them(
    engine: LocalEngine, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program((*PAIR.segments, NAMES))
    long = [job(10 + length, prefix=10, seed=length, program=program) for length in (31, 50, 90)]
    whole = [tiny_engine(passes).run([asked])[0] for asked in long]
    monkeypatch.setattr(turns, "CHUNK", 16)
    for ours, theirs in zip(engine.run([*long, *mixed(6)]), whole, strict=False):
        same(ours, theirs)
    assert engine.statistics()["passes"] > 2 + 3 + 6


def test_a_piece_ends_before_or_behind_an_image(
    engine: LocalEngine, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    image, text = np.full(IMAGE_TOKENS, VOCABULARY), np.arange(9, 22)
    ids = np.concatenate([text, image, text, image, text]).astype(np.int32)
    asked = Job(ids, 0, PAIR, pixels=pixels)
    [whole] = tiny_engine(passes, vision="trained").run([asked])
    for chunk in range(2, len(ids), 3):
        monkeypatch.setattr(turns, "CHUNK", chunk)
        same(engine.run([asked])[0], whole)


def test_a_verdict_does_not_wait_for_the_end_of_reasoning(engine: LocalEngine) -> None:
    thinking = job(28, seed=1, program=Program((Forced((11, 12)), FreeText(300, (91, 92), 1000), *PROGRAM.segments)))
    ended = list[str]()

    def think() -> None:
        engine.run([thinking])
        ended.append("reasoning")

    thread = threading.Thread(target=think)
    thread.start()
    while engine.statistics()["passes"] < 2:
        time.sleep(0.001)
    for number in range(3):
        engine.run([job(30, seed=number)])
        ended.append("verdict")
    thread.join()
    assert ended == ["verdict"] * 3 + ["reasoning"]


class Failing:
    """Passes of which those with more than `most` rows fail."""

    def __init__(self, passes: Passes, most: int) -> None:
        self._passes, self._most = passes, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._passes, name)

    def ready(self, past: Any, trees: Sequence[Any], candidates: Sequence[int]) -> Any:
        if len(trees) > self._most:
            raise MemoryError("no room")
        return self._passes.ready(past, trees, candidates)


def test_a_pass_that_fails_fails_its_rows_and_no_others(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST_PREFIX", 0)  # rows of two prefixes share no pass
    engine = tiny_engine(Failing(passes, 1))  # type: ignore[arg-type]
    with pytest.raises(MemoryError):
        engine.run([job(30, prefix=20, seed=1), job(30, prefix=20, seed=2)])
    with ThreadPoolExecutor(2) as pool:
        pair = pool.submit(engine.run, [job(30, prefix=20, seed=1), job(31, prefix=20, seed=2)])
        other = pool.submit(engine.run, [job(30, prefix=10, seed=3)])
        assert isinstance(other.result()[0], Answer)
        with pytest.raises(MemoryError):
            pair.result()
    assert isinstance(engine.run([job(30, seed=1)])[0], Answer)


def test_one_thread_runs_all_passes_and_none_of_those_that_ask(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the next pass waits until whoever ran the last one has done something with its own answer.
    ran, ready = set[str](), Passes.ready

    def named(self: Passes, *arguments: Any) -> Any:
        ran.add(threading.current_thread().name)
        return ready(self, *arguments)

    monkeypatch.setattr(Passes, "ready", named)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: engine.run([job(20, seed=number)]), range(12)))
    engine.run([job(20, seed=12)])
    assert ran == {"passes"}
    engine.close()
    assert not engine._turns._thread.is_alive()


class HeldWork:
    """Passes of which each waits, once it has its inputs, until it is let go."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self.began, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._passes, name)

    def ready(self, *arguments: Any) -> Any:
        work = self._passes.ready(*arguments)

        def held() -> Any:
            self.began.release()
            assert self.go.acquire(timeout=10)
            return work()

        return held


def test_an_answer_is_there_while_the_next_pass_runs_and_when_there_is_none(passes: Passes) -> None:
    held = HeldWork(passes)
    engine = tiny_engine(held)  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(engine.run, [job(20, seed=1)])
        assert held.began.acquire(timeout=10)
        last = pool.submit(engine.run, [job(20, seed=2)])
        while not engine._turns._arrived:
            time.sleep(0.001)
        held.go.release()
        assert held.began.acquire(timeout=10), "the next pass"
        assert isinstance(first.result(10)[0], Answer)
        assert not last.done()
        held.go.release()
        assert isinstance(last.result(10)[0], Answer)


def test_an_engine_that_nobody_has_any_more_leaves_no_thread(passes: Passes) -> None:
    engine = tiny_engine(passes)
    engine.run([job(20, seed=1)])
    thread = engine._turns._thread
    del engine
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_failure_between_passes_fails_who_waits_and_nobody_after(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(turns, "together", lambda lengths: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            engine.run([job(20, seed=1), job(20, seed=2)])
    assert isinstance(engine.run([job(20, seed=1)])[0], Answer)


def test_a_prefix_that_cannot_be_had_fails_its_rows_and_no_others_of_the_pass(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    extend = Passes.extend

    def refuse(self: Passes, context: Any, ids: Sequence[int], *rest: Any) -> Any:
        if len(ids) == 12:
            raise MemoryError("no room")
        return extend(self, context, ids, *rest)

    monkeypatch.setattr(Passes, "extend", refuse)
    held = Held(passes)
    engine = tiny_engine(held)  # type: ignore[arg-type]
    with ThreadPoolExecutor(4) as pool:
        pool.submit(engine.run, [job(5)])
        assert held.began.wait(10)
        lame, *others = (pool.submit(engine.run, [job(30, prefix=prefix, seed=prefix)]) for prefix in (12, 10, 20))
        while len(engine._turns._arrived) < 3:
            time.sleep(0.001)
        held.go.set()
        with pytest.raises(MemoryError):
            lame.result()
        assert all(isinstance(other.result()[0], Answer) for other in others)
    assert len(held.lengths[-1]) == 2, "the others went in one pass"
    assert isinstance(engine.run([job(30, prefix=10, seed=3)])[0], Answer)


def test_more_rows_than_share_a_pass_all_get_their_turn(engine: LocalEngine) -> None:
    jobs = [job(20, prefix=10, seed=number, program=PROGRAMS[5]) for number in range(2 * MOST_ROWS + 3)]
    assert all(isinstance(answer, Answer) for answer in engine.run(jobs))


class Held:
    """Passes of which the first waits until it is let go; `lengths`: of the rows of each."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self.began, self.go = threading.Event(), threading.Event()
        self.lengths: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._passes, name)

    def ready(self, past: Any, trees: Sequence[Any], candidates: Sequence[int]) -> Any:
        self.began.set()
        assert self.go.wait(10)
        self.lengths.append([tree.length for tree in trees])
        return self._passes.ready(past, trees, candidates)


def test_of_what_waits_for_a_pass_the_higher_priority_goes_first(passes: Passes) -> None:
    held = Held(passes)
    engine = tiny_engine(held)  # type: ignore[arg-type]
    # No more than two of them fit into a pass.
    lengths = (690, 695, 700, 705, 710)
    jobs = [replace(job(length, seed=length), priority=number % 3) for number, length in enumerate(lengths)]
    with ThreadPoolExecutor(8) as pool:
        pool.submit(engine.run, [job(5)])
        assert held.began.wait(10)
        others = [pool.submit(engine.run, [asked]) for asked in jobs]
        while len(engine._turns._arrived) < len(jobs):
            time.sleep(0.001)
        held.go.set()
        assert all(isinstance(other.result()[0], Answer) for other in others)
    head = len(PROGRAM.segments[0].ids)  # type: ignore[union-attr]
    priority = {len(asked.ids) + head: asked.priority for asked in jobs}
    assert [[priority[length] for length in rows] for rows in held.lengths[1:]] == [[2, 1], [1, 0], [0]]


def test_a_batch_is_cut_once_there_is_a_pair_and_answers_the_same(passes: Passes, either: Passes) -> None:
    jobs = [job(30 + 9 * number, prefix=20, seed=number, program=PAIR) for number in range(5)]
    for ours, theirs in zip(tiny_engine(either).run(jobs), tiny_engine(passes).run(jobs), strict=True):
        same(ours, theirs)


def test_a_pair_that_cannot_be_had_is_done_without(passes: Passes, tmp_path: Path) -> None:
    lame = tiny_passes(write_checkpoint(tmp_path / "checkpoint", tiny_config(), scale=0.3))

    def refuse() -> Any:
        raise MemoryError("no room")

    lame._make_pair = refuse
    lame.wait_for_pair()
    jobs = [job(30, prefix=20, seed=number) for number in range(3)]
    for ours, theirs in zip(tiny_engine(lame).run(jobs), tiny_engine(passes).run(jobs), strict=True):
        same(ours, theirs)
