from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny_checkpoint import (
    PROCESSOR_FILES,
    TEXT_FORMS,
    TOKENIZER_FILES,
    VISION_FORMS,
    VISION_MODULE,
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
from engines.checkpoint import Checkpoint, TensorFile, bfloat16_to_float32
from engines.manifest import read_manifest, write_manifest

Matrices = Mapping[str, npt.NDArray[np.float32]]

FORM = TEXT_FORMS["4.52 and later"]
Q_PROJ = "layers.0.self_attn.q_proj"
PUBLISHED = "language_model.model."


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "base", tiny_config())


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", prefixed(FORM, all_matrices()), adapter_config())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "merged"


def all_matrices() -> dict[str, npt.NDArray[np.float32]]:
    return low_rank(projections(tiny_config()))


def q_proj_matrices() -> dict[str, npt.NDArray[np.float32]]:
    return prefixed(FORM, low_rank({Q_PROJ: projections(tiny_config())[Q_PROJ]}))


def expected(base: Path, matrices: Matrices, module: str, scale: float) -> npt.NDArray[np.float64]:
    """W + scale * B @ A in float64, unrounded."""
    weight = Checkpoint.open(base).text(f"{module}.weight").astype(np.float64)
    a, b = (matrices[f"{module}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    return np.asarray(weight + scale * (b @ a))


def folder_content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_every_updated_weight_is_the_sum_rounded_once_to_bfloat16(base: Path, adapter: Path, out: Path) -> None:
    merge(base=base, adapter=adapter, out=out)
    merged = Checkpoint.open(out)
    for module in projections(tiny_config()):
        wanted = expected(base, all_matrices(), module, 32 / 4)
        got = merged.text(f"{module}.weight")
        half_a_step = np.abs(wanted) * 2.0**-8  # nearest bfloat16: within half a step, 8 bits of significand
        assert np.all(np.abs(got - wanted) <= half_a_step * 1.001 + 1e-30), module


def test_tensors_without_an_update_and_the_header_are_copied_byte_for_byte(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", q_proj_matrices(), adapter_config())
    merge(base=base, adapter=adapter, out=tmp_path / "merged")
    before = TensorFile.open(base / "model.safetensors")
    after = TensorFile.open(tmp_path / "merged" / "model.safetensors")
    start = before.data_start
    assert before.path.read_bytes()[:start] == after.path.read_bytes()[:start]
    changed = {
        name for name in before.header if before.stored_bytes(name).tobytes() != after.stored_bytes(name).tobytes()
    }
    assert changed == {f"{PUBLISHED}{Q_PROJ}.weight"}


def test_config_tokenizer_and_template_are_the_bases_byte_for_byte(base: Path, adapter: Path, out: Path) -> None:
    merge(base=base, adapter=adapter, out=out)
    for name in ("config.json", *TOKENIZER_FILES, *PROCESSOR_FILES):
        assert (out / name).read_bytes() == (base / name).read_bytes()


def test_a_checkpoint_in_shards_keeps_its_files_its_index_and_its_keys(tmp_path: Path, adapter: Path) -> None:
    base = write_checkpoint(tmp_path / "base", tiny_config(), shards=3)
    out = merge(base=base, adapter=adapter, out=tmp_path / "merged")
    before, after = Checkpoint.open(base), Checkpoint.open(out)
    index = "model.safetensors.index.json"
    assert (out / index).read_bytes() == (base / index).read_bytes()
    assert {name: file.path.name for name, file in before.files.items()} == {
        name: file.path.name for name, file in after.files.items()
    }
    assert sorted(path.name for path in out.glob("*.safetensors")) == sorted(
        path.name for path in base.glob("*.safetensors")
    )


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_adapters_of_every_transformers_generation_merge_to_the_same_weights(
    base: Path, adapter: Path, tmp_path: Path, form: str
) -> None:
    other = write_adapter(tmp_path / "other", prefixed(TEXT_FORMS[form], all_matrices()), adapter_config())
    weights = [
        (merge(base=base, adapter=folder, out=tmp_path / name) / "model.safetensors").read_bytes()
        for name, folder in (("merged", adapter), ("merged-other", other))
    ]
    assert weights[0] == weights[1] != (base / "model.safetensors").read_bytes()


@pytest.mark.parametrize("form", VISION_FORMS)
def test_updates_of_the_vision_tower_are_merged_too(base: Path, tmp_path: Path, form: str) -> None:
    matrices = prefixed(VISION_FORMS[form], low_rank({VISION_MODULE: (24, 24)}))
    adapter = write_adapter(tmp_path / "adapter", matrices, adapter_config())
    merge(base=base, adapter=adapter, out=tmp_path / "merged")
    key = f"vision_tower.vision_model.{VISION_MODULE}.weight"
    before = Checkpoint.open(base).files[key].raw(key)
    after = Checkpoint.open(tmp_path / "merged").files[key].raw(key)
    assert (before != after).mean() > 0.5


@pytest.mark.parametrize(
    ("changes", "rank", "scale"),
    [
        ({}, 4, 8.0),
        ({"use_rslora": True}, 4, 16.0),
        ({"alpha_pattern": {"q_proj": 2}}, 4, 0.5),
        ({"alpha_pattern": {r"layers\.1\..*": 2}}, 4, 8.0),
        ({"alpha_pattern": {"proj": 2}}, 4, 8.0),
        ({"r": 9, "rank_pattern": {"self_attn.q_proj": 4}}, 4, 8.0),
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}}, 2, 1.5),
    ],
)
def test_scale_is_alpha_over_rank_with_the_patterns_of_peft(
    base: Path, tmp_path: Path, changes: dict[str, Any], rank: int, scale: float
) -> None:
    matrices = low_rank({Q_PROJ: projections(tiny_config())[Q_PROJ]}, rank=rank)
    adapter = write_adapter(tmp_path / "adapter", prefixed(FORM, matrices), adapter_config(**changes))
    out = merge(base=base, adapter=adapter, out=tmp_path / "merged")
    wanted = expected(base, matrices, Q_PROJ, scale)
    got = Checkpoint.open(out).text(f"{Q_PROJ}.weight")
    np.testing.assert_allclose(got, wanted, rtol=2.0**-8)


def test_the_manifest_names_what_was_merged_and_how_much_each_module_moved(
    base: Path, adapter: Path, out: Path
) -> None:
    base_manifest = write_manifest(base, kind="checkpoint", inputs={})
    adapter_manifest = write_manifest(adapter, kind="adapter", inputs={"base_revision": base_manifest["revision"]})
    manifest = read_manifest(merge(base=base, adapter=adapter, out=out))
    assert manifest["kind"] == "checkpoint"
    assert manifest["inputs"]["base_revision"] == base_manifest["revision"]
    assert manifest["inputs"]["adapter_revision"] == adapter_manifest["revision"]
    moved = manifest["relative_update"]
    assert set(moved) == {f"text.{module}" for module in projections(tiny_config())}
    weight = Checkpoint.open(base).text(f"{Q_PROJ}.weight")
    delta = expected(base, all_matrices(), Q_PROJ, 8.0) - weight
    assert moved[f"text.{Q_PROJ}"] == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(weight), rel=1e-4)


def test_the_adapters_notices_go_along(base: Path, adapter: Path, out: Path) -> None:
    for name in ("NOTICE", "README.md", "LICENSE", "GEMMA_TERMS.txt"):
        (adapter / name).write_text(f"text of {name}")
    (adapter / "split.json").write_text("{}")
    merge(base=base, adapter=adapter, out=out)
    assert folder_content(out / "notices") == {
        name: f"text of {name}".encode() for name in ("NOTICE", "README.md", "LICENSE", "GEMMA_TERMS.txt")
    }


def test_a_current_folder_is_kept_and_force_builds_it_again(base: Path, adapter: Path, out: Path) -> None:
    merge(base=base, adapter=adapter, out=out)
    built = out.stat().st_ino
    merge(base=base, adapter=adapter, out=out)
    assert out.stat().st_ino == built
    merge(base=base, adapter=adapter, out=out, force=True)
    assert out.stat().st_ino != built


@pytest.mark.parametrize(
    "change",
    [
        lambda base, adapter: (adapter / "NOTICE").write_text("newer"),
        lambda base, adapter: (base / "chat_template.jinja").write_text("newer"),
        lambda base, adapter: write_adapter(adapter, q_proj_matrices(), adapter_config()),
        lambda base, adapter: (adapter / "adapter_config.json").write_text(json.dumps(adapter_config(lora_alpha=8))),
    ],
    ids=["notice", "template", "weights", "alpha"],
)
def test_a_changed_input_is_merged_again(
    base: Path, adapter: Path, out: Path, change: Callable[[Path, Path], object]
) -> None:
    merge(base=base, adapter=adapter, out=out)
    before = folder_content(out)
    change(base, adapter)
    merge(base=base, adapter=adapter, out=out)
    assert folder_content(out) != before


def without(matrices: Matrices, part: str) -> Matrices:
    return {key: value for key, value in matrices.items() if part not in key}


def renamed(old: str, new: str) -> Matrices:
    return {key.replace(old, new): value for key, value in q_proj_matrices().items()}


def resized(part: str, shape: tuple[int, int]) -> Matrices:
    zeros = np.zeros(shape, np.float32)
    return {key: zeros if part in key else value for key, value in q_proj_matrices().items()}


def twice() -> Matrices:
    return {**q_proj_matrices(), **renamed(FORM, TEXT_FORMS["text only"])}


def beside(name: str) -> Matrices:
    return {**q_proj_matrices(), f"{FORM}{name}": np.zeros((4, 4), np.float32)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_something_new": True}, "use_something_new is set: this merge doesn't know"),
        ({"r": None}, "must be numbers"),
        ({"r": 8}, "not of rank 8"),
    ],
)
def test_settings_that_change_more_than_b_times_a_are_refused_by_name(
    base: Path, tmp_path: Path, out: Path, changes: dict[str, Any], reason: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", q_proj_matrices(), adapter_config(**changes))
    with pytest.raises(BundleError, match=reason):
        merge(base=base, adapter=adapter, out=out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("matrices", "reason"),
    [
        (renamed("layers.0", "layers.7"), "layers.7.self_attn.q_proj, which the base doesn't have"),
        (renamed("q_proj", "other_proj"), "which the base doesn't have"),
        (renamed(FORM, "base_model.model.encoder."), "which the base doesn't have"),
        (renamed("base_model.model.", ""), "not a plain LoRA matrix"),
        (resized("lora_A", (4, 31)), r"shape \[64, 32\], but the adapter's is \(64, 31\)"),
        (resized("lora_B", (63, 4)), r"shape \[64, 32\], but the adapter's is \(63, 32\)"),
        (resized("lora_B", (64, 3)), "not of rank 4"),
        (without(q_proj_matrices(), "lora_B"), "lora_A without lora_B"),
        (without(q_proj_matrices(), "lora_A"), "lora_B without lora_A"),
        ({}, "no LoRA matrices"),
        (twice(), "twice"),
        (renamed("layers.0.self_attn.q_proj", "lm_head"), "targets lm_head"),
        (beside("embed_tokens.lora_embedding_A"), "targets embed_tokens"),
        (beside(f"{Q_PROJ}.lora_magnitude_vector"), "lora_magnitude_vector is not a plain LoRA matrix"),
        (beside(f"{Q_PROJ}.lora_B.bias"), "lora_B.bias is not a plain LoRA matrix"),
        (beside("layers.0.mlp.up_proj.weight"), "up_proj.weight is not a plain LoRA matrix"),
    ],
)
def test_tensors_that_do_not_fit_the_base_are_refused_by_name(
    base: Path, tmp_path: Path, out: Path, matrices: Matrices, reason: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", matrices, adapter_config())
    with pytest.raises(BundleError, match=reason):
        merge(base=base, adapter=adapter, out=out)
    assert not out.exists()


def test_an_adapter_of_another_base_is_refused(base: Path, adapter: Path, out: Path) -> None:
    write_manifest(base, kind="checkpoint", inputs={})
    write_manifest(adapter, kind="adapter", inputs={"base_revision": "0" * 64})
    with pytest.raises(BundleError, match="trained on base revision 000000000000"):
        merge(base=base, adapter=adapter, out=out)


def test_base_and_adapter_in_each_others_place_are_refused(base: Path, adapter: Path, out: Path) -> None:
    write_manifest(base, kind="checkpoint", inputs={})
    write_manifest(adapter, kind="adapter", inputs={})
    with pytest.raises(BundleError, match="of kind 'adapter'"):
        merge(base=adapter, adapter=base, out=out)


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "base/model.safetensors"])
def test_bytes_that_are_not_those_of_the_manifest_are_refused(base: Path, adapter: Path, out: Path, name: str) -> None:
    revision = write_manifest(base, kind="checkpoint", inputs={})["revision"]
    write_manifest(adapter, kind="adapter", inputs={"base_revision": revision})
    damaged = base.parent / name
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(BundleError, match=damaged.name):
        merge(base=base, adapter=adapter, out=out)


def test_a_config_in_the_form_of_transformers_5_is_refused(tmp_path: Path, adapter: Path, out: Path) -> None:
    base = write_checkpoint(tmp_path / "base", tiny_config(rope_parameters={}))
    with pytest.raises(BundleError, match="transformers 5"):
        merge(base=base, adapter=adapter, out=out)


def test_an_exception_halfway_leaves_the_old_folder_and_nothing_else(base: Path, adapter: Path, out: Path) -> None:
    merge(base=base, adapter=adapter, out=out)
    before = folder_content(out.parent)
    matrices = prefixed(FORM, all_matrices())
    last = max(key for key in matrices if key.endswith("lora_B.weight"))
    matrices[last][0, 0] = np.nan
    write_adapter(adapter, matrices, adapter_config())
    with pytest.raises(BundleError, match="not finite"):
        merge(base=base, adapter=adapter, out=out)
    after = folder_content(out.parent)
    assert set(after) == set(before)
    assert folder_content(out) == {
        name.removeprefix("merged/"): content for name, content in before.items() if name.startswith("merged/")
    }


@pytest.mark.parametrize("where", ["base", "adapter", "base/merged", "."])
def test_an_output_that_would_replace_an_input_is_refused(
    base: Path, adapter: Path, tmp_path: Path, where: str
) -> None:
    before = folder_content(tmp_path)
    with pytest.raises(BundleError, match="overlaps"):
        merge(base=base, adapter=adapter, out=tmp_path / where, force=True)
    assert folder_content(tmp_path) == before


def test_a_folder_that_no_build_made_is_never_replaced(base: Path, adapter: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="no build made"):
        merge(base=base, adapter=adapter, out=out, force=True)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_the_command_merges_and_says_why_it_refuses(
    base: Path, adapter: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--base", str(base), "--adapter", str(adapter), "--out", str(out)]
    assert main(arguments) == 0
    assert bfloat16_to_float32(TensorFile.open(out / "model.safetensors").raw(f"{PUBLISHED}norm.weight")).shape
    capsys.readouterr()
    write_adapter(adapter, q_proj_matrices(), adapter_config(use_dora=True))
    assert main(arguments) == 1
    assert "use_dora" in capsys.readouterr().err
