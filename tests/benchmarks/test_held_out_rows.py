"""The held-out prompts of a comparison: each language its share, always the same ones, labels as in the pool."""

from __future__ import annotations

from collections import Counter

from benchmarks.held_out import parity_rows
from build_scripts.training_data import Row, Split


def rows(language: str, count: int, *, name: str = "row") -> tuple[Row, ...]:
    return tuple(
        Row(f"{name}-{language}-{n}", "source", language, f"prompt {n}", n % 2 == 0, None) for n in range(count)
    )


TRAIN = rows("en", 50, name="train")
SPLIT = Split(TRAIN, rows("en", 20) + rows("th", 3), rows("de", 9) + rows("en", 10, name="more"))


def test_languages_have_the_same_share_as_far_as_they_have_rows() -> None:
    found = parity_rows(SPLIT, 15)
    assert Counter(row.language for row in found) == {"en": 6, "de": 6, "th": 3}
    assert [row.language for row in found[:6]] == ["de", "en", "th", "de", "en", "th"]
    assert len({row.id for row in found}) == 15


def test_the_rows_are_always_the_same_and_fewer_are_the_first_of_more() -> None:
    first, again, fewer = ([row.id for row in parity_rows(SPLIT, count)] for count in (15, 15, 7))
    assert first == again
    assert fewer == first[:7]


def test_where_there_are_fewer_all_come_and_none_that_was_trained_on() -> None:
    found = parity_rows(SPLIT, 1000)
    assert {row.id for row in found} == {row.id for row in (*SPLIT.family, *SPLIT.random)}
    assert len(found) == 42


def test_a_row_is_what_the_pool_says_of_it() -> None:
    pool = {row.id: row for row in (*SPLIT.family, *SPLIT.random)}
    for row in parity_rows(SPLIT, 1000):
        asked = pool[row.id]
        assert (row.request.prompt, row.request.response) == (asked.prompt, None)
        assert (row.language, row.known) == (asked.language, (asked.unsafe, None))
        assert row.part.custom_policy is None
