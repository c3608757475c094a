"""From answers to one label and one outcome: each part of the policy is judged, then the parts are joined.

`read_answer` is one prompt's label: the probabilities of its choices and the text that it wrote must say the same,
or it is indeterminate. `join` puts the parts together, side by side: unsafe over indeterminate over safe. What is
done is decided for each part under its own thresholds, and the strictest decision holds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tritonguard.answer import UnreadableAnswer, parse_answer
from tritonguard.contradiction import contradicts
from tritonguard.label import Label, Safety, TextLabel, label_from_choices
from tritonguard.policy import Policy
from tritonguard.request import Mode
from tritonguard.tensors import Array
from tritonguard.verdict import ON_ERROR, Decision, Outcome, decide

_ORDER = (Safety.UNSAFE, Safety.INDETERMINATE, Safety.SAFE)
_STRICTNESS = (Decision.BLOCK, Decision.REVIEW, Decision.ALLOW)


@dataclass(frozen=True)
class Judged:
    """A part of the policy with its label. name: of the part. policy: whose thresholds and on_error count."""

    name: str
    policy: Policy
    label: Label


def read_answer(
    logprobs: Array,
    text: str,
    *,
    mode: Mode,
    has_response: bool,
    names: Collection[str] | None,
    reasoning_source: str,
    truncated: bool = False,
    bounded: bool = False,
) -> Label:
    """The label of one answer.

    logprobs: FP32 [choices, 2] (`label_from_choices`). text: the whole answer. names: what its category list may
    hold; None: anything. truncated: the reasoning was ended by its budget. bounded: a probability is a bound
    (`Label.probability_bounded`). Whatever can't be read, or contradicts itself, is an indeterminate label.
    """
    label = label_from_choices(logprobs, has_response=has_response)
    if label.is_indeterminate:
        return label
    try:
        answer = parse_answer(text, mode=mode, has_response=has_response, names=names)
    except UnreadableAnswer as error:
        return Label.indeterminate(error.reason, has_response=has_response)
    if (answer.user, answer.response) != (label.user_safety, label.response_safety):
        return Label.indeterminate("the answer and its probabilities disagree", has_response=has_response)
    reasoning = (answer.reasoning or "").strip() or None
    return label.model_copy(
        update={
            "probability_bounded": bounded,
            "categories": (answer.categories or ()) if mode is Mode.CATEGORIES else None,
            "reasoning": reasoning,
            "reasoning_source": reasoning_source if reasoning else None,
            "reasoning_truncated": truncated and reasoning is not None,
            "reasoning_contradicts": reasoning is not None
            and contradicts(reasoning, user=label.user_safety, response=label.response_safety),
        }
    )


def blind(text: Label | None, *, reason: str, has_response: bool) -> Label:
    """The label of an exchange with images that the bundle can't judge. text: of the texts alone, None: none."""
    label = Label.indeterminate(reason, has_response=has_response)
    if text is None:
        return label
    kept = {name: getattr(text, name) for name in TextLabel.model_fields}
    return label.model_copy(update={"text_only": TextLabel(**kept), "categories": text.categories})


def join(parts: Sequence[Judged]) -> Label:
    """One label of all parts: on each side unsafe over indeterminate over safe, with the highest p_unsafe."""
    labels = [part.label for part in parts]
    if len(labels) == 1:
        return labels[0].model_copy(update={"flagged_by": _flagging(parts)})
    first = next((label for label in labels if _is_unsafe(label)), labels[0])
    user, p_user = _joined([(label.user_safety, label.p_unsafe_user) for label in labels])
    response, p_response = _joined([(label.response_safety, label.p_unsafe_response) for label in labels])
    reasons = [label.indeterminate_reason for label in labels if label.indeterminate_reason]
    listed = [label.categories for label in labels if label.categories is not None]
    texts = [label.text_only for label in labels if label.text_only]
    return Label(
        user_safety=user or Safety.INDETERMINATE,
        response_safety=response,
        p_unsafe_user=p_user,
        p_unsafe_response=p_response,
        probability_bounded=(p_user, p_response) != (None, None) and any(label.probability_bounded for label in labels),
        categories=tuple(dict.fromkeys(name for names in listed for name in names)) if listed else None,
        reasoning=first.reasoning,
        reasoning_source=first.reasoning_source,
        reasoning_truncated=first.reasoning_truncated,
        reasoning_contradicts=first.reasoning_contradicts,
        flagged_by=_flagging(parts),
        text_only=_strictest(texts) if texts else None,
        indeterminate_reason=reasons[0] if Safety.INDETERMINATE in (user, response) else None,
    )


def decide_parts(parts: Sequence[Judged]) -> Outcome:
    """The strictest of the parts' outcomes. Of equal ones, an allow names the error it was taken on."""
    outcomes = [(part, decide(part.label, part.policy)) for part in parts]
    if len(outcomes) == 1:
        return outcomes[0][1]
    strictest = min((outcome for _, outcome in outcomes), key=lambda outcome: _STRICTNESS.index(outcome.decision))
    same = [(part, outcome) for part, outcome in outcomes if outcome.decision is strictest.decision]
    marked = [(part, outcome) for part, outcome in same if outcome.on_error_applied]
    plain = [(part, outcome) for part, outcome in same if not outcome.on_error_applied]
    if plain and (strictest.decision is not Decision.ALLOW or not marked):
        return Outcome(
            decision=strictest.decision, reason="; ".join(f"{part.name}: {outcome.reason}" for part, outcome in plain)
        )
    part, outcome = marked[0]
    if join(parts).is_indeterminate:
        return outcome
    # The joined label is judged (another part is unsafe below its threshold), so no on_error may pass for it: a
    # block stays one, and an allow that rests on an error becomes a review.
    decision = Decision.BLOCK if outcome.decision is Decision.BLOCK else Decision.REVIEW
    return Outcome(decision=decision, reason=f"{part.name}: {outcome.reason.removeprefix(ON_ERROR)}")


def _flagging(parts: Sequence[Judged]) -> tuple[str, ...]:
    return tuple(part.name for part in parts if _is_unsafe(part.label))


def _is_unsafe(label: Label) -> bool:
    sides = [label.user_safety, label.response_safety]
    if label.text_only:
        sides += [label.text_only.user_safety, label.text_only.response_safety]
    return Safety.UNSAFE in sides


def _joined(sides: Sequence[tuple[Safety | None, float | None]]) -> tuple[Safety | None, float | None]:
    present = {safety for safety, _ in sides if safety is not None}
    if not present:
        return None, None
    safety = next(kind for kind in _ORDER if kind in present)
    judged = [p for _, p in sides if p is not None]
    return safety, None if safety is Safety.INDETERMINATE else max(judged)


def _strictest(texts: Sequence[TextLabel]) -> TextLabel:
    user, p_user = _joined([(text.user_safety, text.p_unsafe_user) for text in texts])
    response, p_response = _joined([(text.response_safety, text.p_unsafe_response) for text in texts])
    return TextLabel(
        user_safety=user or Safety.INDETERMINATE,
        response_safety=response,
        p_unsafe_user=p_user,
        p_unsafe_response=p_response,
    )
