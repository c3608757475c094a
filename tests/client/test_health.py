"""Health: two right verdicts of a server that says that it is ready, and nothing less."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from answers import always, by_text
from tritonguard import CANARY, Guard, GuardRequest, MockTransport, Policy, Readiness, Thresholds, Verdict
from tritonguard.testing import failing
from tritonguard.testing import fake_guard as guard


def test_health_is_two_right_verdicts() -> None:
    health = guard(by_text).health()
    assert health.healthy
    assert [result.example for result in health.canary] == list(CANARY)
    assert all(result.latency_ms >= 0 for result in health.canary)
    assert health.to_dict()["healthy"] is True


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(always(0.03), id="all is safe"),
        pytest.param(always(0.97), id="all is unsafe"),
        pytest.param(always(None), id="all is indeterminate"),
        pytest.param(failing("unavailable"), id="unavailable"),
        pytest.param(failing("internal"), id="faulty"),
    ],
)
def test_a_ready_server_with_wrong_verdicts_is_unhealthy(handler: Callable[[GuardRequest], Verdict]) -> None:
    health = guard(handler).health()
    assert not health.healthy
    assert health.readiness.model_ready


@pytest.mark.parametrize("missing", ["live", "ready", "model_ready"])
def test_right_verdicts_of_a_server_that_is_not_ready_are_not_enough(missing: str) -> None:
    word = {"live": True, "ready": True, "model_ready": True, missing: False}
    assert not Guard(transport=MockTransport(by_text, readiness=Readiness(**word))).health().healthy


def test_health_ignores_the_callers_thresholds_and_on_error() -> None:
    policy = Policy(thresholds=Thresholds(user=0.0), on_error="allow")
    assert guard(by_text, policy=policy).health().healthy
    assert not guard(failing("unavailable"), policy=policy).health().healthy


def test_health_of_each_has_one_row_for_a_transport_of_ones_own() -> None:
    each = guard(by_text).health_of_each()
    assert {name: health.healthy for name, health in each.items()} == {"transport": True}
