"""The checkpoint that is quantized, as it was downloaded or merged: whole, published layout, 4.57's config, or refused.

The public guard is already merged and has no manifest; one of ours has, and is held to it. What would load wrongly and
silently on the GPU is found here: a pointer in a file's place, a shard that is missing or cut, keys of another
generation of transformers, RoPE fields in a form that 4.57 reads as none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonguard.errors import BundleError

from build_scripts.tensor_checks import INDEX, check_weight_files
from build_scripts.tensorrt_llm.layout import check_layout, layout_of, published_layout
from build_scripts.vision_files import PREPROCESSOR, check_preprocessor, vision_state
from engines.checkpoint import PROJECTOR_PREFIX, TEXT_PREFIX, VISION_PREFIX, Checkpoint
from engines.manifest import NAME, read_manifest, verify_files
from engines.vision_config import VisionConfig

CONFIG = "config.json"
QUANTIZATION_CONFIG, HF_QUANT_CONFIG = "quantization_config", "hf_quant_config.json"
ARCHITECTURE = "Gemma3ForConditionalGeneration"
_NEEDED = (CONFIG, PREPROCESSOR, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_POINTER = b"version https://git-lfs"
_PREFIXES = (TEXT_PREFIX, VISION_PREFIX, PROJECTOR_PREFIX)


@dataclass(frozen=True)
class Source:
    """vision, reasoning_source: what its manifest says of tower and reasoning; of a download "trained" and "model"."""

    checkpoint: Checkpoint
    vision: str
    reasoning_source: str

    @property
    def folder(self) -> Path:
        return self.checkpoint.folder

    @classmethod
    def open(cls, folder: Path) -> Source:
        """Raises BundleError that says what is wrong with which file, and what to do about it."""
        _check_files(folder)
        manifest = read_manifest(folder) if (folder / NAME).is_file() else {}
        if manifest:
            verify_files(folder, manifest)
        check_weight_files(folder)
        checkpoint = Checkpoint.open(folder)
        _check_config(checkpoint)
        _check_keys(checkpoint)
        check_layout(layout_of(checkpoint.files), published_layout(checkpoint.config), whose=folder.name)
        return cls(checkpoint, vision_state(checkpoint, manifest), str(manifest.get("reasoning_source", "model")))

    @property
    def vision_config(self) -> VisionConfig:
        config = self.checkpoint.vision_config
        assert config is not None  # `published_layout` has refused a checkpoint without one
        return config


def _check_files(folder: Path) -> None:
    """What is needed is there, and is no pointer to what is not."""
    if not folder.is_dir():
        raise BundleError(f"there is no folder {folder}")
    for path in sorted(folder.iterdir()):
        if path.is_file() and _is_pointer(path):
            raise BundleError(
                f"{folder.name}/{path.name} is a Git LFS pointer, not the file: run `git lfs pull` in the clone, or "
                "download the checkpoint with `hf download`"
            )
    needed = {*_NEEDED, *_shards(folder)}
    if missing := sorted(name for name in needed if not (folder / name).is_file()):
        raise BundleError(
            f"{folder.name} lacks {', '.join(missing)}: run `hf download` again (the files of a gated model come once "
            "its terms are accepted and `hf auth login` has been run)"
        )


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _shards(folder: Path) -> set[str]:
    """Names of the weight files, by the index where there is one. Raises BundleError: it can't be read."""
    if not (folder / INDEX).is_file():
        found = {path.name for path in folder.glob("*.safetensors")}
        return found or {"model.safetensors"}
    try:
        return {str(name) for name in json.loads((folder / INDEX).read_text())["weight_map"].values()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BundleError(f"{folder.name} has no readable {INDEX}") from error


def _check_config(checkpoint: Checkpoint) -> None:
    folder, config = checkpoint.folder, checkpoint.config
    if not isinstance(config, Mapping) or ARCHITECTURE not in (config.get("architectures") or ()):
        raise BundleError(f"{folder.name}: {CONFIG} is not that of a {ARCHITECTURE}, which this target serves")
    if QUANTIZATION_CONFIG in config or (folder / HF_QUANT_CONFIG).exists():
        raise BundleError(f"{folder.name} is quantized already; name the checkpoint that it was made from")
    published_layout(config)  # sizes and RoPE fields can be read
    vision = checkpoint.vision_config
    assert vision is not None
    check_preprocessor(folder, vision)


def _check_keys(checkpoint: Checkpoint) -> None:
    """Before names are compared one by one: keys of another form would all be missing."""
    if strange := sorted(name for name in checkpoint.files if not name.startswith(_PREFIXES)):
        raise BundleError(
            f"{checkpoint.folder.name}: {strange[0]} is not a key of the published layout ({'*, '.join(_PREFIXES)}*), "
            "the only one that TensorRT-LLM loads. transformers 5 and dumps of a model write others, and a head of its "
            "own has no place there: in Gemma 3 output and embedding are one matrix"
        )
