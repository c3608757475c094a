"""Open and closed loop on one event loop.

The open loop sends at the times of its schedule and counts latency from them, so that a server that stalls makes all
requests of that time late, and not only the one that it stalled on. Nothing limits how many are under way but their
own deadlines. In the closed loop each caller waits for its answer: what it measures is the capacity, and the latency of
callers that wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tritonguard import AsyncGuard, GuardError, IndeterminateVerdict, Verdict

from benchmarks.latency.mix import Planned

VERDICT = "verdict"
INDETERMINATE = "indeterminate"
_CANNOT_SEE = "vision_"
_PAUSE_S = 0.1


@dataclass(frozen=True)
class Reply:
    """word: `verdict`, or the kind of error. verdict: what a server said, also an indeterminate one; None: none did."""

    word: str
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Sample:
    """One request. intended, sent, done: seconds since the measurement began; in a closed loop intended is sent."""

    planned: Planned
    intended: float
    sent: float
    done: float
    reply: Reply

    @property
    def latency_s(self) -> float:
        return self.done - self.intended


Ask: TypeAlias = Callable[[Planned], Awaitable[Reply]]


@dataclass
class Log:
    """What was sent and answered so far. at: the clock at the beginning."""

    at: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    sent: int = 0
    samples: list[Sample] = field(default_factory=list)

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.at

    async def follow(self, ask: Ask, planned: Planned, intended: float | None = None) -> Reply:
        """Send, wait, note. intended: seconds; None: now."""
        sent = self.now()
        self.sent += 1
        reply = await ask(planned)
        self.samples.append(Sample(planned, sent if intended is None else intended, sent, self.now(), reply))
        return reply


async def open_loop(log: Log, ask: Ask, plan: Sequence[Planned], times: Sequence[float]) -> None:
    """Send each request at its time, then wait for what is still under way."""
    async with asyncio.TaskGroup() as group:
        for planned, intended in zip(plan, times, strict=True):
            # Also where it is late already: the requests sent before must get to run.
            await asyncio.sleep(max(0.0, intended - log.now()))
            group.create_task(log.follow(ask, planned, intended))


async def closed_loop(log: Log, ask: Ask, plan: Iterator[Planned], *, concurrency: int, seconds: float) -> None:
    """`concurrency` callers, each of which sends its next request when its last is answered, for `seconds`."""

    async def caller() -> None:
        while log.now() < seconds and (planned := next(plan, None)) is not None:
            if (await log.follow(ask, planned)).word != VERDICT:
                # Callers that ask again at once would keep a refusing server from coming back.
                await asyncio.sleep(_PAUSE_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(caller())


def asking(guard: AsyncGuard) -> Ask:
    """Asks a guard, once each: its retries must be off."""

    async def ask(planned: Planned) -> Reply:
        try:
            verdict = await guard.check_request(planned.request)
        except IndeterminateVerdict as error:
            # By a policy of the server that raises. The verdict came all the same.
            return Reply(INDETERMINATE) if error.verdict is None else reply_of(error.verdict)
        except GuardError as error:
            return Reply(error.kind)
        except Exception as error:  # a fault of the client is a row of the table, not the end of a run
            return Reply(f"untyped {type(error).__name__}")
        return reply_of(verdict)

    return ask


def reply_of(verdict: Verdict) -> Reply:
    """Only a server knows its model: a verdict that `on_error` stood in for has none, and is the error it stands for.
    An indeterminate one is an error too, but for images that a bundle says it can't judge: all was done for those."""
    reason = verdict.label.indeterminate_reason
    if verdict.record.model_revision is None:
        return Reply(reason or INDETERMINATE)
    if reason is not None and not reason.startswith(_CANNOT_SEE):
        return Reply(INDETERMINATE, verdict)
    return Reply(VERDICT, verdict)
