"""The operator's switches: refused where they can't be meant, and the same on the other side of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonguard import GuardRequest, InvalidRequest, Policy

from serving.adapter import (
    CALLER_POLICIES_VARIABLE,
    FLOOR_VARIABLE,
    POLICIES_VARIABLE,
    policy_store,
)
from serving.policy_switches import PoliciesRefused, PolicySwitches

SHIPPED = Path(__file__).parents[2] / "policies"
LAX = GuardRequest(prompt="x", policy=Policy.from_yaml("thresholds: {user: 1.0}"))


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (POLICIES_VARIABLE, FLOOR_VARIABLE, CALLER_POLICIES_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


def handed_over(switches: PolicySwitches, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in switches.environment().items():
        monkeypatch.setenv(variable, value)


@pytest.fixture
def floor(tmp_path: Path) -> Path:
    file = tmp_path / "floor.yaml"
    file.write_text("name: floor\nthresholds: {user: 0.4}\n", encoding="utf-8")
    return file


def test_a_server_that_nobody_set_up_takes_nothing_from_callers() -> None:
    store = policy_store()
    assert store.names == ("built-in",)
    assert store.resolve(GuardRequest(prompt="x")).policy == Policy()
    with pytest.raises(InvalidRequest):
        store.resolve(LAX)


def test_the_launchers_own_defaults_let_callers_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    handed_over(PolicySwitches(), monkeypatch)
    (part,) = policy_store().resolve(LAX).parts
    assert part.policy is LAX.policy


def test_the_switches_arrive_as_they_were_set(monkeypatch: pytest.MonkeyPatch, floor: Path) -> None:
    monkeypatch.chdir(floor.parent)
    handed_over(PolicySwitches(SHIPPED, "floor.yaml", False), monkeypatch)
    monkeypatch.chdir("/")
    store = policy_store()
    assert {"kids-education", "finance"} < set(store.names)
    parts = store.resolve(GuardRequest(prompt="x", policy_name="finance")).parts
    assert [part.name for part in parts] == ["custom", "floor"]
    assert parts[1].policy == Policy.from_yaml(floor)
    with pytest.raises(InvalidRequest):
        store.resolve(LAX)


def test_the_builtin_floor_needs_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    handed_over(PolicySwitches(floor="built-in"), monkeypatch)
    (part,) = policy_store().resolve(LAX).parts
    assert (part.name, part.policy) == ("floor", Policy())


def test_nothing_is_inherited_from_the_shell() -> None:
    assert PolicySwitches().environment() == {
        POLICIES_VARIABLE: "",
        FLOOR_VARIABLE: "",
        CALLER_POLICIES_VARIABLE: "1",
    }


@pytest.mark.parametrize("value", ["off", "true", " 1", "2"])
def test_a_mistyped_switch_is_neither_on_nor_off(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(CALLER_POLICIES_VARIABLE, value)
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        policy_store()


def test_a_problem_of_a_file_reaches_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("nonsense", encoding="utf-8")
    handed_over(PolicySwitches(tmp_path), monkeypatch)
    told: list[str] = []
    policy_store(lambda file, message: told.append(file))
    assert told == ["bad.yaml"]


def test_the_shipped_policies_are_served() -> None:
    PolicySwitches(SHIPPED, "built-in", False).refuse_broken()


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("name: good\n", encoding="utf-8")
    (tmp_path / "bad.yaml").write_text("name: bad\nthresold: 1\n", encoding="utf-8")
    with pytest.raises(PoliciesRefused, match=r"bad\.yaml: .*'policy.thresold', line 2") as refused:
        PolicySwitches(tmp_path).refuse_broken()
    assert "good.yaml" not in str(refused.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PoliciesRefused, match="cannot be read"):
        PolicySwitches(tmp_path / "absent").refuse_broken()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "cannot be read: No such file"),
        ("nonsense", "not a mapping"),
        ("custom_policy: Be kind.", "not a policy on the built-in taxonomy"),
        ("suppress: [S1]", "not a policy on the built-in taxonomy"),
    ],
)
def test_a_floor_that_is_none_is_refused(tmp_path: Path, text: str | None, part: str) -> None:
    file = tmp_path / "floor.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(PoliciesRefused, match=part):
        PolicySwitches(floor=str(file)).refuse_broken()
