"""What the 4B guard needs of a GPU, computed: held to the sizes that its export and its config have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.checkpoint import TextConfig
from engines.tensorrt_llm.engine_config import EngineConfig
from engines.tensorrt_llm.sizes import PACKAGE_BYTES, Sizes, cache_bytes_per_token

TEXT = {
    "head_dim": 256,
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_attention_heads": 8,
    "num_hidden_layers": 34,
    "num_key_value_heads": 4,
    "vocab_size": 262208,
}
VISION = {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "patch_size": 14} | {
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
}
WEIGHTS = {"bf16": 8_600_158_944, "fp8-kv": 5_391_518_560}
GB = 10**9


def sizes(folder: Path, precision: str, *, tower: bool = True, **changes: Any) -> Sizes:
    config = {"text_config": TEXT} | ({"vision_config": VISION} if tower else {})
    (folder / "config.json").write_text(json.dumps(config))
    half = WEIGHTS[precision] // 2
    files = {"a.safetensors": {"bytes": half}, "b.safetensors": {"bytes": half}, "tokenizer.json": {"bytes": 33 << 20}}
    return Sizes.of(folder, {"files": files}, EngineConfig.for_profile(precision, 4096, **changes))


def test_keys_and_values_of_a_token_are_kept_in_every_layer() -> None:
    text = TextConfig.read({"text_config": TEXT})
    assert cache_bytes_per_token(text, value_bytes=2) == 139_264
    assert cache_bytes_per_token(text, value_bytes=1) == 69_632


@pytest.mark.parametrize(("precision", "per_token"), [("bf16", 139_264), ("fp8-kv", 69_632)])
def test_the_parts_of_the_4b_guard(tmp_path: Path, precision: str, per_token: int) -> None:
    found = sizes(tmp_path, precision)
    assert found.weights == WEIGHTS[precision]
    assert (found.cache_per_token, found.sequence) == (per_token, per_token * 4224)
    # 4,224 tokens of 100 kB, 64 rows of float32 logits twice, two masks; and 17 images of 4,096 patches.
    assert 0.5 * GB < found.activations < 0.7 * GB
    assert 1.5 * GB < found.vision < 2 * GB
    assert found.fixed == found.weights + found.activations + found.vision + PACKAGE_BYTES
    assert sizes(tmp_path, precision, tower=False).vision == 0


def test_it_fits_where_one_longest_sequence_has_room(tmp_path: Path) -> None:
    found = sizes(tmp_path, "fp8-kv")
    assert found.cache(found.least) == pytest.approx(found.sequence, abs=2)
    assert found.cache(found.least - 100_000_000) < found.sequence
    assert found.cache(0) == 0
    assert found.least < 10 * GB
    # On an 80 GB GPU the batch is full long before the cache is.
    assert found.cache(79 * GB) // found.sequence > 64


def test_more_of_anything_needs_more(tmp_path: Path) -> None:
    found = sizes(tmp_path, "fp8-kv")
    assert sizes(tmp_path, "fp8-kv", max_batch_size=128).activations > found.activations
    assert sizes(tmp_path, "bf16").least > found.least
    assert replace(found, memory_fraction=0.3).least > found.least
