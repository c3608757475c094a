"""What a client does to the network, as values: `Guard` and `AsyncGuard` differ only in how they do it.

A generator of steps holds all decisions (`retries.attempts`, `health.examined`, `calls.Calls`). Whoever drives
it does each step and sends the result back in, or throws the GuardError that came of it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from tritonguard.tensors import Array

Result = TypeVar("Result")


@dataclass(frozen=True)
class Send:
    """Judge this: the answer is the VERDICT tensors. endpoint: index of its transport."""

    endpoint: int
    tensors: Mapping[str, Array]
    deadline_s: float
    request_id: str


@dataclass(frozen=True)
class Ask:
    """Ask an endpoint for its readiness: the answer is a `Readiness`."""

    endpoint: int
    deadline_s: float


@dataclass(frozen=True)
class Wait:
    """Do nothing for so many seconds: the answer is None."""

    seconds: float


Step: TypeAlias = Send | Ask | Wait
Steps: TypeAlias = Generator[Step, Any, Result]
