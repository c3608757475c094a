"""The engine on the double where the package reports less than the vocabulary: 20 of 96 tokens at each place."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from conformance import TOLERANCE, Subject
from definition import Definition
from subjects import double_subject
from tiny_bundle import COMMA, HEAD, LIST_HEAD, SAFE, SHAPES, UNSAFE, WIDE, write_tiny

from engines.program import FreeText
from engines.protocol import Answer

REPORTED = 20
SEEDS = range(60)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory, double: None) -> Iterator[Subject]:
    tiny = write_tiny(tmp_path_factory.mktemp("wide") / "bundle", WIDE)
    with double_subject(tiny, Definition(tiny.folder, WIDE)) as on_double:
        yield on_double


def missing(subject: Subject, seed: int) -> tuple[Answer, Answer, frozenset[int]]:
    """A verdict, by the definition too, and which of its options are not among the likeliest."""
    job = subject.job(subject.words.verdict, seed=seed)
    assert subject.definition is not None
    logits = subject.definition.logits(job, HEAD)
    known = set(np.argsort(-logits, kind="stable")[:REPORTED].tolist())
    return subject.answer(job), subject.definition.answer(job), frozenset({SAFE, UNSAFE} - known)


@pytest.fixture(scope="module")
def verdicts(subject: Subject) -> list[tuple[Answer, Answer, frozenset[int]]]:
    return [missing(subject, seed) for seed in SEEDS]


def test_all_that_can_be_missing_is_met(verdicts: list[tuple[Answer, Answer, frozenset[int]]]) -> None:
    kinds = Counter(missing for _, _, missing in verdicts)
    assert {frozenset(), frozenset({SAFE}), frozenset({UNSAFE}), frozenset({SAFE, UNSAFE})} == kinds.keys()


def test_where_both_options_are_known_the_probability_is_exact(
    verdicts: list[tuple[Answer, Answer, frozenset[int]]],
) -> None:
    for answer, expected, missing in verdicts:
        if not missing:
            assert answer.ids == expected.ids
            assert not answer.bounded
            np.testing.assert_allclose(answer.choice_logprobs, expected.choice_logprobs, atol=TOLERANCE)


def test_where_one_is_missing_it_is_bounded_from_above_and_the_label_is_right(
    verdicts: list[tuple[Answer, Answer, frozenset[int]]],
) -> None:
    """tensorrt-llm.md 0b.6: bound it by the K-th value and say so."""
    for answer, expected, missing in verdicts:
        if len(missing) == 1:
            at = (SAFE, UNSAFE).index(*missing)
            assert answer.bounded
            assert answer.ids == expected.ids
            assert answer.choice_logprobs[0, at] >= expected.choice_logprobs[0, at] - TOLERANCE
            np.testing.assert_allclose(np.exp(answer.choice_logprobs.astype(float)).sum(), 1.0, atol=1e-5)


def test_where_both_are_missing_there_is_no_verdict(verdicts: list[tuple[Answer, Answer, frozenset[int]]]) -> None:
    """DESIGN.md §3: nothing ever turns garbage into safe."""
    for answer, _, missing in verdicts:
        if len(missing) == 2:
            assert np.isnan(answer.choice_logprobs).all()
            assert not answer.bounded
            assert SAFE not in answer.ids


@pytest.mark.parametrize("seed", range(6))
def test_reasoning_needs_no_probabilities(subject: Subject, seed: int) -> None:
    job = subject.job(subject.words.thinking(8), seed=seed)
    assert subject.definition is not None
    text = job.program.segments[1]
    assert isinstance(text, FreeText)
    answer, expected = subject.answer(job), subject.definition.answer(job)
    assert answer.ids[:-1] == expected.ids[:-1]
    assert answer.truncated == expected.truncated


@pytest.mark.parametrize("shape", SHAPES)
def test_a_list_holds_allowed_names_or_is_no_list_of_them(subject: Subject, shape: str) -> None:
    """A list that the package said too little for is one that the parser refuses, never one that looks right."""
    kinds = set()
    for seed in range(12):
        answer = subject.answer(subject.job(subject.words.names(shape), seed=seed))
        said = answer.ids[len(HEAD) + 1 + len(LIST_HEAD) :]
        groups = itertools.groupby(said, key=lambda id: id == COMMA)
        names = [tuple(group) for is_separator, group in groups if not is_separator]
        if said:
            kinds.add(allowed := set(names) <= set(SHAPES[shape]))
            assert not allowed or (len(set(names)) == len(names) and len(said) <= 24)
    assert kinds
