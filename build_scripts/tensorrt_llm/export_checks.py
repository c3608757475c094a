"""Is a quantized folder what its profile says, and everything else still the source's? Read without ModelOpt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tritonguard.errors import BundleError

from build_scripts.tensor_checks import check_weight_files
from build_scripts.tensorrt_llm.layout import check_layout, data_bytes, layout_of, published_layout, quantized_layout
from build_scripts.tensorrt_llm.profiles import Profile
from build_scripts.tensorrt_llm.source import CONFIG, HF_QUANT_CONFIG, QUANTIZATION_CONFIG, Source
from engines.checkpoint import Checkpoint

HEAD = "lm_head"
_AT_ONCE = 1 << 26  # bytes compared at a time


def check_export(folder: Path, source: Source, profile: Profile) -> int:
    """Raises BundleError unless `folder` is `source` in the profile's form, to the byte. Returns the tensors' bytes.

    Names, dtypes and shapes are those that the config predicts; scales are finite and above zero; what is not quantized
    has the source's own bytes; config.json is the source's, with the quantization added; hf_quant_config.json names an
    algorithm that TensorRT-LLM loads, and leaves the output alone.
    """
    check_weight_files(folder)
    made = Checkpoint.open(folder)
    before = published_layout(source.checkpoint.config)
    expected = quantized_layout(source.checkpoint.config, profile)
    check_layout(layout_of(made.files), expected, whose=f"the export ({profile.name})")
    for name, spec in expected.items():
        if spec == before.get(name) and not _same(made, source.checkpoint, name):
            raise BundleError(f"the export ({profile.name}) changed {name}, which it should have left alone")
        if name.endswith("_scale"):
            _check_scale(made, name)
    _check_config(made.config, source.checkpoint.config, profile)
    _check_quantization(folder, profile)
    return data_bytes(expected)


def _same(a: Checkpoint, b: Checkpoint, name: str) -> bool:
    """Byte for byte; the largest tensor is larger than what should be compared at once."""
    first, second = (checkpoint.files[name].stored_bytes(name) for checkpoint in (a, b))
    parts = (slice(start, start + _AT_ONCE) for start in range(0, first.nbytes, _AT_ONCE))
    return all(np.array_equal(first[part], second[part]) for part in parts)


def _check_scale(made: Checkpoint, name: str) -> None:
    """One that is 0, negative, infinite or no number makes every value of its layer wrong."""
    values = made.float32(name)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise BundleError(f"the export's {name} holds a value that is not finite and above zero")


def _check_config(made: Mapping[str, Any], source: Mapping[str, Any], profile: Profile) -> None:
    rest = {name: value for name, value in made.items() if name != QUANTIZATION_CONFIG}
    if rest != dict(source):
        raise BundleError(f"the export's {CONFIG} is not the source's: RoPE fields in another form are read as none")
    if (QUANTIZATION_CONFIG in made) != profile.is_quantized:
        raise BundleError(f"the export's {CONFIG} and profile {profile.name} disagree about {QUANTIZATION_CONFIG}")


def _check_quantization(folder: Path, profile: Profile) -> None:
    if not profile.is_quantized:
        if (folder / HF_QUANT_CONFIG).exists():
            raise BundleError(f"a checkpoint as published has no {HF_QUANT_CONFIG}")
        return
    try:
        said = json.loads((folder / HF_QUANT_CONFIG).read_text())["quantization"]
        found = (said["quant_algo"], said["kv_cache_quant_algo"])
        excluded = list(said["exclude_modules"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BundleError(f"the export has no readable {HF_QUANT_CONFIG}") from error
    if found != (profile.quant_algo, profile.kv_cache_quant_algo):
        raise BundleError(f"{HF_QUANT_CONFIG} says {found[0]} with KV {found[1]}, against profile {profile.name}")
    if HEAD not in excluded:
        raise BundleError(f"{HF_QUANT_CONFIG} does not exclude {HEAD}")
