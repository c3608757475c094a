"""The seam between the client and the network: tensors in, tensors out.

`GrpcTransport` and `AsyncGrpcTransport` talk to Triton, those of `tritonguard.testing` answer in memory.
All that is decided about requests and replies is in pure functions elsewhere; a transport only carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tritonguard.tensors import Array


@dataclass(frozen=True)
class Readiness:
    """What the server says of itself; a server that cannot be reached is neither."""

    live: bool
    ready: bool
    model_ready: bool


class Transport(Protocol):
    """Carries one request at a time to one server; safe to use from several threads."""

    def infer(self, tensors: Mapping[str, Array], *, deadline_s: float, request_id: str) -> Mapping[str, Array]:
        """The VERDICT tensors for REQUEST tensors, within `deadline_s` seconds. Raises GuardError only."""
        ...

    def readiness(self, *, deadline_s: float) -> Readiness:
        """The server's own word, within `deadline_s` seconds. Never raises for a server's trouble."""
        ...

    def close(self) -> None:
        """Free the connection; further calls are an error."""
        ...


class AsyncTransport(Protocol):
    """The same for one event loop: many requests at a time, each of which can be cancelled."""

    async def infer(self, tensors: Mapping[str, Array], *, deadline_s: float, request_id: str) -> Mapping[str, Array]:
        """As in `Transport`; a cancelled task takes its call back from the server."""
        ...

    async def readiness(self, *, deadline_s: float) -> Readiness:
        """As in `Transport`."""
        ...

    async def aclose(self) -> None:
        """Free the connection; further calls are an error."""
        ...
