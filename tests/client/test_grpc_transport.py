"""The gRPC edge against a gRPC server on this machine; the real Triton is in the end-to-end tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from answers import answer
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor
from tritonguard import (
    DeadlineExceeded,
    Guard,
    GuardError,
    GuardRequest,
    InternalError,
    InvalidRequest,
    Overloaded,
    Policy,
    Readiness,
    Unavailable,
    Unimplemented,
)
from tritonguard import tensors as wire
from tritonguard.errors import to_wire
from tritonguard.request import from_tensors
from tritonguard.transport import GrpcTransport
from tritonguard.verdict import to_tensors

Infer = Callable[[Any, Any], dict[str, wire.Array]]
RAISING = Policy(on_error="raise")


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Speaks Triton's protocol; `infer` gets the call and its context and answers with tensors or aborts."""

    def __init__(self) -> None:
        self.infer: Infer = lambda call, context: to_tensors(answer(from_tensors(tensors_of(call)), 0.1))
        self.model_ready = True

    def ModelInfer(self, call: Any, context: Any) -> Any:
        reply = service_pb2.ModelInferResponse(model_name=call.model_name, id=call.id)
        for name, array in self.infer(call, context).items():
            dtype = wire.TENSORS[name].dtype
            reply.outputs.add(name=name, datatype=dtype, shape=list(array.shape))
            raw = serialize_byte_tensor(array).item() if dtype == "BYTES" else array.tobytes()
            reply.raw_output_contents.append(raw)
        return reply

    def ServerLive(self, call: Any, context: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, call: Any, context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, call: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=self.model_ready and call.name == "guard")


def tensors_of(call: Any) -> dict[str, wire.Array]:
    tensors = {}
    for described, raw in zip(call.inputs, call.raw_input_contents, strict=True):
        dtype = wire.NUMPY_DTYPES[described.datatype]
        flat = deserialize_bytes_tensor(raw) if described.datatype == "BYTES" else np.frombuffer(raw, dtype)
        tensors[described.name] = flat.reshape(list(described.shape))
    return tensors


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    servicer = Server()
    with futures.ThreadPoolExecutor(max_workers=2) as pool:
        running = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, running)
        port = running.add_insecure_port("127.0.0.1:0")
        running.start()
        yield servicer, f"127.0.0.1:{port}"
        running.stop(None).wait()


def aborting(code: Any, text: str) -> Infer:
    def infer(call: Any, context: Any) -> dict[str, wire.Array]:
        context.abort(code, text)
        return {}

    return infer


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
    with Guard(url) as guard, pytest.raises(InternalError, match="missing"):
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


@pytest.mark.parametrize("url", ["http://127.0.0.1:8001", "grpc://host", "", " "])
def test_a_url_with_a_scheme_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GrpcTransport(url, model="guard")
    assert caught.value.field == "url"
