"""Policies that live on the server: found by name, changed while it serves, and never half of one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tritonguard import Guard, InvalidRequest, Policy, Safety, Verdict

NAME = "changing"
OLD = f"name: {NAME}\nversion: 1.0.0\ncustom_taxonomy: [Chess]\n"
NEW = f"name: {NAME}\nversion: 2.0.0\nsuppress: [Profanity]\nthresholds: {{user: 0.4}}\n"
TEXT = "How do I bake sourdough bread with a crispy crust?"


def replace(folder: Path, text: str) -> None:
    """As an operator's tool does it: written beside, renamed over."""
    beside = folder / ".partial"
    beside.write_text(text)
    beside.replace(folder / f"{NAME}.yaml")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "not within 20 s"
        time.sleep(0.2)


def judged(guard: Guard) -> Verdict:
    return guard.check(TEXT, policy_name=NAME)


@pytest.fixture
def changing(guard: Guard, policies: Path) -> Path:
    replace(policies, OLD)

    def is_there() -> bool:
        try:
            return judged(guard).record.policy_sha256 == Policy.from_yaml(OLD).sha256
        except InvalidRequest:
            return False

    until(is_there)
    return policies


@pytest.mark.parametrize("name", ["kids-education", "finance", "developer-tools", "tax-assistant"])
def test_a_shipped_policy_is_served_by_its_name(guard: Guard, policies: Path, name: str) -> None:
    verdict = guard.check(TEXT, policy_name=name)
    assert verdict.record.policy_sha256 == Policy.from_yaml(policies / f"{name}.yaml").sha256
    assert verdict.label.user_safety is not Safety.INDETERMINATE


def test_a_policy_changed_under_load_is_the_old_or_the_new_one_and_says_which(guard: Guard, changing: Path) -> None:
    old, new = Policy.from_yaml(OLD), Policy.from_yaml(NEW)
    parts = {old.sha256: ("1.0.0", "custom"), new.sha256: ("2.0.0", "custom")}
    seen: list[str] = []

    def ask(number: int) -> None:
        if number == 12:
            replace(changing, NEW)
        verdict = judged(guard)
        assert verdict.record.policy_sha256 in parts
        # The hash is of the policy that really judged: its threshold is in the reason.
        threshold = "0.4" if verdict.record.policy_sha256 == new.sha256 else "0.5"
        assert f"threshold {threshold}" in verdict.reason
        seen.append(verdict.record.policy_sha256)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(36)))
    assert {old.sha256, new.sha256} == set(seen)
    until(lambda: judged(guard).record.policy_sha256 == new.sha256)


def test_a_broken_file_changes_nothing_and_is_in_the_log(guard: Guard, changing: Path, server_log: Path) -> None:
    before = judged(guard).record.policy_sha256
    replace(changing, "name: changing\nversion: [")

    def is_told() -> bool:
        # Whoever asks makes the server look; the broken file must never be what judges.
        assert judged(guard).record.policy_sha256 == before
        return f"policy {NAME}.yaml" in server_log.read_text(errors="replace")

    until(is_told)
    assert os.sep + "tmp" not in server_log.read_text(errors="replace").split(f"policy {NAME}.yaml")[1].splitlines()[0]


def test_a_removed_policy_is_refused_with_the_names_that_are_left(guard: Guard, changing: Path) -> None:
    (changing / f"{NAME}.yaml").unlink()

    def is_gone() -> bool:
        try:
            judged(guard)
        except InvalidRequest:
            return True
        return False

    until(is_gone)
    with pytest.raises(InvalidRequest, match="finance") as refusal:
        judged(guard)
    assert refusal.value.field == "policy_name"
