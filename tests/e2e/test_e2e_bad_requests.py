"""Every kind of bad request of `make chaos`, once, through the real server."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.chaos.bad_kinds import KINDS, Kind
from benchmarks.chaos.bad_makers import Maker
from benchmarks.chaos.bad_requests import canary_problems, problems
from benchmarks.chaos.server import ROOT
from benchmarks.chaos.texts import Known, at_rest, new_mark
from benchmarks.chaos.wire import Wire
from serving.launch import TritonServer

MARK = new_mark(random.Random(0))


@pytest.fixture(scope="module")
def wire(server: TritonServer) -> Iterator[Wire]:
    with Wire(server.endpoints.grpc, server.endpoints.http) as opened:
        yield opened


@pytest.fixture(scope="module")
def known(wire: Wire) -> tuple[Known, ...]:
    return at_rest(wire.send, MARK)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_bad_request_is_refused_as_the_table_says_and_the_next_good_one_is_right(
    wire: Wire, known: tuple[Known, ...], kind: Kind
) -> None:
    outcome = wire.send(kind.make(Maker(random.Random(f"1 {kind.name}"), MARK)))
    assert problems(kind, outcome, mark=MARK, folders=[ROOT]) == []
    assert canary_problems(wire.send, known) == []
