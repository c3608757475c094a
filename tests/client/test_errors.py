from __future__ import annotations

import re

import pytest
import tritonguard.errors as errors
from hypothesis import given
from hypothesis import strategies as st
from tritonguard.errors import ERRORS, GuardError, InvalidRequest, Unavailable, Unimplemented, from_wire, to_wire

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
        ("NOT_FOUND", "unavailable"),
        ("CANCELLED", "unavailable"),
        ("INTERNAL", "internal"),
        ("UNKNOWN", "internal"),
        ("never heard of", "internal"),
        (None, "internal"),
    ],
)
def test_a_text_without_marker_goes_by_its_status(status: str | None, kind: str) -> None:
    assert from_wire("something Triton says", status).kind == kind


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        ("INTERNAL", "in ensemble 'guard', Stub process 'decode_0_0' is not healthy.", "unavailable"),
        ("UNAVAILABLE", "Server exiting", "unavailable"),
        # What Triton 2.51 answers while a model loads, when it is unloaded, and while the server drains.
        ("NOT_FOUND", "Request for unknown model: 'guard' has no available versions", "unavailable"),
        ("UNAVAILABLE", "[request id: r1] Exceeds maximum queue size", "overloaded"),
        ("UNAVAILABLE", "Request timeout expired", "deadline_exceeded"),
        ("INTERNAL", "Received RST_STREAM with error code 2", "unavailable"),
        # A text alone does not make a caller's mistake a failure of the service.
        ("INVALID_ARGUMENT", "Server exiting", "invalid_request"),
        # Our marker goes before what Triton says around it.
        ("INTERNAL", "Stub process 'x' is not healthy tritonguard:internal: internal error", "internal"),
    ],
)
def test_tritons_own_texts_are_known(status: str, text: str, kind: str) -> None:
    error = from_wire(text, status)
    assert error.kind == kind
    assert "decode_0_0" not in error.message


def test_a_refused_handshake_is_not_worth_another_try() -> None:
    error = from_wire("last error: Ssl handshake failed: CERTIFICATE_VERIFY_FAILED: /secret/path", "UNAVAILABLE")
    assert isinstance(error, Unavailable)
    assert not error.retryable
    assert "secret" not in error.message
    other = from_wire("connection refused", "UNAVAILABLE")
    assert isinstance(other, Unavailable)
    assert other.retryable


def test_on_error_covers_every_failure_of_the_service_and_no_mistake_of_the_caller() -> None:
    mistakes = {kind for kind, spec in ERRORS.items() if issubclass(spec.error, InvalidRequest)}
    assert {kind for kind, spec in ERRORS.items() if not spec.on_error} == mistakes | {
        "unimplemented",
        "unsupported_contract",
    }


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
