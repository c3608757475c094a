"""Named policies, hot reload and the operator's switches: what a request is judged under, and never half of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tritonguard import GuardRequest, InvalidRequest, Policy, Thresholds
from tritonguard.policy_parts import parts_of

from preprocessing.policies import PolicyStore

FLOOR = Policy(thresholds=Thresholds(user=0.4))


def strict(user: float = 0.3) -> str:
    return f"name: strict\ncustom_taxonomy: [Leak, Rudeness]\nthresholds: {{user: {user}}}\n"


def put(folder: Path, name: str, text: str) -> None:
    """Replace a file as an operator should: whole, by renaming."""
    fresh = folder / f".{name}.{threading.get_ident()}"
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(folder / f"{name}.yaml")


@dataclass
class Log:
    told: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, file: str, message: str) -> None:
        self.told.append((file, message))


Open = Callable[..., PolicyStore]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def opened(tmp_path: Path, log: Log) -> Open:
    """A store over `tmp_path` that looks at every request and lets no file settle."""

    def opened(**options: Any) -> PolicyStore:
        values: dict[str, Any] = {"allow_callers": True, "on_problem": log, "look_every_s": 0.0, "settle_s": 0.0}
        return PolicyStore(tmp_path, **{**values, **options})

    return opened


def named(name: str) -> GuardRequest:
    return GuardRequest(prompt="x", policy_name=name)


def own(policy: Policy) -> GuardRequest:
    return GuardRequest(prompt="x", policy=policy)


def test_without_a_name_the_builtin_policy_is_judged() -> None:
    resolved = PolicyStore(allow_callers=False).resolve(GuardRequest(prompt="x"))
    assert resolved.policy == Policy()
    assert [part.name for part in resolved.parts] == ["built-in"]


def test_a_named_policy_is_the_files(tmp_path: Path, opened: Open) -> None:
    put(tmp_path, "strict", strict())
    store = opened(allow_callers=False)
    resolved = store.resolve(named("strict"))
    assert resolved.policy == Policy.from_yaml(tmp_path / "strict.yaml")
    assert resolved.parts == parts_of(resolved.policy)
    assert resolved.parts[0].policy is resolved.policy
    assert store.names == ("built-in", "strict")


def test_the_builtin_policy_has_a_name_too() -> None:
    assert PolicyStore(allow_callers=False).resolve(named("built-in")).policy == Policy()


@pytest.mark.parametrize("name", ["lax", "strict.yaml", "../strict", "/etc/passwd", "STRICT", " "])
def test_an_unknown_name_is_refused_with_the_names_that_there_are(tmp_path: Path, opened: Open, name: str) -> None:
    put(tmp_path, "strict", strict())
    with pytest.raises(InvalidRequest, match=r"built-in, strict$") as caught:
        opened().resolve(named(name))
    assert caught.value.field == "policy_name"
    assert "passwd" not in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_a_long_list_of_names_is_cut(tmp_path: Path, opened: Open) -> None:
    for number in range(30):
        put(tmp_path, f"p{number:02}", f"name: p{number:02}\n")
    with pytest.raises(InvalidRequest, match=r"built-in, p00, .*p10 and 19 more$"):
        opened().resolve(named("q"))


def test_a_policy_of_the_callers_is_taken_where_the_operator_allows_it() -> None:
    policy = Policy(custom_policy="Be kind.", also_builtin=True)
    resolved = PolicyStore(allow_callers=True).resolve(own(policy))
    assert resolved.policy is policy
    assert resolved.parts == parts_of(policy)


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(Policy(custom_policy="Be kind."), id="mode A"),
        pytest.param(Policy(custom_taxonomy="- Leak"), id="mode B"),
        pytest.param(Policy(suppress=("S1",)), id="suppress"),
        pytest.param(Policy(allow_list=("chess",)), id="allow_list"),
        pytest.param(Policy(thresholds=Thresholds(user=1.0)), id="thresholds"),
        pytest.param(Policy(on_error="allow"), id="on_error"),
        pytest.param(Policy(name="strict"), id="a name of the operator's"),
    ],
)
def test_nothing_of_the_callers_own_passes_a_closed_switch(tmp_path: Path, opened: Open, policy: Policy) -> None:
    put(tmp_path, "strict", strict())
    with pytest.raises(InvalidRequest, match=r"takes no policies from callers.* built-in, strict$") as caught:
        opened(allow_callers=False).resolve(own(policy))
    assert caught.value.field == "policy"
    assert opened(allow_callers=True).resolve(own(policy)).policy is policy


def test_a_client_that_wants_errors_raised_is_served_behind_a_closed_switch() -> None:
    # `raise` blocks on the server like `block`; `tritonguard health` asks so.
    policy = Policy(on_error="raise")
    assert PolicyStore(allow_callers=False).resolve(own(policy)).policy is policy


def test_the_floor_is_judged_beside_every_other_policy(tmp_path: Path, opened: Open) -> None:
    put(tmp_path, "strict", strict())
    store = opened(floor=FLOOR)
    for request in (named("strict"), own(Policy(custom_policy="Anything goes."))):
        parts = store.resolve(request).parts
        assert [part.name for part in parts] == ["custom", "floor"]
        assert parts[1].policy is FLOOR
    lax = store.resolve(own(Policy(thresholds=Thresholds(user=1.0))))
    assert [part.policy for part in lax.parts] == [FLOOR]
    assert lax.policy.thresholds.user == 1.0


def test_a_floor_on_another_taxonomy_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="built-in taxonomy") as caught:
        PolicyStore(floor=Policy(custom_policy="x"), allow_callers=True)
    assert caught.value.field == "floor"


def test_new_changed_and_removed_files_are_taken_up(tmp_path: Path, opened: Open, log: Log) -> None:
    store = opened()
    with pytest.raises(InvalidRequest):
        store.resolve(named("strict"))
    put(tmp_path, "strict", strict(0.3))
    before = store.resolve(named("strict"))
    assert store.resolve(named("strict")) is before
    put(tmp_path, "strict", strict(0.2))
    after = store.resolve(named("strict"))
    assert (before.policy.thresholds.user, after.policy.thresholds.user) == (0.3, 0.2)
    (tmp_path / "strict.yaml").unlink()
    with pytest.raises(InvalidRequest):
        store.resolve(named("strict"))
    assert log.told == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: strict\nthresold: 1\n", "unknown key 'policy.thresold', line 2"),
        ("name: [", "line 1"),
        ("name: other\n", "policy.name: not the file's name"),
        ("version: 1.0.0\n", "policy.name: not the file's name"),
        ("", "not a mapping"),
    ],
)
def test_a_broken_change_keeps_the_policy_before_it_and_is_told_once(
    tmp_path: Path, opened: Open, log: Log, text: str, part: str
) -> None:
    put(tmp_path, "strict", strict())
    store = opened()
    before = store.resolve(named("strict"))
    put(tmp_path, "strict", text)
    for _ in range(3):
        assert store.resolve(named("strict")) is before
    ((file, message),) = log.told
    assert file == "strict.yaml"
    assert part in message
    assert str(tmp_path) not in message
    put(tmp_path, "strict", strict(0.1))
    assert store.resolve(named("strict")).policy.thresholds.user == 0.1


def test_a_broken_new_file_is_not_there_and_is_told(tmp_path: Path, opened: Open, log: Log) -> None:
    put(tmp_path, "strict", "nonsense")
    put(tmp_path, "good", "name: good\n")
    store = opened()
    assert store.names == ("built-in", "good")
    assert [file for file, _ in log.told] == ["strict.yaml"]


def test_nothing_takes_the_place_of_the_builtin_policy(tmp_path: Path, opened: Open, log: Log) -> None:
    put(tmp_path, "built-in", "name: built-in\nthresholds: {user: 1.0}\n")
    assert opened().resolve(named("built-in")).policy == Policy()
    ((_, message),) = log.told
    assert "taken by the built-in policy" in message


def test_files_that_are_no_policies_are_left_alone(tmp_path: Path, opened: Open, log: Log) -> None:
    for name in ("README.md", ".hidden.yaml", "strict.yaml.bak", "old.yml"):
        (tmp_path / name).write_text("nonsense", encoding="utf-8")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "nowhere.yaml").symlink_to(tmp_path / "absent")
    assert opened().names == ("built-in",)
    assert log.told == []


def test_a_folder_behind_a_link_is_swapped_as_a_whole(tmp_path: Path, log: Log) -> None:
    # As a mounted configuration map does it.
    for version, user in (("one", 0.3), ("two", 0.2)):
        (tmp_path / version).mkdir()
        put(tmp_path / version, "strict", strict(user))
    link = tmp_path / "now"
    link.symlink_to("one")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "strict.yaml").symlink_to(link / "strict.yaml")
    store = PolicyStore(tmp_path / "served", allow_callers=True, on_problem=log, look_every_s=0.0, settle_s=0.0)
    assert store.resolve(named("strict")).policy.thresholds.user == 0.3
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(link)
    assert store.resolve(named("strict")).policy.thresholds.user == 0.2


def test_a_folder_that_is_gone_drops_nothing_and_is_told_once(tmp_path: Path, log: Log) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    put(folder, "strict", strict())
    store = PolicyStore(folder, allow_callers=True, on_problem=log, look_every_s=0.0, settle_s=0.0)
    folder.rename(tmp_path / "away")
    for _ in range(3):
        assert store.resolve(named("strict"))
    ((file, message),) = log.told
    assert (file, "cannot be read" in message) == ("", True)
    (tmp_path / "away").rename(folder)
    put(folder, "strict", strict(0.1))
    assert store.resolve(named("strict")).policy.thresholds.user == 0.1


def test_a_file_larger_than_any_policy_is_not_read(tmp_path: Path, opened: Open, log: Log) -> None:
    put(tmp_path, "strict", strict() + "#" * (2 << 20))
    assert opened().names == ("built-in",)
    ((_, message),) = log.told
    assert "more than" in message


def test_a_log_that_fails_costs_no_policy(tmp_path: Path, opened: Open) -> None:
    def broken(file: str, message: str) -> None:
        raise RuntimeError("no log")

    put(tmp_path, "bad", "nonsense")
    put(tmp_path, "strict", strict())
    assert opened(on_problem=broken).names == ("built-in", "strict")


def test_the_folder_is_left_alone_between_two_looks(tmp_path: Path, opened: Open) -> None:
    store = opened(look_every_s=3600.0)
    put(tmp_path, "strict", strict())
    assert store.names == ("built-in",)


def test_a_file_that_may_still_be_written_waits_for_the_next_look(tmp_path: Path, opened: Open) -> None:
    put(tmp_path, "strict", strict(0.3))
    store = opened(settle_s=3600.0)
    # At the start there is nothing before it, so it is taken as it is.
    assert store.resolve(named("strict")).policy.thresholds.user == 0.3
    file = tmp_path / "strict.yaml"
    file.write_text(strict(0.2), encoding="utf-8")
    assert store.resolve(named("strict")).policy.thresholds.user == 0.3
    long_ago = time.time() - 7200
    os.utime(file, (long_ago, long_ago))
    assert store.resolve(named("strict")).policy.thresholds.user == 0.2


def test_threads_only_ever_see_whole_policies_while_files_flip(tmp_path: Path, opened: Open, log: Log) -> None:
    texts = [strict(0.3), strict(0.2), "name: strict\ncustom_taxonomy: [Leak"]
    whole = {Policy.from_yaml(text).sha256 for text in texts[:2]}
    put(tmp_path, "strict", texts[0])
    store = opened()
    stop = threading.Event()
    seen: set[str] = set()
    wrong: list[object] = []

    def hammer() -> None:
        while not stop.is_set():
            try:
                resolved = store.resolve(named("strict"))
            except Exception as error:
                wrong.append(error)
                return
            seen.add(resolved.policy.sha256)
            (part,) = resolved.parts
            if part.policy is not resolved.policy or part.names != ("Leak", "Rudeness"):
                wrong.append(part)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + 30.0
    flips = 0
    # Until both versions were served and the broken one was met: how many flips that takes is the machine's.
    while (flips < 30 or seen != whole or not log.told) and not wrong and time.monotonic() < give_up:
        put(tmp_path, "strict", texts[flips % 3])
        flips += 1
        time.sleep(0.002)
    stop.set()
    for thread in threads:
        thread.join(10.0)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert seen == whole
    assert {file for file, _ in log.told} == {"strict.yaml"}
