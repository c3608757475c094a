"""Cases of what an answer is: verdicts, pairs, lists, lines, reasoning, images. Any engine, any checkpoint."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from conformance import DOUBLE, GPU, LOCAL, Subject, case, same

from engines.program import Forced, FreeText, Program
from engines.protocol import Answer, Job

_SMALL = (LOCAL, DOUBLE)
"""Cases of many passes over what only a tiny checkpoint says."""


@case("DESIGN.md §4, table row 1: the choice is read from the first token behind the forced head", seed=range(6))
def verdict(subject: Subject, seed: int) -> None:
    subject.agrees(subject.job(subject.words.verdict, 20 + 5 * seed, seed=seed))


@case("DESIGN.md §4: a verdict carries one bit, and a probability comes free")
def verdicts_of_both_kinds_are_met(subject: Subject) -> None:
    rows = [subject.answer(subject.job(subject.words.verdict, seed=seed)).choice_logprobs for seed in range(8)]
    if subject.definition is not None:
        assert {bool(row[0, 0] > row[0, 1]) for row in rows} == {True, False}
    assert not np.allclose(rows[0], rows[1])


@case("engines/protocol.py Job.prefix_length: leading ids that may be reused change no answer", prefix=(1, 12, 24))
def prefix(subject: Subject, prefix: int) -> None:
    job = subject.job(subject.words.verdict, seed=3)
    first, again = (subject.answer(replace(job, prefix_length=prefix)) for _ in range(2))
    same(first, subject.answer(job))
    same(again, first)


@case("engines/protocol.py Job.ids: any prompt of at least one token", length=(1, 2, 300))
def prompt_length(subject: Subject, length: int) -> None:
    subject.agrees(subject.job(subject.words.pair, length, seed=length))


@case("engines/protocol.py Answer.choice_logprobs: the response's is conditional on the likelier user label")
def response_is_conditional_on_the_user_label(subject: Subject) -> None:
    words = subject.words
    for seed in range(4):
        pair = subject.job(words.pair, seed=seed)
        answer = subject.answer(pair)
        said = np.array(answer.ids[:-1], np.int32)
        response = words.pair.choices[1]
        # Without a head the choice stands right behind the prompt: the pair's, and all that it said before.
        program = Program((Forced(()), response))
        alone = subject.answer(Job(np.concatenate([pair.ids, said]), 0, program))
        np.testing.assert_allclose(answer.choice_logprobs[1], alone.choice_logprobs[0], atol=_close(subject))


def _close(subject: Subject) -> float:
    """Two prompts on a GPU differ by what its kernels round; what they may differ by is `gpu_day_one`'s to say."""
    return 1e-3 if subject.definition is not None else 0.25


@case("tensorrt-llm.md 0b.10: one request of about eight tokens for a pair", seed=range(6))
def pair(subject: Subject, seed: int) -> None:
    subject.agrees(subject.job(subject.words.pair, 20 + 5 * seed, seed=seed))


@case("tensorrt-llm.md 0b.10: both positions read", on=_SMALL)
def pairs_of_all_four_labels_are_met(subject: Subject) -> None:
    answers = [subject.answer(subject.job(subject.words.pair, 12 + seed, seed=seed)) for seed in range(32)]
    met = {tuple((answer.choice_logprobs[:, 0] > answer.choice_logprobs[:, 1]).tolist()) for answer in answers}
    assert met == {(True, True), (True, False), (False, True), (False, False)}


_SHAPES = ("disjoint", "shared", "prefix", "single", "many")
_GRID = list(itertools.product(_SHAPES, (0, 1, 2)))


@case(
    "engines/program.py NameList: a separated list over a trie of allowed names",
    shape=[shape for shape, _ in _GRID],
    seed=[seed for _, seed in _GRID],
)
def category_list(subject: Subject, shape: str, seed: int) -> None:
    subject.agrees(subject.job(subject.words.names(shape), 20 + seed, seed=seed))


@case("engines/program.py NameList: skipped where no choice is unsafe")
def a_list_is_there_exactly_where_a_side_is_unsafe(subject: Subject) -> None:
    lengths = set()
    for seed in range(8):
        answer = subject.agrees(subject.job(subject.words.names("disjoint"), seed=seed))
        lengths.add(len(answer.ids) > len(subject.words.verdict.segments[0].ids) + 1)  # type: ignore[union-attr]
    assert subject.definition is None or lengths == {True, False}


@case("engines/program.py NameList: after a pair, where either side is unsafe", seed=range(4))
def category_list_of_a_pair(subject: Subject, seed: int) -> None:
    subject.agrees(subject.job(subject.words.names("shared", pair=True), 20 + seed, seed=seed))


@case("engines/local/steps.py write_names: ended within the budget", most=(1, 3, 5))
def category_list_within_its_budget(subject: Subject, most: int) -> None:
    for seed in range(3):
        subject.agrees(subject.job(subject.words.names("many", most=most), seed=seed))


@case(
    "engines/program.py NameList.items None: any one line of text; cut by its budget, the whole names of it",
    most=(1, 4, 4, 12, 12, 12, 12),
    seed=(5, 20, 37, 0, 5, 11, 38),
)
def free_line(subject: Subject, most: int, seed: int) -> None:
    subject.agrees(subject.job(subject.words.line(most), 18, seed=seed))


@case("engines/local/steps.py write_line: ended, cut with whole names before the cut, cut without one", on=_SMALL)
def lines_of_every_kind_are_met(subject: Subject) -> None:
    said = [subject.answer(subject.job(subject.words.line(most), 18, seed=seed)).ids for most, seed in _LINES]
    assert [len(ids) for ids in said] == [7, 8, 12, 3]


_LINES = ((4, 20), (4, 37), (12, 11), (12, 0))


@case("engines/program.py FreeText: at most max_tokens, with the ids of end behind it", budget=(1, 2, 7, 24))
def reasoning(subject: Subject, budget: int) -> None:
    for seed in range(3):
        subject.agrees(subject.job(subject.words.thinking(budget), 20 + seed, seed=seed))


@case("tensorrt-llm.md §6: free text to the budget, then the forced verdict as another request", seed=range(3))
def reasoning_before_a_pair(subject: Subject, seed: int) -> None:
    subject.agrees(subject.job(subject.words.thinking(6, pair=True), seed=seed))


@case("engines/protocol.py Answer.truncated: the reasoning was ended by its budget", on=_SMALL)
def reasoning_ends_by_itself_and_by_its_budget(subject: Subject) -> None:
    ended = {subject.agrees(subject.job(subject.words.thinking(10), seed=seed)).truncated for seed in range(12)}
    assert ended == {True, False}


@case("engines/program.py FreeText: the first id of end ends the text, the rest is forced", on=_SMALL)
def the_end_that_the_model_begins_ends_the_reasoning(subject: Subject) -> None:
    program = subject.words.thinking(8)
    free, text, *rest = program.segments
    assert isinstance(text, FreeText)
    written = subject.answer(subject.job(program, seed=1)).ids[len(free.ids) : len(free.ids) + 8]  # type: ignore[union-attr]
    own = replace(text, end=(written[0], text.end[1]))
    ended = subject.agrees(subject.job(replace(program, segments=(free, own, *rest)), seed=1))
    assert not ended.truncated
    assert ended.ids[len(free.ids) : len(free.ids) + 2] == own.end  # type: ignore[union-attr]


@case("engines/program.py FreeText.without: ids that it may not hold", on=_SMALL)
def reasoning_holds_no_id_that_is_kept_out(subject: Subject) -> None:
    free = subject.words.thinking(8)
    head, text = free.segments[:2]
    assert isinstance(text, FreeText)
    for seed in range(4):
        start = len(head.ids)  # type: ignore[union-attr]
        written = set(subject.answer(subject.job(free, seed=seed)).ids[start : start + 8])
        kept_out = frozenset(written - {text.stop, *text.end})
        answer = subject.answer(subject.job(subject.words.thinking(8, without=kept_out), seed=seed))
        body = answer.ids[start : len(answer.ids) - len(subject.words.verdict.segments[0].ids) - 1]  # type: ignore[union-attr]
        assert body[-len(text.end) :] == text.end
        assert not kept_out & set(body)


@case("engines/protocol.py Job.pixels: in the order of the image marks", images=(1, 2, 3))
def images(subject: Subject, images: int) -> None:
    subject.agrees(subject.job(subject.words.verdict, 24, seed=images, images=images))


@case("tensorrt-llm.md §2.2: an image's tokens see each other both ways", kind=("pair", "names", "thinking"))
def image_in_every_mode(subject: Subject, kind: str) -> None:
    words = subject.words
    program = {"pair": words.pair, "names": words.names("shared"), "thinking": words.thinking(4)}[kind]
    subject.agrees(subject.job(program, seed=5, images=1))


@case("tensorrt-llm.md 0 fact 9: an image is never dropped")
def another_image_gives_another_answer(subject: Subject) -> None:
    job = subject.job(subject.words.verdict, seed=2, images=1)
    other = replace(job, pixels=subject.words.pixels(1, seed=77))
    assert not np.array_equal(subject.answer(job).choice_logprobs, subject.answer(other).choice_logprobs)


@case("engines/protocol.py Job.pixels: the order of images counts", on=_SMALL)
def images_in_another_order_give_another_answer(subject: Subject) -> None:
    job = subject.job(subject.words.verdict, seed=2, images=2)
    assert job.pixels is not None
    turned = replace(job, pixels=np.ascontiguousarray(job.pixels[::-1]))
    assert not np.array_equal(subject.answer(job).choice_logprobs, subject.agrees(turned).choice_logprobs)


@case("engines/protocol.py Engine.run: every job, in order")
def jobs_of_every_kind_in_one_call(subject: Subject) -> None:
    words = subject.words
    programs = (words.verdict, words.thinking(5), words.pair, words.names("shared"), words.line(4), words.verdict)
    jobs = [subject.job(program, 18 + at, seed=at, images=at % 2) for at, program in enumerate(programs)]
    for job, result in zip(jobs, subject.engine.run(jobs), strict=True):
        assert isinstance(result, Answer), result
        if subject.name != GPU:
            same(result, subject.answer(job))
