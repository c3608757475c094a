"""The watchdog over a server in memory: time only passes where it sleeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from tritonguard import CANARY, DeadlineExceeded, Guard, GuardRequest, InternalError, Overloaded, Verdict
from tritonguard.testing import MockTransport, unsafe_where
from tritonguard.tls import Tls

from serving.errors import StartFailed
from serving.launch import Endpoints
from serving.log_lines import LogRecord
from serving.watch import WatchSettings
from serving.watchdog import Watchdog, verdicts_given

SETTINGS = WatchSettings(restarts=3, window_s=600.0, hung_s=60.0)
judge = unsafe_where(CANARY[1].prompt)


class EnoughSeen(BaseException):
    """The test has seen enough: a watchdog over a server that is well never ends."""


def raising(error: Exception) -> Callable[[GuardRequest], Verdict]:
    def handler(request: GuardRequest) -> Verdict:
        raise error

    return handler


@dataclass
class World:
    """A clock, and a server whose trouble comes by the clock. troubles: what happens at second x, once each."""

    troubles: dict[float, Callable[[World], None]] = field(default_factory=dict)
    until: float = 1000.0
    now: float = 0.0
    exit_status: int | None = None
    lost: bool = False
    handler: Callable[[GuardRequest], Verdict] = judge
    after_a_start: Callable[[GuardRequest], Verdict] = judge
    verdicts: int | None = 0
    failing_starts: int = 0
    start_takes_s: float = 5.0
    calls: list[tuple[str, float]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    tls: Tls | None = None
    endpoints: Endpoints = field(default_factory=lambda: Endpoints("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for at in [at for at in self.troubles if at <= self.now]:
            self.troubles.pop(at)(self)
        if self.now > self.until:
            raise EnoughSeen

    def status(self) -> int | None:
        return self.exit_status

    def has_lost_a_stage(self) -> bool:
        return self.lost

    def kill(self) -> None:
        self.calls.append(("kill", self.now))

    def restart(self) -> None:
        self.calls.append(("restart", self.now))
        self.sleep(self.start_takes_s)
        if self.failing_starts:
            self.failing_starts -= 1
            raise StartFailed("Triton ended with status 1.\n  the log")
        self.exit_status, self.lost, self.handler = None, False, self.after_a_start

    def tell(self, record: LogRecord) -> None:
        self.told.append({"message": record.message, **record.more})

    @property
    def events(self) -> list[Any]:
        return [told["event"] for told in self.told]

    def watched(self, settings: WatchSettings = SETTINGS) -> str | None:
        watchdog = Watchdog(
            self,
            settings,
            make_guard=lambda url, **options: Guard(transport=MockTransport(lambda request: self.handler(request))),
            count=lambda metrics: self.verdicts,
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        try:
            return watchdog.run()
        except EnoughSeen:
            return None


def ends(world: World) -> None:
    world.exit_status = -9


def loses_a_stage(world: World) -> None:
    world.lost = True


def answers(error: Exception) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.handler = raising(error)

    return change


def test_a_server_that_is_well_is_left_alone() -> None:
    world = World()
    assert world.watched() is None
    assert world.calls == world.told == []


@pytest.mark.parametrize(
    ("trouble", "event", "within_s"),
    [
        (ends, "server_ended", 0.2),
        (loses_a_stage, "stage_dead", 0.2),
        (answers(InternalError()), "canary_failed", 15.1),
        (answers(DeadlineExceeded("")), "server_hung", 63.0),
    ],
)
def test_a_dead_server_is_killed_and_started_again(
    trouble: Callable[[World], None], event: str, within_s: float
) -> None:
    world = World({50.0: trouble}, until=200.0)
    assert world.watched() is None
    assert world.events == [event, "restarted"]
    assert [name for name, _ in world.calls] == ["kill", "restart"]
    killed = world.calls[0][1]
    assert killed - 50.0 <= within_s
    assert 5.0 <= world.told[1]["downtime_s"] <= within_s + 5.2
    assert world.told[1]["cause"] == event


def test_the_status_of_a_server_that_ended_is_told() -> None:
    world = World({50.0: ends}, until=200.0)
    world.watched()
    assert world.told[0]["status"] == -9


@pytest.mark.parametrize("error", [Overloaded(""), DeadlineExceeded("")])
def test_a_busy_server_is_left_alone(error: Exception) -> None:
    world = World({50.0: answers(error)}, until=600.0)
    busy: Iterator[int] = iter(range(10**6))
    world.troubles |= {50.0 + 30.0 * n: lambda world: setattr(world, "verdicts", next(busy)) for n in range(1, 20)}
    assert world.watched() is None
    assert world.calls == world.told == []


def test_a_server_that_gives_verdicts_to_others_is_asked_for_its_own_only_now_and_then() -> None:
    asked: list[float] = []

    def noted(request: GuardRequest) -> Verdict:
        asked.append(world.now)
        return judge(request)

    world = World(until=300.0, handler=noted)
    given: Iterator[int] = iter(range(10**6))
    world.troubles |= {float(second): lambda world: setattr(world, "verdicts", next(given)) for second in range(300)}
    assert world.watched() is None
    moments = sorted({round(at, 1) for at in asked})
    assert 8 <= len(moments) <= 11
    assert all(30.0 <= after - before <= 36.0 for before, after in pairwise(moments))


def test_a_start_that_fails_is_tried_again_after_a_pause() -> None:
    world = World({50.0: ends}, until=200.0, failing_starts=2)
    assert world.watched() is None
    assert world.events == ["server_ended", "restart_failed", "restart_failed", "restarted"]
    starts = [at for name, at in world.calls if name == "restart"]
    assert [round(after - before - 5.0, 1) for before, after in pairwise(starts)] == [1.0, 2.0]
    assert world.told[1]["message"] == "Triton ended with status 1."


def test_callers_who_come_before_the_canary_are_no_failed_start() -> None:
    world = World({50.0: ends}, until=100.0, after_a_start=raising(Overloaded("")))
    world.watched()
    assert world.events == ["server_ended", "restarted"]


def test_a_server_that_comes_back_broken_is_given_up() -> None:
    world = World({50.0: ends}, after_a_start=raising(InternalError()))
    assert world.watched() is not None
    assert world.events == ["server_ended", *["restart_failed"] * 3, "given_up"]
    assert world.calls[-1][0] == "kill"


def test_after_too_many_restarts_it_gives_up_in_words() -> None:
    world = World({50.0: ends}, failing_starts=99)
    assert world.watched() == "gave up after 3 restarts within 10 minutes"
    assert world.events == ["server_ended", *["restart_failed"] * 3, "given_up"]


def test_a_server_that_dies_again_and_again_is_given_up() -> None:
    world = World({10.0 * n: ends for n in range(1, 90)})
    assert world.watched() == "gave up after 3 restarts within 10 minutes"
    assert world.events.count("restarted") == 3


def test_metrics_that_cannot_be_read_say_nothing() -> None:
    assert verdicts_given("127.0.0.1:1") is None
