from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from contract_strategies import labels, policies, requests, verdicts
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tritonguard import (
    ERRORS,
    Decision,
    GuardError,
    GuardRequest,
    InternalError,
    Label,
    Outcome,
    Policy,
    Record,
    Safety,
    Thresholds,
    Verdict,
)
from tritonguard import tensors as wire
from tritonguard.verdict import decide, label_from_choices, to_tensors, verdict_from_tensors, verdict_on_error

RECORD = Record(contract_version=1, request_id="r1", policy_name="built-in", policy_sha256=Policy().sha256)


def row(p_unsafe: float) -> list[float]:
    tiny = 1e-30
    return [math.log(max(1 - p_unsafe, tiny)), math.log(max(p_unsafe, tiny))]


def choices(*p_unsafe: float) -> wire.Array:
    return np.array([row(p) for p in p_unsafe], dtype=np.float32)


def judged(p_user: float, p_response: float | None = None) -> Label:
    given_ps = (p_user,) if p_response is None else (p_user, p_response)
    return label_from_choices(choices(*given_ps), has_response=p_response is not None)


@given(st.floats(0, 1), st.none() | st.floats(0, 1))
def test_the_label_is_the_likelier_choice(p_user: float, p_response: float | None) -> None:
    label = judged(p_user, p_response)
    for _, safety, p_unsafe in label.sides[: 1 if p_response is None else 2]:
        assert p_unsafe is not None
        assert safety is (Safety.UNSAFE if p_unsafe >= 0.5 else Safety.SAFE)
    assert label.p_unsafe_user == pytest.approx(p_user, abs=1e-6)
    assert (label.response_safety is None) == (p_response is None)


@pytest.mark.parametrize("total", [1.0, 0.9995, 1.0005])
def test_a_tie_is_unsafe(total: float) -> None:
    tie = np.log(np.array([[total / 2, total / 2]], dtype=np.float32))
    assert label_from_choices(tie, has_response=False).user_safety is Safety.UNSAFE


@pytest.mark.parametrize(
    ("logprobs", "has_response"),
    [
        pytest.param(np.zeros((0, 2), np.float32), False, id="no rows"),
        pytest.param(choices(0.1, 0.1), False, id="a row too many"),
        pytest.param(choices(0.1), True, id="a row too few"),
        pytest.param(np.zeros((1, 3), np.float32), False, id="three columns"),
        pytest.param(np.zeros((2,), np.float32), False, id="flat"),
        pytest.param(np.array([[math.nan, -1]], np.float32), False, id="NaN"),
        pytest.param(np.array([[0, -math.inf]], np.float32), False, id="minus infinity"),
        pytest.param(np.array([[math.inf, -1]], np.float32), False, id="infinity"),
        pytest.param(np.array([[0.5, -1]], np.float32), False, id="positive"),
        pytest.param(np.array([[0, 0]], np.float32), False, id="sum of 2"),
        pytest.param(np.array([[-9, -9]], np.float32), False, id="sum of almost 0"),
        pytest.param(np.array([[0, -50]], np.int32), False, id="whole numbers"),
        pytest.param(np.array([row(0.1), [math.nan, -1]], np.float32), True, id="second row"),
    ],
)
def test_garbage_is_indeterminate_with_a_reason(logprobs: wire.Array, has_response: bool) -> None:
    label = label_from_choices(logprobs, has_response=has_response)
    assert label.user_safety is Safety.INDETERMINATE
    assert label.response_safety is (Safety.INDETERMINATE if has_response else None)
    assert label.indeterminate_reason
    assert decide(label, Policy()).decision is Decision.BLOCK


@given(npst.arrays(np.float32, npst.array_shapes(max_dims=3, max_side=3)), st.booleans())
def test_no_array_is_safe_unless_its_probabilities_say_so(logprobs: wire.Array, has_response: bool) -> None:
    label = label_from_choices(logprobs, has_response=has_response)
    if not label.is_indeterminate:
        sums = np.exp(logprobs.astype(np.float64)).sum(axis=1)
        assert logprobs.shape == (2 if has_response else 1, 2)
        assert np.all(np.abs(sums - 1) <= 1e-3)


@pytest.mark.parametrize(
    ("p_user", "p_response", "thresholds", "decision", "reason"),
    [
        (0.97, None, Thresholds(), "block", "p_unsafe 0.9700 >= threshold 0.5 (user)"),
        (0.03, None, Thresholds(), "allow", "p_unsafe 0.0300 < threshold 0.5 (user)"),
        (0.5, None, Thresholds(), "block", "p_unsafe 0.5000 >= threshold 0.5 (user)"),
        (0.2, None, Thresholds(user=0.1), "block", "p_unsafe 0.2000 >= threshold 0.1 (user)"),
        (0.9, None, Thresholds(user=0.95), "allow", "p_unsafe 0.9000 < threshold 0.95 (user)"),
        (
            0.45,
            None,
            Thresholds(review_margin=0.1),
            "review",
            "p_unsafe 0.4500 within 0.1 below threshold 0.5 (user)",
        ),
        (0.3, None, Thresholds(review_margin=0.1), "allow", "p_unsafe 0.3000 < threshold 0.5 (user)"),
        (0.03, 0.97, Thresholds(), "block", "p_unsafe 0.9700 >= threshold 0.5 (response)"),
        (0.45, 0.97, Thresholds(review_margin=0.1), "block", "p_unsafe 0.9700 >= threshold 0.5 (response)"),
        (
            0.03,
            0.45,
            Thresholds(review_margin=0.1),
            "review",
            "p_unsafe 0.4500 within 0.1 below threshold 0.5 (response)",
        ),
        (
            0.01,
            0.02,
            Thresholds(),
            "allow",
            "p_unsafe 0.0100 < threshold 0.5 (user), p_unsafe 0.0200 < threshold 0.5 (response)",
        ),
    ],
)
def test_thresholds_decide_and_say_why(
    p_user: float, p_response: float | None, thresholds: Thresholds, decision: str, reason: str
) -> None:
    outcome = decide(judged(p_user, p_response), Policy(thresholds=thresholds))
    assert (outcome.decision.value, outcome.reason, outcome.on_error_applied) == (decision, reason, False)


@pytest.mark.parametrize(("on_error", "decision"), [("block", "block"), ("allow", "allow"), ("raise", "block")])
def test_an_indeterminate_label_goes_by_on_error_and_is_marked(on_error: str, decision: str) -> None:
    label = Label.indeterminate("no choices", has_response=False)
    outcome = decide(label, Policy.model_validate({"on_error": on_error}))
    assert outcome.decision.value == decision
    assert outcome.on_error_applied
    assert outcome.reason == f"on_error={on_error}: no choices"


HALF = {"response_safety": "indeterminate", "indeterminate_reason": "cut off"}


def test_unsafe_goes_over_indeterminate() -> None:
    label = Label.model_validate({"user_safety": "unsafe", "p_unsafe_user": 0.9, **HALF})
    outcome = decide(label, Policy(on_error="allow"))
    assert (outcome.decision, outcome.on_error_applied) == (Decision.BLOCK, False)


def test_a_review_is_not_undone_by_allowing_errors() -> None:
    label = Label.model_validate({"user_safety": "safe", "p_unsafe_user": 0.45, **HALF})
    outcome = decide(label, Policy(on_error="allow", thresholds=Thresholds(review_margin=0.1)))
    assert outcome.decision is Decision.REVIEW


@given(labels(), policies())
def test_an_indeterminate_label_is_never_allowed_unmarked(label: Label, policy: Policy) -> None:
    outcome = decide(label, policy)
    if label.is_indeterminate and outcome.decision is Decision.ALLOW:
        assert outcome.on_error_applied
        assert policy.on_error == "allow"
    Verdict(label=label, outcome=outcome, record=RECORD)


@pytest.mark.parametrize(
    "values",
    [
        {"user_safety": "safe"},
        {"user_safety": "safe", "p_unsafe_user": 0.9},
        {"user_safety": "unsafe", "p_unsafe_user": 0.1},
        {"user_safety": "safe", "p_unsafe_user": math.nan},
        {"user_safety": "safe", "p_unsafe_user": -0.1},
        {"user_safety": "indeterminate", "p_unsafe_user": 0.1, "indeterminate_reason": "r"},
        {"user_safety": "indeterminate"},
        {"user_safety": "safe", "p_unsafe_user": 0.1, "indeterminate_reason": "r"},
        {"user_safety": "safe", "p_unsafe_user": 0.1, "p_unsafe_response": 0.1},
        {"user_safety": "safe", "p_unsafe_user": 0.1, "reasoning": "because"},
        {"user_safety": "fine", "p_unsafe_user": 0.1},
    ],
)
def test_a_label_that_contradicts_itself_does_not_exist(values: dict[str, Any]) -> None:
    with pytest.raises(InternalError):
        Label.model_validate(values)


@pytest.mark.parametrize(
    ("label", "decision", "reason", "marked"),
    [
        pytest.param(judged(0.1), "allow", "on_error=allow: x", True, id="on_error on a judged label"),
        pytest.param(
            Label.indeterminate("x", has_response=False),
            "allow",
            "fine",
            False,
            id="garbage allowed unmarked",
        ),
        pytest.param(
            Label.indeterminate("x", has_response=False),
            "allow",
            "on_error=block: x",
            True,
            id="block that allows",
        ),
        pytest.param(
            Label.indeterminate("x", has_response=False),
            "block",
            "on_error=allow: x",
            True,
            id="allow that blocks",
        ),
        pytest.param(
            Label.indeterminate("x", has_response=False),
            "block",
            "on_error=block: x",
            False,
            id="mark is missing",
        ),
    ],
)
def test_a_verdict_that_contradicts_itself_does_not_exist(
    label: Label, decision: str, reason: str, marked: bool
) -> None:
    with pytest.raises(InternalError):
        Verdict(
            label=label,
            outcome=Outcome.model_validate({"decision": decision, "reason": reason, "on_error_applied": marked}),
            record=RECORD,
        )


@given(verdicts())
def test_a_verdict_comes_back_from_its_tensors(verdict: Verdict) -> None:
    tensors = to_tensors(verdict)
    assert list(tensors) == [spec.name for spec in wire.VERDICT]
    assert verdict_from_tensors(tensors) == verdict


def reply() -> dict[str, wire.Array]:
    label = judged(0.1)
    return to_tensors(Verdict(label=label, outcome=decide(label, Policy()), record=RECORD))


@pytest.mark.parametrize("name", [spec.name for spec in wire.VERDICT])
def test_a_reply_without_one_of_its_tensors_is_an_internal_error(name: str) -> None:
    tensors = reply()
    del tensors[name]
    with pytest.raises(InternalError) as caught:
        verdict_from_tensors(tensors)
    assert caught.value.field == name.lower()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        pytest.param("USER_SAFETY", wire.pack_text("USER_SAFETY", "unsafe"), id="label against probability"),
        pytest.param("USER_SAFETY", wire.pack_text("USER_SAFETY", "SAFE"), id="unknown label"),
        pytest.param("USER_SAFETY", wire.pack_text("USER_SAFETY", ""), id="empty label"),
        pytest.param("USER_SAFETY", wire.pack_text("USER_SAFETY", "indeterminate"), id="no reason"),
        pytest.param("RESPONSE_SAFETY", wire.pack_text("RESPONSE_SAFETY", "safe"), id="without probability"),
        pytest.param("P_UNSAFE", wire.pack("P_UNSAFE", [math.nan, math.nan]), id="no probability"),
        pytest.param("P_UNSAFE", wire.pack("P_UNSAFE", [math.inf, math.nan]), id="infinite"),
        pytest.param("P_UNSAFE", wire.pack("P_UNSAFE", [0.9, math.nan]), id="probability against label"),
        pytest.param("P_UNSAFE", np.zeros((1, 2), np.float64), id="wrong type"),
        pytest.param("CATEGORIES", wire.pack_text("CATEGORIES", "{}"), id="categories are no list"),
        pytest.param("CATEGORIES", wire.pack_text("CATEGORIES", "[1]"), id="categories are numbers"),
        pytest.param("CATEGORIES", wire.pack_text("CATEGORIES", ""), id="categories are no JSON"),
        pytest.param("REASON_INDETERMINATE", wire.pack_text("REASON_INDETERMINATE", "x"), id="needless reason"),
        pytest.param("DECISION", wire.pack_text("DECISION", "pass"), id="unknown decision"),
        pytest.param("DECISION_REASON", wire.pack_text("DECISION_REASON", ""), id="decision without reason"),
        pytest.param("DECISION_REASON", wire.pack_text("DECISION_REASON", "on_error=allow: x"), id="false mark"),
        pytest.param("RECORD", wire.pack_text("RECORD", "{}"), id="empty record"),
        pytest.param("RECORD", wire.pack_text("RECORD", "[]"), id="record is a list"),
        pytest.param("SURPRISE", np.zeros((1, 1)), id="unknown tensor"),
    ],
)
def test_a_contradictory_reply_is_an_internal_error(name: str, array: wire.Array) -> None:
    with pytest.raises(InternalError):
        verdict_from_tensors(reply() | {name: array})


@given(st.sampled_from([spec.name for spec in wire.VERDICT if spec.dtype == "BYTES"]), st.binary())
def test_no_bytes_in_a_reply_make_it_safer(name: str, element: bytes) -> None:
    label = judged(0.9)
    tensors = to_tensors(Verdict(label=label, outcome=decide(label, Policy()), record=RECORD))
    try:
        verdict = verdict_from_tensors(tensors | {name: wire.pack(name, [element])})
    except InternalError:
        return
    assert verdict.label.user_safety is Safety.UNSAFE


def test_a_record_of_a_newer_server_is_read() -> None:
    record = json.loads(str(wire.unpack_text(reply(), "RECORD"))) | {"gpu": "new"}
    verdict = verdict_from_tensors(reply() | {"RECORD": wire.pack_text("RECORD", json.dumps(record))})
    assert verdict.record == RECORD


@given(requests(), st.sampled_from(sorted(ERRORS)))
def test_on_error_covers_what_the_table_says(request: GuardRequest, kind: str) -> None:
    spec = ERRORS[kind]
    error = spec.error("m", field="f")
    if not spec.on_error or request.policy.on_error == "raise":
        with pytest.raises(GuardError) as caught:
            verdict_on_error(error, request)
        assert caught.value is error
        return
    verdict = verdict_on_error(error, request)
    assert verdict.decision.value == request.policy.on_error
    assert verdict.on_error_applied
    assert verdict.label.user_safety is Safety.INDETERMINATE
    assert verdict.label.indeterminate_reason == kind
    assert (verdict.label.response_safety is None) == (request.response is None)
    assert verdict.record.request_id == request.request_id
    assert verdict.record.policy_sha256 == request.policy.sha256


@given(verdicts())
def test_json_is_plain_and_on_one_line(verdict: Verdict) -> None:
    line = verdict.to_json()
    assert "\n" not in line
    assert json.loads(line)["outcome"]["decision"] == verdict.decision.value


def test_allowed_and_blocked_leave_room_for_review() -> None:
    label = judged(0.45)
    outcome = decide(label, Policy(thresholds=Thresholds(review_margin=0.1)))
    verdict = Verdict(label=label, outcome=outcome, record=RECORD)
    assert not verdict.allowed
    assert not verdict.blocked
