"""Prefixes on a shelf: each row is behind its own policy's, whatever came and went before."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.local.context import Context
from engines.local.grouping import MOST_ROWS
from engines.local.shared import Shared, Shelf


def context(number: int) -> Context:
    """One of many, each of its own length and with its number in all of its states."""
    length = 3 + 5 * number
    states = np.full((2, 1, length, 4), number + 1, np.float32)
    return Context(length, states, -states)


CONTEXTS = [context(number) for number in range(2 * MOST_ROWS)]
PASSES = st.lists(st.lists(st.sampled_from(range(len(CONTEXTS))), min_size=1, max_size=MOST_ROWS), max_size=12)


@settings(max_examples=200, deadline=None)
@given(PASSES)
def test_each_row_is_behind_its_own_prefix(passes: list[list[int]]) -> None:
    shelf = Shelf()
    for numbers in passes:
        shared = shelf.take([CONTEXTS[number] for number in numbers])
        rows = list(range(len(numbers)))
        for part, chosen in ((shared, rows), (shared.at(rows[::-2]), rows[::-2])):
            for row, place in zip(chosen, part.places, strict=True):
                held = CONTEXTS[numbers[row]]
                assert part.context(chosen.index(row)) is held
                assert part.lengths[place] == held.length
                assert np.array_equal(part.keys[:, place, :, : held.length], held.keys)
                assert np.array_equal(part.values[:, place, :, : held.length], held.values)
                assert np.isfinite(part.keys[:, place]).all()


def test_one_prefix_for_all_is_read_where_it_is() -> None:
    shared = Shelf().take([CONTEXTS[3]] * MOST_ROWS)
    assert np.shares_memory(shared.keys, CONTEXTS[3].keys)
    assert np.shares_memory(shared.values, CONTEXTS[3].values)
    assert shared.keys.shape[1] == 1


def test_what_stays_is_not_copied_again_and_what_was_not_asked_for_longest_goes() -> None:
    shelf = Shelf()
    first = shelf.take(CONTEXTS[MOST_ROWS - 1 :: -1])  # the longest comes with the first ones
    kept = first.places[:4].tolist()
    first.keys[:, kept] = 77
    second = shelf.take([*CONTEXTS[MOST_ROWS - 1 : MOST_ROWS - 5 : -1], *CONTEXTS[:2]])
    assert second.places[:4].tolist() == kept
    assert (second.keys[:, kept] == 77).all()
    shelf.take([CONTEXTS[4], CONTEXTS[5]])
    # 2 and 3 were in the first pass alone.
    gone = {first.places[MOST_ROWS - 1 - number] for number in (2, 3)}
    third = shelf.take([CONTEXTS[0], _of_length_1(8), _of_length_1(9)])
    assert set(third.places[1:]) == gone


def test_a_long_prefix_that_is_gone_leaves_no_room_behind() -> None:
    shelf = Shelf()
    states = np.ones((2, 1, 900, 4), np.float32)
    shelf.take([Context(900, states, states), CONTEXTS[0]])
    large = shelf.nbytes
    for first in range(0, MOST_ROWS, 2):
        shelf.take(CONTEXTS[first : first + 2])
    shared = shelf.take(CONTEXTS[:2])
    assert shelf.nbytes < large / 4
    assert np.array_equal(shared.keys[:, shared.places[1], :, : CONTEXTS[1].length], CONTEXTS[1].keys)


def test_one_for_a_count_of_rows() -> None:
    shared = Shared.one(CONTEXTS[0], 3)
    assert shared.places.tolist() == [0, 0, 0]
    assert shared.lengths.tolist() == [CONTEXTS[0].length]


def _of_length_1(number: int) -> Context:
    states = np.full((2, 1, 1, 4), number, np.float32)
    return Context(1, states, states)
