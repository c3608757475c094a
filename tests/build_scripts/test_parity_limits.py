"""Limits from the reports of recalibrations: the rule, the ceilings, and reports that no limit can be set from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from parity_stand_ins import indeterminate, pairs, reading, row

from build_scripts import parity_limits
from build_scripts.parity_figures import Figures, Pair, groups_of
from build_scripts.parity_gate import Profile, judge, load_profile, passed
from build_scripts.parity_limits import (
    PASS,
    REFUSED,
    USAGE,
    CeilingError,
    LimitsError,
    Recalibration,
    headroom,
    limits_of,
    to_yaml,
)
from build_scripts.parity_report import Report, to_json

A = [-2.0, -1.0, 1.0, 2.0]
SIDE = {"kind": "bundle", "target": "openvino", "model_revision": "m"}
DRIFTS = (0.01, 0.02, 0.03, 0.02, 0.01)


def report(found: Sequence[Pair], revision: str, **changes: Any) -> Report:
    """Of bundle `revision` against the reference "r"."""
    values = {
        "sides": ({**SIDE, "bundle_revision": "r"}, {**SIDE, "precision": "int8-sq", "bundle_revision": revision}),
        "corpus": {"name": "c.jsonl", "sha256": "c", "rows": len(found)},
        "profile": Profile("any", 1, 1, {}),
        "batch": 1,
        "groups": {key: Figures.of(group) for key, group in groups_of(found).items()},
        "intervals": {},
        "findings": (),
        "incomparable": None,
    }
    return Report(**{**values, **changes})


def parsed(found: Sequence[Pair], revision: str, **changes: Any) -> Recalibration:
    return Recalibration.parse(to_json(report(found, revision, **changes)), f"{revision}.json")


def moved(drift: float) -> list[Pair]:
    return pairs(A, [margin + drift for margin in A])


def drifted() -> list[Recalibration]:
    return [parsed(moved(drift), f"b{index}") for index, drift in enumerate(DRIFTS)]


def most(profile: Profile, figure: str, scope: str = "all") -> float:
    return next(limit.most for limit in profile.limits[scope] if limit.figure == figure)


def least(profile: Profile, figure: str) -> float:
    return next(limit.least for limit in profile.limits["all"] if limit.figure == figure)


def test_the_looser_of_three_deviations_and_a_quarter_more_than_the_worst() -> None:
    assert headroom([1.0, 2.0, 3.0]) == pytest.approx(2.0 + 3 * 1.0)
    assert headroom([2.0, 2.0, 2.0]) == pytest.approx(2.5)
    assert headroom([0.1, 0.1], unit=0.25) == pytest.approx(0.35)


def test_limits_are_rounded_up_and_let_the_recalibrations_pass() -> None:
    reports = drifted()
    profile = limits_of(reports, "p")
    shares = [one.whole.drift_share for one in reports]
    assert headroom(shares) <= most(profile, "drift_share") <= headroom(shares) * 1.01
    assert f"{most(profile, 'drift_share'):.3g}" == str(most(profile, "drift_share"))
    assert (profile.least_rows, profile.provisional) == (4, False)
    for one in reports:
        assert passed(judge(profile, one.groups))
    worse = {key: Figures.of(found) for key, found in groups_of(moved(0.06)).items()}
    assert [str(one) for one in judge(profile, worse) if one.met is False]


def test_a_share_of_rows_has_room_for_one_more_row_than_the_worst() -> None:
    none = limits_of(drifted(), "p")
    assert (most(none, "flip_share"), most(none, "low_flip_share")) == (0.25, 1.0)
    flipped = [parsed(pairs(A, [-2.0, -1.0, -0.1, 2.0 + index / 10]), f"b{index}") for index in range(5)]
    assert most(limits_of(flipped, "p"), "flip_share") == 0.5


def test_the_row_more_is_one_of_the_smallest_corpus_that_may_be_judged() -> None:
    fewer = limits_of(drifted(), "p", least_rows=2)
    assert (fewer.least_rows, most(fewer, "flip_share")) == (2, 0.5)
    grouped = limits_of(drifted(), "p", least_rows=2, least_group_rows=1)
    assert {most(grouped, "flip_share", scope) for scope in ("mode", "language")} == {1.0}
    assert most(limits_of(drifted(), "p", least_group_rows=4), "flip_share", "mode") == 0.25


def test_what_the_corpus_does_not_ask_gets_no_limit() -> None:
    figures = {limit.figure for limit in limits_of(drifted(), "p").limits["all"]}
    assert figures == {"flip_share", "low_flip_share", "drift_share", "kl_mean", "shift_mean_abs"}


def listed(moves: float, *, other: int) -> list[Pair]:
    """Ten rows with a category list, `other` of them with another one in B."""
    rows = [row(f"r{index}", mode="categories", known=(True, None)) for index in range(10)]
    return [
        Pair(
            one,
            reading(1.0 + index, categories=("S1",)),
            reading(1.0 + index + moves, categories=("S2",) if index < other else ("S1",)),
        )
        for index, one in enumerate(rows)
    ]


def test_lists_and_labels_get_their_limits_where_they_are_asked_for() -> None:
    reports = [parsed(listed(0.01 * index, other=1), f"b{index}") for index in range(5)]
    profile = limits_of(reports, "p")
    assert least(profile, "category_exact") == pytest.approx(0.8)
    assert least(profile, "category_jaccard") == pytest.approx(0.8)
    assert most(profile, "f1_distance") == pytest.approx(0.1)
    assert least(limits_of(reports, "p", ceilings={"category_exact": 0.85}), "category_exact") == pytest.approx(0.85)
    with pytest.raises(CeilingError, match=r"category_exact: an honest recalibration has 0\.9, the ceiling is 0\.95"):
        limits_of(reports, "p", ceilings={"category_exact": 0.95})


def test_a_mode_or_language_is_limited_where_it_has_enough_rows() -> None:
    def of(drift: float) -> list[Pair]:
        many = [Pair(row(f"en{i}"), reading(m), reading(m + drift)) for i, m in enumerate(A)]
        few = [
            Pair(row(f"de{i}", language="de", mode="categories"), reading(m), reading(m + 9)) for i, m in enumerate(A)
        ]
        return many + few[:2]

    reports = [parsed(of(drift), f"b{index}") for index, drift in enumerate(DRIFTS)]
    profile = limits_of(reports, "p", least_group_rows=4)
    apart = [one.groups["mode", "verdict"].drift_share for one in reports]
    assert most(profile, "drift_share", "mode") == pytest.approx(headroom(apart), rel=0.01)
    assert [limit.figure for limit in profile.limits["language"]] == ["flip_share"]
    assert set(limits_of(reports, "p", least_group_rows=5).limits) == {"all"}


def test_a_ceiling_holds_a_limit_and_is_never_loosened() -> None:
    reports = drifted()
    worst = max(one.whole.drift_share for one in reports)
    assert most(limits_of(reports, "p", ceilings={"drift_share": worst}), "drift_share") == worst
    assert most(limits_of(reports, "p", ceilings={"drift_share": 0.9}), "drift_share") < 0.9
    with pytest.raises(CeilingError, match="drift_share: an honest recalibration has"):
        limits_of(reports, "p", ceilings={"drift_share": worst * 0.999})


@pytest.mark.parametrize("ceilings", [{"drift": 0.1}, {"f1_distance": 0.1}, {"drift_share": float("nan")}])
def test_a_ceiling_that_holds_nothing_is_an_error(ceilings: dict[str, float]) -> None:
    with pytest.raises(LimitsError, match="a ceiling"):
        limits_of(drifted(), "p", ceilings=ceilings)


def test_what_is_printed_is_a_profile_that_the_gate_reads(tmp_path: Path) -> None:
    reports = drifted()
    profile = limits_of(reports, "mine")
    path = tmp_path / "t.yaml"
    path.write_text(to_yaml(profile, reports))
    assert load_profile("mine", path) == profile
    head = path.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in head)
    assert "5 recalibrations" in head[0]
    assert ("c, 4 rows" in head[1], head[2].endswith(" r"), "1.25 x worst" in head[3]) == (True, True, True)


A_OF = {**SIDE, "bundle_revision": "r"}
B_OF = {**SIDE, "precision": "int8-sq", "bundle_revision": "b4"}


@pytest.mark.parametrize(
    ("found", "changes", "message"),
    [
        (moved(0.1), {"corpus": {"sha256": "other"}}, "b4.json has another corpus"),
        (moved(0.1)[:3], {}, "another number of rows"),
        (moved(0.1), {"sides": ({**A_OF, "bundle_revision": "s"}, B_OF)}, "another reference"),
        (moved(0.1), {"sides": (A_OF, {**B_OF, "precision": "int8-dynamic"})}, "another precision of B"),
        (moved(0.1), {"sides": (A_OF, {**B_OF, "model_revision": "n"})}, "another model_revision of B"),
        (
            moved(0.1),
            {"sides": (A_OF, {**B_OF, "bundle_revision": "b1"})},
            "b4.json and b1.json are of the same bundle",
        ),
        (moved(0.1), {"sides": (A_OF, {**B_OF, "bundle_revision": "r"})}, "the reference with itself"),
        (moved(0.1), {"sides": (A_OF, {**B_OF, "bundle_revision": None})}, "without a bundle_revision"),
        (moved(0.1), {"groups": {}, "incomparable": "policy prefix: no"}, "not be compared: policy prefix: no"),
        (moved(0.1), {"corpus": {"sha256": None}}, "does not say which corpus"),
        ([*moved(0.1)[:3], Pair(row("r3"), reading(2.0), indeterminate())], {}, "indeterminate_b is 1"),
    ],
)
def test_reports_that_are_no_recalibrations_of_one_bundle_are_refused(
    found: list[Pair], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LimitsError, match=message):
        limits_of([*drifted()[:4], parsed(found, "b4", **changes)], "p")


def test_fewer_than_five_and_what_is_not_a_number_are_refused() -> None:
    with pytest.raises(LimitsError, match="4 report"):
        limits_of(drifted()[:4], "p")
    same = [parsed(pairs([1.0, 1.0], [1.1, 1.1]), f"b{index}") for index in range(5)]
    with pytest.raises(LimitsError, match="drift_share is not a number"):
        limits_of(same, "p")


GOOD = json.loads(to_json(report(moved(0.1), "b0")))


@pytest.mark.parametrize(
    "text",
    [
        "secret",
        "[]",
        "{}",
        '"secret"',
        "[" * 5000,
        json.dumps({**GOOD, "format": "secret"}),
        json.dumps({**GOOD, "a": "secret"}),
        json.dumps({**GOOD, "groups": [{**GOOD["groups"][0], "flip_share": "secret"}]}),
        json.dumps({**GOOD, "groups": [{**GOOD["groups"][0], "rows": None}]}),
        json.dumps({**GOOD, "groups": [{"scope": "all", "name": "all"}]}),
        json.dumps({**GOOD, "groups": GOOD["groups"][1:]}),
    ],
)
def test_a_file_that_is_no_report_is_wrong_usage_and_is_not_quoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert parity_limits.main([*[str(path)] * 5, "--name", "p"]) == USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "x.json" in printed.err
    assert "secret" not in printed.err


def test_the_command_prints_a_profile_or_says_which_ceiling_is_passed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for index, drift in enumerate(DRIFTS):
        paths.append(tmp_path / f"{index}.json")
        paths[-1].write_text(to_json(report(moved(drift), f"b{index}")))
    arguments = [*map(str, paths), "--name", "p"]
    assert parity_limits.main([*arguments, "--ceiling", "drift_share=0.5"]) == PASS
    (tmp_path / "t.yaml").write_text(capsys.readouterr().out)
    assert most(load_profile("p", tmp_path / "t.yaml"), "drift_share") < 0.5
    assert parity_limits.main([*arguments, "--ceiling", "drift_share=0.001"]) == REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "drift_share" in printed.err
    assert parity_limits.main([str(tmp_path / "none.json"), "--name", "p"]) == USAGE
    for wrong in (["--ceiling", "drift_share"], ["--least-group-rows", "0"]):
        with pytest.raises(SystemExit):
            parity_limits.main([*arguments, *wrong])
