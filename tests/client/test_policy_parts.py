"""What the model is asked under a policy, and whose thresholds count."""

from __future__ import annotations

import pytest
from contract_strategies import PROBABILITY, policies
from hypothesis import given
from hypothesis import strategies as st
from tritonguard import CATEGORIES, CustomCategory, Decision, Label, Policy, Safety, Thresholds
from tritonguard.policy_parts import CATEGORY_NAMES, parts_of
from tritonguard.verdict import decide

STRICTNESS = {Decision.ALLOW: 0, Decision.REVIEW: 1, Decision.BLOCK: 2}
FLOORS = st.builds(
    Policy,
    thresholds=st.builds(Thresholds, user=PROBABILITY, response=PROBABILITY, review_margin=PROBABILITY),
    on_error=st.sampled_from(["block", "allow", "raise"]),
)


def names_of(policy: Policy, floor: Policy | None = None) -> list[str]:
    return [part.name for part in parts_of(policy, floor=floor)]


def test_the_builtin_policy_is_one_part_without_arguments() -> None:
    (part,) = parts_of(Policy(thresholds=Thresholds(user=0.3)))
    assert (part.name, part.custom_policy, part.custom_taxonomy) == ("built-in", None, None)
    assert part.names == tuple(category.name for category in CATEGORIES)
    assert part.policy.thresholds.user == 0.3


def test_free_text_is_handed_on_as_written_and_may_name_anything() -> None:
    (part,) = parts_of(Policy(custom_policy=" Be kind. \n"))
    assert (part.custom_policy, part.custom_taxonomy, part.names) == (" Be kind. \n", None, None)


def test_a_list_is_written_as_the_publisher_writes_one() -> None:
    leak = CustomCategory(name="Trade Secret Leak", definition="ours,\n  not public")
    (part,) = parts_of(Policy(custom_taxonomy=(CustomCategory(name="Rudeness"), leak), allow_list=("a\nb", "c")))
    assert part.custom_taxonomy == (
        "- Rudeness\n- Trade Secret Leak (ours, not public)\n\n"
        "Allow-list (explicitly permitted even if adjacent to a category above):\n- a b\n- c"
    )
    assert part.names == ("Rudeness", "Trade Secret Leak")


def test_a_ready_text_stays_as_it_is() -> None:
    (part,) = parts_of(Policy(custom_taxonomy="S1: Rudeness."))
    assert (part.custom_taxonomy, part.names) == ("S1: Rudeness.", None)


def test_suppressed_categories_leave_the_list_and_injected_ones_follow_it() -> None:
    policy = Policy(suppress=("S12", "Malware"), inject=(CustomCategory(name="Leak", definition="d"),))
    (part,) = parts_of(policy)
    kept = [name for name in CATEGORY_NAMES if name not in ("Profanity", "Malware")]
    assert part.names == (*kept, "Leak")
    assert part.custom_taxonomy == "\n".join([*(f"- {name}" for name in kept), "- Leak (d)"])
    assert "Sexual (minor)" in part.names


def test_an_allow_list_alone_derives_the_whole_list() -> None:
    (part,) = parts_of(Policy(allow_list=("chess",)))
    assert part.name == "custom"
    assert part.names == CATEGORY_NAMES
    assert (part.custom_taxonomy or "").endswith(":\n- chess")


@pytest.mark.parametrize(
    ("also_builtin", "own_floor", "floor", "names"),
    [
        (False, False, None, ["custom"]),
        (True, False, None, ["custom", "built-in"]),
        (False, True, None, ["custom", "floor"]),
        (False, False, Policy(), ["custom", "floor"]),
        (True, False, Policy(), ["custom", "built-in", "floor"]),
    ],
)
def test_the_parts_beside_a_custom_policy(
    also_builtin: bool, own_floor: bool, floor: Policy | None, names: list[str]
) -> None:
    policy = Policy(custom_policy="Be kind.", also_builtin=also_builtin, floor=own_floor)
    parts = parts_of(policy, floor=floor)
    assert [part.name for part in parts] == names
    for part in parts[1:]:
        assert (part.custom_policy, part.custom_taxonomy, part.names) == (None, None, CATEGORY_NAMES)
        assert part.policy is (floor if part.name == "floor" and floor else policy)


def test_the_operators_floor_goes_before_what_a_policy_says_of_its_own() -> None:
    floor = Policy(thresholds=Thresholds(user=0.4))
    lax = Policy(custom_policy="Anything goes.", floor=True, thresholds=Thresholds(user=1.0))
    assert parts_of(lax, floor=floor)[1].policy is floor


@pytest.mark.parametrize(
    ("policy", "floor", "judged"),
    [
        pytest.param({"user": 1.0}, {}, ["floor"], id="laxer"),
        pytest.param({}, {"user": 0.3}, ["floor"], id="as it is, under a stricter floor"),
        pytest.param({}, {"review_margin": 0.1}, ["floor"], id="a floor that asks for reviews"),
        pytest.param({"user": 0.3}, {}, ["built-in"], id="stricter"),
        pytest.param({}, {}, ["built-in"], id="the same"),
        pytest.param({"user": 1.0, "response": 0.2}, {}, ["built-in", "floor"], id="both"),
    ],
)
def test_thresholds_alone_do_not_get_around_a_floor(
    policy: dict[str, float], floor: dict[str, float], judged: list[str]
) -> None:
    mine, theirs = (Policy(thresholds=Thresholds(**values)) for values in (policy, floor))
    parts = parts_of(mine, floor=theirs)
    assert [part.name for part in parts] == judged
    assert [part.policy for part in parts] == [theirs if name == "floor" else mine for name in judged]


def test_on_error_alone_does_not_get_around_a_floor() -> None:
    assert names_of(Policy(on_error="allow"), floor=Policy()) == ["floor"]
    assert names_of(Policy(on_error="raise"), floor=Policy()) == ["built-in"]
    assert names_of(Policy(), floor=Policy(on_error="allow")) == ["built-in"]


@given(FLOORS, FLOORS, st.floats(0.0, 1.0, width=32) | st.none())
def test_nothing_passes_a_builtin_policy_that_its_floor_holds_back(
    policy: Policy, floor: Policy, p_unsafe: float | None
) -> None:
    if p_unsafe is None:
        label = Label.indeterminate("unreadable", has_response=False)
    else:
        safety = Safety.UNSAFE if p_unsafe >= 0.5 else Safety.SAFE
        label = Label(user_safety=safety, p_unsafe_user=p_unsafe)
    reached = max(STRICTNESS[decide(label, part.policy).decision] for part in parts_of(policy, floor=floor))
    assert reached == max(STRICTNESS[decide(label, each).decision] for each in (policy, floor))


@given(policies(), st.none() | FLOORS)
def test_every_policy_has_its_own_part_first_and_s7_is_never_dropped_from_the_builtin_list(
    policy: Policy, floor: Policy | None
) -> None:
    own, *others = parts_of(policy, floor=floor)
    assert own.name in (("built-in", "floor") if policy.is_builtin else ("custom",))
    assert {part.name for part in others} <= {"built-in", "floor"}
    if floor is not None and not policy.is_builtin:
        assert others[-1].policy is floor
    if policy.custom_policy is None and policy.custom_taxonomy is None:
        assert "Sexual (minor)" in (own.names or ())
