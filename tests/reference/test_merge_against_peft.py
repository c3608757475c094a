"""merge_lora against PEFT's merge_and_unload: at most 1 bf16 ulp, in at most 1 of 1e6 elements.

Base: a random Gemma 3 with a vision tower, in three shards. The adapter is saved by PEFT; its keys are then written
as each generation of transformers names them, and PEFT itself loads what merge_lora merges.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_checkpoint import TEXT_FORMS, VISION_FORMS, projections, tiny_config
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers_twin import load_twin, text_config

from build_scripts.merge_lora import merge
from build_scripts.peft_adapter import Adapter
from engines.checkpoint import TEXT_PREFIX, VISION_PREFIX, Checkpoint, write_tensors

SHARDS = 3
VISION_LAYERS = 2
VISION = {
    "hidden_size": 256,
    "image_size": 28,
    "intermediate_size": 512,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 4,
    "num_hidden_layers": VISION_LAYERS,
    "patch_size": 14,
    "vision_use_head": False,
}
CONFIG = tiny_config(
    hidden_size=640,
    intermediate_size=2048,
    head_dim=128,
    num_attention_heads=4,
    num_key_value_heads=1,
    num_hidden_layers=2,
    sliding_window_pattern=2,
    vocab_size=512,
) | {"vision_config": VISION}
VISION_PROJECTIONS = [
    f"encoder.layers.{layer}.{module}"
    for layer in range(VISION_LAYERS)
    for module in (*(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2")
]
TARGETS = r".*\.(q_proj|k_proj|v_proj|o_proj|out_proj|gate_proj|up_proj|down_proj|fc1|fc2)"
# Installed transformers' names of the model's parts -> the published ones.
PUBLISHED = {
    "model.language_model.": TEXT_PREFIX,
    "model.vision_tower.": VISION_PREFIX,
    "model.multi_modal_projector.": "multi_modal_projector.",
}
# Generation -> how its adapters name the text and the vision modules.
GENERATIONS = {
    "4.50-4.51": (TEXT_FORMS["4.50-4.51"], VISION_FORMS["4.50-4.51"]),
    "4.52-4.57": (TEXT_FORMS["4.52 and later"], VISION_FORMS["4.52-4.57"]),
    "5.x": (TEXT_FORMS["4.52 and later"], VISION_FORMS["5.x"]),
}
INSTALLED = GENERATIONS["5.x"]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_alpha": 8},
    "patterns": {
        "rank_pattern": {"mlp.up_proj": 8, "fc1": 4},
        "alpha_pattern": {r"layers\.1\..*": 5, "q_proj": 64},
    },
    "all": {"use_rslora": True, "lora_alpha": 8, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"fc2": 3}},
}


def random_model() -> Any:
    """Of the whole published architecture, in bfloat16; the same weights at every call."""
    sizes = Checkpoint(Path(), CONFIG, {})
    config = Gemma3Config(text_config=text_config(sizes), vision_config=VISION, mm_tokens_per_image=4)
    torch.manual_seed(0)
    model: Any = Gemma3ForConditionalGeneration(config)
    return model.to(torch.bfloat16).eval()


def published(name: str) -> str | None:
    """The published key of the model's tensor; None for the output, which is tied to the embedding."""
    for ours, theirs in PUBLISHED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return None


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = {key: value for name, value in random_model().state_dict().items() if (key := published(name))}
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        names = sorted(tensors)[shard::SHARDS]
        layout = {name: ("BF16", list(tensors[name].shape)) for name in names}
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        write_tensors(folder / file, layout, (bits(tensors[name]) for name in names))
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def bits(tensor: torch.Tensor) -> npt.NDArray[np.uint16]:
    return np.asarray(tensor.contiguous().view(torch.uint16).numpy())


def save_adapter(model: Any, folder: Path, settings: dict[str, Any]) -> Path:
    """A random LoRA adapter for `model`, saved by PEFT, as the installed transformers names its modules."""
    torch.manual_seed(1)
    settings = {"lora_alpha": 32, **settings}
    wrapped = get_peft_model(model, LoraConfig(r=16, target_modules=TARGETS, init_lora_weights=False, **settings))
    with torch.no_grad():
        # Updates of a trained adapter's size, a few percent of the weights. What is left to differ is the float32
        # product's own rounding (BLAS libraries sum in different orders); it grows with the update, and where
        # update and weight cancel it is more than a bfloat16 step.
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.03)
    wrapped.save_pretrained(str(folder))
    return folder


def of_the_text(settings: dict[str, Any]) -> dict[str, Any]:
    """Without patterns for the vision tower: PEFT warns of those that match no module."""
    return {
        name: {key: value for key, value in setting.items() if "fc" not in key} if "pattern" in name else setting
        for name, setting in settings.items()
    }


def rename_keys(folder: Path, generation: str) -> None:
    """Write the adapter's keys as that generation names them."""
    path = folder / "adapter_model.safetensors"
    forms = dict(zip(INSTALLED, GENERATIONS[generation], strict=True))
    renamed: dict[str, torch.Tensor] = {}
    for key, value in load_file(path).items():
        (old,) = (form for form in forms if key.startswith(form))
        renamed[forms[old] + key.removeprefix(old)] = value
    save_file(renamed, path)


def steps_apart(ours: npt.NDArray[np.uint16], theirs: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """Distance in bfloat16 ulps, element by element."""

    def ordered(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
        signed = values.view(np.int16).astype(np.int64)
        return np.where(signed < 0, -(signed & 0x7FFF), signed)

    return np.asarray(np.abs(ordered(ours) - ordered(theirs)))


def check_equal(base: Path, out: Path, keys: list[str], theirs: Callable[[str], torch.Tensor], at_least: int) -> None:
    """`keys` of the merged checkpoint against PEFT's tensors; at_least: elements, so that the bar means something."""
    before, merged = Checkpoint.open(base), Checkpoint.open(out)
    total, changed, different = 0, 0, 0
    for key in keys:
        ours = merged.raw(key)
        steps = steps_apart(ours, bits(theirs(key)))
        assert steps.max() <= 1, key
        total += steps.size
        different += int((steps > 0).sum())
        changed += int((ours != before.raw(key)).sum())
    print(f"{different} of {total} elements differ, {changed} were updated")
    assert total > at_least
    assert changed > 0.7 * total  # else rounding hides what is compared
    assert different <= total / 1e6, f"{different} of {total} elements differ"


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_text_and_vision_updates_equal_pefts(base: Path, tmp_path: Path, generation: str, settings: str) -> None:
    adapter = save_adapter(random_model(), tmp_path / "adapter", SETTINGS[settings])
    rename_keys(adapter, generation)
    out = merge(base=base, adapter=adapter, out=tmp_path / "merged")
    loaded = PeftModel.from_pretrained(random_model(), str(adapter))
    state = {published(name): value for name, value in loaded.merge_and_unload().state_dict().items()}
    text = [f"{TEXT_PREFIX}{module}.weight" for module in projections(CONFIG)]
    vision = [f"{VISION_PREFIX}{module}.weight" for module in VISION_PROJECTIONS]
    assert len(Adapter.open(adapter).modules) == len(text) + len(vision)
    check_equal(base, out, text, lambda key: state[key], 9_000_000)
    check_equal(base, out, vision, lambda key: state[key], 1_000_000)
    untouched = set(Checkpoint.open(base).files) - {*text, *vision}
    assert untouched
    for key in untouched:
        assert np.array_equal(Checkpoint.open(out).raw(key), bits(state[key])), key


@pytest.mark.parametrize("settings", SETTINGS)
def test_updates_of_the_text_model_alone_equal_pefts(base: Path, tmp_path: Path, settings: str) -> None:
    twin = load_twin(Checkpoint.open(base), torch.bfloat16)
    adapter = save_adapter(twin, tmp_path / "adapter", of_the_text(SETTINGS[settings]))
    out = merge(base=base, adapter=adapter, out=tmp_path / "merged")
    loaded = PeftModel.from_pretrained(load_twin(Checkpoint.open(base), torch.bfloat16), str(adapter))
    state = loaded.merge_and_unload().model.state_dict()
    text = [f"{TEXT_PREFIX}{module}.weight" for module in projections(CONFIG)]
    check_equal(base, out, text, lambda key: state[key.removeprefix(TEXT_PREFIX)], 9_000_000)
