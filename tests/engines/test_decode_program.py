"""The whole decode program on a tiny random model, against plain passes over whole sequences: no cache, no branches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tiny_engine import END, PAIR, PROGRAM, RESPONSE, SAFE, UNSAFE, USER, VOCABULARY, job, load_tiny
from tritonguard.errors import DeadlineExceeded

from engines.local.answering import log_softmax
from engines.local.engine import LocalEngine
from engines.local.passes import Passes
from engines.local.tree import Tree
from engines.program import Choice, Forced, FreeText, NameList, Program
from engines.protocol import Answer, Job

ITEMS = ((20, 21, 22), (20, 21, 30), (20, 40), (50,), (50, 51))
NAMES = NameList(head=(4, 9), items=ITEMS, separator=(10,), end=END, max_tokens=24)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    return load_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint")


class Plain:
    """The same model, a whole sequence at a time."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes

    def logits(self, ids: Sequence[int], candidates: Sequence[int]) -> np.ndarray:
        return self._passes.run(self._passes.empty, [Tree(tuple(ids))], candidates)[0].logits[0].copy()

    def best(self, ids: Sequence[int], among: Sequence[int] = range(VOCABULARY)) -> int:
        return among[int(np.argmax(self.logits(ids, list(among))))]

    def choice(self, ids: Sequence[int], choice: Choice) -> np.ndarray:
        return log_softmax(self.logits(ids, [choice.safe, choice.unsafe]))


@pytest.fixture(scope="module")
def plain(engine: LocalEngine) -> Plain:
    return Plain(engine._passes)


def run(engine: LocalEngine, asked: Job) -> Answer:
    (answer,) = engine.run([asked])
    assert isinstance(answer, Answer)
    return answer


def likelier(logprobs: np.ndarray) -> int:
    return SAFE if logprobs[0] > logprobs[1] else UNSAFE


@pytest.mark.parametrize("seed", range(12))
def test_a_pair_in_one_pass_equals_two_passes(engine: LocalEngine, plain: Plain, seed: int) -> None:
    asked = job(30 + seed, prefix=20, seed=seed, program=PAIR)
    answer = run(engine, asked)
    start = [*asked.ids.tolist(), 5, 6]
    user = plain.choice(start, USER)
    response = plain.choice([*start, likelier(user), 4, 6], RESPONSE)
    np.testing.assert_allclose(answer.choice_logprobs, [user, response], atol=1e-4)
    assert answer.ids == (5, 6, likelier(user), 4, 6, likelier(response))


def test_pairs_and_prompts_of_one_batch_answer_as_if_alone(engine: LocalEngine) -> None:
    jobs = [job(30 + 7 * seed, prefix=20, seed=seed, program=(PAIR, PROGRAM)[seed % 2]) for seed in range(5)]
    for asked, answer in zip(jobs, engine.run(jobs), strict=True):
        assert isinstance(answer, Answer)
        np.testing.assert_allclose(answer.choice_logprobs, run(engine, asked).choice_logprobs, atol=1e-4)


def listed(plain: Plain, ids: list[int]) -> list[int]:
    """Greedy over the trie, by the definition: at each place the likeliest of the ids that some name allows."""
    left, written = list(ITEMS), list[int]()
    while True:
        node: tuple[int, ...] = ()
        while True:
            options = {item[len(node)] for item in left if item[: len(node)] == node and len(item) > len(node)}
            if node in left:
                options |= {END, *([10] if len(left) > 1 and 2 + len(written) + 4 <= 26 else [])}
            chosen = plain.best([*ids, *written], sorted(options))
            if node in left and chosen == END:
                return written
            written.append(chosen)
            if node in left and chosen == 10:
                break
            node += (chosen,)
        left.remove(node)


@pytest.mark.parametrize("seed", range(12))
def test_a_category_list_is_greedy_over_the_allowed_names(engine: LocalEngine, plain: Plain, seed: int) -> None:
    segments = (*PAIR.segments, NAMES) if seed % 2 else (*PROGRAM.segments, NAMES)
    asked = job(25 + seed, prefix=10, seed=seed, program=Program(segments))
    answer = run(engine, asked)
    verdict = run(engine, replace(asked, program=Program(segments[:-1])))
    np.testing.assert_allclose(answer.choice_logprobs, verdict.choice_logprobs, atol=1e-4)
    if not (answer.choice_logprobs[:, 0] <= answer.choice_logprobs[:, 1]).any():
        assert answer.ids == verdict.ids
        return
    read = [*asked.ids.tolist(), *verdict.ids, *NAMES.head]
    assert answer.ids == (*verdict.ids, *NAMES.head, *listed(plain, read))


def test_some_of_these_answers_are_unsafe_and_have_a_list(engine: LocalEngine) -> None:
    program = Program((*PROGRAM.segments, NAMES))
    answers = [run(engine, job(25 + seed, prefix=10, seed=seed, program=program)) for seed in range(12)]
    assert {len(answer.ids) > 3 for answer in answers} == {True, False}


@pytest.mark.parametrize("seed", range(6))
def test_reasoning_is_greedy_up_to_its_budget_and_a_verdict_always_follows(
    engine: LocalEngine, plain: Plain, seed: int
) -> None:
    budget, end = 1 + 2 * seed, (91, 92)
    program = Program((Forced((11, 12)), FreeText(budget, end, END), *PAIR.segments))
    asked = job(28, prefix=20, seed=seed, program=program)
    answer = run(engine, asked)
    read, thought = [*asked.ids.tolist(), 11, 12], list[int]()
    while len(thought) < budget:
        chosen = plain.best([*read, *thought])
        if chosen == END:
            break
        thought.append(chosen)
    assert answer.truncated == (len(thought) == budget)
    read += [*thought, *end, 5, 6]
    user = plain.choice(read, USER)
    response = plain.choice([*read, likelier(user), 4, 6], RESPONSE)
    np.testing.assert_allclose(answer.choice_logprobs, [user, response], atol=1e-4)
    assert answer.ids == (11, 12, *thought, *end, 5, 6, likelier(user), 4, 6, likelier(response))


def thinking(text: FreeText) -> Program:
    return Program((Forced((11, 12)), text, *PROGRAM.segments))


def test_the_first_token_of_its_end_ends_the_reasoning_and_the_rest_is_forced(engine: LocalEngine) -> None:
    asked = job(28, seed=1, program=thinking(FreeText(8, (91, 92), END)))
    written = run(engine, asked).ids[2:10]
    at = next(index for index in range(1, 8) if written[index] not in written[:index])
    ended = run(engine, replace(asked, program=thinking(FreeText(8, (written[at], 92), END))))
    assert not ended.truncated
    assert ended.ids[2 : 6 + at] == (*written[:at], written[at], 92, 5, 6)


def test_reasoning_holds_none_of_the_tokens_that_are_kept_out(engine: LocalEngine, plain: Plain) -> None:
    asked = job(28, seed=1, program=thinking(FreeText(8, (91, 92), END)))
    kept_out = frozenset(run(engine, asked).ids[2:10]) - {END}
    answer = run(engine, replace(asked, program=thinking(FreeText(8, (91, 92), END, kept_out))))
    assert kept_out
    assert not kept_out & set(answer.ids[2:-5])
    read = [*asked.ids.tolist(), 11, 12]
    assert answer.ids[2] == plain.best(read, sorted(set(range(VOCABULARY)) - kept_out))


def test_reasoning_of_which_every_likely_token_is_kept_out_ends(engine: LocalEngine) -> None:
    nothing = FreeText(8, (91, 92), END, frozenset(range(VOCABULARY)) - {91, END})
    ended = run(engine, job(28, seed=1, program=thinking(nothing)))
    assert ended.ids[2:6] == (91, 92, 5, 6)
    assert not ended.truncated


def test_a_free_line_that_its_budget_cuts_keeps_whole_names_only(engine: LocalEngine) -> None:
    line = NameList(head=(4, 9), items=None, separator=(10,), end=END, max_tokens=6)
    program = Program((*PROGRAM.segments, line))
    lengths = {len(run(engine, job(25, seed=seed, program=program)).ids) for seed in range(12)}
    assert max(lengths) < 3 + 2 + 6
    assert min(lengths) == 3


def test_a_deadline_that_passes_while_it_thinks_frees_the_engine(engine: LocalEngine) -> None:
    program = Program((Forced((11, 12)), FreeText(4000, (91, 92), 1000), *PROGRAM.segments))
    began = time.monotonic_ns()
    (late,) = engine.run([job(28, seed=1, program=program, deadline_ns=began + 200_000_000)])
    assert isinstance(late, DeadlineExceeded)
    assert time.monotonic_ns() - began < 5_000_000_000
