"""The answer: what the model said (label), what is done about it (outcome), and how it came about (record).

The rule from label to decision (`decide`) is here and nowhere else: nothing turns garbage into safe, and
every `allow` that is taken on an error is marked. `to_tensors` and `verdict_from_tensors` are each other's
inverse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar

from pydantic import Field, StrictBool, StrictInt

from tritonguard import tensors as wire
from tritonguard.errors import ERRORS, GuardError, InternalError
from tritonguard.label import Label, Safety, label_from_choices
from tritonguard.models import ContractModel, Line, Text
from tritonguard.policy import Policy
from tritonguard.request import GuardRequest

__all__ = [
    "ON_ERROR",
    "Decision",
    "Label",
    "Outcome",
    "Record",
    "Safety",
    "Verdict",
    "decide",
    "label_from_choices",
    "to_tensors",
    "verdict_from_tensors",
    "verdict_on_error",
]

ON_ERROR = "on_error="
"""What the reason of a decision taken by `on_error` starts with, so that every consumer can tell."""


# Once more, for callers who read JSON: Triton's HTTP endpoint writes the NaN of P_UNSAFE, which is no JSON.
_PROBABILITIES = ("p_unsafe_user", "p_unsafe_response")
_DETAILS = ("probability_bounded", "reasoning_truncated", "reasoning_contradicts", "flagged_by", "text_only")
"""Fields of the label without a tensor of their own."""


class Decision(str, Enum):
    ALLOW = "allow"
    REVIEW = "review"
    BLOCK = "block"


_Milliseconds = Annotated[float, Field(ge=0.0)]
_Sha256 = Annotated[Text, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[StrictInt, Field(ge=0)]


class Outcome(ContractModel):
    """What is done about a label. on_error_applied: the policy's `on_error` decided, not a threshold."""

    refusal: ClassVar[type[GuardError]] = InternalError
    path: ClassVar[str] = "outcome"

    decision: Decision
    reason: Line
    on_error_applied: StrictBool = False

    def check_whole(self) -> None:
        if self.on_error_applied != self.reason.startswith(ON_ERROR):
            raise ValueError("a decision taken by on_error and its mark do not come together")
        allows = self.reason.startswith(f"{ON_ERROR}allow:")
        if self.on_error_applied and (self.decision is Decision.ALLOW) != allows:
            raise ValueError("the decision is not the one that on_error names")


class Record(ContractModel):
    """How a verdict came about; never a user's text. None: not known, as where no server answered.

    policy_sha256: of the policy that was judged, which for a named one is the server's. judged: the parts that
    were (`policy_parts`); floor_sha256: of the operator's floor, if that was one. image_sha256: of each image's
    decoded pixels.
    prompt_tokens: of all rendered prompts; prefix_tokens: of them, the part whose keys and values were there already.
    cached: the answer was given before and kept, as the policy's `cache` says. timings_ms: milliseconds by stage.
    """

    refusal: ClassVar[type[GuardError]] = InternalError
    path: ClassVar[str] = "record"

    contract_version: StrictInt
    request_id: Line
    policy_name: Line
    policy_sha256: _Sha256
    judged: tuple[Line, ...] = ()
    floor_sha256: _Sha256 | None = None
    image_sha256: tuple[_Sha256, ...] = ()
    model_revision: Line | None = None
    bundle_revision: Line | None = None
    engine: Line | None = None
    precision: Line | None = None
    prompt_tokens: _Count | None = None
    prefix_tokens: _Count | None = None
    cached: StrictBool = False
    timings_ms: dict[str, _Milliseconds] = Field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """label: what the model said. outcome: what is done about it. record: how it came about.

    A label and an outcome that cannot belong together raise InternalError.
    """

    label: Label
    outcome: Outcome
    record: Record

    def __post_init__(self) -> None:
        if self.on_error_applied and not self.label.is_indeterminate:
            raise InternalError("outcome: on_error decided on a judged label", field="outcome")
        if self.allowed and self.label.is_indeterminate and not self.on_error_applied:
            raise InternalError("outcome: an indeterminate label was allowed unmarked", field="outcome")

    @property
    def decision(self) -> Decision:
        return self.outcome.decision

    @property
    def reason(self) -> str:
        """Why this decision, one line."""
        return self.outcome.reason

    @property
    def on_error_applied(self) -> bool:
        """True where nothing was judged and the policy's `on_error` decided."""
        return self.outcome.on_error_applied

    @property
    def allowed(self) -> bool:
        return self.decision is Decision.ALLOW

    @property
    def blocked(self) -> bool:
        return self.decision is Decision.BLOCK

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the keys `label`, `outcome` and `record`."""
        return {
            "label": self.label.model_dump(mode="json"),
            "outcome": self.outcome.model_dump(mode="json"),
            "record": self.record.model_dump(mode="json"),
        }

    def to_json(self) -> str:
        """`to_dict` on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


def decide(label: Label, policy: Policy) -> Outcome:
    """What the policy does about a label: unsafe over indeterminate over review over safe.

    A judged side at or above its threshold blocks. Otherwise an indeterminate side hands over to `on_error`,
    where `raise` blocks here (a caller that is not this client must not be let through) and the client
    raises.
    """
    reviews: list[str] = []
    allows: list[str] = []
    for side, p_unsafe, threshold in _judged_sides(label, policy):
        if p_unsafe >= threshold:
            reason = f"p_unsafe {p_unsafe:.4f} >= threshold {threshold:g} ({side})"
            return Outcome(decision=Decision.BLOCK, reason=reason)
        if p_unsafe >= threshold - policy.thresholds.review_margin:
            margin = policy.thresholds.review_margin
            reviews.append(f"p_unsafe {p_unsafe:.4f} within {margin:g} below threshold {threshold:g} ({side})")
        allows.append(f"p_unsafe {p_unsafe:.4f} < threshold {threshold:g} ({side})")
    if label.is_indeterminate and not (policy.on_error == "allow" and reviews):
        return _by_on_error(policy, label.indeterminate_reason or "indeterminate")
    if reviews:
        return Outcome(decision=Decision.REVIEW, reason=", ".join(reviews))
    return Outcome(decision=Decision.ALLOW, reason=", ".join(allows))


def _judged_sides(label: Label, policy: Policy) -> list[tuple[str, float, float]]:
    """(name, p_unsafe, threshold) of each side that was judged; the texts' own where images could not be."""
    said = label.text_only or label
    prefix = "text only, " if label.text_only else ""
    sides = (
        (f"{prefix}user", said.p_unsafe_user, policy.thresholds.user),
        (f"{prefix}response", said.p_unsafe_response, policy.thresholds.response),
    )
    return [(side, p_unsafe, threshold) for side, p_unsafe, threshold in sides if p_unsafe is not None]


def verdict_on_error(error: GuardError, request: GuardRequest) -> Verdict:
    """The verdict that stands in for one that did not come, under the `on_error` of the request's policy.

    The label is indeterminate with the error's kind as its reason. Raises `error` itself where the policy
    says `raise`, and for kinds that `on_error` does not cover (the table in `errors`).
    """
    if not ERRORS[error.kind].on_error or request.policy.on_error == "raise":
        raise error
    return Verdict(
        label=Label.indeterminate(error.kind, has_response=request.response is not None),
        outcome=_by_on_error(request.policy, error.kind),
        record=Record(
            contract_version=wire.CONTRACT_VERSION,
            request_id=request.request_id,
            policy_name=request.policy.name,
            policy_sha256=request.policy.sha256,
        ),
    )


def _by_on_error(policy: Policy, reason: str) -> Outcome:
    decision = Decision.ALLOW if policy.on_error == "allow" else Decision.BLOCK
    return Outcome(decision=decision, reason=f"{ON_ERROR}{policy.on_error}: {reason}", on_error_applied=True)


def to_tensors(verdict: Verdict) -> dict[str, wire.Array]:
    """The VERDICT tensors of a verdict, all of them."""
    label = verdict.label
    return {
        "USER_SAFETY": wire.pack_text("USER_SAFETY", label.user_safety.value),
        "RESPONSE_SAFETY": wire.pack_text(
            "RESPONSE_SAFETY", label.response_safety.value if label.response_safety else ""
        ),
        "P_UNSAFE": wire.pack(
            "P_UNSAFE", [math.nan if p is None else p for p in (label.p_unsafe_user, label.p_unsafe_response)]
        ),
        "CATEGORIES": wire.pack_text("CATEGORIES", json.dumps(label.categories, ensure_ascii=False)),
        "REASONING": wire.pack_text("REASONING", label.reasoning or ""),
        "REASONING_SOURCE": wire.pack_text("REASONING_SOURCE", label.reasoning_source or ""),
        "LABEL_DETAILS": wire.pack_text("LABEL_DETAILS", label.model_dump_json(include={*_DETAILS, *_PROBABILITIES})),
        "REASON_INDETERMINATE": wire.pack_text("REASON_INDETERMINATE", label.indeterminate_reason or ""),
        "DECISION": wire.pack_text("DECISION", verdict.decision.value),
        "DECISION_REASON": wire.pack_text("DECISION_REASON", verdict.reason),
        "RECORD": wire.pack_text("RECORD", verdict.record.model_dump_json()),
    }


def verdict_from_tensors(tensors: Mapping[str, wire.Array]) -> Verdict:
    """The verdict of a reply; the inverse of `to_tensors`.

    Raises InternalError for a reply with a missing, unknown, malformed or contradictory tensor: such a reply
    is never a verdict, least of all a safe one. Keys that a newer server adds to the record or to the label's
    details are left out.
    """
    unknown = sorted(set(tensors) - {spec.name for spec in wire.VERDICT})
    if unknown:
        raise InternalError(f"reply: unknown tensor {unknown[0]}", field=unknown[0].lower())
    try:
        texts = {spec.name: wire.require_text(tensors, spec.name) for spec in wire.VERDICT if spec.dtype == "BYTES"}
        p_unsafe = wire.unpack(tensors, "P_UNSAFE")
    except wire.MalformedTensor as error:
        raise InternalError(f"reply: {error}", field=error.name.lower()) from None
    assert p_unsafe is not None  # P_UNSAFE is required: its absence has raised
    user, response = (None if math.isnan(p) else float(p) for p in p_unsafe)
    record = _json(texts, "RECORD", (dict,))
    details = _json(texts, "LABEL_DETAILS", (dict,))
    label = {
        "user_safety": texts["USER_SAFETY"],
        "response_safety": texts["RESPONSE_SAFETY"] or None,
        "p_unsafe_user": user,
        "p_unsafe_response": response,
        "categories": _json(texts, "CATEGORIES", (list, type(None))),
        "reasoning": texts["REASONING"] or None,
        "reasoning_source": texts["REASONING_SOURCE"] or None,
        "indeterminate_reason": texts["REASON_INDETERMINATE"] or None,
        **{name: details[name] for name in _DETAILS if name in details},
    }
    reason = texts["DECISION_REASON"]
    outcome = {
        "decision": texts["DECISION"],
        "reason": reason,
        "on_error_applied": reason.startswith(ON_ERROR),
    }
    return Verdict(
        label=Label.model_validate(label),
        outcome=Outcome.model_validate(outcome),
        record=Record.model_validate({key: record[key] for key in record if key in Record.model_fields}),
    )


def _json(texts: Mapping[str, str], name: str, kinds: tuple[type, ...]) -> Any:
    try:
        value = json.loads(texts[name])
    except (ValueError, RecursionError):
        raise InternalError(f"reply: tensor {name}: not JSON", field=name.lower()) from None
    if not isinstance(value, kinds):
        raise InternalError(f"reply: tensor {name}: not the right kind of JSON", field=name.lower())
    return value
