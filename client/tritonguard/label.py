"""What the model said, and the one rule from its log-probabilities to a label.

Nothing turns garbage into safe: what cannot be read is `indeterminate` with a reason.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Annotated, ClassVar

import numpy as np
from pydantic import AfterValidator, Field, StrictBool

from tritonguard.errors import GuardError, InternalError
from tritonguard.models import ContractModel, Line
from tritonguard.tensors import Array

PROBABILITY_TOLERANCE = 1e-3
"""How far P(safe) + P(unsafe) of a choice may be from 1 before the row counts as garbage."""


class Safety(str, Enum):
    SAFE = "safe"
    UNSAFE = "unsafe"
    INDETERMINATE = "indeterminate"


def as_sent(probability: float) -> float:
    """A probability as FP32 holds it, so that it is the same on both sides of the wire."""
    return float(np.float32(probability))


_Probability = Annotated[float, Field(ge=0.0, le=1.0, strict=True), AfterValidator(as_sent)]


class TextLabel(ContractModel):
    """What the model said about the texts alone, where the label itself is about images it could not judge."""

    refusal: ClassVar[type[GuardError]] = InternalError
    path: ClassVar[str] = "label.text_only"

    user_safety: Safety
    response_safety: Safety | None = None
    p_unsafe_user: _Probability | None = None
    p_unsafe_response: _Probability | None = None


class Label(ContractModel):
    """What the model said.

    response_safety: None where no response was judged.
    p_unsafe_user, p_unsafe_response: probability of `unsafe` (FP32), the response's given the reported user
    label;
        None where that side was not judged or is indeterminate. A label is unsafe exactly if it is >= 0.5.
    probability_bounded: an option of a choice was not among the likeliest tokens that the engine reports; its
        probability was taken as the most that it can be, so that a p_unsafe is a bound and not the value.
    categories: names as the model wrote them, () for none, None where they were not asked for.
    reasoning, reasoning_source: the trace and who wrote it; None where there is none.
    reasoning_truncated: the budget ended the trace. reasoning_contradicts: its last statement about a side
        says the opposite of the label.
    flagged_by: the parts of the policy (`policy_parts`) under which a side is unsafe.
    text_only: the texts' own label, where images were sent that the bundle can't judge; else None.
    indeterminate_reason: one line without user text; None unless a side is indeterminate.

    A label that contradicts itself raises InternalError.
    """

    refusal: ClassVar[type[GuardError]] = InternalError
    path: ClassVar[str] = "label"

    user_safety: Safety
    response_safety: Safety | None = None
    p_unsafe_user: _Probability | None = None
    p_unsafe_response: _Probability | None = None
    probability_bounded: StrictBool = False
    categories: tuple[Line, ...] | None = None
    reasoning: Line | None = None
    reasoning_source: Line | None = None
    reasoning_truncated: StrictBool = False
    reasoning_contradicts: StrictBool = False
    flagged_by: tuple[Line, ...] = ()
    text_only: TextLabel | None = None
    indeterminate_reason: Line | None = None

    def check_whole(self) -> None:
        for side, safety, p_unsafe in self.sides:
            judged = safety in (Safety.SAFE, Safety.UNSAFE)
            if judged != (p_unsafe is not None):
                raise ValueError(f"the {side} label and its probability do not come together")
            if p_unsafe is not None and (safety is Safety.UNSAFE) != (p_unsafe >= 0.5):
                raise ValueError(f"the {side} label contradicts its probability")
        if self.is_indeterminate != (self.indeterminate_reason is not None):
            raise ValueError("an indeterminate label and its reason do not come together")
        if self.probability_bounded and all(p_unsafe is None for _, _, p_unsafe in self.sides):
            raise ValueError("something is said about a probability that is not there")
        if (self.reasoning is None) != (self.reasoning_source is None):
            raise ValueError("the reasoning and its source do not come together")
        if self.reasoning is None and (self.reasoning_truncated or self.reasoning_contradicts):
            raise ValueError("something is said about a reasoning that is not there")

    @property
    def sides(self) -> tuple[tuple[str, Safety | None, float | None], ...]:
        """(name, safety, p_unsafe) of the user's and of the response's side."""
        return (
            ("user", self.user_safety, self.p_unsafe_user),
            ("response", self.response_safety, self.p_unsafe_response),
        )

    @property
    def is_indeterminate(self) -> bool:
        """True where a side is indeterminate."""
        return Safety.INDETERMINATE in (self.user_safety, self.response_safety)

    @classmethod
    def indeterminate(cls, reason: str, *, has_response: bool) -> Label:
        """The label of an answer of which nothing can be used."""
        return cls(
            user_safety=Safety.INDETERMINATE,
            response_safety=Safety.INDETERMINATE if has_response else None,
            indeterminate_reason=reason,
        )


def label_from_choices(logprobs: Array, *, has_response: bool) -> Label:
    """The label of a decoded `verdict` program.

    logprobs: FP32 [n, 2], a row per choice in program order (user, then response), the columns log P(safe)
    and log P(unsafe) in nats. Anything but one valid row per side is an indeterminate label with the reason:
    other row counts, NaN or infinite or positive values, probabilities whose sum is not 1 within
    `PROBABILITY_TOLERANCE`.
    p_unsafe is P(unsafe) over the sum, so that `unsafe` is the likelier choice, and a tie.
    """
    rows = np.asarray(logprobs)
    expected = 2 if has_response else 1
    if rows.shape != (expected, 2):
        return Label.indeterminate(
            f"choices of shape {list(rows.shape)}, not {[expected, 2]}", has_response=has_response
        )
    logs: list[list[float]] = rows.tolist()
    if rows.dtype.kind != "f" or not all(math.isfinite(log) and log <= 0 for row in logs for log in row):
        return Label.indeterminate("a log-probability is not a finite number <= 0", has_response=has_response)
    p_unsafe: list[float] = []
    for log_safe, log_unsafe in logs:
        safe, unsafe = math.exp(log_safe), math.exp(log_unsafe)
        if abs(safe + unsafe - 1.0) > PROBABILITY_TOLERANCE:
            return Label.indeterminate("the probabilities of a choice do not sum to 1", has_response=has_response)
        p_unsafe.append(as_sent(unsafe / (safe + unsafe)))
    said = [Safety.UNSAFE if p >= 0.5 else Safety.SAFE for p in p_unsafe]
    return Label(
        user_safety=said[0],
        response_safety=said[1] if has_response else None,
        p_unsafe_user=p_unsafe[0],
        p_unsafe_response=p_unsafe[1] if has_response else None,
    )
