"""Servers in memory, for the tests of whoever uses this package.

    from tritonguard.testing import failing, fake_guard, sequence, unsafe_where

    guard = fake_guard(unsafe_where("bomb"))
    assert guard.check("a bomb").blocked and guard.check("bread").allowed

    guard = fake_guard(sequence(failing("unavailable"), unsafe_where()))  # the second try succeeds
    guard = fake_guard(failing("overloaded"), policy=Policy(on_error="allow"))
    guard = fake_guard(unsafe_where(), latency_s=0.2, deadline_s=0.1)  # too late

A handler takes the request as the server's door reads it and returns a verdict or raises a GuardError. Both go
through their wire form, so a test sees what a caller of the real server would see.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tritonguard import verdict as verdicts
from tritonguard.async_guard import AsyncGuard
from tritonguard.errors import ERRORS, DeadlineExceeded, GuardError, Unimplemented, from_wire, to_wire
from tritonguard.guard import Guard
from tritonguard.label import Label, Safety
from tritonguard.request import GuardRequest, from_tensors
from tritonguard.retries import Retries
from tritonguard.tensors import CONTRACT_VERSION, Array
from tritonguard.transport import Readiness
from tritonguard.verdict import Record, Verdict, decide

Handler: TypeAlias = Callable[[GuardRequest], Verdict]
READY = Readiness(live=True, ready=True, model_ready=True)
NO_WAITING = Retries(first_s=0.0, most_s=0.0)
"""The usual number of tries without pauses: what the fakes use."""


class MockTransport:
    """A server behind `Guard`: `Guard(transport=MockTransport(handler))`.

    latency_s: seconds before each answer; a request whose deadline is shorter gets DeadlineExceeded when it
    ends.
    """

    def __init__(self, handler: Handler, *, readiness: Readiness = READY, latency_s: float = 0.0) -> None:
        self._handler = handler
        self._readiness = readiness
        self._latency_s = latency_s

    def infer(self, tensors: Mapping[str, Array], *, deadline_s: float, request_id: str) -> Mapping[str, Array]:
        if self._latency_s:
            time.sleep(min(self._latency_s, deadline_s))
        return _answered(self._handler, tensors, request_id, late=self._latency_s > deadline_s)

    def readiness(self, *, deadline_s: float) -> Readiness:
        return self._readiness

    def close(self) -> None:
        pass


class AsyncMockTransport:
    """A server behind `AsyncGuard`; the arguments of `MockTransport`, a handler of the same kind."""

    def __init__(self, handler: Handler, *, readiness: Readiness = READY, latency_s: float = 0.0) -> None:
        self._handler = handler
        self._readiness = readiness
        self._latency_s = latency_s

    async def infer(self, tensors: Mapping[str, Array], *, deadline_s: float, request_id: str) -> Mapping[str, Array]:
        await asyncio.sleep(min(self._latency_s, deadline_s))
        return _answered(self._handler, tensors, request_id, late=self._latency_s > deadline_s)

    async def readiness(self, *, deadline_s: float) -> Readiness:
        return self._readiness

    async def aclose(self) -> None:
        pass


def fake_guard(handler: Handler, *, latency_s: float = 0.0, **options: Any) -> Guard:
    """A Guard whose server is `handler`. options: of `Guard`; retries do not pause unless given."""
    return Guard(transport=MockTransport(handler, latency_s=latency_s), **{"retries": NO_WAITING, **options})


def fake_async_guard(handler: Handler, *, latency_s: float = 0.0, **options: Any) -> AsyncGuard:
    """`fake_guard` for an event loop."""
    transport = AsyncMockTransport(handler, latency_s=latency_s)
    return AsyncGuard(transport=transport, **{"retries": NO_WAITING, **options})


def unsafe_where(*words: str, p_unsafe: float = 0.97, p_safe: float = 0.03) -> Handler:
    """Judges a text unsafe where it holds one of the words (in any case), safe elsewhere; each side by itself.

    The policy's thresholds then decide as on the server.
    """
    lowered = [word.lower() for word in words]

    def p(text: str) -> float:
        return p_unsafe if any(word in text.lower() for word in lowered) else p_safe

    def handler(request: GuardRequest) -> Verdict:
        response = None if request.response is None else p(request.response)
        return judged(request, p(request.prompt), response)

    return handler


def indeterminate(reason: str = "no choices") -> Handler:
    """Answers that could not be read: the policy's `on_error` decides."""

    def handler(request: GuardRequest) -> Verdict:
        return _verdict(request, Label.indeterminate(reason, has_response=request.response is not None))

    return handler


def failing(kind: str, message: str = "told by the fake") -> Handler:
    """Raises the error of a kind in `tritonguard.ERRORS`, such as `unavailable` or `deadline_exceeded`."""
    error = ERRORS[kind].error

    def handler(request: GuardRequest) -> Verdict:
        raise Unimplemented(message, field="unknown") if error is Unimplemented else error(message)

    return handler


def sequence(*handlers: Handler) -> Handler:
    """The first request (retries count) goes to the first handler, and so on; the last one takes the rest."""
    lock = threading.Lock()
    rest = list(handlers)

    def handler(request: GuardRequest) -> Verdict:
        with lock:
            chosen = rest.pop(0) if len(rest) > 1 else rest[0]
        return chosen(request)

    return handler


def judged(request: GuardRequest, p_unsafe_user: float, p_unsafe_response: float | None = None) -> Verdict:
    """The verdict of a server that finds these probabilities; one for the response exactly if there is one."""
    label = Label(
        user_safety=_safety(p_unsafe_user),
        p_unsafe_user=p_unsafe_user,
        response_safety=None if p_unsafe_response is None else _safety(p_unsafe_response),
        p_unsafe_response=p_unsafe_response,
    )
    return _verdict(request, label)


def _safety(p_unsafe: float) -> Safety:
    return Safety.UNSAFE if p_unsafe >= 0.5 else Safety.SAFE


def _verdict(request: GuardRequest, label: Label) -> Verdict:
    record = Record(
        contract_version=CONTRACT_VERSION,
        request_id=request.request_id,
        policy_name=request.policy_name or request.policy.name,
        policy_sha256=request.policy.sha256,
        model_revision="fake",
    )
    return Verdict(label=label, outcome=decide(label, request.policy), record=record)


def _answered(handler: Handler, tensors: Mapping[str, Array], request_id: str, *, late: bool) -> Mapping[str, Array]:
    try:
        if late:
            raise DeadlineExceeded("no verdict in time")
        return verdicts.to_tensors(handler(from_tensors(tensors)))
    except GuardError as error:
        raise from_wire(to_wire(error), request_id=request_id) from error
