"""A merge that is killed, interrupted or out of disk: nothing half-written, and the next run goes on."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import (
    TEXT_FORMS,
    adapter_config,
    low_rank,
    prefixed,
    projections,
    tiny_config,
    write_adapter,
    write_checkpoint,
)
from tritonguard.errors import BundleError

from build_scripts import merge_lora
from build_scripts.merge_lora import main, merge
from build_scripts.resumable import resumable_folder

SHARDS = 4
FORM = TEXT_FORMS["4.52 and later"]
# Runs the command line with a fault put in: argv is the fault, then the command's own arguments.
FAULTY_RUN = """
import json, os, resource, signal, sys
fault = json.loads(sys.argv.pop(1))
# A shell ignores it for jobs in the background, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if "file_size" in fault:
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_size"], fault["file_size"]))
seen, renames = 0, []
def count(event, args):
    global seen
    if event in EVENTS:
        seen += 1
        if event == "os.rename":
            renames.append(seen)
        if seen == fault.get("event"):
            os.kill(os.getpid(), fault["signal"])
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.copyfile"}
from build_scripts.merge_lora import main
sys.addaudithook(count)
code = main(sys.argv[1:])
print(json.dumps({"renames": renames}))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `adapter`, `other` (an adapter of other values), and `whole`, merged undisturbed."""
    folder = tmp_path_factory.mktemp("inputs")
    write_checkpoint(folder / "base", tiny_config(), shards=SHARDS)
    for seed, name in enumerate(("adapter", "other")):
        matrices = low_rank(projections(tiny_config()), seed=seed)
        write_adapter(folder / name, prefixed(FORM, matrices), adapter_config())
    merge(base=folder / "base", adapter=folder / "adapter", out=folder / "whole")
    return folder


def arguments(inputs: Path, out: Path, adapter: str = "adapter") -> list[str]:
    return ["--base", str(inputs / "base"), "--adapter", str(inputs / adapter), "--out", str(out)]


def faulty(inputs: Path, out: Path, fault: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FAULTY_RUN, json.dumps(fault), *arguments(inputs, out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, shard: int, error: BaseException) -> list[str]:
    """Let the writing of the n-th shard (from 0) of this process fail halfway. Returns the names as they are begun."""
    begun: list[str] = []
    real = merge_lora.rewrite_tensors

    def failing(file: Any, path: Path, values: Iterator[Any]) -> None:
        begun.append(path.name)
        if len(begun) == shard + 1:
            path.write_bytes(b"half")
            raise error
        real(file, path, values)

    monkeypatch.setattr(merge_lora, "rewrite_tensors", failing)
    return begun


@pytest.mark.parametrize("shard", range(1, SHARDS))
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["int", "full"])
def test_an_interrupted_merge_goes_on_with_its_finished_shards(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, shard: int
) -> None:
    out = tmp_path / "merged"
    interrupt_at(monkeypatch, shard, error)
    assert main(arguments(inputs, out)) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert not out.exists()
    assert len([path for path in tmp_path.rglob("*.safetensors") if path.read_bytes() != b"half"]) == shard
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"half"]
    begun = interrupt_at(monkeypatch, SHARDS, error)
    assert main(arguments(inputs, out)) == 0
    assert len(begun) == SHARDS - shard
    assert content(tmp_path) == {f"merged/{name}": value for name, value in content(inputs / "whole").items()}


def test_a_full_disk_before_the_first_shard_is_whole_leaves_nothing(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 0, OSError(28, "No space left on device"))
    with pytest.raises(BundleError, match="No space left on device"):
        merge(base=inputs / "base", adapter=inputs / "adapter", out=tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["adapter", "shard", "progress", "force", "release", "tools"])
def test_what_was_left_by_other_inputs_or_was_damaged_is_not_used(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    out = tmp_path / "merged"
    interrupt_at(monkeypatch, 2, KeyboardInterrupt())
    command = arguments(inputs, out, "other" if change == "adapter" else "adapter")
    assert main(command) == 130
    partial = tmp_path / ".merged-partial"
    redone = SHARDS
    if change == "shard":
        path = sorted(partial.rglob("*.safetensors"))[0]
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        redone = SHARDS - 1
    if change == "progress":
        text = (partial / "progress.json").read_text()
        (partial / "progress.json").write_text(text[: len(text) // 2])
    if change in ("release", "tools"):
        progress = json.loads((partial / "progress.json").read_text())
        made_from = progress["made_from"]
        made_from |= {"tritonguard": "0.0.1"} if change == "release" else {"tools": {"numpy": "1.0"}}
        (partial / "progress.json").write_text(json.dumps(progress))
    begun = interrupt_at(monkeypatch, SHARDS, KeyboardInterrupt())
    assert main([*arguments(inputs, out), *(["--force"] if change == "force" else [])]) == 0
    assert len(begun) == redone
    assert content(tmp_path) == {f"merged/{name}": value for name, value in content(inputs / "whole").items()}


def test_a_merge_that_is_refused_keeps_nothing_of_an_interrupted_one(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 2, KeyboardInterrupt())
    assert main(arguments(inputs, tmp_path / "merged")) == 130
    interrupt_at(monkeypatch, 0, BundleError("values that are not finite"))
    assert main(arguments(inputs, tmp_path / "merged")) == 1
    assert list(tmp_path.iterdir()) == []


def test_two_merges_into_one_folder_are_not_mixed(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    with resumable_folder(out, {}) as folder:
        (folder.path / "file").write_text("mine")
        with pytest.raises(BundleError, match="another process is writing"):
            merge(base=inputs / "base", adapter=inputs / "adapter", out=out)
        assert (folder.path / "file").read_text() == "mine"
    assert content(tmp_path) == {"merged/file": b"mine"}


def test_a_kill_between_the_two_renames_gives_the_old_folder_back(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    replaced = tmp_path / ".merged-partial" / "replaced"
    replaced.mkdir(parents=True)
    (replaced / "old").write_text("old")
    with pytest.raises(BundleError), resumable_folder(out, {}):
        raise BundleError("refused")
    assert content(tmp_path) == {"merged/old": b"old"}


@pytest.mark.parametrize("limit", [0, 1_000, 9_000, 29_000])
def test_a_write_that_the_system_refuses_is_a_plain_message_and_leaves_nothing_half_written(
    inputs: Path, tmp_path: Path, limit: int
) -> None:
    """The kernel's own limit on the size of a file stands in for a full disk."""
    assert limit < max(path.stat().st_size for path in (inputs / "base").iterdir())
    out = tmp_path / "merged"
    result = faulty(inputs, out, {"file_size": limit})
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("merge_lora: reading or writing failed: File too large")
    assert "Traceback" not in result.stderr
    assert not out.exists()
    assert main(arguments(inputs, out)) == 0
    assert content(out) == content(inputs / "whole")


@pytest.mark.parametrize("signal", [9, 2], ids=["kill", "interrupt"])
def test_killed_at_any_point_the_next_run_gives_the_same_bytes(inputs: Path, tmp_path: Path, signal: int) -> None:
    """Some points by chance, and those about the two renames that replace an older folder."""
    out = tmp_path / "merged"

    def older() -> dict[str, bytes]:
        merge(base=inputs / "base", adapter=inputs / "other", out=out)
        return content(out)

    old, new = older(), content(inputs / "whole")
    undisturbed = json.loads(faulty(inputs, out, {}).stdout)
    moved_away, moved_in = undisturbed["renames"][-2:]
    by_chance = random.Random(signal).sample(range(1, moved_away), 3)
    for event in (*by_chance, moved_away, moved_in, moved_in + 1):
        assert older() == old
        result = faulty(inputs, out, {"event": event, "signal": signal})
        assert result.returncode == (-9 if signal == 9 else 130), result.stderr
        assert "Traceback" not in result.stderr
        if event == moved_in and signal == 9:
            assert not out.exists()
        else:
            assert content(out) == (new if event > moved_in else old)
        assert main(arguments(inputs, out)) == 0
        assert content(tmp_path) == {f"merged/{name}": value for name, value in new.items()}
