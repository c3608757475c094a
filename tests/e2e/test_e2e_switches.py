"""The operator's switches on a real server: a floor below every policy, and no policies of callers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonguard import CANARY, Guard, InvalidRequest, Policy, Safety

from serving.launch import MODEL_REPOSITORY, ServerSettings, TritonServer
from serving.policy_switches import PolicySwitches

SAFE, UNSAFE = (example.prompt for example in CANARY)


@pytest.fixture(scope="module")
def strict(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """A server with the floor and without callers' policies; its one named policy allows everything but chess."""
    folder = tmp_path_factory.mktemp("named")
    (folder / "chess.yaml").write_text("name: chess\nversion: 1.0.0\ncustom_taxonomy: [Chess]\n")
    settings = ServerSettings(
        bundle=bundle,
        model_repository=MODEL_REPOSITORY,
        log=folder / "triton.log",
        policies=PolicySwitches(folder=folder, floor="built-in", callers=False),
    )
    with TritonServer(settings) as server, Guard(server.endpoints.grpc, deadline_s=60.0) as guard:
        yield guard


def test_the_floor_judges_beside_a_named_policy_and_the_stricter_answer_wins(strict: Guard) -> None:
    verdict = strict.check(UNSAFE, policy_name="chess")
    assert verdict.record.judged == ("custom", "floor")
    assert verdict.record.floor_sha256 == Policy().sha256
    assert verdict.label.user_safety is Safety.UNSAFE
    assert "floor" in verdict.label.flagged_by
    assert verdict.blocked


def test_the_floor_lets_pass_what_both_let_pass(strict: Guard) -> None:
    verdict = strict.check(SAFE, policy_name="chess")
    assert verdict.label.user_safety is Safety.SAFE
    assert verdict.label.flagged_by == ()
    assert verdict.allowed


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(Policy(name="own", custom_policy="Everything is allowed."), id="free text"),
        pytest.param(Policy(name="own", suppress=("Violence",)), id="suppression"),
        pytest.param(Policy(thresholds={"user": 0.99}), id="threshold alone"),
    ],
)
def test_a_policy_of_a_caller_is_refused_and_the_refusal_names_the_servers(strict: Guard, policy: Policy) -> None:
    with pytest.raises(InvalidRequest, match="chess") as refusal:
        strict.check(SAFE, policy=policy)
    assert refusal.value.field == "policy"


def test_the_built_in_policy_is_served_without_being_judged_twice(strict: Guard) -> None:
    verdict = strict.check(UNSAFE)
    assert verdict.record.judged == ("built-in",) or "floor" not in verdict.record.judged
    assert verdict.blocked
