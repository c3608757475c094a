"""A text graph in another form: which layers are int8, what the manifest says, and nothing half-written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from tiny_checkpoint import projections, tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from build_scripts import sources
from build_scripts.calibration import CalibrationSet
from build_scripts.openvino import quantize as script
from build_scripts.openvino.profiles import KIND, PROFILES, Profile
from build_scripts.openvino.quantize import main, quantize
from engines.checkpoint import Checkpoint
from engines.local.context import Context
from engines.local.head_openvino import _embedding
from engines.local.runtime import GRAPH, core
from engines.local.tree import Tree, pass_inputs
from engines.manifest import NAME, read_manifest, verify_files, write_manifest

LAYERS = set(projections(tiny_config()))
INT8, GPTQ, SMOOTH = (PROFILES[f"int8-dynamic{form}"] for form in ("", "-gptq", "-smooth"))
MLP = PROFILES["int8-mlp-smooth"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = write_checkpoint(tmp_path / "checkpoint", tiny_config())
    write_manifest(folder, kind="checkpoint", inputs={}, vision="untrained")
    return folder


def int8_layers(folder: Path) -> set[str]:
    """Names of the linear layers in a saved text graph whose stored matrix is of 8-bit integers."""
    found = set()
    for node in core().read_model(str(folder / GRAPH)).get_ops():
        if node.get_friendly_name() in LAYERS:
            source = node.input_value(1).get_node()
            while source.get_type_name() != "Constant":
                source = source.input_value(0).get_node()
            if source.get_element_type() in (ov.Type.i8, ov.Type.u8):
                found.add(node.get_friendly_name())
    return found


def written_at(folder: Path) -> int:
    return (folder / NAME).stat().st_ino


@pytest.mark.parametrize(
    ("profile", "layers", "group_size"),
    [
        (PROFILES["f32"], set(), 0),
        (PROFILES["bf16"], set(), 0),
        (PROFILES["int8-weight-only"], LAYERS, 0),
        (INT8, LAYERS, 64),
        (
            replace(MLP, smooth=False, float_layers=("*.self_attn.*",)),
            {name for name in LAYERS if ".mlp." in name},
            2**64 - 1,
        ),
    ],
)
def test_a_form_says_what_it_is_and_is_it(
    checkpoint: Path, tmp_path: Path, profile: Profile, layers: set[str], group_size: int
) -> None:
    folder = quantize(checkpoint, tmp_path / "out", profile)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    assert (manifest["kind"], manifest["target"]) == (KIND, "openvino")
    assert manifest["inputs"]["checkpoint_revision"] == read_manifest(checkpoint)["revision"]
    assert manifest["inputs"]["profile"]["name"] == profile.name
    assert manifest["inputs"]["calibration"] is None
    assert manifest["engine"]["group_size"] == group_size
    assert int8_layers(folder) == layers
    np.testing.assert_array_equal(_embedding(folder / GRAPH), Checkpoint.open(checkpoint).stored("embed_tokens.weight"))


def test_layers_that_are_kept_in_float_are_as_stored(checkpoint: Path, tmp_path: Path) -> None:
    profile = replace(INT8, float_layers=("*.down_proj", "layers.1.self_attn.*"))
    found = int8_layers(quantize(checkpoint, tmp_path / "out", profile))
    assert found == {
        name for name in LAYERS if not name.endswith("down_proj") and not name.startswith("layers.1.self_attn.")
    }


@pytest.mark.parametrize(("profile", "group_size"), [(GPTQ, 64), (SMOOTH, 128)])
def test_a_calibrated_form_says_on_what_and_is_another_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile, group_size: int
) -> None:
    opened = Checkpoint.open(checkpoint)
    context = Context.empty(opened.text_config)
    ids = np.random.default_rng(0).integers(0, 96, (8, 24)).tolist()
    none = {"slots": np.full(24, -1, np.int32), "features": np.zeros((1, 32), np.float32)}
    asked = [pass_inputs(context, [Tree(tuple(row))], candidates=[0], image_token=-1) | none for row in ids]
    monkeypatch.setattr(script, "calibration_inputs", lambda *arguments: asked)
    drawn = CalibrationSet((), "c.jsonl", "0" * 64, 7)
    folder = quantize(checkpoint, tmp_path / "out", profile, calibrated_on=drawn)
    manifest = read_manifest(folder)
    assert manifest["inputs"]["calibration"] == {**drawn.describe(), "keep_last": None}
    assert manifest["engine"] == {"group_size": group_size}
    assert int8_layers(folder) == LAYERS
    nearest = quantize(checkpoint, tmp_path / "nearest", INT8)
    bins = [(one / "graph.bin").read_bytes() for one in (folder, nearest)]
    assert len(bins[0]) == len(bins[1])
    assert bins[0] != bins[1]
    before = written_at(folder)
    quantize(checkpoint, folder, profile, calibrated_on=replace(drawn, seed=8))
    assert written_at(folder) != before


def test_a_folder_is_kept_while_it_is_what_is_asked_for(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = quantize(checkpoint, tmp_path / "out", INT8)
    first = written_at(out)
    assert written_at(quantize(checkpoint, out, INT8)) == first
    assert "is current" in capsys.readouterr().out
    forced = written_at(quantize(checkpoint, out, INT8, force=True))
    assert forced != first
    other = written_at(quantize(checkpoint, out, replace(INT8, dynamic_group=32)))
    assert other != forced
    monkeypatch.setattr(sources, "sha256_file", lambda path: f"changed {path.name}")
    assert written_at(quantize(checkpoint, out, replace(INT8, dynamic_group=32))) != other


def test_a_pattern_that_matches_no_layer_is_refused_and_the_names_are_said(checkpoint: Path, tmp_path: Path) -> None:
    kinds = sorted({name.split(".", 2)[2] for name in LAYERS})
    for patterns in (("*.mlp.down",), ("*.down_proj", "layers.2.*"), ("embed_tokens",), ("",)):
        with pytest.raises(BundleError) as raised:
            quantize(checkpoint, tmp_path / "out", replace(INT8, float_layers=patterns))
        assert str(raised.value) == (
            f"no layer is called {patterns[-1]}: they are called layers.N. and one of {', '.join(kinds)}"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_the_command_builds_what_its_options_say(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["--profile", "int8-weight-only", "--checkpoint", str(checkpoint), "--out", str(out)]
    assert main([*asked, "--keep-float", "*.q_proj", "--keep-float", "*.mlp.*"]) == 0
    assert int8_layers(out) == {name for name in LAYERS if name.rpartition(".")[2] in ("k_proj", "v_proj", "o_proj")}
    assert read_manifest(out)["inputs"]["profile"]["float_layers"] == ["*.q_proj", "*.mlp.*"]


def test_the_command_says_on_stderr_what_is_wrong(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["--profile", "int8-weight-only", "--checkpoint", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "quantize: none has no readable manifest.json" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--profile", "int8-sq", "--alpha", "1.5"],
        ["--profile", "int8-sq", "--alpha", "nan"],
        ["--profile", "int4"],
        ["--profile", "f32", "--target", "tensorrt-llm"],
        [],
    ],
)
def test_options_that_mean_nothing_are_wrong_usage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(options)
    assert raised.value.code == 2
    assert "usage: " in capsys.readouterr().err
