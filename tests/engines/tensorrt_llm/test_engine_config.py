"""engine.yaml: every key with its reason; what Gemma 3's lane forbids, and what nobody knows, is refused by name."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from tritonguard.errors import BundleError

from engines.tensorrt_llm.engine_config import ANSWER_TOKENS, ENGINE_CONFIG, PRECISIONS, EngineConfig

CONFIG = EngineConfig.for_profile("fp8-kv", 4096)


def changed(folder: Path, name: str, value: Any) -> Path:
    """`folder` with an engine.yaml of which one key (dotted) has another value; no value: ..., no such key."""
    CONFIG.write(folder)
    keys = yaml.safe_load((folder / ENGINE_CONFIG).read_text())
    *outer, last = name.split(".")
    inner = keys
    for part in outer:
        inner = inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    (folder / ENGINE_CONFIG).write_text(yaml.safe_dump(keys))
    return folder


def dotted(keys: dict[str, Any], prefix: str = "") -> list[str]:
    return [
        each
        for name, value in keys.items()
        for each in (dotted(value, f"{name}.") if isinstance(value, dict) else [prefix + name])
    ]


@pytest.mark.parametrize(
    "config",
    [CONFIG, EngineConfig(300, 1, "auto", 0.25, True), *(EngineConfig.for_profile(name, 64) for name in PRECISIONS)],
)
def test_what_is_written_is_read(tmp_path: Path, config: EngineConfig) -> None:
    config.write(tmp_path)
    assert EngineConfig.read(tmp_path) == config


def test_every_key_stands_behind_a_comment_that_justifies_it(tmp_path: Path) -> None:
    CONFIG.write(tmp_path)
    lines = (tmp_path / ENGINE_CONFIG).read_text().splitlines()
    assert max(map(len, lines)) <= 120
    behind = [line.split(":")[0].strip() for before, line in pairwise(lines) if re.match(r" *# ", before)]
    keys = [name.rpartition(".")[2] for name in dotted(yaml.safe_load("\n".join(lines)))]
    assert [name for name in behind if re.fullmatch(r"\w+", name)] == keys


def test_the_arguments_of_the_package_are_those_of_the_file(tmp_path: Path) -> None:
    CONFIG.write(tmp_path)
    kwargs = CONFIG.llm_kwargs(tmp_path)
    assert kwargs.pop("model") == str(tmp_path)
    assert kwargs == yaml.safe_load((tmp_path / ENGINE_CONFIG).read_text())
    assert kwargs["kv_cache_config"]["dtype"] == "fp8"
    assert kwargs["max_num_tokens"] == kwargs["max_seq_len"] == 4096 + ANSWER_TOKENS
    # Not to be left out: the package's own default is another.
    assert {name for name, value in kwargs.items() if value is None} == {"cuda_graph_config", "guided_decoding_backend"}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", "auto"), ("fp8", "auto"), ("fp8-kv", "fp8"), ("int8-weight-only", "auto")]
)
def test_the_cache_is_fp8_where_the_checkpoint_has_scales_for_it(precision: str, dtype: str) -> None:
    assert EngineConfig.for_profile(precision, 4096).kv_cache_dtype == dtype


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("attn_backend", "TRTLLM", "kv_layout.*#13293"),
        ("enable_chunked_prefill", True, "chunk that ends inside an image"),
        ("enable_chunked_prefill", 0, "served is false only"),
        ("dtype", "float16", "bfloat16 only"),
        ("kv_cache_config.enable_block_reuse", True, "fails all of it"),
        ("kv_cache_config.enable_partial_reuse", True, "false only"),
        ("kv_cache_config.dtype", "nvfp4", "auto or fp8"),
        ("kv_cache_config.free_gpu_memory_fraction", 1.0, "between 0 and 1"),
        ("kv_cache_config.free_gpu_memory_fraction", 1, "between 0 and 1"),
        ("kv_cache_config.free_gpu_memory_fraction", float("nan"), "between 0 and 1"),
        ("fail_fast_on_attention_window_too_large", False, "lowers max_seq_len without an error"),
        ("scheduler_config.capacity_scheduler_policy", "MAX_UTILIZATION", "evicted"),
        ("cuda_graph_config", {}, r"cuda_graph_config is \{\}; served is null only.*plan of an earlier batch"),
        ("cuda_graph_config", {"max_batch_size": 8}, r"is \{max_batch_size: 8\}; served is null only"),
        ("guided_decoding_backend", "llguidance", "262,144"),
        ("enable_iter_perf_stats", False, "gauges"),
        ("max_num_tokens", 8192, "max_num_tokens is 8192; served is 4224, the value of max_seq_len, only.*slip past"),
        ("max_seq_len", 8192, "max_num_tokens is 4224; served is 8192"),
        ("max_batch_size", 0, "max_batch_size is 0; served is a whole number of at least 1"),
        ("max_batch_size", True, "whole number"),
        ("max_batch_size", "64", "whole number"),
        ("disable_overlap_scheduler", "no", "true or false"),
        ("kv_cache_config", None, "kv_cache_config is no key|is missing"),
        ("kv_cache_config.max_attention_window", [1024], "max_attention_window is no key that this release knows"),
        ("backend", "tensorrt", "backend is no key that this release knows"),
        ("attn_backend", ..., "attn_backend is missing"),
        ("kv_cache_config.enable_block_reuse", ..., "enable_block_reuse is missing"),
    ],
)
def test_what_the_lane_forbids_and_what_nobody_knows_is_refused(
    tmp_path: Path, name: str, value: Any, why: str
) -> None:
    with pytest.raises(BundleError, match=why):
        EngineConfig.read(changed(tmp_path, name, value))


@pytest.mark.parametrize("text", [b"", b"- a", b"attn_backend: [", b"attn_backend: \xff", None])
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / ENGINE_CONFIG).write_bytes(text)
    with pytest.raises(BundleError, match="compile it again"):
        EngineConfig.read(tmp_path)


@pytest.mark.parametrize(
    ("precision", "max_tokens", "message"),
    [("int8-sq", 4096, "not one that TensorRT-LLM runs"), ("bf16", 0, "max_tokens"), ("bf16", 4096.0, "max_tokens")],
)
def test_a_bundle_that_can_not_be_served_gets_no_file(precision: str, max_tokens: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        EngineConfig.for_profile(precision, max_tokens)
