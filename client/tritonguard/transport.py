"""The seam between the client and the network: tensors in, tensors out.

`GrpcTransport` talks to Triton; `MockTransport` answers in memory, for the tests of whoever uses this
package.
All that is decided about requests and replies is in pure functions elsewhere; a transport only carries.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tritonguard import verdict as verdicts
from tritonguard.errors import GuardError, InvalidRequest, from_wire, to_wire
from tritonguard.request import GuardRequest, from_tensors
from tritonguard.tensors import TENSORS, VERDICT, Array
from tritonguard.verdict import Verdict


@dataclass(frozen=True)
class Readiness:
    """What the server says of itself; a server that cannot be reached is neither."""

    live: bool
    ready: bool
    model_ready: bool


class Transport(Protocol):
    """Carries one request at a time; safe to use from several threads."""

    def infer(self, tensors: Mapping[str, Array], *, deadline_s: float, request_id: str) -> Mapping[str, Array]:
        """The VERDICT tensors for REQUEST tensors, within `deadline_s` seconds. Raises GuardError only."""
        ...

    def readiness(self, *, deadline_s: float) -> Readiness:
        """The server's own word, within `deadline_s` seconds. Never raises for a server's trouble."""
        ...

    def close(self) -> None:
        """Free the connection; further calls are an error."""
        ...


class GrpcTransport:
    """Triton's gRPC endpoint. url: host:port. model: name of the ensemble.

    Raises InvalidRequest for a url with a scheme. Connects with the first call.
    """

    def __init__(self, url: str, *, model: str) -> None:
        if "://" in url or not url.strip():
            raise InvalidRequest("url: give host:port of the gRPC endpoint, without a scheme", field="url")
        # Here, not above: the server imports the contract and has no use for a gRPC client.
        # By name: the package has no types.
        self._grpc: Any = importlib.import_module("tritonclient.grpc")
        utilities = importlib.import_module("tritonclient.utils")
        self._failure: type[Exception] = utilities.InferenceServerException
        self._client: Any = self._grpc.InferenceServerClient(url)
        self._model = model
        self._outputs = [self._grpc.InferRequestedOutput(spec.name) for spec in VERDICT]

    def infer(self, tensors: Mapping[str, Array], *, deadline_s: float, request_id: str) -> Mapping[str, Array]:
        inputs = []
        for name, array in tensors.items():
            tensor = self._grpc.InferInput(name, list(array.shape), TENSORS[name].dtype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        try:
            result = self._client.infer(
                self._model,
                inputs,
                outputs=self._outputs,
                request_id=request_id,
                client_timeout=deadline_s,
            )
            reply = {spec.name: result.as_numpy(spec.name) for spec in VERDICT}
        except self._failure as error:
            raise self._typed(error, request_id) from error
        return {name: array for name, array in reply.items() if array is not None}

    def readiness(self, *, deadline_s: float) -> Readiness:
        def ask(question: Callable[..., Any], *args: str) -> bool:
            try:
                return bool(question(*args, client_timeout=deadline_s))
            except self._failure:
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

    @staticmethod
    def _typed(error: Any, request_id: str) -> GuardError:
        return from_wire(str(error.message()), error.status(), request_id=request_id)


class MockTransport:
    """A server in memory, for tests.

        guard = Guard(transport=MockTransport(lambda request: my_verdict(request)))

    `handler` gets the request as the server's door reads it and returns a verdict or raises a GuardError.
    Both go through their wire form, so a test sees what a caller of the real server would see.
    """

    def __init__(
        self,
        handler: Callable[[GuardRequest], Verdict],
        *,
        readiness: Readiness = Readiness(live=True, ready=True, model_ready=True),
    ) -> None:
        self._handler = handler
        self._readiness = readiness

    def infer(self, tensors: Mapping[str, Array], *, deadline_s: float, request_id: str) -> Mapping[str, Array]:
        try:
            return verdicts.to_tensors(self._handler(from_tensors(tensors)))
        except GuardError as error:
            raise from_wire(to_wire(error), request_id=request_id) from error

    def readiness(self, *, deadline_s: float) -> Readiness:
        return self._readiness

    def close(self) -> None:
        pass
