"""The gRPC edge against a gRPC server on this machine; the real Triton is in the end-to-end tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from answers import answer
from grpc_server import Server, aborting, serving, tensors_of
from tritonguard import (
    DeadlineExceeded,
    GrpcTransport,
    Guard,
    GuardError,
    GuardRequest,
    InternalError,
    InvalidRequest,
    Overloaded,
    Policy,
    Readiness,
    Retries,
    Unavailable,
    Unimplemented,
)
from tritonguard import tensors as wire
from tritonguard.errors import to_wire
from tritonguard.request import from_tensors
from tritonguard.request import to_tensors as request_tensors
from tritonguard.verdict import to_tensors

RAISING = Policy(on_error="raise")


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    servicer = Server()
    with serving(servicer) as (url, _):
        yield servicer, url


def test_a_verdict_crosses_the_network_with_every_tensor_of_the_request(server: tuple[Server, str]) -> None:
    servicer, url = server
    request = GuardRequest.create(
        prompt="naïve 请 \0", response="r", images=[b"\0png\0", b"x"], priority=1, tenant="t", policy=RAISING
    )
    seen: list[GuardRequest] = []

    def infer(call: Any, context: Any) -> dict[str, wire.Array]:
        assert (call.model_name, call.id) == ("guard", request.request_id)
        seen.append(from_tensors(tensors_of(call)))
        return to_tensors(answer(seen[0], 0.25))

    servicer.infer = infer
    with Guard(url) as guard:
        verdict = guard.check_request(request)
    assert seen == [request]
    assert verdict == answer(request, 0.25)


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, to_wire(InvalidRequest("m", field="prompt")), InvalidRequest),
        (grpc.StatusCode.UNIMPLEMENTED, to_wire(Unimplemented("m", field="images")), Unimplemented),
        (grpc.StatusCode.UNAVAILABLE, to_wire(Overloaded("queue is full")), Overloaded),
        (grpc.StatusCode.CANCELLED, to_wire(DeadlineExceeded("late")), DeadlineExceeded),
        (grpc.StatusCode.UNAVAILABLE, "Server exiting", Unavailable),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'guard' is not found", Unavailable),
        (grpc.StatusCode.INTERNAL, "in ensemble 'guard', Stub process 'decode_0_0' is not healthy.", Unavailable),
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", Overloaded),
        (grpc.StatusCode.INTERNAL, "Traceback: File model.py", InternalError),
    ],
)
def test_statuses_become_typed_errors(
    server: tuple[Server, str], code: Any, text: str, error: type[GuardError]
) -> None:
    servicer, url = server
    servicer.infer = aborting(code, f"in ensemble 'guard', {text}" if "tritonguard:" in text else text)
    with Guard(url, policy=RAISING) as guard, pytest.raises(error) as caught:
        guard.check("text", request_id="r1")
    assert type(caught.value) is error
    assert caught.value.request_id == "r1"
    assert "Traceback" not in str(caught.value)


def test_a_server_that_does_not_answer_runs_into_the_deadline(server: tuple[Server, str]) -> None:
    servicer, url = server
    released = threading.Event()

    def infer(call: Any, context: Any) -> dict[str, wire.Array]:
        released.wait()
        return {}

    servicer.infer = infer
    try:
        with Guard(url, policy=RAISING) as guard, pytest.raises(DeadlineExceeded):
            guard.check("text", deadline_s=0.1)
    finally:
        released.set()


def test_a_missing_output_is_never_a_verdict(server: tuple[Server, str]) -> None:
    servicer, url = server
    servicer.infer = lambda call, context: {"USER_SAFETY": wire.pack_text("USER_SAFETY", "safe")}
    with Guard(url, policy=RAISING) as guard, pytest.raises(InternalError, match="missing"):
        guard.check("text")


def test_readiness_is_the_servers_word(server: tuple[Server, str]) -> None:
    servicer, url = server
    with Guard(url) as guard:
        assert guard.health().readiness == Readiness(live=True, ready=True, model_ready=True)
        servicer.model_ready = False
        assert guard.health().readiness == Readiness(live=True, ready=True, model_ready=False)


def test_no_server_is_unavailable_and_unhealthy() -> None:
    # Port 1 of the loopback interface belongs to nobody.
    with Guard("127.0.0.1:1", policy=RAISING) as guard:
        assert not guard.health().readiness.live
        with pytest.raises(Unavailable):
            guard.check("text")


def test_each_try_tells_the_server_what_is_left_of_the_time(server: tuple[Server, str]) -> None:
    servicer, url = server
    deadlines: list[int] = []

    def infer(call: Any, context: Any) -> dict[str, wire.Array]:
        tensors = tensors_of(call)
        deadlines.append(int(tensors["DEADLINE_MS"].item()))
        if len(deadlines) < 3:
            time.sleep(0.01)
            context.abort(grpc.StatusCode.UNAVAILABLE, "Server exiting")
        return to_tensors(answer(from_tensors(tensors), 0.1))

    servicer.infer = infer
    with Guard(url, policy=RAISING, retries=Retries(first_s=0.001)) as guard:
        assert guard.check("text", deadline_s=5.0).allowed
    assert deadlines[0] == 5000
    assert deadlines[0] - 10 >= deadlines[1] >= deadlines[2] + 10


def test_a_guard_closed_in_the_middle_says_so(server: tuple[Server, str]) -> None:
    _, url = server
    transport = GrpcTransport(url, model="guard")
    transport.close()
    request = GuardRequest(prompt="text")
    with pytest.raises(Unavailable, match="closed"):
        transport.infer(request_tensors(request), deadline_s=1.0, request_id=request.request_id)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8001", "grpc://host", "", " "])
def test_a_url_with_a_scheme_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GrpcTransport(url, model="guard")
    assert caught.value.field == "url"
