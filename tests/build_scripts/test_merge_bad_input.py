"""Damaged or incomplete inputs of a merge: a typed error that names the file, exit status 1, nothing written."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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

from build_scripts.merge_lora import main, merge
from engines.checkpoint import TensorFile
from engines.manifest import NAME, read_manifest, write_manifest

INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00003.safetensors"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds `base` in three shards, without a manifest as a download is, and `adapter`."""
    write_checkpoint(tmp_path / "base", tiny_config(), shards=3)
    matrices = prefixed(TEXT_FORMS["4.52 and later"], low_rank(projections(tiny_config())))
    write_adapter(tmp_path / "adapter", matrices, adapter_config())
    return tmp_path


def refused(folder: Path, reason: str) -> None:
    """The merge gives that reason, by call and by command line, and leaves nothing behind."""
    names = {path.name for path in folder.iterdir()}
    base, adapter, out = folder / "base", folder / "adapter", folder / "merged"
    with pytest.raises(BundleError, match=reason):
        merge(base=base, adapter=adapter, out=out)
    assert main(["--base", str(base), "--adapter", str(adapter), "--out", str(out)]) == 1
    assert {path.name for path in folder.iterdir()} == names


def accepted(folder: Path) -> None:
    merge(base=folder / "base", adapter=folder / "adapter", out=folder / "merged")


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def change_header(path: Path, old: bytes, new: bytes) -> None:
    """Replace the first `old` by `new`, of the same length."""
    assert len(old) == len(new)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize("name", [f"base/{SHARD}", f"adapter/{WEIGHTS}"])
def test_a_truncated_weight_file_is_refused_at_any_length_and_the_whole_one_merges(folder: Path, name: str) -> None:
    path = folder / name
    whole, header = path.read_bytes(), TensorFile.open(path).data_start
    chosen = random.Random(0)
    lengths = [0, 4, 8, 9, header - 1, header, header + 1, len(whole) - 1]
    lengths += [chosen.randrange(8, header), chosen.randrange(header, len(whole))]
    for length in lengths:
        path.write_bytes(whole[:length])
        refused(folder, path.name)
    path.write_bytes(whole + b"\0")
    refused(folder, "truncated or has trailing bytes")
    path.write_bytes(whole)
    accepted(folder)


@pytest.mark.parametrize("name", [f"base/{SHARD}", f"adapter/{WEIGHTS}"])
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"dtype":"', b'"dtypo":"', "header that can't be read"),
        (b'"shape":[', b'"shapo":[', "header that can't be read"),
        (b'"dtype":"', b'"dtype":7', "can't be read"),
        (b'"data_offsets":[0,', b'"data_offsets":[8,', "don't fit its dtype and shape"),
        (b'"shape":[', b'"shape":7', "can't be read"),
    ],
)
def test_a_header_that_does_not_describe_its_bytes_is_refused(
    folder: Path, name: str, old: bytes, new: bytes, reason: str
) -> None:
    change_header(folder / name, old, new)
    refused(folder, reason)


def test_weights_of_a_dtype_that_is_not_merged_into_are_refused(folder: Path) -> None:
    for path in (folder / "base").glob("*.safetensors"):
        path.write_bytes(path.read_bytes().replace(b'"dtype":"BF16"', b'"dtype":"F16" '))
    refused(folder, "dtype F16 can't be merged into")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda base: (base / SHARD).unlink(), f"in {SHARD}, which is not there"),
        (lambda base: (base / INDEX).unlink(), f"3 weight files and no {INDEX}"),
        (lambda base: (base / INDEX).write_text("{"), f"no readable {INDEX}"),
        (lambda base: (base / INDEX).write_text('["weight_map"]'), f"no readable {INDEX}"),
        (lambda base: (base / INDEX).write_text('{"weight_map": {"a": ["b"]}}'), f"no readable {INDEX}"),
        (lambda base: change_json(base / INDEX, lambda index: index["weight_map"].popitem()), "index doesn't list"),
        (
            lambda base: change_json(base / INDEX, lambda index: index["weight_map"].update({"a.weight": SHARD})),
            f"a.weight in {SHARD}, which is not there",
        ),
        (lambda base: (base / "stray.safetensors").write_bytes((base / SHARD).read_bytes()), "in stray.safetensors"),
        (lambda base: (base / "config.json").write_text("{"), "no readable config.json"),
        (lambda base: (base / "config.json").unlink(), "no readable config.json"),
    ],
)
def test_shards_that_are_not_those_of_the_index_are_refused(
    folder: Path, change: Callable[[Path], object], reason: str
) -> None:
    change(folder / "base")
    refused(folder, reason)


def wrong_hash(manifest: dict[str, Any]) -> None:
    """A hash other than that of the bytes, for the second file."""
    name = sorted(manifest["files"])[1]
    manifest["files"][name]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("base", wrong_hash, "is not the file that was built"),
        ("adapter", wrong_hash, f"{WEIGHTS} is not the file of the manifest"),
        ("base", lambda manifest: manifest.pop("revision"), "has no 'revision'"),
        ("base", lambda manifest: manifest.pop("files"), "has no 'files'"),
        ("adapter", lambda manifest: manifest.pop("inputs"), "has no 'inputs'"),
        ("adapter", lambda manifest: manifest["files"].pop(WEIGHTS), f"{WEIGHTS} is not the file of the manifest"),
        ("base", lambda manifest: manifest["files"].pop(SHARD), f"{SHARD} is not in the manifest"),
        ("base", lambda manifest: manifest.update(format=99), "has format 99"),
    ],
)
def test_a_manifest_with_a_wrong_hash_or_a_missing_field_is_refused_and_the_right_one_merges(
    folder: Path, name: str, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    revision = write_manifest(folder / "base", kind="checkpoint", inputs={})["revision"]
    write_manifest(folder / "adapter", kind="adapter", inputs={"base_revision": revision})
    right = (folder / name / NAME).read_text()
    change_json(folder / name / NAME, change)
    refused(folder, reason)
    (folder / name / NAME).write_text(right)
    accepted(folder)


def test_an_adapter_that_names_its_base_needs_a_base_with_a_manifest(folder: Path) -> None:
    write_manifest(folder / "adapter", kind="adapter", inputs={"base_revision": "0" * 64})
    refused(folder, f"has no {NAME} to compare")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", f"no readable {CONFIG}"),
        ("[]", f"{CONFIG} is not a JSON object"),
        (json.dumps(adapter_config(rank_pattern=["q_proj"])), "rank_pattern is not a map of regular expressions"),
        (json.dumps(adapter_config(alpha_pattern={"(": 1})), "alpha_pattern is not a map of regular expressions"),
        (json.dumps(adapter_config(rank_pattern={"q_proj": "4"})), "must be numbers"),
    ],
)
def test_an_adapter_config_that_can_not_be_read_is_refused(folder: Path, content: str, reason: str) -> None:
    (folder / "adapter" / CONFIG).write_text(content)
    refused(folder, reason)


@pytest.mark.parametrize("name", ["base", "adapter", f"adapter/{WEIGHTS}", f"adapter/{CONFIG}"])
def test_a_missing_input_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "elsewhere")
    refused(folder, (folder / name).name)


def test_an_unwritable_place_is_a_plain_message(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("")
    out = folder / "file" / "merged"
    assert main(["--base", str(folder / "base"), "--adapter", str(folder / "adapter"), "--out", str(out)]) == 1
    assert "reading or writing failed: Not a directory" in capsys.readouterr().err


def test_the_manifest_names_the_tools_and_the_notices_of_both(folder: Path) -> None:
    (folder / "base" / "LICENSE").write_text("the base's")
    (folder / "adapter" / "LICENSE").write_text("the adapter's")
    accepted(folder)
    manifest = read_manifest(folder / "merged")
    assert manifest["tools"]["numpy"] == np.__version__
    assert {"notices/LICENSE", "notices/base/LICENSE"} <= set(manifest["files"])
    assert (folder / "merged" / "notices" / "base" / "LICENSE").read_text() == "the base's"
