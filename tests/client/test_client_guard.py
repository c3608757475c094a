from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import tritonguard.verdict as verdicts
from answers import always, answer
from tritonguard import (
    ERRORS,
    Decision,
    Guard,
    GuardError,
    GuardRequest,
    IndeterminateVerdict,
    InternalError,
    InvalidRequest,
    Mode,
    Policy,
    Readiness,
    Safety,
    Thresholds,
    Turn,
    Unavailable,
    Unimplemented,
    Verdict,
)
from tritonguard import tensors as wire
from tritonguard.request import refuse_unbuilt
from tritonguard.testing import fake_guard as guard

ON_ERROR_KINDS = ["deadline_exceeded", "overloaded", "unavailable", "internal", "bundle"]
TOLD = {"internal": "internal error", "bundle": "internal error"}
RAISING = Policy(on_error="raise")
RAISING_KINDS = [kind for kind, spec in ERRORS.items() if not spec.on_error]


def failing(kind: str) -> Callable[[GuardRequest], Verdict]:
    def handler(request: GuardRequest) -> Verdict:
        raise ERRORS[kind].error("told", field="prompt")

    return handler


class RawTransport:
    """Answers with whatever tensors it was given, contract or not."""

    def __init__(self, reply: Callable[[Mapping[str, wire.Array]], Mapping[str, wire.Array]]) -> None:
        self._reply = reply
        self.seen: list[tuple[float, str]] = []
        self.closed = 0

    def infer(
        self, tensors: Mapping[str, wire.Array], *, deadline_s: float, request_id: str
    ) -> Mapping[str, wire.Array]:
        self.seen.append((deadline_s, request_id))
        return self._reply(tensors)

    def readiness(self, *, deadline_s: float) -> Readiness:
        return Readiness(live=True, ready=True, model_ready=True)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("p_unsafe", "safety", "decision"),
    [(0.03, Safety.SAFE, Decision.ALLOW), (0.97, Safety.UNSAFE, Decision.BLOCK)],
)
def test_a_verdict_reaches_the_caller(p_unsafe: float, safety: Safety, decision: Decision) -> None:
    verdict = guard(always(p_unsafe)).check("text")
    assert (verdict.label.user_safety, verdict.decision) == (safety, decision)
    assert verdict.label.p_unsafe_user == pytest.approx(p_unsafe)
    assert verdict.record.model_revision == "test"
    assert not verdict.on_error_applied


def test_the_server_sees_everything_the_caller_gave() -> None:
    seen: list[GuardRequest] = []

    def handler(request: GuardRequest) -> Verdict:
        seen.append(request)
        return answer(request, 0.1)

    policy = Policy(name="mine", thresholds=Thresholds(user=0.2))
    sent = GuardRequest(
        prompt="p",
        response="r",
        images=(b"i",),
        policy=policy,
        mode=Mode.THINK,
        think_budget=7,
        deadline_s=1.5,
        priority=2,
        tenant="t",
        request_id="r1",
    )
    guard(handler).check(
        "p",
        response="r",
        images=[b"i"],
        policy=policy,
        mode="think",
        think_budget=7,
        deadline_s=1.5,
        priority=2,
        tenant="t",
        request_id="r1",
    )
    assert seen == [sent]


def test_the_guards_own_policy_and_deadline_are_defaults() -> None:
    policy = Policy(thresholds=Thresholds(user=0.02))
    seen: list[GuardRequest] = []

    def handler(request: GuardRequest) -> Verdict:
        seen.append(request)
        return answer(request, 0.03)

    with guard(handler, policy=policy, deadline_s=2.5) as client:
        assert client.check("text").blocked
        assert client.check("text", policy=Policy(), deadline_s=1.0).allowed
    assert [(request.policy, request.deadline_s) for request in seen] == [(policy, 2.5), (Policy(), 1.0)]


def test_the_transport_gets_the_deadline_and_the_id() -> None:
    transport = RawTransport(lambda tensors: {})
    with pytest.raises(InternalError):
        Guard(transport=transport, policy=RAISING).check("text", deadline_s=0.25, request_id="r1")
    assert transport.seen == [(0.25, "r1")]


@pytest.mark.parametrize("kind", ON_ERROR_KINDS)
def test_on_error_block_blocks_and_says_so(kind: str) -> None:
    verdict = guard(failing(kind)).check("text", request_id="r1")
    assert verdict.blocked
    assert verdict.on_error_applied
    assert verdict.reason == f"on_error=block: {kind}"
    assert verdict.label.user_safety is Safety.INDETERMINATE
    assert verdict.label.indeterminate_reason == kind
    assert verdict.record.request_id == "r1"


@pytest.mark.parametrize("kind", ON_ERROR_KINDS)
def test_on_error_allow_is_marked_counted_and_logged(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    client = guard(failing(kind), policy=Policy(on_error="allow"))
    with caplog.at_level(logging.WARNING, logger="tritonguard"):
        verdict = client.check("my secret text", request_id="r1")
    assert verdict.allowed
    assert verdict.on_error_applied
    assert verdict.label.user_safety is Safety.INDETERMINATE
    assert client.on_error_counts == {"allow": 1}
    assert caplog.messages == [f"request r1: allow (on_error=allow: {kind})"]


@pytest.mark.parametrize("kind", ON_ERROR_KINDS)
def test_on_error_raise_raises_the_error_itself(kind: str) -> None:
    client = guard(failing(kind), policy=Policy(on_error="raise"))
    with pytest.raises(ERRORS[kind].error) as caught:
        client.check("text", request_id="r1")
    assert (caught.value.kind, caught.value.message, caught.value.request_id) == (kind, TOLD.get(kind, "told"), "r1")
    assert client.on_error_counts == {}


@pytest.mark.parametrize("on_error", ["block", "allow", "raise"])
@pytest.mark.parametrize("kind", RAISING_KINDS)
def test_mistakes_are_raised_whatever_on_error_says(kind: str, on_error: str) -> None:
    client = guard(failing(kind), policy=Policy.model_validate({"on_error": on_error}))
    with pytest.raises(ERRORS[kind].error) as caught:
        client.check("text")
    assert caught.value.kind == kind


def test_an_indeterminate_verdict_is_blocked_by_default_and_counted() -> None:
    client = guard(always(None))
    verdict = client.check("text")
    assert verdict.blocked
    assert verdict.reason == "on_error=block: no choices"
    assert client.on_error_counts == {"block": 1}


def test_an_indeterminate_verdict_is_allowed_where_the_policy_says_so() -> None:
    verdict = guard(always(None), policy=Policy(on_error="allow")).check("text")
    assert verdict.allowed
    assert verdict.on_error_applied


def test_an_indeterminate_verdict_is_raised_with_the_verdict() -> None:
    with pytest.raises(IndeterminateVerdict, match="no choices") as caught:
        guard(always(None), policy=Policy(on_error="raise")).check("text", request_id="r1")
    assert caught.value.verdict is not None
    assert caught.value.verdict.label.user_safety is Safety.INDETERMINATE
    assert caught.value.request_id == "r1"


def test_what_the_server_has_not_built_is_raised_with_its_name() -> None:
    def handler(request: GuardRequest) -> Verdict:
        refuse_unbuilt(request)
        return answer(request, 0.1)

    with pytest.raises(Unimplemented) as caught:
        guard(handler).check_request(GuardRequest(prompt="text", turns=(Turn(role="user", content="before"),)))
    assert caught.value.field == "turns"


def named(policy: Policy, p_unsafe: float | None) -> Callable[[GuardRequest], Verdict]:
    """A server that judges every request under `policy`, whatever name was asked for."""
    return lambda request: answer(request.model_copy(update={"policy": policy, "policy_name": None}), p_unsafe)


def test_a_named_policy_is_the_servers_to_know() -> None:
    strict = Policy(name="strict", thresholds=Thresholds(user=0.2))
    verdict = guard(named(strict, 0.3)).check("text", policy_name="strict")
    assert verdict.blocked
    assert (verdict.record.policy_name, verdict.record.policy_sha256) == ("strict", strict.sha256)


def test_a_calls_own_name_or_policy_goes_before_the_guards() -> None:
    seen: list[tuple[str | None, Policy]] = []

    def handler(request: GuardRequest) -> Verdict:
        seen.append((request.policy_name, request.policy))
        return named(Policy(name=request.policy_name or request.policy.name), 0.1)(request)

    mine = Policy(name="mine")
    client = guard(handler, policy_name="strict")
    client.check("text")
    client.check("text", policy_name="other")
    client.check("text", policy=mine)
    client.check("text", policy=Policy())
    guard(handler, policy=mine).check("text", policy_name="other")
    assert seen == [("strict", Policy()), ("other", Policy()), (None, mine), (None, Policy()), ("other", Policy())]


def test_a_policy_and_a_name_in_one_call_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        guard(always(0.1)).check("text", policy=Policy(name="mine"), policy_name="strict")
    assert caught.value.field == "policy_name"
    with pytest.raises(InvalidRequest) as caught:
        guard(always(0.1), policy=Policy(thresholds=Thresholds(user=0.1)), policy_name="strict")
    assert caught.value.field == "policy"


@pytest.mark.parametrize("judged", ["built-in", "stricter"])
def test_a_verdict_under_another_policy_than_the_named_one_is_never_a_verdict(judged: str) -> None:
    with pytest.raises(InternalError, match="another policy"):
        guard(named(Policy(name=judged), 0.1), policy=RAISING, policy_name="strict").check("text")


@pytest.mark.parametrize("on_error", ["block", "allow"])
def test_the_named_policys_on_error_decides_about_an_answer_that_came(on_error: str) -> None:
    policy = Policy.model_validate({"name": "strict", "on_error": on_error})
    # What the client would do by itself does not count here.
    for own in ("block", "allow", "raise"):
        client = guard(named(policy, None), policy=Policy.model_validate({"on_error": own}), policy_name="strict")
        verdict = client.check("text")
        assert (verdict.decision.value, verdict.on_error_applied) == (on_error, True)
        assert client.on_error_counts == {on_error: 1}


@pytest.mark.parametrize("own", ["block", "allow", "raise"])
def test_raise_of_a_named_policy_is_raised_and_never_decided_again(own: str) -> None:
    handler = named(Policy(name="strict", on_error="raise"), None)
    client = guard(handler, policy=Policy.model_validate({"on_error": own}), policy_name="strict")
    with pytest.raises(IndeterminateVerdict) as caught:
        client.check("text")
    assert caught.value.verdict is not None
    assert caught.value.verdict.blocked


@pytest.mark.parametrize("kind", ON_ERROR_KINDS)
def test_without_an_answer_the_guards_own_policy_decides_for_a_named_one(kind: str) -> None:
    verdict = guard(failing(kind), policy_name="strict").check("text")
    assert verdict.blocked
    assert verdict.record.policy_name == "built-in"
    assert guard(failing(kind), policy=Policy(on_error="allow")).check("text", policy_name="strict").allowed
    with pytest.raises(ERRORS[kind].error):
        guard(failing(kind), policy=Policy(on_error="raise"), policy_name="strict").check("text")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x", "mode": "guess"}, "mode"),
        ({"prompt": "x", "deadline_s": 0.0}, "deadline_s"),
        ({"prompt": "x", "images": ["https://example.org/a.png"]}, "images.0"),
    ],
)
def test_a_mistake_is_found_before_anything_is_sent(arguments: dict[str, Any], field: str) -> None:
    transport = RawTransport(lambda tensors: {})
    with pytest.raises(InvalidRequest) as caught:
        Guard(transport=transport).check(**arguments)
    assert caught.value.field == field
    assert transport.seen == []


def reply_to(tensors: Mapping[str, wire.Array], **changes: wire.Array) -> dict[str, wire.Array]:
    from tritonguard.request import from_tensors

    return verdicts.to_tensors(answer(from_tensors(tensors), 0.1)) | changes


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(lambda sent: {}, id="empty"),
        pytest.param(
            lambda sent: reply_to(sent, USER_SAFETY=wire.pack_text("USER_SAFETY", "unsafe")),
            id="contradiction",
        ),
        pytest.param(
            lambda sent: verdicts.to_tensors(answer(GuardRequest(prompt="other"), 0.1)),
            id="another request's",
        ),
        pytest.param(
            lambda sent: verdicts.to_tensors(answer(GuardRequest(prompt="x", response="y", request_id="r1"), 0.1)),
            id="a side too many",
        ),
    ],
)
def test_a_reply_that_makes_no_sense_is_never_a_verdict(reply: Any) -> None:
    with pytest.raises(InternalError) as caught:
        Guard(transport=RawTransport(reply), policy=RAISING).check("text", request_id="r1")
    assert caught.value.request_id == "r1"
    stood_in = Guard(transport=RawTransport(reply)).check("text", request_id="r1")
    assert (stood_in.blocked, stood_in.reason) == (True, "on_error=block: internal")


def test_a_verdict_allowed_on_an_error_against_the_policy_is_blocked() -> None:
    asked = GuardRequest(prompt="x", request_id="r1", policy=Policy(on_error="allow"))
    transport = RawTransport(lambda sent: verdicts.to_tensors(answer(asked, None)))
    verdict = Guard(transport=transport).check("text", request_id="r1")
    assert (verdict.blocked, verdict.reason) == (True, "on_error=block: internal")


def test_a_response_that_was_not_judged_is_never_a_verdict() -> None:
    transport = RawTransport(lambda sent: verdicts.to_tensors(answer(GuardRequest(prompt="x", request_id="r1"), 0.1)))
    with pytest.raises(InternalError, match="other sides"):
        Guard(transport=transport, policy=RAISING).check("text", response="reply", request_id="r1")


def test_leaving_the_context_closes_once_and_a_closed_guard_says_so() -> None:
    transport = RawTransport(lambda tensors: {})
    with Guard(transport=transport) as client:
        pass
    client.close()
    assert transport.closed == 1
    for use in (lambda: client.check("x"), client.health, client.__enter__):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_an_error_from_the_mock_is_what_a_caller_of_the_server_sees() -> None:
    def handler(request: GuardRequest) -> Verdict:
        raise InternalError("KeyError in a module")

    with pytest.raises(InternalError) as caught:
        guard(handler, policy=RAISING).check("text")
    assert caught.value.message == "internal error"


def test_counts_add_up() -> None:
    client = guard(failing("overloaded"))
    for policy in (Policy(), Policy(), Policy(on_error="allow")):
        client.check("text", policy=policy)
    assert client.on_error_counts == {"block": 2, "allow": 1}
    with pytest.raises(ERRORS["overloaded"].error):
        client.check("text", policy=Policy(on_error="raise"))
    assert isinstance(Unavailable("x"), GuardError)
