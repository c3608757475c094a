"""A small random guard in the published layout, as a download is: the real template, a tokenizer, no manifest."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tiny_checkpoint import PROCESSOR_FILES, tiny_config
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from build_scripts.tensorrt_llm.layout import published_layout
from engines.checkpoint import float32_to_bfloat16, write_tensors

TEMPLATE = Path(__file__).parents[1] / "build_scripts" / "embedded" / "chat_template.jinja"
SPECIAL = {
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "unk_token": "<unk>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
TURNS = ("<start_of_turn>", "<end_of_turn>")
VOCABULARY = 640
INDEX = "model.safetensors.index.json"
NOTICE = "Terms of the weights.\n"


def guard_config(**changes: Any) -> dict[str, Any]:
    """config.json in the form of transformers 4.57; `changes` go into its text_config."""
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "num_hidden_layers": 4,
        "max_position_embeddings": 8192,
        "sliding_window": 64,
        "vocab_size": VOCABULARY,
    }
    names = list(SPECIAL.values())
    ids = {f"{key}_token_index": names.index(SPECIAL[f"{key}_token"]) for key in ("boi", "eoi", "image")}
    return tiny_config(**sizes | changes) | ids


def write_guard(folder: Path, config: dict[str, Any] | None = None, *, shards: int = 1, seed: int = 0) -> Path:
    """Weights, config, tokenizer, template, processor files and a LICENSE."""
    folder.mkdir(parents=True)
    config = config or guard_config()
    layout = published_layout(config)
    random = np.random.default_rng(seed)
    names, weight_map = sorted(layout), {}
    for shard in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: layout[name] for name in names[shard::shards]}
        write_tensors(folder / file, part, (_values(name, shape, random) for name, (_, shape) in part.items()))
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n\n")
    (folder / "tokenizer.json").write_text(_tokenizer())
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 8]}')
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text())
    for name, content in PROCESSOR_FILES.items():
        (folder / name).write_text(content)
    (folder / "LICENSE").write_text(NOTICE)
    return folder


def _values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> npt.NDArray[np.uint16]:
    """As large as in a trained model: about 1 behind each layer, norms a little off what they are drawn about."""
    centre = 1.0 if name.startswith("vision") and "norm" in name and name.endswith("weight") else 0.0
    deviation = 0.1 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
    if "embed_tokens" in name:
        deviation = 0.025  # of logits 0.3: FP8 then moves them by a KL of 6e-4, as it did on a trained toy
    return float32_to_bfloat16(random.normal(centre, deviation, shape).astype(np.float32))


@cache
def _tokenizer() -> str:
    """tokenizer.json: byte-level BPE of the template's own words, so that every text has tokens and " safe" is one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL.values(), *TURNS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEMPLATE.read_text(), *[" safe unsafe"] * 20], trainer)
    return str(tokenizer.to_str())
