"""Triton's gRPC endpoint, for threads."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from tritonguard.endpoints import endpoint_names
from tritonguard.grpc_messages import GrpcMessages, closed, connection_options
from tritonguard.tensors import Array
from tritonguard.tls import Tls
from tritonguard.transport import Readiness


class GrpcTransport:
    """url: host:port. model: name of the ensemble. tls: None for a plain connection.

    Raises InvalidRequest for a url with a scheme and for unusable TLS files. Connects with the first call.
    """

    def __init__(self, url: str, *, model: str, tls: Tls | None = None) -> None:
        (name,) = endpoint_names(url)
        self._messages = GrpcMessages()
        library: Any = importlib.import_module("tritonclient.grpc")
        self._client: Any = library.InferenceServerClient(name, **connection_options(tls))
        self._model = model

    def infer(self, tensors: Mapping[str, Array], *, deadline_s: float, request_id: str) -> Mapping[str, Array]:
        messages = self._messages
        try:
            result = self._client.infer(
                self._model,
                messages.inputs(tensors),
                outputs=messages.outputs,
                request_id=request_id,
                client_timeout=deadline_s,
            )
            return messages.reply(result)
        except messages.failure as error:
            raise messages.typed(error, request_id) from error
        except ValueError as error:
            if "closed channel" not in str(error):
                raise
            raise closed(request_id) from error

    def readiness(self, *, deadline_s: float) -> Readiness:
        def ask(question: Callable[..., Any], *args: str) -> bool:
            try:
                return bool(question(*args, client_timeout=deadline_s))
            except self._messages.failure:
                return False

        # A server that is not live would let each further question wait for its own timeout.
        live = ask(self._client.is_server_live)
        return Readiness(
            live=live,
            ready=live and ask(self._client.is_server_ready),
            model_ready=live and ask(self._client.is_model_ready, self._model),
        )

    def close(self) -> None:
        self._client.close()
