from __future__ import annotations

import re

import pytest
import tritonguard.errors as errors
from hypothesis import given
from hypothesis import strategies as st
from tritonguard.errors import ERRORS, GuardError, Unimplemented, from_wire, to_wire

TRITON_CODES = {
    "UNKNOWN",
    "INTERNAL",
    "NOT_FOUND",
    "INVALID_ARG",
    "UNAVAILABLE",
    "UNSUPPORTED",
    "ALREADY_EXISTS",
    "CANCELLED",
}
ENSEMBLE = "in ensemble 'guard', "
FIELDS = st.none() | st.from_regex(r"[a-z_]+(\.[a-z_0-9]+)*", fullmatch=True)


def build(kind: str, message: str, field: str | None) -> GuardError:
    if kind == "unimplemented":
        return Unimplemented(message, field=field or "mode")
    return ERRORS[kind].error(message, field=field)


def is_internal(kind: str) -> bool:
    return ERRORS[kind].grpc_status == "INTERNAL"


@given(st.sampled_from(sorted(ERRORS)), st.text(), FIELDS, st.sampled_from(["", ENSEMBLE]))
def test_every_kind_comes_back_from_the_wire(kind: str, message: str, field: str | None, prefix: str) -> None:
    sent = build(kind, message, field)
    line = to_wire(sent)
    assert len(line.splitlines()) == 1
    received = from_wire(prefix + line, "INTERNAL", request_id="r1")
    assert type(received) is type(sent)
    assert received.request_id == "r1"
    if is_internal(kind):
        assert (received.message, received.field) == ("internal error", None)
    else:
        assert (received.message, received.field) == (sent.message, sent.field)


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if is_internal(kind)])
def test_internal_faults_tell_callers_nothing(kind: str) -> None:
    line = to_wire(build(kind, "KeyError in secret_module.py", "secret_module"))
    assert line == f"tritonguard:{kind}: internal error"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("INVALID_ARGUMENT", "invalid_request"),
        ("StatusCode.INVALID_ARGUMENT", "invalid_request"),
        ("FAILED_PRECONDITION", "unsupported_contract"),
        ("UNIMPLEMENTED", "unimplemented"),
        ("DEADLINE_EXCEEDED", "deadline_exceeded"),
        ("RESOURCE_EXHAUSTED", "overloaded"),
        ("UNAVAILABLE", "unavailable"),
        ("INTERNAL", "internal"),
        ("UNKNOWN", "internal"),
        ("never heard of", "internal"),
        (None, "internal"),
    ],
)
def test_a_text_without_marker_goes_by_its_status(status: str | None, kind: str) -> None:
    assert from_wire("something Triton says", status).kind == kind


def test_a_kind_of_a_newer_server_goes_by_its_status() -> None:
    error = from_wire("tritonguard:from_the_future field=prompt: no more", "RESOURCE_EXHAUSTED")
    assert (error.kind, error.field, error.message) == ("overloaded", "prompt", "no more")


def test_unmarked_internal_texts_are_not_passed_on() -> None:
    assert from_wire("Traceback: File model.py", "INTERNAL").message == "internal error"


@given(st.text(), st.none() | st.text())
def test_no_text_breaks_the_reader(message: str, status: str | None) -> None:
    assert isinstance(from_wire(message, status), GuardError)


def test_the_table_is_complete_and_names_real_codes() -> None:
    defined = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, GuardError)}
    assert {spec.error for spec in ERRORS.values()} == defined - {GuardError}
    assert all(ERRORS[spec.error.kind] is spec for spec in ERRORS.values())
    assert {spec.triton_code for spec in ERRORS.values()} <= TRITON_CODES


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"\+- (\w+)", errors.__doc__ or ""))
    assert drawn == {spec.error.__name__ for spec in ERRORS.values()}
    starred = set(re.findall(r"\+- (\w+).*\(\*\)", errors.__doc__ or ""))
    assert starred == {spec.error.__name__ for spec in ERRORS.values() if spec.on_error}


def test_messages_are_one_bounded_line() -> None:
    error = GuardError("a\nb" + "x" * 10_000, field="policy.odd key\n")
    assert "\n" not in error.message
    assert len(error.message) <= 500
    assert error.field == "policy.odd_key_"
