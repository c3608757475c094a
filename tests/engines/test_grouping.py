"""Which rows share a pass: near in length, within its tokens, and the first is never passed over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.local.grouping import LEAST_HALF, MOST_OF_ALL, OVERHEAD, halves, nearest, size_class


@pytest.mark.parametrize(
    ("lengths", "chosen"),
    [
        ([150], [0]),
        ([150, 150, 150], [0, 1, 2]),
        ([150, 900, 160, 155], [0, 2, 3]),
        ([900, 150, 890, 160], [0, 2]),
        ([900, 150, 860, 160], [0]),
        ([5000, 150, 160], [0]),
        ([150] * 12, list(range(8))),
        ([400] * 12, list(range(5))),
        ([150, 152, 170, 230], [0, 1]),
        ([150, 152, 155, 230], [0, 1, 2]),
        ([150, 152, 250], [0, 1]),
        ([250, 150, 152], [0]),
        ([10, 30, 30], [0, 1, 2]),
    ],
)
def test_the_first_goes_with_those_nearest_in_length(lengths: list[int], chosen: list[int]) -> None:
    assert nearest(lengths, most_rows=8, most_tokens=2048) == chosen


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20), st.integers(1, 9), st.integers(1, 4000))
def test_a_pass_keeps_its_limits_whatever_waits(lengths: list[int], most_rows: int, most_tokens: int) -> None:
    chosen = nearest(lengths, most_rows=most_rows, most_tokens=most_tokens)
    assert chosen[0] == 0
    assert len(set(chosen)) == len(chosen) <= max(1, most_rows)
    padded = len(chosen) * max(lengths[index] for index in chosen)
    assert len(chosen) == 1 or padded <= most_tokens
    # Nobody would be cheaper alone, the first among them.
    own = sum(lengths[index] for index in chosen)
    assert (OVERHEAD + padded) / own <= (OVERHEAD + lengths[0]) / lengths[0]


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_pasts_of_one_class_waste_less_than_half_of_each_others_room(one: int, other: int) -> None:
    if size_class(one) == size_class(other):
        assert max(one, other) < 2 * max(256, min(one, other))


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        ([150] * 4, ([0, 1], [2, 3])),
        ([160, 300, 150, 155], ([2, 3, 0], [1])),
        ([150, 160], ([0], [1])),
        ([150], None),
        ([900, 150], None),
        ([10, 12, 9], None),
    ],
)
def test_a_batch_is_cut_where_both_halves_are_about_as_long(
    lengths: list[int], parts: tuple[list[int], list[int]] | None
) -> None:
    assert halves(lengths) == parts


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=12))
def test_both_halves_together_are_the_batch(lengths: list[int]) -> None:
    parts = halves(lengths)
    if parts is not None:
        assert sorted([*parts[0], *parts[1]]) == list(range(len(lengths)))
        largest = max(len(part) * max(lengths[index] for index in part) for part in parts)
        assert LEAST_HALF <= largest <= MOST_OF_ALL * sum(lengths)
