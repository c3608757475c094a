"""A walked program says what decoding token by token would say, in as few requests as the model allows."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drafting_model import (
    COMMA,
    END,
    HEAD,
    LINE,
    NAMES,
    PAIR,
    PIECES,
    RESPONSE,
    RESPONSE_HEAD,
    SAFE,
    TEXT,
    THINK,
    THINK_END,
    UNSAFE,
    USER,
    VERDICT,
    VOCABULARY,
    Model,
    step_by_step,
    walked,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonguard.errors import InternalError
from tritonguard.judgement import read_answer
from tritonguard.label import Safety
from tritonguard.request import Mode

from engines.program import Forced, FreeText, NameList, Program
from engines.tensorrt_llm.draft import Draft, Step
from engines.tensorrt_llm.walk import CATEGORIES, FORWARD, Request, Said, longest, walk

PROMPT = (0, 9, 4)
THINKING = Program((Forced((10,)), TEXT, HEAD, USER, RESPONSE_HEAD, RESPONSE))
LISTING = Program((*PAIR.segments, NAMES))
LINING = Program((*VERDICT.segments, LINE))

names = st.lists(st.lists(st.sampled_from([0, 6, 10, 11]), min_size=1, max_size=3).map(tuple), min_size=1, unique=True)
lists = st.builds(
    NameList, st.just((12, 9)), st.none() | names.map(tuple), st.just((COMMA,)), st.just(END), st.integers(1, 9)
)
texts = st.builds(FreeText, st.integers(1, 8), st.sampled_from([(THINK_END,), (THINK_END, 8)]), st.just(END))


@st.composite
def programs(draw: st.DrawFn, text: st.SearchStrategy[FreeText] = texts) -> Program:
    segments: list[Any] = [HEAD]
    if draw(st.booleans()):
        segments += [draw(text), Forced((7,))]
    segments.append(USER)
    if draw(st.booleans()):
        segments += [RESPONSE_HEAD, RESPONSE]
    if draw(st.booleans()):
        segments.append(draw(lists))
    return Program(tuple(segments))


@settings(max_examples=60, deadline=None)
@given(program=programs(), seed=st.integers(0, 10_000))
def test_it_says_what_a_pass_for_each_token_would_say(program: Program, seed: int) -> None:
    model = Model(seed)
    said, requests = walked(walk(program), model, PROMPT)
    expected = step_by_step(program, model, PROMPT)
    assert (said.ids, said.truncated, said.bounded) == (expected.ids, expected.truncated, False)
    np.testing.assert_allclose(np.stack(said.rows), np.stack(expected.rows), atol=1e-5)
    assert len(requests) <= longest(program.segments)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), likeliest=st.integers(1, VOCABULARY))
def test_with_fewer_likeliest_tokens_nothing_becomes_safe_and_p_unsafe_is_a_bound(seed: int, likeliest: int) -> None:
    model = Model(seed)
    said, _ = walked(walk(VERDICT), model, PROMPT, likeliest)
    (row,), (full,) = said.rows, step_by_step(VERDICT, model, PROMPT).rows
    if not said.bounded:
        assert np.isnan(row).all() or np.allclose(row, full, atol=1e-5)
        return
    # The missing one is taken to be as likely as it could be, which can make the two equal, and that says unsafe.
    if row[0] > row[1]:
        assert full[1] - 1e-6 <= row[1] <= full[0]
    else:
        assert row[1] <= max(full[1], math.log(0.5)) + 1e-6


steps = st.builds(
    Step,
    st.integers(0, VOCABULARY - 1),
    st.dictionaries(
        st.integers(0, VOCABULARY - 1), st.sampled_from([math.nan, math.inf, -math.inf, 0.5, 0.0, -1e-9, -0.7, -2.0])
    ),
)
drafts = st.lists(steps, min_size=1, max_size=9).map(tuple)
marked = st.builds(
    FreeText, st.integers(1, 8), st.just((THINK_END, 8)), st.just(END), st.sets(st.integers(6, 11)).map(frozenset)
)


@settings(max_examples=120, deadline=None)
@given(mode=st.sampled_from(Mode), has_response=st.booleans(), data=st.data())
def test_whatever_is_drafted_no_label_says_safe_where_the_model_was_not_read_to(
    mode: Mode, has_response: bool, data: st.DataObject
) -> None:
    text = FreeText(4, (THINK_END,), END, frozenset({THINK}))
    program = Program(
        (
            *((Forced((THINK,)), text) if mode is Mode.THINK else ()),
            *(PAIR if has_response else VERDICT).segments,
            *((NAMES,) if mode is Mode.CATEGORIES else ()),
        )
    )
    said, given_ = _walked_with(program, data)
    label = read_answer(
        np.stack(said.rows),
        "".join(PIECES[id] for id in said.ids),
        mode=mode,
        has_response=has_response,
        names=(names := ("Violence", "Fraud", "Violence Fraud")),
        reasoning_source="model",
    )
    for safety, choice, row in zip(
        (label.user_safety, label.response_safety), program.choices, said.rows, strict=False
    ):
        if safety is Safety.SAFE:
            assert row[0] > row[1]
            assert any(choice.safe in step.known for _, draft in given_ for step in draft)
    assert set(label.categories or ()) <= set(names)


def _walked_with(program: Program, data: st.DataObject) -> tuple[Said, list[tuple[Request, Draft]]]:
    """What is said with drafts of anything, and those."""
    walking, given_ = walk(program), list[tuple[Request, Draft]]()
    request = next(walking)
    while True:
        given_.append((request, data.draw(drafts)))
        assert len(given_) <= longest(program.segments), "a request that brought nothing"
        try:
            request = walking.send(given_[-1][1])
        except StopIteration as end:
            return end.value, given_


@settings(max_examples=120, deadline=None)
@given(program=programs(text=marked), data=st.data())
def test_whatever_is_drafted_the_answer_is_the_programs_and_safe_only_where_it_was_read(
    program: Program, data: st.DataObject
) -> None:
    said, given_ = _walked_with(program, data)
    at, rows = 0, iter(said.rows)
    for segment in program.segments:
        if isinstance(segment, Forced):
            assert said.ids[at : at + len(segment.ids)] == segment.ids
            at += len(segment.ids)
        elif isinstance(segment, FreeText):
            end = said.ids.index(THINK_END, at)
            assert end - at <= segment.max_tokens
            assert not {*said.ids[at:end]} & {*segment.without, segment.stop}
            assert said.ids[end : end + len(segment.end)] == segment.end
            at = end + len(segment.end)
        elif not isinstance(segment, NameList):
            row = next(rows)
            assert said.ids[at] == (SAFE if row[0] > row[1] else UNSAFE)
            if np.isfinite(row).all():
                assert any(_reads(said.ids[:at], request, draft) for request, draft in given_)
            at += 1
    assert len(said.rows) == len(program.choices)


def _reads(before: tuple[int, ...], request: Request, draft: Draft) -> bool:
    """Whether a step of the draft stands right behind `before`, and says something about a choice."""
    whole = (*request.said, *(step.id for step in draft))
    place = len(before) - len(request.said)
    here = draft[place] if 0 <= place < len(draft) else None
    return here is not None and whole[: len(before)] == before and bool({SAFE, UNSAFE} & here.known.keys())


def test_a_verdict_is_one_request_for_one_token() -> None:
    _, requests = walked(walk(VERDICT), Model(), PROMPT)
    assert requests == [Request(HEAD.ids, 1, FORWARD)]


def test_a_pair_that_the_model_writes_itself_is_one_request() -> None:
    model = Model(fixed={HEAD.ids: SAFE, (SAFE,): 8, (SAFE, 8): 7, RESPONSE_HEAD.ids: UNSAFE})
    said, requests = walked(walk(PAIR), model, PROMPT)
    assert said.ids == (*HEAD.ids, SAFE, *RESPONSE_HEAD.ids, UNSAFE)
    assert requests == [Request(HEAD.ids, 4, FORWARD)]


def test_where_the_model_goes_on_otherwise_the_response_is_read_behind_the_forced_head() -> None:
    model = Model(fixed={HEAD.ids: SAFE, (SAFE,): END})
    said, requests = walked(walk(PAIR), model, PROMPT)
    assert requests == [Request(HEAD.ids, 4, FORWARD), Request((*HEAD.ids, SAFE, *RESPONSE_HEAD.ids), 1, FORWARD)]
    assert said.ids[:5] == (*HEAD.ids, SAFE, *RESPONSE_HEAD.ids)


def test_a_safe_answer_has_no_list_and_one_request() -> None:
    model = Model(fixed={HEAD.ids: SAFE, (SAFE,): END})
    said, requests = walked(walk(LINING), model, PROMPT)
    assert said.ids == (*HEAD.ids, SAFE)
    assert [request.phase for request in requests] == [FORWARD]


def test_reasoning_is_one_request_up_to_its_end_and_the_verdict_another() -> None:
    program = Program((Forced((10,)), TEXT, HEAD, USER))
    model = Model(fixed={(10,): 11, (11,): 0, (0,): THINK_END})
    said, requests = walked(walk(program), model, PROMPT)
    text = (10, 11, 0, THINK_END)
    assert said.ids[:4] == text
    assert not said.truncated
    assert requests == [Request((10,), 6, "think", (THINK_END, END)), Request((*text, *HEAD.ids), 1, FORWARD)]


def test_reasoning_over_its_budget_is_ended_and_says_so() -> None:
    program = Program((Forced((10,)), TEXT, HEAD, USER))
    said, requests = walked(walk(program), Model(fixed={(10,): 11, (11,): 11}), PROMPT)
    assert said.ids[:8] == (10, *(11,) * 6, THINK_END)
    assert said.truncated
    assert len(requests) == 2


def test_a_mark_ends_the_reasoning_with_one_request_all_the_same() -> None:
    text = replace(TEXT, without=frozenset({0}))
    program = Program((Forced((10,)), text, HEAD, USER))
    said, requests = walked(walk(program), Model(fixed={(10,): 11, (11,): 0, (0,): 11}), PROMPT)
    assert said.ids[:3] == (10, 11, THINK_END)
    assert not said.truncated
    assert len(requests) == 2


def listed(fixed: dict[tuple[int, ...], int], likeliest: int = VOCABULARY) -> tuple[Said, list[Request]]:
    """The list of an unsafe answer."""
    program = Program((*VERDICT.segments, NAMES))
    return walked(walk(program), Model(7, fixed={HEAD.ids: UNSAFE, **fixed}), PROMPT, likeliest)


def test_a_list_that_the_model_writes_itself_needs_no_further_request() -> None:
    said, requests = listed({(UNSAFE,): 12, (12,): 9, (9,): 11, (11,): COMMA, (COMMA,): 10, (COMMA, 10): END})
    assert said.ids == (*HEAD.ids, UNSAFE, 12, 9, 11, COMMA, 10)
    assert [request.phase for request in requests] == [FORWARD]


def test_a_token_outside_the_trie_gives_way_to_the_likeliest_inside() -> None:
    said, requests = listed({(12, 9): 0, (12, 9, 10): END, (12, 9, 11): END, (10, 11): END})
    assert said.ids[5] in (10, 11)
    assert 0 not in said.ids
    assert requests[-1].phase == CATEGORIES


def test_a_list_that_may_end_ends_where_nothing_allowed_is_known() -> None:
    said, _ = listed({(12, 9): 11, (12, 9, 11): 0}, likeliest=1)
    assert said.ids == (*HEAD.ids, UNSAFE, 12, 9, 11)


def test_a_list_that_may_not_end_is_handed_on_as_it_was_drafted() -> None:
    said, _ = listed({(12, 9): 0, (0,): 6, (0, 6): END}, likeliest=1)
    assert said.ids == (*HEAD.ids, UNSAFE, 12, 9, 0, 6)


def test_no_name_stands_twice_and_a_list_keeps_its_budget() -> None:
    said, _ = listed({(12, 9): 10, (12, 9, 10): COMMA, (COMMA,): 10, (10, 11): COMMA, (COMMA, 11): COMMA})
    written = said.ids[5:]
    assert len(written) <= NAMES.max_tokens
    assert sorted(_split(written)) == sorted(set(_split(written)))


def _split(ids: tuple[int, ...]) -> list[tuple[int, ...]]:
    cuts = [-1, *(at for at, id in enumerate(ids) if id == COMMA), len(ids)]
    return [ids[a + 1 : b] for a, b in itertools.pairwise(cuts)]


def test_a_name_longer_than_the_budget_is_written_whole() -> None:
    program = Program((*VERDICT.segments, NameList((8,), ((10, 11, 10, 11, 10), (0,)), (COMMA,), END, 2)))
    model = Model(fixed={HEAD.ids: UNSAFE, (8,): 10, (10, 11, 10, 11, 10): COMMA})
    said, _ = walked(walk(program), model, PROMPT)
    assert said.ids == (*HEAD.ids, UNSAFE, 8, 10, 11, 10, 11, 10)
    assert longest(program.segments) == 2 + 1 + 1 + 5 + 1


def test_a_line_that_is_cut_keeps_its_whole_names() -> None:
    model = Model(fixed={HEAD.ids: UNSAFE, (12, 9): 10, (10,): COMMA, (COMMA,): 11, (11,): 11})
    said, _ = walked(walk(LINING), model, PROMPT)
    assert said.ids == (*HEAD.ids, UNSAFE, 12, 9, 10)
    assert not said.truncated


def test_a_line_without_a_whole_name_is_left_out() -> None:
    said, _ = walked(walk(LINING), Model(fixed={HEAD.ids: UNSAFE, (12, 9): 11, (11,): 11}), PROMPT)
    assert said.ids == (*HEAD.ids, UNSAFE)


def test_a_request_that_brings_no_token_is_an_error() -> None:
    walking = walk(VERDICT)
    next(walking)
    with pytest.raises(InternalError):
        walking.send(())


def test_a_tie_says_unsafe() -> None:
    walking = walk(VERDICT)
    next(walking)
    with pytest.raises(StopIteration) as end:
        walking.send((Step(SAFE, {SAFE: -0.7, UNSAFE: -0.7}),))
    assert end.value.value.ids == (*HEAD.ids, UNSAFE)


def test_a_bound_of_either_side_is_told() -> None:
    for id in (SAFE, UNSAFE):
        walking = walk(VERDICT)
        next(walking)
        with pytest.raises(StopIteration) as end:
            walking.send((Step(id, {id: -0.1, 0: -3.0}),))
        assert end.value.value.bounded
        assert end.value.value.ids == (*HEAD.ids, id)


@pytest.mark.parametrize("program", [VERDICT, PAIR, LISTING, LINING, THINKING])
def test_no_answer_is_longer_than_the_longest(program: Program) -> None:
    for seed in range(20):
        said, requests = walked(walk(program), Model(seed), PROMPT)
        assert len(said.ids) <= longest(program.segments)
        assert all(len(each.said) + each.most <= longest(program.segments) for each in requests)
