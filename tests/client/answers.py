"""What a server that works would answer, for tests that put one behind `MockTransport`."""

from __future__ import annotations

from collections.abc import Callable

from tritonguard import PROMPTS, GuardRequest, Label, Record, Safety, Verdict
from tritonguard.verdict import decide

_UNSAFE = frozenset(example.prompt for example in PROMPTS if example.expected.user is Safety.UNSAFE)


def label_of(p_unsafe: float | None, *, has_response: bool = False) -> Label:
    if p_unsafe is None:
        return Label.indeterminate("no choices", has_response=has_response)
    safety = Safety.UNSAFE if p_unsafe >= 0.5 else Safety.SAFE
    if has_response:
        return Label(user_safety=safety, p_unsafe_user=p_unsafe, response_safety=safety, p_unsafe_response=p_unsafe)
    return Label(user_safety=safety, p_unsafe_user=p_unsafe)


def answer(request: GuardRequest, p_unsafe: float | None) -> Verdict:
    label = label_of(p_unsafe, has_response=request.response is not None)
    record = Record(
        contract_version=1,
        request_id=request.request_id,
        policy_name=request.policy.name,
        policy_sha256=request.policy.sha256,
        model_revision="test",
        timings_ms={"decode": 1.5},
    )
    return Verdict(label=label, outcome=decide(label, request.policy), record=record)


def always(p_unsafe: float | None) -> Callable[[GuardRequest], Verdict]:
    return lambda request: answer(request, p_unsafe)


def by_text(request: GuardRequest) -> Verdict:
    """Unsafe for the unsafe examples and for texts with the word "bad", in between for "odd"."""
    if request.prompt in _UNSAFE or "bad" in request.prompt:
        return answer(request, 0.97)
    return answer(request, 0.45 if "odd" in request.prompt else 0.03)
