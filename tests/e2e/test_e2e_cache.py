"""The verdict cache of a real server: on for a policy whose file says so, and for no other."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest
from tritonguard import CANARY, Guard, InvalidRequest, Verdict

from serving.launch import TritonServer

NAME = "kept"
END_S = 20
SAFE, UNSAFE = (example.prompt for example in CANARY)


@pytest.fixture(scope="module")
def kept(guard: Guard, policies: Path) -> Guard:
    """A client of a server that has the named policy by now."""
    (policies / ".partial").write_text(f"name: {NAME}\nversion: 1.0.0\ncache: {{ttl_s: 600}}\n")
    (policies / ".partial").replace(policies / f"{NAME}.yaml")
    until = time.monotonic() + END_S
    while True:
        try:
            guard.check("Is it there?", policy_name=NAME)
            return guard
        except InvalidRequest:
            assert time.monotonic() < until
            time.sleep(0.2)


def said(verdict: Verdict) -> tuple[object, ...]:
    return verdict.label, verdict.outcome, verdict.record.policy_sha256, verdict.record.prompt_tokens


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": SAFE},
        {"prompt": UNSAFE, "response": "I can't help with that."},
        {"prompt": UNSAFE, "mode": "categories"},
        {"prompt": UNSAFE, "mode": "think", "think_budget": 16},
    ],
    ids=["prompt", "pair", "categories", "think"],
)
def test_asked_twice_it_is_the_same_verdict_and_says_so(kept: Guard, values: dict[str, object]) -> None:
    first, second = (kept.check(**values, policy_name=NAME, tenant="asks-twice") for _ in range(2))
    assert not first.label.is_indeterminate
    assert (first.record.cached, second.record.cached) == (False, True)
    assert said(second) == said(first)
    assert second.record.request_id != first.record.request_id
    assert not kept.check(**values, policy_name=NAME, tenant="another").record.cached


def test_the_built_in_policy_and_the_shipped_ones_are_judged_each_time(guard: Guard) -> None:
    assert [guard.check(SAFE).record.cached for _ in range(2)] == [False, False]
    assert [guard.check(SAFE, policy_name="finance").record.cached for _ in range(2)] == [False, False]


def test_hits_and_what_is_kept_are_metrics(kept: Guard, server: TritonServer) -> None:
    def number(name: str) -> float:
        with urllib.request.urlopen(f"http://{server.endpoints.metrics}/metrics") as page:
            found = re.findall(rf"^tritonguard_answer_cache_{re.escape(name)} (\S+)", page.read().decode(), re.M)
        return float(found[0]) if found else 0.0

    for _ in range(2):
        kept.check("Counted", policy_name=NAME)
    until = time.monotonic() + END_S
    while not (number('lookups_total{result="hit"}') and number('lookups_total{result="miss"}')):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert number("entries") > 0
    assert number("bytes") > 0
