"""Where a pass spends its time: the counters are read right, and the command runs on a small model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import openvino as ov
import pytest
from tiny_checkpoint import tiny_config, write_checkpoint

from benchmarks.forward_profile import ATTENTION, LINEAR, REST, counted_operations, main, parts_of
from build_scripts.openvino.onnx_graph import save_onnx
from build_scripts.request_sizes import PREFIX, SUFFIX
from engines.checkpoint import Checkpoint, TextConfig
from engines.local.engine_config import EngineConfig
from engines.local.forward_openvino import build_graph
from engines.local.runtime import GRAPH


def test_time_is_shared_out_by_kernel_and_small_kinds_are_one() -> None:
    operations = [
        ("LLMMLP", "a", 60.0),
        ("FullyConnected", "b", 20.0),
        ("MatMul", "a", 19.0),
        ("RMS", "x", 0.4),
        ("Add", "x", 0.6),
    ]
    first, second, third, rest = parts_of(operations, {LINEAR: 8.0, ATTENTION: 1.9})
    assert (first.kind, first.ms, first.share, first.gops) == ("LLMMLP (a)", 60.0, 0.6, 100.0)
    assert second.gops == first.gops, "operations are not known by kernel"
    assert third.gops == pytest.approx(100.0)
    assert (rest.kind, rest.count, rest.ms) == (REST, 2, pytest.approx(1.0))
    assert math.isnan(rest.gops)


def test_the_last_layer_is_counted_for_its_keys_and_values_alone() -> None:
    config = TextConfig.read(tiny_config(num_hidden_layers=1))
    counted = counted_operations(config, 2)
    keys = 2 * 2 * SUFFIX * config.hidden_size * 2 * config.num_key_value_heads * config.head_dim
    assert counted == {LINEAR: pytest.approx(keys / 1e9), ATTENTION: 0.0}
    assert PREFIX > SUFFIX


@pytest.mark.parametrize(("runtime", "product"), [("openvino", "FullyConnected"), ("onnxruntime", "FusedMatMul")])
def test_the_command_profiles_a_small_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: str, product: str
) -> None:
    folder = write_checkpoint(tmp_path / "bundle", tiny_config())
    checkpoint = Checkpoint.open(folder)
    ov.save_model(build_graph(checkpoint), str(folder / GRAPH), compress_to_fp16=False)
    save_onnx(folder)
    EngineConfig("f32", runtime=runtime).write(folder)
    assert main(["--bundle", str(folder), "--batches", "1,2", "--rounds", "2", "--out", str(tmp_path / "p.json")]) == 0
    figures = json.loads((tmp_path / "p.json").read_text())
    assert [each["batch"] for each in figures["profiles"]] == [1, 2]
    assert [each["batch"] for each in figures["halves"]] == [2]
    grown = [(each["reserved"], each["batch"]) for each in figures["growth"]]
    assert grown == [(False, 1), (False, 2), (True, 1), (True, 2)]
    assert all(0 < part["share"] <= 1 for each in figures["profiles"] for part in each["parts"])
    assert product in capsys.readouterr().out
