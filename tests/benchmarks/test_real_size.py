"""The run at the real guard's size, on a small config: its random checkpoint, its adapter, and what it measures."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_guard import guard_config, write_guard
from tritonguard.errors import BundleError

from benchmarks import real_size
from benchmarks.real_size import Step, bars, main, run, shards, table, write_adapter, write_checkpoint
from build_scripts.tensorrt_llm.layout import data_bytes, linear_shapes, published_layout, quantized_layout
from build_scripts.tensorrt_llm.source import Source
from engines.checkpoint import TextConfig
from engines.manifest import read_manifest


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Of the tokenizer."""
    return write_guard(tmp_path / "base")


def test_the_real_guards_bytes_are_those_that_its_config_predicts() -> None:
    assert data_bytes(quantized_layout(real_size.GEMMA_4B, real_size.PROFILE)) == real_size.EXPECTED_BYTES


def test_shards_are_about_equal_and_hold_every_tensor_once() -> None:
    layout = published_layout(real_size.GEMMA_4B)
    parts = list(shards(layout, 2))
    assert len(parts) == 2
    assert {name: spec for part in parts for name, spec in part.items()} == layout
    assert sum(map(len, parts)) == len(layout)
    sizes = [data_bytes(part) for part in parts]
    assert max(sizes) < 0.6 * sum(sizes)


def test_the_random_checkpoint_is_one_that_can_be_quantized(base: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", guard_config(), base)
    source = Source.open(tmp_path / "checkpoint")
    assert len({file.path for file in source.checkpoint.files.values()}) == real_size.SHARDS
    q_proj = source.checkpoint.text("layers.0.self_attn.q_proj.weight")
    assert 0.015 < q_proj.std() < 0.025


def test_the_adapter_merges_into_every_linear_layer_in_a_process_that_is_measured(base: Path, tmp_path: Path) -> None:
    config, out = guard_config(), tmp_path / "merged"
    write_checkpoint(tmp_path / "checkpoint", config, base)
    write_adapter(tmp_path / "adapter", config)
    folders = {"base": tmp_path / "checkpoint", "adapter": tmp_path / "adapter", "out": out}
    line = [part for name, folder in folders.items() for part in (f"--{name}", str(folder))]
    step = run("merge_lora", ["build_scripts.merge_lora", *line], out)
    assert len(read_manifest(out)["relative_update"]) == len(linear_shapes(TextConfig.read(config)))
    assert step.written > data_bytes(published_layout(config))
    assert 0.01 < step.peak_gb < real_size.MERGE_GB
    assert step.cpu_s > 0
    assert step.seconds > 0


def test_a_step_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="merge_lora ended with status 2"):
        run("merge_lora", ["build_scripts.merge_lora", "--nonsense"], tmp_path)


@pytest.mark.parametrize(
    ("merge_gb", "quantize_gb", "off", "met"),
    [(1.2, 12.4, 0, True), (1.6, 12.4, 0, False), (1.2, 20.5, 0, False), (1.2, 12.4, 1, False), (1.2, 12.4, -1, False)],
)
def test_the_bars(merge_gb: float, quantize_gb: float, off: int, met: bool) -> None:
    taken = [Step("merge_lora", 1.0, 2.0, merge_gb, 3), Step("quantize", 4.0, 5.0, quantize_gb, 6)]
    found = bars(taken, real_size.EXPECTED_BYTES + off, real_size.EXPECTED_BYTES)
    assert all(bar.met for bar in found) is met
    assert "| merge_lora | 1.000 | 2.000 |" in table(taken)


def test_too_little_disk_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_size, "DISK_BYTES", 1 << 60)
    work = tmp_path / "work"
    assert main(["--work", str(work), "--out", str(tmp_path / "figures.json")]) == 2
    assert "GB of disk are needed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_removed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--work", str(tmp_path)])
    assert tmp_path.is_dir()
