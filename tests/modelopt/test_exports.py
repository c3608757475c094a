"""Every profile as ModelOpt exports it, read back without ModelOpt."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from exports import Export, logits
from plain_reader import LARGEST, dense, load_exported, stored
from torch import Tensor

from build_scripts.tensorrt_llm.layout import layout_of, linear_shapes, published_layout, quantized_layout
from build_scripts.tensorrt_llm.profiles import PROFILES
from engines.checkpoint import Checkpoint
from engines.manifest import read_manifest, verify_files

QUANTIZED = ("fp8", "fp8-kv", "int8-weight-only")
WITH_FLOAT32 = ("fp8-kv", "int8-weight-only")
LAYERS = 4
Exported = Callable[..., Export]


def mean_kl(reference: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Over all tokens of all prompts, nats."""
    a, b = (torch.cat(list(side)).log_softmax(-1) for side in (reference, other))
    assert bool(torch.isfinite(b).all())
    return float((a.exp() * (a - b)).sum(-1).mean())


@pytest.mark.parametrize("profile", QUANTIZED)
def test_what_is_read_back_is_what_modelopt_simulated(exported: Exported, profile: str) -> None:
    export = exported(profile)
    read = logits(load_exported(export.folder, torch.bfloat16), export.prompts)
    bound = 1e-4 if profile == "int8-weight-only" else 1e-3
    assert mean_kl(export.fake, read) <= bound
    assert 0 < mean_kl(export.plain, read) <= bound


@pytest.mark.parametrize(("profile", "share"), [("fp8-kv", 1 / 3), ("int8-weight-only", 1 / 50)])
def test_in_float32_it_differs_by_rounding_alone(exported: Exported, profile: str, share: float) -> None:
    """Sums in another order land on another side of a step here and there, and layers carry that on."""
    export = exported(profile, "float32")
    read = logits(load_exported(export.folder, torch.float32), export.prompts)
    assert mean_kl(export.fake, read) <= share * mean_kl(export.plain, export.fake)


@pytest.mark.parametrize("profile", WITH_FLOAT32)
def test_in_float32_each_linear_layer_gives_what_modelopt_simulated(exported: Exported, profile: str) -> None:
    export = exported(profile, "float32")
    model = load_exported(export.folder, torch.float32)
    assert len(export.linear) == 7
    for name, (given, simulated) in export.linear.items():
        with torch.inference_mode():
            read = model.get_submodule(name)(given)
        assert float((read - simulated).norm() / simulated.norm()) <= 1e-3, name


@pytest.mark.parametrize("profile", WITH_FLOAT32)
def test_in_float32_weights_are_those_of_the_source_rounded_once(exported: Exported, guard: Path, profile: str) -> None:
    source, made = Checkpoint.open(guard), stored(Checkpoint.open(exported(profile, "float32").folder))
    for module in linear_shapes(source.text_config):
        weight = torch.from_numpy(source.float32(f"{module}.weight"))
        found, scale = made[f"{module}.weight"], made[f"{module}.weight_scale"]
        if profile == "int8-weight-only":
            torch.testing.assert_close(scale, weight.abs().amax(1) / 127, rtol=1e-6, atol=0)
            assert torch.equal(found, (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8)), module
        else:
            torch.testing.assert_close(scale, weight.abs().max() / LARGEST, rtol=1e-6, atol=0)
            assert torch.equal(found.view(torch.uint8), (weight / scale).to(torch.float8_e4m3fn).view(torch.uint8)), (
                module
            )


@pytest.mark.parametrize("profile", QUANTIZED)
def test_of_bfloat16_few_weights_move_by_a_step(exported: Exported, guard: Path, profile: str) -> None:
    """ModelOpt divides in bfloat16 before it rounds: a twentieth at most lands one step off."""
    source, made = Checkpoint.open(guard), stored(Checkpoint.open(exported(profile).folder))
    for module in linear_shapes(source.text_config):
        name = f"{module}.weight"
        weight, found = torch.from_numpy(source.float32(name)), dense(made, name)
        step = made[f"{name}_scale"].max() if profile == "int8-weight-only" else weight.abs().clamp(min=1e-3) / 8
        assert bool(((found - weight).abs() <= step).all()), module
        assert float((found - weight).abs().max()) > 0


@pytest.mark.parametrize("profile", QUANTIZED)
def test_keys_and_dtypes_are_the_published_ones_and_the_scales(exported: Exported, guard: Path, profile: str) -> None:
    config = json.loads((guard / "config.json").read_text())
    made = layout_of(Checkpoint.open(exported(profile).folder).files)
    assert made == quantized_layout(config, PROFILES[profile])
    before = published_layout(config)
    added = {re.sub(r".*\.", "", name) for name in set(made) - set(before)}
    assert (
        added
        == {
            "fp8": {"weight_scale", "input_scale"},
            "fp8-kv": {"weight_scale", "input_scale", "k_scale", "v_scale"},
            "int8-weight-only": {"weight_scale"},
        }[profile]
    )
    dtypes = {dtype for name, (dtype, _) in made.items() if not name.startswith("language_model.model.layers.")}
    assert dtypes == {"BF16"}


@pytest.mark.parametrize("profile", QUANTIZED)
def test_only_the_text_models_linear_layers_and_caches_are_quantized(exported: Exported, profile: str) -> None:
    quantizers = exported(profile).quantizers
    per_layer = {"fp8": 14, "fp8-kv": 16, "int8-weight-only": 7}[profile]
    assert len(quantizers) == LAYERS * per_layer
    assert not [name for name in quantizers if re.search("vision|projector|lm_head", name)]


@pytest.mark.parametrize(
    ("profile", "algorithms"),
    [("fp8", ("FP8", None)), ("fp8-kv", ("FP8", "FP8")), ("int8-weight-only", ("W8A16", None))],
)
def test_both_files_name_what_tensorrt_llm_reads(
    exported: Exported, profile: str, algorithms: tuple[str, str | None]
) -> None:
    folder = exported(profile).folder
    document = json.loads((folder / "hf_quant_config.json").read_text())
    assert document["producer"] == {"name": "modelopt", "version": "0.43.0"}
    said = document["quantization"]
    assert (said["quant_algo"], said["kv_cache_quant_algo"]) == algorithms
    assert {"lm_head", "model.vision_tower*"} <= set(said["exclude_modules"])
    within = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (within["quant_method"], within["quant_algo"]) == ("modelopt", algorithms[0])


@pytest.mark.parametrize("profile", QUANTIZED)
def test_config_is_the_sources_with_its_rope_fields(exported: Exported, guard: Path, profile: str) -> None:
    folder = exported(profile).folder
    made, source = (json.loads((place / "config.json").read_text()) for place in (folder, guard))
    del made["quantization_config"]
    assert made == source
    text = Checkpoint.read_config(folder)
    assert (text.rope_factor, text.rope_theta, text.rope_local_base_freq) == (8.0, 1e6, 1e4)


@pytest.mark.parametrize("profile", QUANTIZED)
def test_tokenizer_template_and_notices_go_along_and_the_manifest_covers_all(
    exported: Exported, guard: Path, profile: str
) -> None:
    folder = exported(profile).folder
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    assert manifest["precision"] == profile
    assert set(manifest["inputs"]["tools"]) == {"nvidia-modelopt", "transformers", "torch"}
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "processor_config.json"):
        assert (folder / name).read_bytes() == (guard / name).read_bytes()
    assert (folder / "notices" / "LICENSE").read_bytes() == (guard / "LICENSE").read_bytes()
    assert "model.safetensors.index.json" not in manifest["files"], "the source has two shards, this has one"
    # The server runs as another user than the one who built.
    assert all((folder / name).stat().st_mode & 0o044 == 0o044 for name in manifest["files"])


@pytest.mark.parametrize("profile", ["fp8", "fp8-kv"])
def test_images_pass_the_projector_while_scales_are_measured(exported: Exported, profile: str) -> None:
    export = exported(profile)
    images = [prompt for prompt in export.prompts if prompt.pixels is not None]
    assert export.projected == [(1, 4, 128)] * len(images) != []


def test_without_activations_no_prompt_is_read(exported: Exported) -> None:
    assert exported("int8-weight-only").projected == []
    assert read_manifest(exported("int8-weight-only").folder)["inputs"]["calibration"] is None


def test_caches_in_fp8_change_scales_of_caches_and_nothing_else(exported: Exported) -> None:
    with_caches, without = (stored(Checkpoint.open(exported(name).folder)) for name in ("fp8-kv", "fp8"))
    assert {name.rpartition(".")[2] for name in set(with_caches) - set(without)} == {"k_scale", "v_scale"}
    for name, value in without.items():
        assert torch.equal(value.float(), with_caches[name].float()), name
