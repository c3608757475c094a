"""The thresholds: what passes, what is refused and named, and a file that can't be misread."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parity_stand_ins import SaidSide, failed, indeterminate, pairs, reading, row

from build_scripts.parity import compare
from build_scripts.parity_corpus import Row
from build_scripts.parity_figures import Figures
from build_scripts.parity_gate import Limit, Profile, ThresholdsError, judge, load_profile, passed
from build_scripts.parity_plot import FLIPPED, KEPT, plot
from build_scripts.parity_reading import Reading, SideError
from build_scripts.parity_report import Report, to_json, to_markdown

LOOSE = Profile("loose", 1, 1, {"all": (Limit("flip_share", most=0.0),)})
STRICT = Profile("strict", 1, 1, {"all": (Limit("flip_share", most=0.0), Limit("drift_share", most=0.0))})


def rows(count: int) -> list[Row]:
    return [row(f"r{index}", language="de" if index % 2 else "en") for index in range(count)]


def side(readings: Sequence[Reading]) -> SaidSide:
    return SaidSide({f"r{index}": one for index, one in enumerate(readings)})


def judged(a: Sequence[Reading], b: Sequence[Reading], profile: Profile = LOOSE) -> Report:
    return compare(side(a), side(b), rows(len(a)), profile)


def test_equal_sides_pass_and_a_single_flip_is_refused_by_its_name() -> None:
    a = [reading(float(index) - 4.5) for index in range(10)]
    assert judged(a, a, STRICT).passed
    report = judged(a, [reading(4.5), *a[1:]])
    assert not report.passed
    assert report.refusals == ["MISSED: all: flip_share 0.1 (at most 0)"]


@pytest.mark.parametrize("broken", [failed(), indeterminate()])
def test_a_row_without_a_verdict_on_either_side_is_never_a_pass(broken: Reading) -> None:
    whole = [reading(1.0), reading(-1.0), reading(2.0)]
    for a, b in ((whole, [*whole[:2], broken]), ([*whole[:2], broken], whole), ([*whole[:2], broken],) * 2):
        report = judged(a, b)
        assert not report.passed
        assert any("errors_" in line or "indeterminate_" in line for line in report.refusals)


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=False, allow_infinity=False))
def test_not_a_number_meets_no_limit(value: float, bound: float) -> None:
    assert not Limit("x", most=bound).met(math.nan)
    assert not Limit("x", least=bound).met(math.nan)
    assert Limit("x", most=bound).met(value) == (not math.isnan(value) and value <= bound)


def test_margins_that_never_differ_have_no_scale_and_do_not_pass() -> None:
    same = [reading(1.0)] * 5
    report = judged(same, same, STRICT)
    assert report.refusals == ["MISSED: all: drift_share not a number (at most 0)"]


def test_too_few_rows_are_no_proof_and_small_groups_are_shown_and_not_judged() -> None:
    a = [reading(1.0), reading(-1.0), reading(2.0)]
    assert not judged(a, a, replace(LOOSE, least_rows=4)).passed
    grouped = replace(LOOSE, least_group_rows=2, limits={"language": (Limit("flip_share", most=0.0),)})
    findings = {str(one) for one in judged(a, a, grouped).findings}
    assert "not judged: language de: compared 1 (fewer than 2 rows)" in findings
    assert "met: language en: flip_share 0 (at most 0)" in findings


def test_what_a_corpus_does_not_ask_is_not_judged_and_what_it_asks_in_vain_is_missed() -> None:
    limits = {"all": (Limit("f1_distance", most=0.1), Limit("category_exact", least=0.9))}
    profile = replace(LOOSE, limits=limits)
    figures = Figures.of(pairs([1.0, -1.0], [1.0, -1.0]))
    assert passed(judge(profile, {("all", "all"): figures}))
    asked = replace(figures, labelled=2, categories_asked=2)
    missed = [one.figure for one in judge(profile, {("all", "all"): asked}) if one.met is False]
    assert missed == ["f1_distance", "category_exact"]


def test_no_finding_is_no_pass() -> None:
    assert not passed([])


@pytest.mark.parametrize("name", ["default", "smoke"])
def test_the_shipped_profiles_can_be_read_and_hold_the_bars(name: str) -> None:
    profile = load_profile(name)
    assert {"flip_share", "low_flip_share", "drift_share"} <= {limit.figure for limit in profile.limits["all"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles: {p: {least_rows: 1, least_group_rows: 1, all: {flips: {mots: 1}}}}", "least, most or both"),
        ("profiles: {p: {least_rows: 1, least_group_rows: 1, all: {flipz: {most: 1}}}}", "is no figure"),
        ("profiles: {p: {least_rows: 1, least_group_rows: 1, all: {flips: {most: .nan}}}}", "are numbers"),
        ("profiles: {p: {least_rows: 1, least_group_rows: 1, all: {flips: {most: true}}}}", "are numbers"),
        ("profiles: {p: {least_rows: 0, least_group_rows: 1, all: {flips: {most: 1}}}}", "whole numbers"),
        ("profiles: {p: {least_rows: 1, least_group_rows: 1}}", "needs"),
        ("profiles: {p: {least_rows: 1, least_group_rows: 1, all: {flips: {most: 1}}, everyone: {}}}", "needs"),
        ("profiles: {q: {}}", "has no profile 'p'"),
        ("profiles: {p: 1}\nmore: 1", "one key"),
        ("profiles: [", "can't be read"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ThresholdsError, match=message):
        load_profile("p", path)


def test_other_prompts_and_other_taxonomies_are_refused_with_the_reason_and_not_compared() -> None:
    a = side([reading(1.0)])
    other = {
        "policy prefix": replace(a, ids=((1, 9, 3, 4), 2)),
        "prompt: the token ids": replace(a, ids=((1, 2, 3, 9), 2)),
        "taxonomy": replace(a, taxonomy="u"),
        "prompt: row r0 has": SaidSide({"r0": replace(reading(1.0), prompt_tokens=5)}, ids=None),
    }
    counted = SaidSide({"r0": replace(reading(1.0), prompt_tokens=4)}, ids=((1, 2, 3, 4), 2))
    for reason, b in other.items():
        report = compare(counted, b, rows(1), LOOSE)
        assert not report.passed
        assert reason in report.refusals[0]
        assert report.groups == {}
        assert "REFUSED" in to_markdown(report)
    assert compare(counted, replace(a, ids=None), rows(1), LOOSE).passed


def test_a_side_that_answers_nothing_is_an_error_and_no_disagreement() -> None:
    with pytest.raises(SideError, match="unavailable"):
        judged([reading(1.0)] * 3, [failed()] * 3)


def test_blocks_take_turns_and_hold_one_kind_of_row_each() -> None:
    asked = [row(f"r{index}", mode="categories" if index % 2 else "verdict") for index in range(6)]
    order: list[tuple[str, str]] = []

    class Noting(SaidSide):
        def read(self, rows: Sequence[Row]) -> list[Reading]:
            order.append((self.name, ",".join(one.id for one in rows)))
            return super().read(rows)

    readings = {one.id: reading(1.0) for one in asked}
    compare(Noting(readings, name="a"), Noting(readings, name="b"), asked, LOOSE, batch=2)
    warm_ups, measured = order[:4], order[4:]
    assert warm_ups == [("a", "r0,r2"), ("a", "r1,r3"), ("b", "r0,r2"), ("b", "r1,r3")]
    assert measured == [
        *[("a", "r0,r2"), ("b", "r0,r2")],
        *[("b", "r4"), ("a", "r4")],
        *[("a", "r1,r3"), ("b", "r1,r3")],
        *[("b", "r5"), ("a", "r5")],
    ]


def test_the_report_is_json_without_nan_and_names_the_flipped_rows_but_quotes_no_text() -> None:
    a = [reading(2.0), reading(-1.0), reading(0.5)]
    report = compare(side(a), side([reading(-2.0), *a[1:]]), rows(3), LOOSE, draws=20, corpus="c.jsonl")
    values = json.loads(to_json(report), parse_constant=lambda name: pytest.fail(name))
    assert (values["passed"], values["groups"][0]["flips"], values["groups"][0]["f1_a"]) == (False, 1, None)
    assert values["flipped"] == [
        {
            "id": "r0",
            "mode": "verdict",
            "language": "en",
            "low_margin": False,
            "margins_a": [2.0],
            "margins_b": [-2.0],
        }
    ]
    text = to_markdown(report)
    assert "| r0 | verdict | en |" in text
    assert "Is it late?" not in text + to_json(report)


def test_the_plot_is_whole_xml_with_a_point_a_choice_and_the_flips_marked() -> None:
    drawn = plot(pairs([2.0, -1.0, 0.5], [-2.0, -1.0, 0.4]), a="<one>", b="other")
    circles = [one for one in ElementTree.fromstring(drawn).iter() if one.tag.endswith("circle")]
    assert sorted(one.attrib["fill"] for one in circles) == sorted([FLIPPED, KEPT, KEPT])
    assert all(0 <= float(one.attrib[axis]) <= 520 for one in circles for axis in ("cx", "cy"))
    # Equal margins lie on the diagonal, whatever they are.
    kept = next(one for one in circles if one.attrib["fill"] == KEPT)
    assert float(kept.attrib["cx"]) + float(kept.attrib["cy"]) == pytest.approx(520, abs=0.2)
    ElementTree.fromstring(plot([], a="one", b="other"))
