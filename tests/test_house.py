"""The architecture: which room may import which, what a room's files may be, and what stays out of the repository."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "tritonguard": set(),
    "preprocessing": {"tritonguard"},
    "engines": {"tritonguard", "preprocessing"},
    "serving": {"tritonguard", "preprocessing"},
    "model_repository": {"tritonguard", "preprocessing", "engines", "serving"},
    "build_scripts": {"tritonguard", "preprocessing", "engines"},
    "benchmarks": {"tritonguard", "preprocessing", "engines", "serving", "build_scripts"},
}
FOLDERS = {room: ROOT / ("client/tritonguard" if room == "tritonguard" else room) for room in ROOMS}
FORBIDDEN_NAMES = {"utils", "common", "helpers"}
TORCH_FILES = {
    "benchmarks/cuda_levers/__main__.py",
    "benchmarks/cuda_levers/clock.py",
    "benchmarks/cuda_levers/figures.py",
    "benchmarks/cuda_levers/guard.py",
    "benchmarks/cuda_levers/ways.py",
    "engines/local/forward_torch.py",
    "engines/local/vision_torch.py",
    "engines/tensorrt_llm/processor.py",
    "build_scripts/tensorrt_llm/modelopt_export.py",
    "build_scripts/lora.py",
    "build_scripts/train_adapter.py",
    "build_scripts/training_model.py",
}
MOST_LINES = 310


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS.values() for path in folder.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_before_it(room: str) -> None:
    files = sorted(FOLDERS[room].rglob("*.py"))
    assert files, f"{room} holds no Python file"
    for path in files:
        outside = (imported(path) & set(ROOMS)) - ROOMS[room] - {room}
        assert not outside, f"{path.relative_to(ROOT)} imports {sorted(outside)}"


def test_torch_is_imported_only_where_training_and_reference_live() -> None:
    users = {str(path.relative_to(ROOT)) for path in sources() if {"torch", "transformers", "peft"} & imported(path)}
    assert users == TORCH_FILES


def test_modules_stay_short_and_are_named_for_what_they_hold() -> None:
    for path in sources():
        assert len(path.read_text().splitlines()) <= MOST_LINES, path.relative_to(ROOT)
        assert not FORBIDDEN_NAMES & {path.stem, path.parent.name}, path.relative_to(ROOT)


def test_models_are_thin_adapters() -> None:
    models = sorted((ROOT / "model_repository").glob("*/1/model.py"))
    assert len(models) == 3
    for path in models:
        assert len(path.read_text().splitlines()) <= 60, path.relative_to(ROOT)


def test_no_path_of_a_machine_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    marks = [b"/wo" + b"rk/", b"/ro" + b"ot/", b"/tmp" + b"/w/"]
    for name in listed:
        path = ROOT / name
        if path.suffix == ".safetensors" or not path.is_file():
            continue
        content = path.read_bytes()
        assert not [mark for mark in marks if mark in content], name
