"""Figures of small cases that can be counted by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tritonguard import Label, Safety

from benchmarks.report import Bar, markdown, write_json
from benchmarks.scores import CategoryFigures, Figures, PairFigures, ThinkFigures, p_unsafe, reasons

NAN = float("nan")
GARBAGE = Label.indeterminate("garbage", has_response=False)


def label(p: float, **values: object) -> Label:
    return Label(user_safety=Safety.UNSAFE if p >= 0.5 else Safety.SAFE, p_unsafe_user=p, **values)


def thought(p: float, *, truncated: bool = False, contradicts: bool = False) -> Label:
    return label(
        p,
        reasoning="so",
        reasoning_source="synthetic",
        reasoning_truncated=truncated,
        reasoning_contradicts=contradicts,
    )


def test_f1_recall_and_fpr_are_of_the_unsafe_class() -> None:
    # 3 unsafe: two found; 2 safe: one flagged. TP 2, FN 1, FP 1, TN 1.
    figures = Figures.of([0.9, 0.5, 0.1, 0.7, 0.2], [True, True, True, False, False])
    assert (figures.rows, figures.unsafe, figures.indeterminate) == (5, 3, 0)
    assert figures.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert figures.recall == pytest.approx(2 / 3)
    assert figures.fpr == pytest.approx(1 / 2)
    # Of the 6 (unsafe, safe) pairs, 0.9 beats both, 0.5 and 0.1 beat 0.2 and none.
    assert figures.auc == pytest.approx(3 / 6)


def test_an_indeterminate_row_counts_as_flagged_and_is_counted() -> None:
    figures = Figures.of([NAN, NAN, 0.1], [True, False, False])
    assert (figures.indeterminate, figures.recall, figures.fpr) == (2, 1.0, 0.5)


def test_a_set_of_one_class_has_no_figure_that_needs_the_other() -> None:
    figures = Figures.of([0.9, 0.1], [False, False])
    assert figures.fpr == 0.5
    assert math.isnan(figures.auc)
    assert math.isnan(figures.recall)
    assert math.isnan(figures.f1)
    assert Figures.of([0.1, 0.2], [True, True]).f1 == 0.0


def test_the_probability_is_of_the_side_that_is_asked_for() -> None:
    pair = Label(user_safety=Safety.SAFE, p_unsafe_user=0.25, response_safety=Safety.UNSAFE, p_unsafe_response=0.75)
    assert p_unsafe([pair], "user").tolist() == [0.25]
    assert p_unsafe([pair], "response").tolist() == [0.75]
    assert math.isnan(p_unsafe([GARBAGE], "user")[0])


def test_category_figures_count_names_over_all_rows() -> None:
    labels = [
        label(0.9, categories=("Violence", "Threat")),  # one hit, one false name, one missed
        label(0.9, categories=("Malware",)),  # exact
        label(0.1, categories=()),  # judged safe: its two names are missed
        label(0.9, categories=("Threat", "Violence")),  # exact: order does not matter
        label(0.9, categories=("Threat", "Violence")),  # the first is not known, the second is
    ]
    known = [("Violence", "Harassment"), ("Malware",), ("Sexual", "Profanity"), ("Violence", "Threat"), ("Violence",)]
    figures = CategoryFigures.of(labels, known)
    assert (figures.rows, figures.not_flagged) == (5, 1)
    assert figures.precision == pytest.approx(5 / 7)
    assert figures.recall == pytest.approx(5 / 8)
    assert figures.micro_f1 == pytest.approx(2 * 5 / (7 + 8))
    assert figures.exact == pytest.approx(2 / 5)
    assert figures.top1 == pytest.approx(3 / 5)


def test_a_row_without_a_verdict_misses_its_categories() -> None:
    figures = CategoryFigures.of([GARBAGE, label(0.9, categories=("Malware",))], [("Malware",), ("Malware",)])
    assert (figures.not_flagged, figures.recall, figures.precision) == (1, 0.5, 1.0)


def test_a_pair_flips_only_where_both_labels_are_right() -> None:
    pairs = [
        (label(0.9), label(0.1)),  # right
        (label(0.9), label(0.9)),  # always unsafe
        (label(0.1), label(0.1)),  # always safe
        (label(0.1), label(0.9)),  # the wrong way round
        (label(0.9), GARBAGE),  # no verdict is never right
    ]
    figures = PairFigures.of(pairs)
    assert figures.accuracy == pytest.approx(5 / 10)
    assert figures.unsafe_right == pytest.approx(3 / 5)
    assert figures.safe_right == pytest.approx(2 / 5)
    assert figures.flips == pytest.approx(1 / 5)
    assert (figures.pairs, figures.indeterminate) == (5, 1)


def test_thinking_is_counted_by_verdict_truncation_contradiction_and_agreement() -> None:
    slow = [thought(0.9), thought(0.1, truncated=True), thought(0.9, contradicts=True), GARBAGE]
    fast = [label(0.8), label(0.2), label(0.2), label(0.9)]
    figures = ThinkFigures.of(slow, fast, [3, 8, 9, 0], budget=8)
    assert (figures.rows, figures.verdicts, figures.truncated, figures.contradictions) == (4, 3, 1, 1)
    assert figures.contradicting == pytest.approx(1 / 4)
    assert figures.agreement == pytest.approx(2 / 3)
    assert (figures.over_budget, figures.most_tokens, figures.median_tokens) == (1, 9, 5.5)


def test_reasons_are_counted() -> None:
    assert reasons([GARBAGE, label(0.9), GARBAGE]) == {"garbage": 2}


def test_a_bar_is_met_at_its_very_value_and_never_by_nan() -> None:
    assert Bar("F1", 0.7, least=0.7).met
    assert not Bar("F1", 0.699, least=0.7).met
    assert Bar("share", 0.02, most=0.02).met
    assert not Bar("share", 0.021, most=0.02).met
    assert not Bar("F1", NAN, least=0.0).met
    assert not Bar("share", NAN, most=1.0).met


def test_a_missed_bar_says_so() -> None:
    assert str(Bar("F1", 0.5, least=0.7)) == "MISSED: F1 0.500 (at least 0.7)"
    assert str(Bar("rows lost", 0, most=0)) == "met: rows lost 0 (at most 0)"


def test_a_table_is_markdown() -> None:
    assert markdown(("set", "F1"), [("a|b", 0.12345), ("c", NAN)]).splitlines() == [
        "| set | F1 |",
        "| --- | ---: |",
        "| a\\|b | 0.123 |",
        "| c | - |",
    ]


def test_json_holds_null_for_a_figure_that_is_not_there(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", {"a": Figures.of([0.9], [True]), "bars": [Bar("x", 1, most=2)]})
    read = json.loads((tmp_path / "out.json").read_text())
    assert (read["a"]["f1"], read["a"]["auc"]) == (1.0, None)
    assert read["bars"] == [{"name": "x", "value": 1, "least": None, "most": 2}]
