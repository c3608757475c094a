"""A small random Gemma 3 checkpoint in the published layout, and LoRA adapters for it, as PEFT writes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.checkpoint import float32_to_bfloat16, write_tensors

TEXT_FORMS = {
    "4.50-4.51": "base_model.model.language_model.model.",
    "4.52 and later": "base_model.model.model.language_model.",
    "text only": "base_model.model.model.",
}
VISION_FORMS = {
    "4.50-4.51": "base_model.model.vision_tower.vision_model.",
    "4.52-4.57": "base_model.model.model.vision_tower.vision_model.",
    "5.x": "base_model.model.model.vision_tower.",
}
VISION_MODULE = "encoder.layers.0.self_attn.q_proj"
VISION_HIDDEN = 24
VISION = {
    "hidden_size": VISION_HIDDEN,
    "image_size": 16,
    "intermediate_size": 40,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 4,
    "vision_use_head": False,
}
IMAGE_TOKENS = 4  # 4 x 4 patches, averaged in squares of 2 x 2
_SPECIAL = {"content": "", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_WORDS = ("<unk>", "<bos>", "<end_of_turn>", " safe", " unsafe")
TOKENIZER_FILES = {
    # Whole texts are words, and nearly all of them unknown ones.
    "tokenizer.json": json.dumps(
        {
            "version": "1.0",
            "added_tokens": [{**_SPECIAL, "id": id, "content": _WORDS[id]} for id in (1, 2)],
            "model": {"type": "WordLevel", "vocab": dict(zip(_WORDS, range(5), strict=True)), "unk_token": "<unk>"},
        }
    ),
    "tokenizer_config.json": '{"bos_token": "<bos>"}',
    "chat_template.jinja": "{{ bos_token }}",
}
PROCESSOR_FILES = {
    "preprocessor_config.json": json.dumps(
        {
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "rescale_factor": 1 / 255,
            "size": {"height": 16, "width": 16},
        }
    ),
    "processor_config.json": json.dumps({"image_seq_length": IMAGE_TOKENS}),
}


def tiny_config(**changes: Any) -> dict[str, Any]:
    """config.json in the form of transformers 4.57; `changes` go into its text_config."""
    text: dict[str, Any] = {
        "attention_bias": False,
        "head_dim": 16,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 32,
        "intermediate_size": 48,
        "max_position_embeddings": 1024,
        "model_type": "gemma3_text",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "query_pre_attn_scalar": 16,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000.0,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "vocab_size": 96,
    }
    text |= changes
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "image_token_index": text["vocab_size"],  # beyond the embedding's rows, as in the embedded checkpoint
        "mm_tokens_per_image": IMAGE_TOKENS,
        "model_type": "gemma3",
        "text_config": text,
        "vision_config": dict(VISION),
    }


def projections(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """{`layers.0.self_attn.q_proj`: (out, in)} of every layer's seven linear modules."""
    text = config["text_config"]
    hidden, wide, dim = text["hidden_size"], text["intermediate_size"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * dim, text["num_key_value_heads"] * dim
    shapes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    layers = range(text["num_hidden_layers"])
    return {f"layers.{layer}.{name}": shape for layer in layers for name, shape in shapes.items()}


def text_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of all text tensors by their name below `language_model.model.`."""
    text = config["text_config"]
    hidden, dim = text["hidden_size"], text["head_dim"]
    norms = {
        "input_layernorm": hidden,
        "post_attention_layernorm": hidden,
        "pre_feedforward_layernorm": hidden,
        "post_feedforward_layernorm": hidden,
        "self_attn.q_norm": dim,
        "self_attn.k_norm": dim,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (text["vocab_size"], hidden),
        "norm.weight": (hidden,),
    }
    for layer in range(text["num_hidden_layers"]):
        shapes |= {f"layers.{layer}.{name}.weight": (size,) for name, size in norms.items()}
    return shapes | {f"{name}.weight": shape for name, shape in projections(config).items()}


def vision_shapes(text_hidden: int) -> dict[str, tuple[int, ...]]:
    """Shapes of tower and projector by their published keys."""
    hidden, wide = VISION_HIDDEN, 40
    tower: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding.weight": (hidden, 3, 4, 4),
        "embeddings.patch_embedding.bias": (hidden,),
        "embeddings.position_embedding.weight": (16, hidden),
        "post_layernorm.weight": (hidden,),
        "post_layernorm.bias": (hidden,),
    }
    squares = dict.fromkeys((f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")), (hidden, hidden))
    for layer in range(2):
        for norm in ("layer_norm1", "layer_norm2"):
            tower |= {f"encoder.layers.{layer}.{norm}.{part}": (hidden,) for part in ("weight", "bias")}
        for module, shape in {**squares, "mlp.fc1": (wide, hidden), "mlp.fc2": (hidden, wide)}.items():
            name = f"encoder.layers.{layer}.{module}"
            tower |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {f"vision_tower.vision_model.{name}": shape for name, shape in tower.items()} | {
        "multi_modal_projector.mm_input_projection_weight": (hidden, text_hidden),
        "multi_modal_projector.mm_soft_emb_norm.weight": (hidden,),
    }


def _layout(config: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Published names -> (dtype, shape): the text model, and the tower with one tensor of each other dtype."""
    shapes = {f"language_model.model.{name}": shape for name, shape in text_shapes(config).items()}
    shapes |= vision_shapes(config["text_config"]["hidden_size"])
    names = {name: ("BF16", shape) for name, shape in shapes.items()}
    for name, dtype in (
        (f"vision_tower.vision_model.{VISION_MODULE}.bias", "F32"),
        ("multi_modal_projector.mm_input_projection_weight", "F16"),
    ):
        names[name] = (dtype, names[name][1])
    return dict(sorted(names.items()))


def _random_values(
    layout: Mapping[str, tuple[str, tuple[int, ...]]], random: np.random.Generator, scale: float
) -> Iterator[npt.NDArray[Any]]:
    for dtype, shape in layout.values():
        values = random.normal(0, scale, shape).astype(np.float32)
        if dtype == "BF16":
            yield float32_to_bfloat16(values)
        else:
            yield values.astype({"F32": np.float32, "F16": np.float16}[dtype])


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], *, shards: int = 1, seed: int = 0, scale: float = 0.1
) -> Path:
    """Write the checkpoint; more than one shard comes with its index, as published."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    layout = _layout(config)
    names = list(layout)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: layout[name] for name in names[shard::shards]}
        write_tensors(folder / file, part, _random_values(part, random, scale))
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n\n")
    for name, content in (TOKENIZER_FILES | PROCESSOR_FILES).items():
        (folder / name).write_text(content)
    return folder


def write_checkpoint_with_tokenizer(folder: Path, base: Path, **changes: Any) -> Path:
    """A checkpoint that reads what `base`, the embedded one, reads: its tokenizer and template.

    changes: to the text_config, as `tiny_config` takes them. The manifest is yet to be written.
    """
    write_checkpoint(folder, tiny_config(vocab_size=262_144, **changes))
    for name in TOKENIZER_FILES:
        shutil.copyfile(base / name, folder / name)
    return folder


def adapter_config(**changes: Any) -> dict[str, Any]:
    """adapter_config.json as PEFT writes it, with the fields that it fills with neutral values."""
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": "somewhere",
        "bias": "none",
        "init_lora_weights": True,
        "lora_alpha": 32,
        "lora_bias": False,
        "lora_dropout": 0.1,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 4,
        "rank_pattern": {},
        "runtime_config": {"ephemeral_gpu_offload": False},
        "target_modules": ["q_proj"],
        "trainable_token_indices": None,
        "use_dora": False,
        "use_rslora": False,
        **changes,
    }


def low_rank(
    modules: Mapping[str, tuple[int, int]], *, rank: int = 4, seed: int = 1, scale: float = 0.05
) -> dict[str, npt.NDArray[np.float32]]:
    """Random A and B by `<module>.lora_A.weight` / `.lora_B.weight`, for modules {name: (out, in)}."""
    random = np.random.default_rng(seed)
    matrices: dict[str, npt.NDArray[np.float32]] = {}
    for name, (rows, columns) in modules.items():
        matrices[f"{name}.lora_A.weight"] = random.normal(0, scale, (rank, columns)).astype(np.float32)
        matrices[f"{name}.lora_B.weight"] = random.normal(0, scale, (rows, rank)).astype(np.float32)
    return matrices


def write_adapter(folder: Path, matrices: Mapping[str, npt.NDArray[np.float32]], config: Mapping[str, Any]) -> Path:
    """Write an adapter whose tensors have the full names of `matrices`."""
    folder.mkdir(parents=True, exist_ok=True)
    layout: dict[str, tuple[str, Sequence[int]]] = {key: ("F32", value.shape) for key, value in matrices.items()}
    write_tensors(folder / "adapter_model.safetensors", layout, matrices.values())
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def prefixed(prefix: str, matrices: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    return {prefix + name: value for name, value in matrices.items()}
