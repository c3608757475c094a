"""Requests as bytes, right and wrong ones, straight over gRPC or HTTP: no client corrects them, none retries."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor
from tritonguard.errors import from_wire
from tritonguard.tensors import Array

INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL = "guard"
TIMEOUT_S = 120.0
"""How long an answer is waited for at all; the deadline under test is the one in the request."""

MOST_BYTES = 64 << 20
CHANNEL_OPTIONS = [("grpc.max_send_message_length", MOST_BYTES), ("grpc.max_receive_message_length", MOST_BYTES)]


@dataclass(frozen=True)
class Sent:
    """One request. body: a serialised ModelInferRequest, or of an HTTP POST. path: of HTTP; "": it goes by gRPC."""

    body: bytes
    path: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came back.

    label, p_unsafe, answered_id: of a verdict, as the server wrote them. kind: of an error, as the client types
    it. code: the status that carried the error, gRPC's name or HTTP's number. text: the error's whole text.
    seconds: from sending to the answer.
    """

    seconds: float
    label: str | None = None
    p_unsafe: float | None = None
    answered_id: str | None = None
    kind: str | None = None
    code: str = ""
    text: str = ""


def request(
    tensors: Mapping[str, Array], *, model: str = MODEL, version: str = "", outputs: tuple[str, ...] = ()
) -> Any:
    """A ModelInferRequest with the tensors as they are, whatever the table says of them."""
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name, array in tensors.items():
        add_tensor(message, name, np_to_triton_dtype(array.dtype), array.shape, raw(array))
    for name in outputs:
        message.outputs.add(name=name)
    return message


def add_tensor(message: Any, name: str, datatype: str, shape: tuple[int, ...], content: bytes) -> None:
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    message.raw_input_contents.append(content)


def raw(array: Array) -> bytes:
    """The content of a tensor as gRPC carries it."""
    if array.dtype != np.object_:
        return array.tobytes()
    packed = serialize_byte_tensor(array)
    return bytes(packed.item()) if packed.size else b""


class Wire:
    """A connection to one server. http: host:port for requests with a path. Safe to share between threads."""

    def __init__(self, grpc_url: str, http_url: str | None = None) -> None:
        self._channel = grpc.insecure_channel(grpc_url, options=CHANNEL_OPTIONS)
        # No serialisers: what is sent need not be a message at all.
        self._call = self._channel.unary_unary(INFER)
        self._http = http_url

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exception: object) -> None:
        self._channel.close()

    def send(self, sent: Sent) -> Outcome:
        """The answer to a request; what is no answer at all is an outcome too, of the kind that it is typed as."""
        began = time.monotonic()
        if sent.path:
            return self._post(sent, began)
        try:
            reply = self._call(sent.body, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return refusal(error, time.monotonic() - began)
        return verdict(reply, time.monotonic() - began)

    def _post(self, sent: Sent, began: float) -> Outcome:
        if self._http is None:
            return Outcome(0.0, kind="no_answer", code="no HTTP")
        host, port = self._http.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
        try:
            connection.request("POST", sent.path, sent.body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", errors="replace")
            seconds = time.monotonic() - began
            return http_outcome(answer.status, text, seconds)
        except (OSError, http.client.HTTPException) as error:
            return Outcome(time.monotonic() - began, kind="no_answer", code=type(error).__name__)
        finally:
            connection.close()


def refusal(error: Any, seconds: float) -> Outcome:
    """The outcome of a call that gRPC says has failed."""
    code, text = error.code().name, error.details() or ""
    return Outcome(seconds, kind=from_wire(text, code).kind, code=code, text=text)


def verdict(reply: bytes, seconds: float) -> Outcome:
    """The outcome that a serialised ModelInferResponse holds."""
    message = service_pb2.ModelInferResponse.FromString(reply)
    found = dict(zip((output.name for output in message.outputs), message.raw_output_contents, strict=True))
    missing = {"USER_SAFETY", "P_UNSAFE", "RECORD"} - set(found)
    if missing:
        return Outcome(seconds, kind="no_verdict", text=f"without {', '.join(sorted(missing))}")
    p_unsafe = float(np.frombuffer(found["P_UNSAFE"], np.float32)[0])
    record = json.loads(_element(found["RECORD"]))
    label = _element(found["USER_SAFETY"]).decode()
    return Outcome(seconds, label=label, p_unsafe=p_unsafe, answered_id=record["request_id"])


def http_outcome(status: int, text: str, seconds: float) -> Outcome:
    """The same of an HTTP answer. Only refusals are read: no verdict is asked for over HTTP."""
    if status == http.HTTPStatus.OK:
        return Outcome(seconds, label="answered", code="200")
    # HTTP has no status names; by themselves 400 is the caller's mistake and 503 a server that is not there.
    named = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 503: "UNAVAILABLE"}.get(status)
    return Outcome(seconds, kind=from_wire(text, named).kind, code=str(status), text=text)


def _element(content: bytes) -> bytes:
    return bytes(deserialize_bytes_tensor(content)[0])
