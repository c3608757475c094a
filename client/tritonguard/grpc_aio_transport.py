"""Triton's gRPC endpoint, for one event loop."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tritonguard.endpoints import endpoint_names
from tritonguard.grpc_messages import GrpcMessages, closed, connection_options
from tritonguard.tensors import Array
from tritonguard.tls import Tls
from tritonguard.transport import Readiness


class AsyncGrpcTransport:
    """`GrpcTransport` for an event loop: the same arguments, and the same errors."""

    def __init__(self, url: str, *, model: str, tls: Tls | None = None) -> None:
        (self._url,) = endpoint_names(url)
        self._messages = GrpcMessages()
        self._options = connection_options(tls)
        self._model = model
        self._usage_error: type[Exception] = importlib.import_module("grpc.aio").UsageError
        self._client: Any = None

    def _connected(self) -> Any:
        # A channel belongs to the loop that runs when it is made, and a Guard may be made before any does.
        if self._client is None:
            library: Any = importlib.import_module("tritonclient.grpc.aio")
            self._client = library.InferenceServerClient(self._url, **self._options)
        return self._client

    async def infer(self, tensors: Mapping[str, Array], *, deadline_s: float, request_id: str) -> Mapping[str, Array]:
        messages = self._messages
        try:
            result = await self._connected().infer(
                self._model,
                messages.inputs(tensors),
                outputs=messages.outputs,
                request_id=request_id,
                client_timeout=deadline_s,
            )
            return messages.reply(result)
        except messages.failure as error:
            raise messages.typed(error, request_id) from error
        except self._usage_error as error:
            raise closed(request_id) from error

    async def readiness(self, *, deadline_s: float) -> Readiness:
        async def ask(question: Callable[..., Awaitable[Any]], *args: str) -> bool:
            try:
                return bool(await question(*args, client_timeout=deadline_s))
            except self._messages.failure:
                return False

        client = self._connected()
        live = await ask(client.is_server_live)
        return Readiness(
            live=live,
            ready=live and await ask(client.is_server_ready),
            model_ready=live and await ask(client.is_model_ready, self._model),
        )

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()
