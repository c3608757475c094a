"""The client for an event loop.

    async with AsyncGuard("127.0.0.1:8001") as guard:
        verdict = await guard.check("How do I bake bread?")

What it decides is `Guard`'s, to the letter: both do the steps of `calls`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from types import TracebackType
from typing import Any

from tritonguard.calls import Calls
from tritonguard.endpoints import endpoint_names
from tritonguard.errors import GuardError, InvalidRequest
from tritonguard.grpc_aio_transport import AsyncGrpcTransport
from tritonguard.guard import DEFAULT_MODEL, DEFAULT_URL, OWN_TRANSPORT
from tritonguard.health import Health
from tritonguard.policy import Policy
from tritonguard.request import DEFAULT_DEADLINE_S, GuardRequest, Mode
from tritonguard.retries import DEFAULT_RETRIES, Retries
from tritonguard.steps import Ask, Result, Send, Step, Steps
from tritonguard.tls import Tls
from tritonguard.transport import AsyncTransport
from tritonguard.verdict import Verdict


class AsyncGuard:
    """`Guard` for one event loop: the same arguments, answers and errors; an asynchronous context manager.

    Cancelling the task of a call takes the call back from the server. It may be made before the loop runs.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        model: str = DEFAULT_MODEL,
        policy: Policy | None = None,
        policy_name: str | None = None,
        tls: Tls | None = None,
        retries: Retries = DEFAULT_RETRIES,
        transport: AsyncTransport | None = None,
    ) -> None:
        names = endpoint_names(url) if transport is None else (OWN_TRANSPORT,)
        self._calls = Calls(names, deadline_s=deadline_s, policy=policy, policy_name=policy_name, retries=retries)
        self._transports: list[AsyncTransport] = (
            [AsyncGrpcTransport(name, model=model, tls=tls) for name in names] if transport is None else [transport]
        )
        self._closed = False

    async def __aenter__(self) -> AsyncGuard:
        self._refuse_closed()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Free the connections. Closing twice is harmless; using a closed AsyncGuard raises RuntimeError."""
        if not self._closed:
            self._closed = True
            for transport in self._transports:
                await transport.aclose()

    async def check(
        self,
        prompt: str,
        *,
        response: str | None = None,
        images: Iterable[bytes] = (),
        policy: Policy | None = None,
        policy_name: str | None = None,
        mode: Mode | str = Mode.VERDICT,
        think_budget: int | None = None,
        deadline_s: float | None = None,
        priority: int = 0,
        tenant: str | None = None,
        request_id: str | None = None,
    ) -> Verdict:
        """`Guard.check`: the same arguments, verdicts and errors."""
        request = self._calls.request(
            prompt=prompt,
            response=response,
            images=images,
            policy=policy,
            policy_name=policy_name,
            mode=mode,
            think_budget=think_budget,
            deadline_s=deadline_s,
            priority=priority,
            tenant=tenant,
            request_id=request_id,
        )
        return await self.check_request(request)

    async def check_request(self, request: GuardRequest) -> Verdict:
        """Judge a ready request; raises what `check` raises."""
        return await self._do(self._calls.checked(request))

    def check_many(
        self, requests: Iterable[GuardRequest] | AsyncIterable[GuardRequest], *, concurrency: int = 8
    ) -> AsyncGenerator[Verdict | GuardError, None]:
        """`Guard.check_many`, for a plain or an asynchronous source. Closing it early cancels what is under way.

        An answer that is due is given out while the next request is still awaited.
        """
        if concurrency < 1:
            raise InvalidRequest("concurrency: at least 1", field="concurrency")
        self._refuse_closed()
        return self._many(_asynchronous(requests), concurrency)

    async def health(self) -> Health:
        """`Guard.health`."""
        return await self._do(self._calls.health())

    async def health_of_each(self) -> dict[str, Health]:
        """`Guard.health_of_each`."""
        return await self._do(self._calls.health_of_each())

    @property
    def on_error_counts(self) -> dict[str, int]:
        """How often `on_error` decided here, by decision."""
        return self._calls.counts

    async def _do(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._perform(step)
                except GuardError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            steps.close()

    async def _perform(self, step: Step) -> Any:
        self._refuse_closed()
        if isinstance(step, Send):
            transport = self._transports[step.endpoint]
            return await transport.infer(step.tensors, deadline_s=step.deadline_s, request_id=step.request_id)
        if isinstance(step, Ask):
            return await self._transports[step.endpoint].readiness(deadline_s=step.deadline_s)
        return await asyncio.sleep(step.seconds)

    async def _many(
        self, source: AsyncGenerator[GuardRequest, None], concurrency: int
    ) -> AsyncGenerator[Verdict | GuardError, None]:
        gate = asyncio.Semaphore(concurrency)
        due: deque[asyncio.Task[Verdict | GuardError]] = deque()
        coming: asyncio.Task[GuardRequest] | None = None
        failure: Exception | None = None
        ended = False
        try:
            while due or not ended:
                if coming is None and not ended and len(due) < 2 * concurrency:
                    coming = asyncio.ensure_future(_next(source))
                await asyncio.wait([task for task in (coming, *list(due)[:1]) if task], return_when="FIRST_COMPLETED")
                if coming is not None and coming.done():
                    try:
                        due.append(asyncio.ensure_future(self._answer(coming.result(), gate)))
                    except StopAsyncIteration:
                        ended = True
                    except Exception as error:
                        ended, failure = True, error
                    coming = None
                if due and due[0].done():
                    yield due.popleft().result()
            if failure is not None:
                raise failure
        finally:
            rest = [task for task in (coming, *due) if task]
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            await source.aclose()

    async def _answer(self, request: GuardRequest, gate: asyncio.Semaphore) -> Verdict | GuardError:
        async with gate:
            try:
                return await self.check_request(request)
            except GuardError as error:
                return error

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RuntimeError("this AsyncGuard is closed")


async def _next(source: AsyncGenerator[GuardRequest, None]) -> GuardRequest:
    return await source.__anext__()


async def _asynchronous(
    requests: Iterable[GuardRequest] | AsyncIterable[GuardRequest],
) -> AsyncGenerator[GuardRequest, None]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
