"""The figures of a comparison: known numbers, and what has to hold of any two sides."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parity_stand_ins import failed, indeterminate, label, pairs, reading, row

from build_scripts.parity_bootstrap import bootstrap
from build_scripts.parity_figures import Figures, Pair, f1, groups_of, kl_of_margins, low_margin, reasons, sigmoid
from build_scripts.parity_reading import of_label

MARGINS = st.floats(-30, 30).map(lambda margin: float(np.float32(margin))).filter(lambda margin: abs(margin) > 1e-3)
BOTH = st.lists(st.tuples(MARGINS, MARGINS), min_size=1, max_size=40)


def test_figures_of_a_comparison_worked_out_by_hand() -> None:
    figures = Figures.of(pairs([2.0, -2.0, 0.5, -1.0], [1.0, -2.0, -0.5, -1.2]))
    assert (figures.rows, figures.compared, figures.choices) == (4, 4, 4)
    assert (figures.flips, figures.flip_share) == (1, 0.25)
    assert (figures.low_rows, figures.low_flips, figures.low_flip_share) == (1, 1, 1.0)
    assert figures.drift_mean == pytest.approx((1.0 + 0.0 + 1.0 + 0.2) / 4)
    assert figures.drift_max == 1.0
    assert figures.drift_share == pytest.approx(0.55 / np.std([2.0, -2.0, 0.5, -1.0]))
    shifts = [0.731059 - 0.880797, 0.0, 0.377541 - 0.622459, 0.231475 - 0.268941]
    assert figures.shift_mean == pytest.approx(np.mean(shifts), abs=1e-5)
    assert figures.shift_mean_abs == pytest.approx(np.mean(np.abs(shifts)), abs=1e-5)


def test_kl_is_the_textbook_sum_and_survives_margins_that_round_to_certainty() -> None:
    a, b = np.array([1.0, -3.0]), np.array([-0.5, 2.0])
    p, q = sigmoid(a), sigmoid(b)
    np.testing.assert_allclose(kl_of_margins(a, b), p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    # P_A(unsafe) is 1 in float64; what is left is log(P_A / P_B) = 50.
    np.testing.assert_allclose(kl_of_margins(np.array([900.0]), np.array([-50.0])), [50.0])


@given(BOTH)
def test_a_side_against_itself_moves_nothing(margins: list[tuple[float, float]]) -> None:
    a = [one for one, _ in margins]
    figures = Figures.of(pairs(a, a))
    moved = (figures.flips, figures.low_flips, figures.drift_max, figures.kl_max, figures.shift_mean_abs)
    assert moved == (0, 0, 0.0, 0.0, 0.0)


@given(BOTH)
def test_swapped_sides_mirror_what_is_signed_and_keep_what_is_not(margins: list[tuple[float, float]]) -> None:
    a, b = [one for one, _ in margins], [other for _, other in margins]
    there, back = Figures.of(pairs(a, b)), Figures.of(pairs(b, a))
    assert there.shift_mean == pytest.approx(-back.shift_mean, abs=1e-12)
    assert (there.flips, there.drift_max) == (back.flips, back.drift_max)
    assert there.drift_mean == pytest.approx(back.drift_mean)


@given(st.lists(MARGINS, min_size=1, max_size=40), st.data())
def test_an_injected_flip_is_found_and_counted_once(a: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(a) - 1))
    b = [-margin if index == place else margin for index, margin in enumerate(a)]
    figures = Figures.of(pairs(a, b))
    assert figures.flips == 1
    assert figures.drift_max == 2 * abs(a[place])
    hardest = {pair.row.id for pair in low_margin(pairs(a, b))}
    assert figures.low_flips == (1 if f"r{place}" in hardest else 0)


@given(BOTH)
def test_kl_is_never_negative_and_finite(margins: list[tuple[float, float]]) -> None:
    values = kl_of_margins(*np.array(margins).T)
    assert np.all(values >= 0)
    assert np.all(np.isfinite(values))


def test_the_low_tenth_is_rounded_up_and_goes_by_the_nearest_choice() -> None:
    rows = [Pair(row(str(index), response="Yes."), reading(5.0, 5.0), reading(5.0, 5.0)) for index in range(10)]
    near = Pair(row("near", response="Yes."), reading(9.0, -0.1), reading(9.0, -0.1))
    assert {pair.row.id for pair in low_margin([*rows, near])} == {"near", "0"}


def test_a_response_behind_another_user_label_is_a_flip_and_no_drift() -> None:
    asked = row(response="Yes.")
    apart = Figures.of([Pair(asked, reading(1.0, 8.0), reading(-1.0, -8.0))])
    assert (apart.flips, apart.choices, apart.drift_max) == (1, 1, 2.0)
    together = Figures.of([Pair(asked, reading(1.0, 8.0), reading(1.0, -8.0))])
    assert (together.flips, together.choices, together.drift_max) == (1, 2, 16.0)


def test_margins_are_cut_where_a_side_can_say_no_more() -> None:
    wide = Pair(row(), reading(30.0), reading(12.0), limit=12.0)
    assert Figures.of([wide]).drift_max == 0.0
    assert Figures.of([replace(wide, limit=math.inf)]).drift_max == 18.0


def test_rows_without_a_verdict_are_counted_apart_and_in_no_figure() -> None:
    rows = [
        Pair(row("a"), reading(1.0), failed()),
        Pair(row("b"), indeterminate(), reading(1.0)),
        Pair(row("c"), reading(1.0), reading(2.0)),
    ]
    figures = Figures.of(rows)
    assert (figures.errors_a, figures.errors_b, figures.indeterminate_a, figures.indeterminate_b) == (0, 1, 1, 0)
    assert (figures.compared, figures.flips, figures.drift_mean) == (1, 0, 1.0)
    assert reasons([pair.b for pair in rows]) == {"unavailable": 1}
    assert reasons([pair.a for pair in rows]) == {"there is no verdict": 1}


def test_a_margin_that_is_no_number_takes_the_verdict_with_it() -> None:
    assert not of_label(label(1.0), (math.nan,), ms=1.0).judged
    assert not of_label(label(1.0), (math.inf,), ms=1.0).judged
    assert not replace(reading(1.0), margins=()).judged


def test_nothing_compared_has_no_figures_at_all() -> None:
    figures = Figures.of([Pair(row(), failed(), failed())])
    numbers = (figures.flip_share, figures.drift_mean, figures.drift_share, figures.kl_mean, figures.f1_distance)
    assert all(map(math.isnan, numbers))


def test_categories_agree_as_lists_and_as_sets_where_a_side_says_unsafe() -> None:
    asked = row(mode="categories")

    def lists(*both: tuple[str, ...]) -> Pair:
        one, other = both
        return Pair(asked, reading(1.0, categories=one), reading(1.0, categories=other))

    safe = Pair(asked, reading(-1.0, categories=()), reading(-1.0, categories=()))
    found = Figures.of([lists(("A", "B"), ("A", "B")), lists(("A", "B"), ("B", "A")), lists(("A",), ("A", "C")), safe])
    assert (found.categories_asked, found.category_rows) == (4, 3)
    assert found.category_exact == pytest.approx(1 / 3)
    assert found.category_jaccard == pytest.approx((1 + 1 + 0.5) / 3)


def test_f1_is_of_both_choices_and_of_known_labels_only() -> None:
    rows = [
        Pair(row("a", response="Yes.", known=(True, False)), reading(1.0, -1.0), reading(1.0, 1.0)),
        Pair(row("b", known=(True, None)), reading(1.0), reading(-1.0)),
        Pair(row("c"), reading(1.0), reading(-1.0)),
    ]
    figures = Figures.of(rows)
    assert figures.labelled == 3
    assert (figures.f1_a, figures.f1_b) == (1.0, 0.5)
    assert (figures.f1_change, figures.f1_distance) == (-0.5, 0.5)
    assert math.isnan(f1([False], [False]))


def test_groups_are_the_whole_the_modes_the_languages_and_both_together() -> None:
    rows = [
        Pair(row("a", language="de"), reading(1.0), reading(1.0)),
        Pair(row("b", language="en", mode="categories"), reading(1.0), reading(1.0)),
    ]
    found = {key: [pair.row.id for pair in group] for key, group in groups_of(rows).items()}
    assert found == {
        ("all", "all"): ["a", "b"],
        ("mode", "categories"): ["b"],
        ("mode", "verdict"): ["a"],
        ("language", "de"): ["a"],
        ("language", "en"): ["b"],
        ("cell", "categories/en"): ["b"],
        ("cell", "verdict/de"): ["a"],
    }


def test_bootstrap_holds_the_figures_repeats_with_its_seed_and_covers_a_known_share() -> None:
    generator = np.random.default_rng(1)
    a = generator.normal(0, 3, 400)
    b = np.where(generator.random(400) < 0.1, -a, a + generator.normal(0, 0.1, 400))
    rows = pairs(list(a), list(b))
    whole = asdict(Figures.of(rows))
    drawn = bootstrap(rows, draws=600, seed=3)
    assert drawn == bootstrap(rows, draws=600, seed=3)
    assert set(drawn) == {"flip_share", "low_flip_share", "drift_mean", "drift_share"}
    assert all(one.low < whole[name] < one.high for name, one in drawn.items())
    # The normal approximation of a share: +-1.96 sqrt(p (1 - p) / n).
    share = whole["flip_share"]
    width = 2 * 1.96 * math.sqrt(share * (1 - share) / 400)
    assert drawn["flip_share"].high - drawn["flip_share"].low == pytest.approx(width, rel=0.2)


def test_bootstrap_of_equal_sides_is_zero_and_of_nothing_is_nothing() -> None:
    drawn = bootstrap(pairs([1.0, -2.0, 3.0], [1.0, -2.0, 3.0]), draws=50, seed=0)
    assert (drawn["flip_share"].high, drawn["drift_share"].high) == (0.0, 0.0)
    assert bootstrap([Pair(row(), failed(), failed())], draws=50, seed=0) == {}
