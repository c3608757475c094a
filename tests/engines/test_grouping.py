"""Which rows share a pass, and which of them attend together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.local.grouping import LEAST_HALF, MOST_OF_ALL, halves, longer_and_shorter, size_class, together

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("lengths", "chosen"),
    [
        ([150], [0]),
        ([150, 900, 160, 155], [0, 1, 2, 3]),
        ([150] * 12, list(range(8))),
        ([400] * 12, list(range(5))),
        ([900, 150, 1000, 160], [0, 1, 3]),
        ([5000, 150, 160], [0]),
    ],
)
def test_the_first_goes_with_those_behind_it_that_have_room(lengths: list[int], chosen: list[int]) -> None:
    assert together(lengths, most_rows=8, most_tokens=2048) == chosen


@given(LENGTHS, st.integers(1, 9), st.integers(1, 4000))
def test_a_pass_keeps_its_limits_whatever_waits(lengths: list[int], most_rows: int, most_tokens: int) -> None:
    chosen = together(lengths, most_rows=most_rows, most_tokens=most_tokens)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= most_rows
    assert len(chosen) == 1 or sum(lengths[index] for index in chosen) <= most_tokens


@pytest.mark.parametrize(
    ("lengths", "longer", "shorter"),
    [
        ([150], [0], []),
        ([150, 150], [0, 1], []),
        ([150, 900, 160], [1], [2, 0]),
        ([20, 10, 20, 10, 10], [0, 2], [1, 3, 4]),
    ],
)
def test_longer_and_shorter_rows_attend_apart(lengths: list[int], longer: list[int], shorter: list[int]) -> None:
    assert longer_and_shorter(lengths) == (longer, shorter)


@given(LENGTHS)
def test_no_other_cut_in_two_has_fewer_places(lengths: list[int]) -> None:
    longer, shorter = longer_and_shorter(lengths)
    assert sorted([*longer, *shorter]) == list(range(len(lengths)))

    def places(*rows: list[int]) -> int:
        return sum(len(part) * max(part, default=0) for part in rows)

    descending = sorted(lengths, reverse=True)
    cuts = [places(descending[:cut], descending[cut:]) for cut in range(1, len(lengths) + 1)]
    assert places([lengths[row] for row in longer], [lengths[row] for row in shorter]) == min(cuts)


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_pasts_of_one_class_waste_less_than_half_of_each_others_room(one: int, other: int) -> None:
    if size_class(one) == size_class(other):
        assert max(one, other) < 2 * max(256, min(one, other))


@pytest.mark.parametrize(
    ("lengths", "cut"),
    [
        ([150] * 4, ([0, 1], [2, 3])),
        ([160, 300, 150, 155], ([2, 3], [0, 1])),
        ([160, 400, 150, 155], ([2, 3, 0], [1])),
        ([150, 160], ([0], [1])),
        ([150], None),
        ([900, 150], None),
        ([10, 12, 9], None),
    ],
)
def test_a_batch_is_cut_where_both_halves_are_about_as_long(
    lengths: list[int], cut: tuple[list[int], list[int]] | None
) -> None:
    assert halves(lengths) == cut


@given(LENGTHS)
def test_both_halves_together_are_the_batch(lengths: list[int]) -> None:
    cut = halves(lengths)
    if cut is not None:
        assert sorted([*cut[0], *cut[1]]) == list(range(len(lengths)))
        largest = max(sum(lengths[index] for index in half) for half in cut)
        assert LEAST_HALF <= largest <= MOST_OF_ALL * sum(lengths)
