"""The mean of two checkpoints: halfway in every number, and refused where they are no checkpoints of one adapter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tritonguard.errors import BundleError

from build_scripts.average_adapters import average, main
from build_scripts.peft_adapter import CONFIG, WEIGHTS
from engines.checkpoint import TensorFile, write_tensors
from engines.manifest import read_manifest, verify_files, write_manifest


def adapter(folder: Path, value: float, *, shape: tuple[int, ...] = (4, 3), config: str = "{}") -> Path:
    folder.mkdir()
    names = ("x.lora_A.weight", "x.lora_B.weight")
    write_tensors(
        folder / WEIGHTS,
        {name: ("F32", shape) for name in names},
        [np.full(shape, value * (1 + at), np.float32) for at in range(2)],
    )
    (folder / CONFIG).write_text(config)
    (folder / "split.json").write_text("{}")
    write_manifest(folder, kind="adapter", inputs={"base_revision": "b"}, training={"steps": round(value)})
    return folder


def test_every_number_is_halfway_and_the_record_names_both(tmp_path: Path) -> None:
    earlier, later = adapter(tmp_path / "a", 1.0), adapter(tmp_path / "b", 4.0)
    out = average(earlier, later, tmp_path / "out")
    stored = TensorFile.open(out / WEIGHTS)
    assert np.unique(stored.float32("x.lora_A.weight")).tolist() == [2.5]
    assert np.unique(stored.float32("x.lora_B.weight")).tolist() == [5.0]
    manifest = read_manifest(out)
    verify_files(out, manifest)
    assert manifest["training"] == {
        "steps": 4,
        "average_of": [read_manifest(folder)["revision"] for folder in (earlier, later)],
    }


@pytest.mark.parametrize("change", [{"shape": (3, 4)}, {"config": '{"r": 8}'}])
def test_what_is_not_one_adapter_is_refused_and_nothing_is_written(tmp_path: Path, change: dict[str, str]) -> None:
    earlier, later = adapter(tmp_path / "a", 1.0), adapter(tmp_path / "b", 4.0, **change)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="not checkpoints of one adapter"):
        average(earlier, later, tmp_path / "out")
    assert main([str(earlier), str(later), "--out", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()
