"""The splits hold whole families out, and are the same every time."""

from __future__ import annotations

import pytest

from build_scripts.training_data import CAPS, HELD_OUT_SOURCES, Row, split_pool


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    def row(source: str, number: int) -> Row:
        family = f"{source} {number // 20}" if source == "mhc_train" else None
        return Row(f"{source}:{number}", source, "en", f"text {number}", number % 2 == 0, family)

    return {source: [row(source, number) for number in range(600)] for source in CAPS}


def test_no_row_is_in_two_parts_and_no_source_exceeds_its_cap(rows: dict[str, list[Row]]) -> None:
    split = split_pool(rows, seed=1)
    ids = [row.id for part in (split.train, split.family, split.random) for row in part]
    assert len(ids) == len(set(ids))
    assert all(sum(id.startswith(f"{source}:") for id in ids) == min(600, cap) for source, cap in CAPS.items())


def test_held_out_sources_and_families_are_never_trained_on(rows: dict[str, list[Row]]) -> None:
    split = split_pool(rows, seed=1)
    trained = split.train + split.random
    assert not HELD_OUT_SOURCES & {row.source for row in trained}
    held_out = {row.family for row in split.family if row.family}
    assert held_out
    assert not held_out & {row.family for row in trained}


def test_the_split_is_the_same_every_time_and_another_seed_gives_another(rows: dict[str, list[Row]]) -> None:
    assert split_pool(rows, seed=1) == split_pool(rows, seed=1) != split_pool(rows, seed=2)
