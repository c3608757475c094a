"""From answers to one label: text and probabilities must agree, and of several parts the strictest holds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonguard.judgement import Judged, blind, decide_parts, join, read_answer
from tritonguard.label import Label, Safety
from tritonguard.policy import Policy, Thresholds
from tritonguard.request import Mode
from tritonguard.tensors import Array
from tritonguard.verdict import Decision, Record, Verdict, to_tensors, verdict_from_tensors


def logprobs(*p_unsafe: float) -> Array:
    return np.array([[math.log1p(-p), math.log(p)] for p in p_unsafe], np.float32)


def read(
    text: str, *p_unsafe: float, mode: Mode = Mode.VERDICT, truncated: bool = False, bounded: bool = False
) -> Label:
    return read_answer(
        logprobs(*p_unsafe),
        text,
        mode=mode,
        has_response=len(p_unsafe) == 2,
        names=("Violence", "Malware"),
        reasoning_source="synthetic",
        truncated=truncated,
        bounded=bounded,
    )


def test_a_pair_is_read_with_both_probabilities() -> None:
    label = read("User Safety: unsafe\nResponse Safety: safe", 0.9, 0.2)
    assert (label.user_safety, label.response_safety) == (Safety.UNSAFE, Safety.SAFE)
    assert label.p_unsafe_user == pytest.approx(0.9)
    assert label.p_unsafe_response == pytest.approx(0.2)
    assert label.categories is None


def test_categories_are_a_list_where_they_were_asked_for() -> None:
    asked = Mode.CATEGORIES
    assert read("User Safety: unsafe\nSafety Categories: Malware, Violence", 0.9, mode=asked).categories == (
        "Malware",
        "Violence",
    )
    assert read("User Safety: safe", 0.1, mode=asked).categories == ()


@pytest.mark.parametrize(
    ("text", "p_unsafe", "mode"),
    [
        ("User Safety: safe", (0.9,), Mode.VERDICT),
        ("User Safety: unsafe\nResponse Safety: safe", (0.9, 0.9), Mode.VERDICT),
        ("User Safety: safe\nUser Safety: safe", (0.1,), Mode.VERDICT),
        ("", (0.1,), Mode.VERDICT),
        ("User Safety: unsafe\nSafety Categories: Kindness", (0.9,), Mode.CATEGORIES),
        ("<think>\nI see. User Safety: safe", (0.1,), Mode.THINK),
        ("User Safety: safe", (0.1,), Mode.THINK),
    ],
)
def test_what_does_not_fit_together_is_indeterminate(text: str, p_unsafe: tuple[float, ...], mode: Mode) -> None:
    label = read(text, *p_unsafe, mode=mode)
    assert label.user_safety is Safety.INDETERMINATE
    assert label.indeterminate_reason


def test_reasoning_is_kept_with_its_source_and_marked_when_it_contradicts_its_verdict() -> None:
    label = read("<think>\nThe user input is unsafe.\n</think>User Safety: safe", 0.1, mode=Mode.THINK, truncated=True)
    assert label.reasoning == "The user input is unsafe."
    assert label.reasoning_source == "synthetic"
    assert label.reasoning_contradicts
    assert label.reasoning_truncated
    agreeing = read("<think>\nThe user input is safe.\n</think>User Safety: safe", 0.1, mode=Mode.THINK)
    assert not agreeing.reasoning_contradicts


def test_a_bound_is_called_one_on_both_ends_of_the_wire_and_by_the_joined_label() -> None:
    label, exact = read("User Safety: unsafe", 0.9, bounded=True), read("User Safety: safe", 0.1)
    assert (label.probability_bounded, exact.probability_bounded) == (True, False)
    record = Record(contract_version=1, request_id="r", policy_name="p", policy_sha256="0" * 64)
    tensors = to_tensors(Verdict(label, decide_parts([Judged("custom", Policy(), label)]), record))
    assert verdict_from_tensors(tensors).label.probability_bounded
    parts = [Judged(name, Policy(), each) for name, each in (("custom", exact), ("floor", label))]
    assert join(parts).probability_bounded


def test_nothing_is_called_a_bound_where_there_is_no_probability() -> None:
    garbage = read("User Safety: maybe", 0.9, bounded=True)
    assert garbage.is_indeterminate
    assert not garbage.probability_bounded


probabilities = st.one_of(st.none(), st.floats(0.0, 1.0, width=32))


@st.composite
def judged(draw: st.DrawFn) -> list[Judged]:
    has_response = draw(st.booleans())
    parts = []
    for name in draw(st.permutations(("custom", "built-in", "floor")))[: draw(st.integers(1, 3))]:
        user, response = draw(probabilities), draw(probabilities)
        sides = [user, *([response] if has_response else [])]
        said = [
            Safety.INDETERMINATE if p is None else Safety.UNSAFE if np.float32(p) >= 0.5 else Safety.SAFE for p in sides
        ]
        label = Label(
            user_safety=said[0],
            response_safety=said[1] if has_response else None,
            p_unsafe_user=user,
            p_unsafe_response=response if has_response else None,
            indeterminate_reason="garbage" if Safety.INDETERMINATE in said else None,
        )
        if draw(st.booleans()):
            label = blind(label, reason="vision_untrained", has_response=has_response)
        thresholds = Thresholds(user=draw(st.floats(0, 1)), response=draw(st.floats(0, 1)))
        on_error = draw(st.sampled_from(("block", "allow", "raise")))
        parts.append(Judged(name, Policy(thresholds=thresholds, on_error=on_error), label))
    return parts


@given(judged())
def test_the_joined_label_is_never_milder_than_a_part(parts: list[Judged]) -> None:
    label = join(parts)
    order = (Safety.UNSAFE, Safety.INDETERMINATE, Safety.SAFE)
    users = [part.label.user_safety for part in parts]
    assert label.user_safety is min(users, key=order.index)
    if label.response_safety is not None:
        responses = [part.label.response_safety for part in parts if part.label.response_safety]
        assert label.response_safety is min(responses, key=order.index)
    assert set(label.flagged_by) <= {part.name for part in parts}


@given(judged())
def test_nothing_is_allowed_against_a_part_and_every_allow_on_an_error_is_marked(parts: list[Judged]) -> None:
    outcome = decide_parts(parts)
    if outcome.decision is not Decision.ALLOW:
        return
    for part in parts:
        said = part.label.text_only or part.label
        for p_unsafe, threshold in (
            (said.p_unsafe_user, part.policy.thresholds.user),
            (said.p_unsafe_response, part.policy.thresholds.response),
        ):
            assert p_unsafe is None or p_unsafe < threshold
        if part.label.is_indeterminate:
            assert part.policy.on_error == "allow"
            assert outcome.on_error_applied


@given(judged())
def test_label_and_outcome_always_make_a_verdict_and_survive_the_wire(parts: list[Judged]) -> None:
    record = Record(contract_version=1, request_id="r", policy_name="p", policy_sha256="0" * 64, judged=("custom",))
    verdict = Verdict(join(parts), decide_parts(parts), record)
    assert verdict_from_tensors(to_tensors(verdict)) == verdict


def test_an_image_that_cannot_be_judged_leaves_the_texts_own_label_apart() -> None:
    text = read("User Safety: unsafe", 0.9)
    label = blind(text, reason="vision_untrained", has_response=False)
    assert label.user_safety is Safety.INDETERMINATE
    assert label.indeterminate_reason == "vision_untrained"
    assert label.text_only is not None
    assert label.text_only.user_safety is Safety.UNSAFE
    # Unsafe text is blocked for what it says, whatever the policy thinks of images.
    outcome = decide_parts([Judged("built-in", Policy(on_error="allow"), label)])
    assert outcome.decision is Decision.BLOCK
    assert not outcome.on_error_applied
    safe = blind(read("User Safety: safe", 0.1), reason="vision_untrained", has_response=False)
    assert decide_parts([Judged("built-in", Policy(), safe)]).decision is Decision.BLOCK
    assert decide_parts([Judged("built-in", Policy(on_error="allow"), safe)]).on_error_applied


def test_details_of_a_newer_server_are_left_out() -> None:
    record = Record(contract_version=1, request_id="r", policy_name="p", policy_sha256="0" * 64)
    part = Judged("built-in", Policy(), read("User Safety: safe", 0.1))
    tensors = to_tensors(Verdict(join([part]), decide_parts([part]), record))
    details = json.loads(tensors["LABEL_DETAILS"][0, 0])
    tensors["LABEL_DETAILS"][0, 0] = json.dumps({**details, "new": 1}).encode()
    assert verdict_from_tensors(tensors).label.user_safety is Safety.SAFE
