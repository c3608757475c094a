"""The local engine on a tiny random model: the same answer by every way through it, and typed refusals."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import IMAGE_TOKENS, tiny_config, write_checkpoint
from tiny_engine import END, PAIR, PROGRAM, VOCABULARY, job, load_tiny, tiny_engine, tiny_passes
from tritonguard.errors import DeadlineExceeded, Unavailable, Unimplemented

from engines.bundle import Bundle
from engines.local.answering import log_softmax
from engines.local.cache_limits import IMAGE_VARIABLE, PREFIX_VARIABLE, CacheLimits
from engines.local.context import Context
from engines.local.engine import LocalEngine
from engines.local.passes import Passes
from engines.local.prefix_files import PrefixFiles
from engines.program import Choice, Forced, FreeText, Program
from engines.protocol import Answer, Job


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    return load_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint")


def logprobs(engine: LocalEngine, *jobs: Job) -> np.ndarray:
    answers = engine.run(jobs)
    assert all(isinstance(answer, Answer) for answer in answers)
    return np.concatenate([answer.choice_logprobs for answer in answers if isinstance(answer, Answer)])


def test_probabilities_are_normalised_over_the_two_choices(engine: LocalEngine) -> None:
    np.testing.assert_allclose(np.exp(logprobs(engine, job(12))).sum(axis=1), 1.0, atol=1e-6)


def test_a_reused_prefix_changes_no_answer(engine: LocalEngine) -> None:
    shared = job(40, prefix=24, seed=3)
    alone = logprobs(engine, replace(shared, prefix_length=0))
    first, again = (engine.run([shared])[0] for _ in range(2))
    assert isinstance(first, Answer)
    assert isinstance(again, Answer)
    assert (first.prefix_reused, again.prefix_reused) == (0, 24)
    np.testing.assert_allclose(first.choice_logprobs, alone, atol=1e-4)
    np.testing.assert_array_equal(first.choice_logprobs, again.choice_logprobs)


def test_a_batch_of_ragged_jobs_answers_each_as_if_alone(engine: LocalEngine) -> None:
    jobs = [job(30, prefix=20, seed=1), job(57, prefix=20, seed=2), job(23, prefix=20, seed=3), job(9, seed=4)]
    alone = np.concatenate([logprobs(engine, one) for one in jobs])
    np.testing.assert_allclose(logprobs(engine, *jobs), alone, atol=1e-4)


def test_different_texts_get_different_answers(engine: LocalEngine) -> None:
    first, second = logprobs(engine, job(30, seed=1), job(30, seed=2))
    assert not np.allclose(first, second)


def test_a_prompt_that_is_nothing_but_prefix_is_answered(engine: LocalEngine) -> None:
    whole = job(20, prefix=20)
    np.testing.assert_allclose(logprobs(engine, whole), logprobs(engine, replace(whole, prefix_length=0)), atol=1e-4)


def test_a_late_job_is_refused_and_the_others_are_answered(engine: LocalEngine) -> None:
    late = job(12, deadline_ns=time.monotonic_ns() - 1)
    refused, answered = engine.run([late, job(12)])
    assert isinstance(refused, DeadlineExceeded)
    assert isinstance(answered, Answer)


@pytest.mark.parametrize(
    "program",
    [
        Program((*PAIR.segments, *PROGRAM.segments)),
        Program((*PROGRAM.segments, FreeText(8, (1,), 3))),
        Program((FreeText(8, (1,), 3), *PROGRAM.segments)),
        Program((Choice("user", 7, 8), PROGRAM.segments[0])),
    ],
)
def test_a_program_beyond_this_release_is_unimplemented(engine: LocalEngine, program: Program) -> None:
    (refused,) = engine.run([replace(job(12), program=program)])
    assert isinstance(refused, Unimplemented)


def test_a_logit_that_is_no_number_stays_one() -> None:
    assert np.isnan(log_softmax(np.array([[np.nan, 1.0]], np.float32))).all()


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Passes:
    """With a tower."""
    folder = write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", tiny_config(), scale=0.3)
    return tiny_passes(folder, tower=True)


UNCACHED = CacheLimits(prefixes=0, images=0)
POLICY = np.random.default_rng(5).integers(9, VOCABULARY, 60)
PROMPTS = st.tuples(st.integers(1, 60), st.one_of(st.none(), st.integers(0, 59)), st.integers(0, 3))
THINK = Program((Forced((4,)), FreeText(90, (1, 2), END), *PAIR.segments))


def under_policy(length: int, changed: int | None, seed: int) -> Job:
    """Under a policy of `length` tokens, the start of the same one or with one of them changed."""
    policy = POLICY[:length].copy()
    if changed is not None:
        policy[changed % length] = 9
    text = np.random.default_rng(seed).integers(9, VOCABULARY, 8)
    return Job(np.concatenate([policy, text]).astype(np.int32), length, PAIR)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(PROMPTS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_answers_behind_cached_prefixes_are_those_without_a_cache(
    passes: Passes, calls: list[list[tuple[int, int | None, int]]]
) -> None:
    """From memory with room for three, and from disk by an engine that starts again."""
    plain = tiny_engine(passes, limits=UNCACHED)
    room = CacheLimits(prefixes=3 * 64 * passes.empty.nbytes)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            engine = tiny_engine(passes, limits=room, files=PrefixFiles(Path(folder, "saved"), "r", 1 << 20))
            for call in calls:
                jobs = [under_policy(*one) for one in call]
                apart = logprobs(engine, *jobs) - np.concatenate([logprobs(plain, one) for one in jobs])
                assert np.abs(apart).max() < 1e-5
            assert engine.statistics()["prefix_bytes"] <= room.prefixes
            engine.close()
    assert plain.statistics()["prefix_hits"] == 0


def test_an_engine_that_starts_again_reuses_what_another_one_saved(passes: Passes, tmp_path: Path) -> None:
    shared = job(40, prefix=24, seed=3)
    folder = tmp_path / "saved"
    reused = []
    for _ in range(2):
        engine = tiny_engine(passes, files=PrefixFiles(folder, "r", 1 << 20))
        answers = [engine.run([shared])[0] for _ in range(2)]
        reused.append([answer.prefix_reused for answer in answers if isinstance(answer, Answer)])
        engine.close()
    assert reused == [[0, 24], [24, 24]]


def test_a_closed_engine_can_be_closed_again_and_runs_nothing(passes: Passes, tmp_path: Path) -> None:
    engine = tiny_engine(passes, files=PrefixFiles(tmp_path / "saved", "r", 1 << 20))
    engine.close()
    engine.close()
    assert not engine.health()
    assert isinstance(engine.run([job(12)])[0], Unavailable)


def test_reasoning_over_contexts_that_grow_in_place_is_that_over_copies(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [job(30 + seed, prefix=20, seed=seed, program=THINK) for seed in range(3)]
    grown = tiny_engine(passes).run(asked)
    extended = Context.extended

    def copied(context: Context, *values: Any) -> Context:
        return extended(Context(context.length, context.keys, context.values), *values)

    monkeypatch.setattr(Context, "extended", copied)
    for answer, wanted in zip(grown, tiny_engine(passes).run(asked), strict=True):
        assert isinstance(answer, Answer)
        assert isinstance(wanted, Answer)
        assert answer.ids == wanted.ids
        np.testing.assert_array_equal(answer.choice_logprobs, wanted.choice_logprobs)
    assert max(len(answer.ids) for answer in grown if isinstance(answer, Answer)) > 64


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)


def sees(*seeds: int, text: int = 0) -> Job:
    """A prompt with these images."""
    marks = [VOCABULARY] * IMAGE_TOKENS
    ids = [*POLICY[:20], *(id for _ in seeds for id in (10, *marks, 11)), *POLICY[40 : 50 + text]]
    return Job(np.array(ids, np.int32), 20, PROGRAM, np.stack([picture(seed) for seed in seeds]))


def test_images_of_one_call_pass_the_tower_once_and_together(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    see, seen = passes.see, list[int]()
    monkeypatch.setattr(passes, "see", lambda pixels: seen.append(len(pixels)) or see(pixels))
    engine = tiny_engine(passes, vision="trained")
    engine.run([sees(1, 2), job(12), sees(1, text=1), replace(sees(1, 2), prefix_length=0)])
    engine.run([sees(2), sees(3)])
    assert seen == [2, 1]
    counts = engine.statistics()
    assert (counts["images"], counts["image_hits"], counts["image_misses"]) == (3, 4, 3)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(0, 3), max_size=2), min_size=1, max_size=3), min_size=1, max_size=4))
def test_answers_about_cached_images_are_those_without_a_cache(passes: Passes, calls: list[list[list[int]]]) -> None:
    cached = tiny_engine(passes, vision="trained", limits=CacheLimits(images=3 * 4 * IMAGE_TOKENS * 32))
    plain = tiny_engine(passes, vision="trained", limits=UNCACHED)
    for call in calls:
        jobs = [sees(*seeds) if seeds else job(12) for seeds in call]
        apart = logprobs(cached, *jobs) - np.concatenate([logprobs(plain, one) for one in jobs])
        assert np.abs(apart).max() < 1e-5


def test_another_image_gets_another_answer(passes: Passes) -> None:
    first, second = logprobs(tiny_engine(passes, vision="trained"), sees(1), sees(2))
    assert np.abs(first - second).max() > 1e-4


@pytest.mark.parametrize(
    ("environ", "limits"),
    [
        ({}, CacheLimits()),
        ({PREFIX_VARIABLE: "", IMAGE_VARIABLE: ""}, CacheLimits()),
        ({PREFIX_VARIABLE: "0"}, CacheLimits(prefixes=0)),
        ({PREFIX_VARIABLE: "64", IMAGE_VARIABLE: "1"}, CacheLimits(64_000_000, 1_000_000)),
    ],
)
def test_the_environment_limits_the_caches(environ: dict[str, str], limits: CacheLimits) -> None:
    assert CacheLimits.of(environ) == limits


@pytest.mark.parametrize("text", ["-1", "1.5", "512MB", "٣"])
def test_a_limit_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="TRITONGUARD_IMAGE_CACHE_MB is no whole number"):
        CacheLimits.of({IMAGE_VARIABLE: text})


def test_prefixes_are_kept_beside_the_bundle_for_this_bundle_only(tmp_path: Path) -> None:
    def kept(revision: str, model: str) -> PrefixFiles:
        manifest = {"revision": revision, "inputs": {"checkpoint_revision": model}}
        return PrefixFiles.beside(Bundle(tmp_path / "bundle", manifest), 1 << 20)

    zeros = np.zeros((2, 1, 32, 4), np.float32)
    kept("r", "m").save((1, 2), Context(2, zeros, zeros))
    assert [path.name for path in tmp_path.iterdir()] == [".bundle-prefixes"]
    assert [kept(*of).load((1, 2)) is not None for of in (("r", "m"), ("s", "m"), ("r", "n"))] == [True, False, False]


def test_an_engine_keeps_prefixes_on_disk_only_where_it_is_told_to(
    passes: Passes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = {"segments": ["Forced", "Choice"], "choices": 2, "vision": "none", "max_tokens": 512}
    manifest = {"revision": "r", "inputs": {"checkpoint_revision": "m"}, "capabilities": capabilities}
    monkeypatch.setattr(Passes, "load", lambda folder: passes)
    for keep, megabytes, saved in ((False, "", 0), (True, "0", 0), (True, "", 1)):
        monkeypatch.setenv(PREFIX_VARIABLE, megabytes)
        engine = LocalEngine.load(Bundle(tmp_path / "bundle", manifest), keep_prefixes=keep)
        engine.run([job(30, prefix=20)])
        engine.run([job(30, prefix=20)])
        engine.close()
        assert len(list(tmp_path.glob(".bundle-prefixes/*"))) == saved
