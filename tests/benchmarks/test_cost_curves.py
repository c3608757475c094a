"""Each curve from a server in the test's process, and what stands in the report and the plots."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_server import Server, serving, tensors_of
from latency_stand_ins import ROWS, CountingServer, mix
from tritonguard import AsyncGuard, Retries
from tritonguard.errors import PromptTooLong, to_wire
from tritonguard.policy_parts import parts_of
from tritonguard.request import GuardRequest, from_tensors
from tritonguard.testing import judged
from tritonguard.verdict import to_tensors

from benchmarks.cost_curves import __main__ as command
from benchmarks.cost_curves import curves as script
from benchmarks.cost_curves.curves import (
    LengthCost,
    house_rules,
    length_costs,
    metrics,
    policies_costs,
    throughputs,
)
from benchmarks.cost_curves.report import Curves, document, plots
from benchmarks.latency.loops import asking
from benchmarks.latency.stages import Statistics
from benchmarks.latency.texts import Characters, Texts
from benchmarks.soak_memory import Sample

MOST = 200


class Limited(CountingServer):
    """Refuses texts of more than MOST characters. requests: those that came."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[GuardRequest] = []
        self.infer = self._infer

    def _infer(self, call: Any, context: Any) -> Any:
        request = from_tensors(tensors_of(call))
        self.requests.append(request)
        if len(request.prompt) > MOST:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, to_wire(PromptTooLong("too long")))
        return to_tensors(judged(request, 0.1))


def run(measure: Any, server: Server) -> Any:
    """measure: (ask, url) -> coroutine."""

    async def asked(url: str) -> Any:
        async with AsyncGuard(url, retries=Retries(attempts=1)) as guard:
            return await measure(asking(guard), url)

    with serving(server) as (url, _):
        return asyncio.run(asked(url))


def lengths(server: Server, rounds: int = 2) -> list[LengthCost]:
    def measure(ask: Any, url: str) -> Any:
        return length_costs(
            ask, Texts(ROWS), Characters(), lengths=(20, 150, 900), rounds=rounds, seed=0, say=lambda line: None
        )

    found: list[LengthCost] = run(measure, server)
    return found


def test_each_length_is_asked_in_every_round_and_what_is_too_long_is_shown_as_refused() -> None:
    server = Limited()
    found = lengths(server)
    assert [(one.tokens, one.times, one.answer) for one in found] == [
        (20, 2, "verdict"),
        (150, 2, "verdict"),
        (900, 2, "prompt_too_long"),
    ]
    assert all(one.ms > 0 for one in found)
    # One round more than is counted, and in each of them every length.
    assert [len(request.prompt) for request in server.requests] == pytest.approx([20, 150, 900] * 3, abs=2)
    assert len({request.prompt for request in server.requests if len(request.prompt) > 100}) > 3


def test_throughput_is_of_every_number_of_callers() -> None:
    async def measure(ask: Any, url: str) -> Any:
        statistics = Statistics([url], None)
        try:
            return await throughputs(ask, mix(), statistics, concurrencies=(1, 4), seconds=0.2, say=lambda line: None)
        finally:
            await statistics.aclose()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "SETTLE_S", 0.05)
        points = run(measure, CountingServer())
    assert [point.load.concurrency for point in points] == [1, 4]
    assert all(point.answered >= point.load.concurrency for point in points)
    assert not any(point.errors for point in points)


def test_policies_are_different_equally_long_and_free_text() -> None:
    texts = [house_rules(number).custom_policy for number in range(-1, 65)]
    assert len(set(texts)) == 66
    assert len({len(text or "") for text in texts}) == 1
    assert all(parts_of(house_rules(number))[0].custom_policy for number in (1, 64))


def test_memory_is_looked_at_behind_each_of_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Limited()
    told: list[int] = []

    def page(url: str) -> dict[str, float]:
        told.append(len(server.requests))
        return {"tritonguard_prefix_bytes": 14e6 * len(server.requests), "tritonguard_prefixes": len(server.requests)}

    monkeypatch.setattr(script, "metrics", page)
    monkeypatch.setattr(script, "EVERY_S", 0.0)

    def measure(ask: Any, url: str) -> Any:
        return policies_costs(
            ask, lambda: Sample(0.0, 2000.0 + len(told), 4), "http://x", counts=(1, 3), say=lambda line: None
        )

    found = run(measure, server)
    assert [(one.policies, one.megabytes, one.held) for one in found] == [
        (0, 2001.0, 1),
        (1, 2002.0, 2),
        (3, 2003.0, 4),
    ]
    assert found[-1].prefix_megabytes == 56.0
    assert len({request.policy.sha256 for request in server.requests}) == 4


def test_a_policy_without_a_verdict_ends_the_measurement() -> None:
    server = Server()
    server.infer = lambda call, context: context.abort(
        grpc.StatusCode.INVALID_ARGUMENT, "tritonguard:invalid_request: policy: none from callers"
    )
    with pytest.raises(RuntimeError, match="invalid_request"):
        run(lambda ask, url: policies_costs(ask, lambda: Sample(0, 0, 0), "", counts=(1,), say=print), server)


def test_a_page_that_does_not_answer_has_no_numbers() -> None:
    assert metrics("http://127.0.0.1:9/metrics") == {}


def test_the_report_names_limits_and_refusals() -> None:
    costs = [LengthCost(50, 480, 900.0, 5, "verdict"), LengthCost(8000, None, 20.0, 5, "prompt_too_long")]
    memory = [script.PoliciesCost(n, 2000.0 + 14 * n, 14.0 * n, n) for n in (0, 1, 2)]
    curves = Curves(costs, [], memory, 4096, 256.0, 32)
    told = document(curves, {"command": "`here`"}, ["a.svg"])
    assert "| 50 | 480 | 900 | 5 | verdict |" in told
    assert "| 8000 | - | 20 | 5 | prompt_too_long |" in told
    assert "| 2 | 2028 | 28 | 2 |" in told
    assert "at most 4096 tokens" in told
    assert "256 MB" in told
    drawn = plots(curves)
    assert set(drawn) == {"cost-length.svg", "cost-concurrency.svg", "cost-policies.svg"}
    assert "their limit" in drawn["cost-policies.svg"]


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "cost_curves: none has no readable manifest.json" in capsys.readouterr().err
