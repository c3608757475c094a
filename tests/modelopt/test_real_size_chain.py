"""The run at the real guard's size, whole, on a small config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_guard import guard_config

from benchmarks import real_size
from build_scripts.tensorrt_llm.layout import data_bytes, quantized_layout


def test_the_chain_merges_quantizes_counts_and_leaves_only_the_figures(
    guard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    predicted = data_bytes(quantized_layout(guard_config(), real_size.PROFILE))
    monkeypatch.setattr(real_size, "GEMMA_4B", guard_config())
    monkeypatch.setattr(real_size, "DISK_BYTES", 0)
    monkeypatch.setattr(real_size, "EXPECTED_BYTES", predicted)
    work, out = tmp_path / "work", tmp_path / "figures.json"
    assert real_size.main(["--base", str(guard), "--work", str(work), "--out", str(out)]) == 0
    assert f"{predicted:,} bytes of tensor data" in capfd.readouterr().out
    figures = json.loads(out.read_text())
    assert figures["tensor_bytes"] == predicted
    assert [step["name"] for step in figures["steps"]] == ["merge_lora", "quantize"]
    assert list(tmp_path.iterdir()) == [out]
