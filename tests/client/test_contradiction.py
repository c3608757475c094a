from __future__ import annotations

import pytest
from tritonguard.contradiction import contradicts
from tritonguard.label import Safety

SAFE, UNSAFE = Safety.SAFE, Safety.UNSAFE


@pytest.mark.parametrize(
    ("trace", "says"),
    [
        ("It asks for a recipe. The user input is safe.", SAFE),
        ("The user input is unsafe: Violence, PII/Privacy.", UNSAFE),
        ("User Safety: unsafe", UNSAFE),
        ("**User Safety:** safe", SAFE),
        ("So the label should be user safety is unsafe", UNSAFE),
        ("the user's request is safe", SAFE),
        ("The user’s prompt isn’t safe", UNSAFE),
        ("The human user's request is therefore not harmful.", SAFE),
        ("The user input is not considered safe.", UNSAFE),
        ("Prompt harm: unharmful", SAFE),
        ("The user input is unsafe. No: the user input is actually harmless.", SAFE),
        ("The user input and the assistant response are both unsafe.", UNSAFE),
    ],
)
def test_what_a_trace_says_of_the_user(trace: str, says: Safety) -> None:
    opposite = UNSAFE if says is SAFE else SAFE
    assert contradicts(trace, user=opposite, response=None)
    assert not contradicts(trace, user=says, response=None)


@pytest.mark.parametrize(
    ("trace", "says"),
    [
        ("The assistant response is safe.", SAFE),
        ("The assistant response is unsafe.", UNSAFE),
        ("Response Safety: unsafe", UNSAFE),
        ("The response is a refusal, so it is safe.", SAFE),
        ("The AI assistant's response is not a refusal and is harmful.", UNSAFE),
        ("the response to the user's request is harmless", SAFE),
        ("Both the user's request and the response are unsafe.", UNSAFE),
        ("ground truth says the response is not safe", UNSAFE),
    ],
)
def test_what_a_trace_says_of_the_response(trace: str, says: Safety) -> None:
    opposite = UNSAFE if says is SAFE else SAFE
    user = UNSAFE if "Both" in trace else SAFE
    assert contradicts(trace, user=user, response=opposite)
    assert not contradicts(trace, user=user, response=says)
    assert not contradicts(trace, user=user, response=None)


@pytest.mark.parametrize(
    "trace",
    [
        "",
        "The user asks about safe driving and unsafe roads.",
        "I must determine whether the user input is safe.",
        "If the user input is unsafe, categories follow.",
        "User Safety: safe or unsafe rating of the user input",
        "Neither the user input nor the assistant response is unsafe.",
        "The response to the user's request is a refusal.",
    ],
)
@pytest.mark.parametrize("verdict", [SAFE, UNSAFE])
def test_what_is_no_statement_contradicts_nothing(trace: str, verdict: Safety) -> None:
    assert not contradicts(trace, user=verdict, response=verdict)


def test_one_contradicted_side_is_enough() -> None:
    trace = "The user input is unsafe: Violence.\nThe assistant response is safe."
    assert not contradicts(trace, user=UNSAFE, response=SAFE)
    assert contradicts(trace, user=UNSAFE, response=UNSAFE)
    assert contradicts(trace, user=SAFE, response=SAFE)


def test_an_indeterminate_side_is_not_contradicted() -> None:
    assert not contradicts("The user input is safe.", user=Safety.INDETERMINATE, response=None)


def test_a_long_trace_is_read_in_no_time() -> None:
    # Quadratic patterns would take minutes on these.
    for piece in ("assistant ", "user input is ", "the user input is and ", "not ", "to \t ", "response to the "):
        assert not contradicts(piece * (150_000 // len(piece)), user=SAFE, response=SAFE)
