"""Generators of whole policies, requests and verdicts, with everything the contract allows."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from tritonguard import (
    CATEGORIES,
    Caching,
    GuardRequest,
    Label,
    Mode,
    Policy,
    Record,
    Safety,
    Thresholds,
    Turn,
    Verdict,
)
from tritonguard.policy import CustomCategory
from tritonguard.verdict import decide

TEXT = st.text()
SAID = TEXT.filter(lambda text: bool(text.strip()))
# A letter, so that the text is blank to nobody: regular expressions and Python differ in control characters.
FILLED = TEXT.map(lambda text: text + "x")
PROBABILITY = st.floats(0.0, 1.0)
ASCII = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=128)
_NAMES = st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=20).map(lambda text: f"X{text}")
_CUSTOM = st.builds(CustomCategory, name=_NAMES, definition=st.none() | FILLED)
_LISTS = st.lists(_CUSTOM, min_size=1, max_size=4, unique_by=lambda c: c.name.casefold()).map(tuple)
_SUPPRESSIBLE = [category.name for category in CATEGORIES if category.code != "S7"]


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    margin = draw(PROBABILITY)
    values: dict[str, Any] = {
        "name": draw(st.sampled_from(["built-in", "strict chat", "a"])),
        "version": draw(st.sampled_from(["1.0.0", "0.2.1", "2.0.0-rc.1+b"])),
        "thresholds": Thresholds(user=draw(PROBABILITY), response=draw(PROBABILITY), review_margin=margin),
        "on_error": draw(st.sampled_from(["block", "allow", "raise"])),
        "floor": draw(st.booleans()),
        "cache": draw(st.none() | st.builds(Caching, ttl_s=st.integers(1, 86_400))),
    }
    match draw(st.sampled_from(["built-in", "a", "b", "derived"])):
        case "a":
            values |= {"custom_policy": draw(FILLED), "also_builtin": draw(st.booleans())}
        case "b":
            values |= {"custom_taxonomy": draw(_LISTS | FILLED), "also_builtin": draw(st.booleans())}
        case "derived":
            values |= {
                "suppress": tuple(draw(st.sets(st.sampled_from(_SUPPRESSIBLE), min_size=1))),
                "inject": draw(_LISTS),
                "allow_list": ("medical advice",) if draw(st.booleans()) else (),
            }
    return Policy(**values)


@st.composite
def requests(draw: st.DrawFn) -> GuardRequest:
    images = draw(st.lists(st.binary(min_size=1), max_size=3))
    mode = draw(st.sampled_from(Mode))
    policy = draw(st.just(Policy()) | policies())
    thinks = mode is Mode.THINK and draw(st.booleans())
    return GuardRequest(
        prompt=draw(TEXT if images else SAID),
        response=draw(st.none() | SAID),
        images=tuple(images),
        policy=policy,
        policy_name=draw(st.none() | ASCII) if policy == Policy() else None,
        mode=mode,
        think_budget=draw(st.integers(1, 32_768)) if thinks else None,
        deadline_s=draw(st.floats(0, 600, exclude_min=True)),
        priority=draw(st.integers(0, 2**31 - 1)),
        tenant=draw(st.none() | ASCII),
        request_id=draw(ASCII),
        turns=draw(st.none() | st.tuples(st.builds(Turn, role=st.sampled_from(["user", "assistant"]), content=TEXT))),
    )


@st.composite
def labels(draw: st.DrawFn) -> Label:
    def side() -> tuple[Safety, float | None]:
        p_unsafe = draw(st.none() | st.floats(0.0, 1.0, width=32))
        if p_unsafe is None:
            return Safety.INDETERMINATE, None
        return (Safety.UNSAFE if p_unsafe >= 0.5 else Safety.SAFE), p_unsafe

    user, p_user = side()
    response, p_response = side() if draw(st.booleans()) else (None, None)
    indeterminate = Safety.INDETERMINATE in (user, response)
    thought = draw(st.booleans())
    return Label(
        user_safety=user,
        response_safety=response,
        p_unsafe_user=p_user,
        p_unsafe_response=p_response,
        categories=draw(st.none() | st.lists(FILLED, max_size=3).map(tuple)),
        reasoning=draw(FILLED) if thought else None,
        reasoning_source="model" if thought else None,
        indeterminate_reason=draw(FILLED) if indeterminate else None,
    )


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    label, policy = draw(labels()), draw(policies())
    record = Record(
        contract_version=1,
        request_id=draw(ASCII),
        policy_name=policy.name,
        policy_sha256=policy.sha256,
        model_revision=draw(st.none() | FILLED),
        prompt_tokens=draw(st.none() | st.integers(0, 10**6)),
        cached=draw(st.booleans()),
        timings_ms=draw(st.dictionaries(st.sampled_from(["decode", "preprocess"]), st.floats(0, 1e6))),
    )
    return Verdict(label=label, outcome=decide(label, policy), record=record)
