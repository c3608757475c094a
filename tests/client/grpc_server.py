"""A gRPC server in the test's process that speaks Triton's protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from answers import answer
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor
from tritonguard import tensors as wire
from tritonguard.request import from_tensors
from tritonguard.verdict import to_tensors

Infer = Callable[[Any, Any], dict[str, wire.Array]]


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Speaks Triton's protocol; `infer` gets the call and its context and answers with tensors or aborts."""

    def __init__(self) -> None:
        self.infer: Infer = lambda call, context: to_tensors(answer(from_tensors(tensors_of(call)), 0.1))
        self.model_ready = True
        self.calls: list[str] = []

    def ModelInfer(self, call: Any, context: Any) -> Any:
        self.calls.append(call.id)
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


def aborting(code: Any, text: str) -> Infer:
    def infer(call: Any, context: Any) -> dict[str, wire.Array]:
        context.abort(code, text)
        return {}

    return infer


@contextmanager
def serving(servicer: Server, credentials: Any = None, *, port: int = 0, workers: int = 4) -> Iterator[tuple[str, Any]]:
    """The host:port and the running server; gone at the end."""
    with futures.ThreadPoolExecutor(max_workers=workers) as pool:
        running = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, running)
        address = f"127.0.0.1:{port}"
        taken = (
            running.add_insecure_port(address) if credentials is None else running.add_secure_port(address, credentials)
        )
        running.start()
        try:
            yield f"127.0.0.1:{taken}", running
        finally:
            running.stop(None).wait()
