"""`AsyncGuard` against `Guard`'s rules, in memory and against a gRPC server on this machine."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import grpc
import pytest
from answers import always, answer, by_text
from grpc_server import Server, aborting, serving
from tritonguard import (
    ERRORS,
    AsyncGuard,
    AsyncMockTransport,
    DeadlineExceeded,
    Guard,
    GuardError,
    GuardRequest,
    InternalError,
    InvalidRequest,
    Overloaded,
    Policy,
    Readiness,
    Unavailable,
    Verdict,
)
from tritonguard import tensors as wire
from tritonguard.errors import to_wire
from tritonguard.testing import failing, fake_async_guard, fake_guard, sequence, unsafe_where

RAISING = Policy(on_error="raise")
T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, timeout=60))


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    servicer = Server()
    with serving(servicer) as (url, _):
        yield servicer, url


@pytest.mark.parametrize("method", ["__init__", "check", "check_request", "check_many", "health", "health_of_each"])
def test_both_clients_take_the_same_arguments(method: str) -> None:
    ours, theirs = (inspect.signature(getattr(client, method)).parameters for client in (AsyncGuard, Guard))
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]
    assert [p.kind for p in ours.values()] == [p.kind for p in theirs.values()]


@pytest.mark.parametrize("on_error", ["block", "allow", "raise"])
@pytest.mark.parametrize("kind", [None, *sorted(ERRORS)])
def test_both_clients_answer_alike(kind: str | None, on_error: str) -> None:
    handler = unsafe_where("bad") if kind is None else failing(kind)
    request = GuardRequest.create(prompt="a bad text", policy=Policy.model_validate({"on_error": on_error}))

    def outcome(judge: Callable[[], Verdict]) -> object:
        try:
            return judge()
        except GuardError as error:
            return type(error), error.message, error.request_id

    threaded, looped = fake_guard(handler), fake_async_guard(handler)
    assert outcome(lambda: run(looped.check_request(request))) == outcome(lambda: threaded.check_request(request))
    assert looped.on_error_counts == threaded.on_error_counts


def test_a_retry_finds_the_verdict() -> None:
    client = fake_async_guard(sequence(failing("unavailable"), always(0.1)), policy=RAISING)
    assert run(client.check("text")).allowed


def test_health_and_its_rows() -> None:
    async def ask() -> None:
        async with fake_async_guard(by_text) as client:
            assert (await client.health()).healthy
            assert list(await client.health_of_each()) == ["transport"]
        down = Readiness(live=True, ready=False, model_ready=False)
        async with AsyncGuard(transport=AsyncMockTransport(by_text, readiness=down)) as client:
            assert not (await client.health()).healthy

    run(ask())


def test_a_closed_client_says_so() -> None:
    async def use() -> None:
        client = fake_async_guard(always(0.1))
        async with client:
            pass
        await client.aclose()
        for call in (client.check("x"), client.health(), client.__aenter__()):
            with pytest.raises(RuntimeError, match="closed"):
                await call
        with pytest.raises(RuntimeError, match="closed"):
            client.check_many([])

    run(use())


def requests(count: int) -> list[GuardRequest]:
    return [GuardRequest(prompt=f"text {n}", request_id=f"r{n}", policy=RAISING) for n in range(count)]


class Uneven(AsyncMockTransport):
    """Later requests are answered first; counts how many are there at once. held: the first one is answered when so
    many are."""

    def __init__(self, held: int = 1) -> None:
        super().__init__(lambda request: answer(request, 0.1))
        self.now, self.most, self.cancelled = 0, 0, 0
        self._held, self._together = held, asyncio.Event()

    async def infer(self, tensors: Any, *, deadline_s: float, request_id: str) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self._held:
            self._together.set()
        try:
            await asyncio.wait_for(self._together.wait(), 60)
            await asyncio.sleep(0.003 if int(request_id[1:]) % 3 == 0 else 0)
            if request_id == "r5":
                raise Overloaded("told", request_id=request_id)
            return await super().infer(tensors, deadline_s=deadline_s, request_id=request_id)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_check_many_answers_in_order_with_bounded_concurrency(asynchronous: bool) -> None:
    transport = Uneven(held=3)

    async def source() -> AsyncIterator[GuardRequest]:
        for request in requests(20):
            await asyncio.sleep(0)
            yield request

    async def collect() -> list[Verdict | GuardError]:
        async with AsyncGuard(transport=transport) as client:
            many = client.check_many(source() if asynchronous else requests(20), concurrency=3)
            return [one async for one in many]

    answers = run(collect())
    assert [a.kind for a in answers if isinstance(a, GuardError)] == ["overloaded"]
    ids = [a.request_id if isinstance(a, GuardError) else a.record.request_id for a in answers]
    assert ids == [f"r{n}" for n in range(20)]
    assert transport.most == 3


def test_check_many_reads_little_ahead_and_closing_cancels() -> None:
    transport, read = Uneven(), []

    def source() -> Iterator[GuardRequest]:
        for request in requests(1000):
            read.append(request)
            yield request

    async def use() -> None:
        before = asyncio.all_tasks()
        async with AsyncGuard(transport=transport) as client:
            many = client.check_many(source(), concurrency=2)
            await many.__anext__()
            assert len(read) <= 6
            await many.aclose()
            assert transport.now == 0
            assert asyncio.all_tasks() == before

    run(use())


def test_an_answer_is_given_out_while_the_next_request_is_awaited() -> None:
    async def use() -> None:
        more = asyncio.Event()

        async def source() -> AsyncIterator[GuardRequest]:
            yield requests(2)[0]
            await more.wait()
            yield requests(2)[1]

        many = fake_async_guard(always(0.1)).check_many(source(), concurrency=8)
        first = await many.__anext__()
        more.set()
        second = await many.__anext__()
        assert [a.record.request_id for a in (first, second) if isinstance(a, Verdict)] == ["r0", "r1"]
        with pytest.raises(StopAsyncIteration):
            await many.__anext__()

    run(use())


def test_an_exception_of_the_source_comes_after_the_answers_before_it() -> None:
    async def source() -> AsyncIterator[GuardRequest]:
        for request in requests(5):
            yield request
        raise OSError("disk")

    async def use() -> None:
        many = fake_async_guard(always(0.1)).check_many(source(), concurrency=2)
        for _ in range(5):
            assert isinstance(await many.__anext__(), Verdict)
        with pytest.raises(OSError, match="disk"):
            await many.__anext__()

    run(use())
    with pytest.raises(InvalidRequest):
        fake_async_guard(always(0.1)).check_many([], concurrency=0)


def test_a_verdict_crosses_the_network(server: tuple[Server, str]) -> None:
    _, url = server
    request = GuardRequest.create(prompt="naïve 请 \0", response="r", images=[b"\0png\0", b"x"], policy=RAISING)
    client = AsyncGuard(url)  # before any loop runs

    async def use() -> None:
        async with client:
            assert await client.check_request(request) == answer(request, 0.1)
            assert (await client.health()).readiness == Readiness(live=True, ready=True, model_ready=True)

    run(use())


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, to_wire(InvalidRequest("m", field="prompt")), InvalidRequest),
        (grpc.StatusCode.UNAVAILABLE, to_wire(Overloaded("queue is full")), Overloaded),
        # Triton answers a missed deadline with CANCELLED, which is no cancelled task.
        (grpc.StatusCode.CANCELLED, to_wire(DeadlineExceeded("late")), DeadlineExceeded),
        (grpc.StatusCode.UNAVAILABLE, "Server exiting", Unavailable),
        (grpc.StatusCode.INTERNAL, "Traceback: File model.py", InternalError),
    ],
)
def test_statuses_become_typed_errors(
    server: tuple[Server, str], code: Any, text: str, error: type[GuardError]
) -> None:
    servicer, url = server
    servicer.infer = aborting(code, text)

    async def use() -> None:
        async with AsyncGuard(url, policy=RAISING) as client:
            with pytest.raises(error) as caught:
                await client.check("text", request_id="r1")
            assert type(caught.value) is error
            assert caught.value.request_id == "r1"
            assert "Traceback" not in str(caught.value)

    run(use())


def test_no_server_is_unavailable_and_unhealthy() -> None:
    async def use() -> None:
        async with AsyncGuard("127.0.0.1:1", policy=RAISING) as client:
            assert not (await client.health()).readiness.live
            with pytest.raises(Unavailable):
                await client.check("text")

    run(use())


def test_a_cancelled_task_takes_its_call_back_from_the_server(server: tuple[Server, str]) -> None:
    servicer, url = server
    arrived, ended = threading.Event(), threading.Event()

    def infer(call: Any, context: Any) -> dict[str, wire.Array]:
        context.add_callback(ended.set)
        arrived.set()
        ended.wait(timeout=30)
        return {}

    servicer.infer = infer

    async def use() -> float:
        async with AsyncGuard(url, policy=RAISING, deadline_s=30.0) as client:
            task = asyncio.ensure_future(client.check("text"))
            assert await asyncio.to_thread(arrived.wait, 30)
            start = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(ended.wait, 30)
            return time.monotonic() - start

    assert run(use()) < 10


def test_a_server_that_does_not_answer_runs_into_the_deadline(server: tuple[Server, str]) -> None:
    servicer, url = server
    released = threading.Event()

    def infer(call: Any, context: Any) -> dict[str, wire.Array]:
        released.wait()
        return {}

    servicer.infer = infer

    async def use() -> None:
        async with AsyncGuard(url, policy=RAISING) as client:
            with pytest.raises(DeadlineExceeded):
                await client.check("text", deadline_s=0.1)

    try:
        run(use())
    finally:
        released.set()


def test_several_servers_one_of_which_is_not_there(server: tuple[Server, str]) -> None:
    servicer, url = server

    async def use() -> None:
        async with AsyncGuard(["127.0.0.1:1", url], policy=RAISING) as client:
            verdicts = await asyncio.gather(*(client.check("text") for _ in range(20)))
            assert all(verdict.allowed for verdict in verdicts)

    run(use())
    assert len(servicer.calls) == 20
