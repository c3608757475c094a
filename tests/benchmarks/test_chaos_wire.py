"""Outcomes as they come off a real gRPC channel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from benchmarks.chaos.texts import good
from benchmarks.chaos.wire import INFER, Sent, Wire, add_tensor, http_outcome, raw


def element(text: str) -> bytes:
    return raw(np.array([[text.encode()]], np.object_))


def reply(body: bytes) -> bytes:
    request = service_pb2.ModelInferRequest.FromString(body)
    sent = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
    record = element(json.dumps({"request_id": sent["REQUEST_ID"][4:].decode()}))
    message = service_pb2.ModelInferResponse(model_name="guard")
    for name, content in (
        ("USER_SAFETY", element("unsafe")),
        ("P_UNSAFE", np.array([[0.75, np.nan]], np.float32).tobytes()),
        ("RECORD", record),
    ):
        message.outputs.add(name=name)
        message.raw_output_contents.append(content)
    return bytes(message.SerializeToString())


def serve(body: bytes, context: Any) -> bytes:
    if body == b"bad":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "tritonguard:prompt_too_long field=prompt: 9 tokens")
    if body == b"empty":
        return b""
    return reply(body)


@pytest.fixture
def wire() -> Iterator[Wire]:
    server = grpc.server(ThreadPoolExecutor(2))
    service, method = INFER.strip("/").split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(serve)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Wire(f"127.0.0.1:{port}") as opened:
        yield opened
    server.stop(None).wait()


def test_a_verdict_is_read_with_the_id_that_it_answers(wire: Wire) -> None:
    outcome = wire.send(good("How do I bake bread?", request_id="id-7"))
    assert (outcome.label, outcome.p_unsafe, outcome.answered_id, outcome.kind) == ("unsafe", 0.75, "id-7", None)


def test_a_refusal_is_typed_as_the_client_types_it(wire: Wire) -> None:
    outcome = wire.send(Sent(b"bad"))
    assert (outcome.kind, outcome.code, outcome.label) == ("prompt_too_long", "INVALID_ARGUMENT", None)
    assert "9 tokens" in outcome.text


def test_a_reply_without_a_verdict_is_none(wire: Wire) -> None:
    assert wire.send(Sent(b"empty")).kind == "no_verdict"


def test_a_server_that_is_not_there_is_an_outcome_too() -> None:
    with Wire("127.0.0.1:9", "127.0.0.1:9") as nobody:
        assert nobody.send(Sent(b"bad")).kind == "unavailable"
        assert nobody.send(Sent(b"bad", "/v2/models/guard/infer")).kind == "no_answer"


def test_http_is_typed_by_the_marker_or_by_its_status() -> None:
    assert http_outcome(400, '{"error":"tritonguard:invalid_image: broken"}', 0.1).kind == "invalid_image"
    assert http_outcome(400, '{"error":"missing"}', 0.1).kind == "invalid_request"
    assert http_outcome(500, '{"error":"what?"}', 0.1).kind == "internal"
    assert http_outcome(200, "{}", 0.1).kind is None


def test_any_content_can_be_put_under_any_name() -> None:
    message = service_pb2.ModelInferRequest()
    add_tensor(message, "PROMPT", "FP32", (2, 7), b"x")
    assert (message.inputs[0].datatype, list(message.inputs[0].shape)) == ("FP32", [2, 7])
    assert raw(np.empty((0, 1), np.object_)) == b""
