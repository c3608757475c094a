"""What both gRPC transports send, read and set, without the waiting.

tritonclient and grpc are imported by name and only when a transport is made: the server imports the contract
and has no use for a gRPC client, and the packages have no types.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from tritonguard.errors import GuardError, Unavailable, from_wire
from tritonguard.tensors import TENSORS, VERDICT, Array
from tritonguard.tls import Tls

# A server that comes back is found again within about a second; gRPC's own pauses grow to two minutes.
# The first value also bounds one attempt to connect, so that a silent address leaves time for another one.
_RECONNECT = (
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcMessages:
    """The pieces of `tritonclient.grpc`, found once."""

    def __init__(self) -> None:
        self._grpc: Any = importlib.import_module("tritonclient.grpc")
        self.failure: type[Exception] = importlib.import_module("tritonclient.utils").InferenceServerException
        self.outputs = [self._grpc.InferRequestedOutput(spec.name) for spec in VERDICT]

    def inputs(self, tensors: Mapping[str, Array]) -> list[Any]:
        """The tensors of a request as tritonclient wants them."""
        inputs = []
        for name, array in tensors.items():
            tensor = self._grpc.InferInput(name, list(array.shape), TENSORS[name].dtype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        return inputs

    def reply(self, result: Any) -> dict[str, Array]:
        """The VERDICT tensors that came; a missing one is for `read_reply` to find."""
        reply = {spec.name: result.as_numpy(spec.name) for spec in VERDICT}
        return {name: array for name, array in reply.items() if array is not None}

    def typed(self, error: Any, request_id: str) -> GuardError:
        """The error that an InferenceServerException stands for."""
        return from_wire(str(error.message()), error.status(), request_id=request_id)


def connection_options(tls: Tls | None) -> dict[str, Any]:
    """Arguments of tritonclient's constructors, plain or with credentials. Raises what `Tls.read` raises."""
    largest: int = importlib.import_module("tritonclient.grpc").MAX_GRPC_MESSAGE_SIZE
    channel: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", largest),
        ("grpc.max_receive_message_length", largest),
        *_RECONNECT,
    ]
    if tls is None:
        return {"channel_args": channel}
    contents = tls.read()
    if tls.server_name is not None:
        channel.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = importlib.import_module("grpc").ssl_channel_credentials(
        root_certificates=contents.ca, private_key=contents.key, certificate_chain=contents.certificate
    )
    return {"channel_args": channel, "creds": credentials}


def closed(request_id: str) -> Unavailable:
    """For a call that lost its connection to a `close` beside it."""
    return Unavailable("the connection was closed", request_id=request_id, retryable=False)
