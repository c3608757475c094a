from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from grpc_server import Server, serving
from hypothesis import given
from hypothesis import strategies as st
from tritonguard import AsyncGuard, Guard, GuardRequest, InvalidRequest, Policy, Retries, Verdict
from tritonguard.endpoints import FIRST_ASIDE_S, MOST_ASIDE_S, Endpoints, endpoint_names

RAISING = Policy(on_error="raise")
NOBODY = "127.0.0.1:1"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("url", ["", " ", [], ["a:1", "a:1"], ["a:1", "http://b:1"], [""], [1]])
def test_urls_that_make_no_sense_are_refused_by_both_clients(url: str | list[str]) -> None:
    for client in (Guard, AsyncGuard):
        with pytest.raises(InvalidRequest) as caught:
            client(url)
        assert caught.value.field == "url"


def test_one_and_several_urls() -> None:
    assert endpoint_names("a:1") == ("a:1",)
    assert endpoint_names(["a:1", "b:1"]) == ("a:1", "b:1")


def test_equal_endpoints_take_turns_and_a_busy_one_gets_less() -> None:
    endpoints = Endpoints(3, clock=Clock())
    assert [endpoints.take() for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    for _ in range(2):
        endpoints.give_back(1, failed=False)
    assert [endpoints.take() for _ in range(2)] == [1, 1]


def test_a_failed_endpoint_is_set_aside_for_a_growing_time_and_tried_by_one_request() -> None:
    clock = Clock()
    endpoints = Endpoints(2, clock=clock)
    pause = FIRST_ASIDE_S
    for _ in range(10):
        assert endpoints.take([1]) == 0
        endpoints.give_back(0, failed=True)
        clock.now += pause * 0.99
        assert [endpoints.take() for _ in range(2)] == [1, 1]
        clock.now += pause * 0.02
        assert [endpoints.take() for _ in range(3)] == [0, 1, 1]  # 0 is busy with its trial
        endpoints.give_back(0, failed=None)
        for _ in range(4):
            endpoints.give_back(1, failed=False)
        pause = min(pause * 2, MOST_ASIDE_S)
    assert endpoints.take([1]) == 0
    endpoints.give_back(0, failed=False)
    assert sorted(endpoints.take() for _ in range(4)) == [0, 0, 1, 1]


def test_requests_that_fail_together_count_once() -> None:
    clock = Clock()
    endpoints = Endpoints(2, clock=clock)
    for _ in range(40):
        endpoints.take()
    for _ in range(20):
        endpoints.give_back(0, failed=True)
        endpoints.give_back(1, failed=False)
    clock.now += FIRST_ASIDE_S
    assert endpoints.take([1]) == 0


def test_where_all_are_set_aside_the_soonest_is_tried() -> None:
    clock = Clock()
    endpoints = Endpoints(2, clock=clock)
    for index in (0, 1):
        assert endpoints.take() == index
        endpoints.give_back(index, failed=True)
        clock.now += 0.01
    assert not endpoints.has_another([])
    assert endpoints.take() == 0


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans() | st.none(), st.floats(0, 5)), max_size=60))
def test_there_is_always_an_endpoint_and_untried_ones_in_good_standing_go_first(
    count: int, events: list[tuple[bool | None, float]]
) -> None:
    clock = Clock()
    endpoints = Endpoints(count, clock=clock)
    tried: list[int] = []
    for failed, seconds in events:
        fresh = endpoints.has_another(tried)
        index = endpoints.take(tried)
        assert 0 <= index < count
        assert not (fresh and index in tried)
        endpoints.give_back(index, failed=failed)
        tried = [*tried, index] if failed else []
        clock.now += seconds


@pytest.fixture
def pair() -> Iterator[tuple[list[Server], list[str], list[ExitStack]]]:
    servers, urls, stacks = [Server(), Server()], [], [ExitStack(), ExitStack()]
    with stacks[0], stacks[1]:
        for server, stack in zip(servers, stacks, strict=True):
            urls.append(stack.enter_context(serving(server))[0])
        yield servers, urls, stacks


def test_the_work_is_shared(pair: tuple[list[Server], list[str], list[ExitStack]]) -> None:
    servers, urls, _ = pair
    with Guard(urls, policy=RAISING) as guard:
        for _ in range(10):
            guard.check("text")
    assert [len(server.calls) for server in servers] == [5, 5]


def test_a_server_that_goes_away_under_load_and_comes_back_loses_nothing(
    pair: tuple[list[Server], list[str], list[ExitStack]],
) -> None:
    servers, urls, stacks = pair
    requests = [GuardRequest(prompt="text", request_id=f"r{n}", policy=RAISING, deadline_s=30.0) for n in range(600)]
    gone = threading.Event()

    def leave() -> None:
        stacks[0].close()
        gone.set()

    answers = []
    with Guard(urls, policy=RAISING, retries=Retries(attempts=5)) as guard:
        leaving = threading.Thread(target=leave)
        for number, answer_ in enumerate(guard.check_many(requests, concurrency=4)):
            answers.append(answer_)
            if number == 150:
                leaving.start()
            if number == 400:
                assert gone.wait(timeout=30)
                port = int(urls[0].rsplit(":", 1)[1])
                back = Server()
                stacks[0].enter_context(serving(back, port=port))
    leaving.join()
    assert [a.record.request_id for a in answers if isinstance(a, Verdict)] == [r.request_id for r in requests]
    assert servers[0].calls
    assert len(servers[1].calls) > 150


def test_a_request_finds_the_server_that_is_there_without_waiting(
    pair: tuple[list[Server], list[str], list[ExitStack]],
) -> None:
    servers, urls, _ = pair
    with Guard([NOBODY, urls[0]], policy=RAISING, retries=Retries(attempts=2, first_s=60, most_s=60)) as guard:
        for _ in range(5):
            assert guard.check("text", deadline_s=20.0).allowed
    assert len(servers[0].calls) == 5


def test_health_is_that_of_the_healthy_one_and_each_ones_own(
    pair: tuple[list[Server], list[str], list[ExitStack]],
) -> None:
    servers, urls, _ = pair
    servers[0].model_ready = False
    with Guard([NOBODY, *urls]) as guard:
        each = guard.health_of_each()
        assert list(each) == [NOBODY, *urls]
        assert [health.readiness.live for health in each.values()] == [False, True, True]
        assert [health.readiness.model_ready for health in each.values()] == [False, False, True]
        # This server calls every text safe, so none is healthy: the first one speaks for all.
        assert guard.health() == each[NOBODY]
