"""What the package refuses when it loads a checkpoint, as it refuses it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from tensorrt_llm._behaviour import behaviour
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs

_INHERITED = ("OMPI_", "PMIX_", "PMI_")
_LOADABLE = frozenset(behaviour("loadable_quant_algos"))
_PREFIXES = ("language_model.model.", "vision_tower.vision_model.", "multi_modal_projector.")


def spawn_worker() -> None:
    """behaviour: inherited_mpi_variables, mpi_spawn_without_single_process. Raises RuntimeError."""
    inherited = any(name.startswith(_INHERITED) for name in os.environ)
    if inherited or os.environ.get("TLLM_WORKER_USE_SINGLE_PROCESS") != "1":
        raise RuntimeError("MPI_ERR_SPAWN: could not spawn processes")


def check_attention(args: TorchLlmArgs) -> None:
    """behaviour: attn_backend_kv_layout."""
    if args.attn_backend != "FLASHINFER":
        raise AttributeError(f"'{args.attn_backend.title()}AttentionMetadata' object has no attribute 'kv_layout'")


def check_quantization(folder: Path) -> str | None:
    """behaviour: quant_algo_smoothquant. The algorithm of hf_quant_config.json. Raises ValueError."""
    path = folder / "hf_quant_config.json"
    algorithm: str | None = None
    if path.is_file():
        algorithm = json.loads(path.read_text())["quantization"]["quant_algo"]
    if algorithm is not None and algorithm not in _LOADABLE:
        raise ValueError(f"unsupported quant mode: {algorithm}")
    return algorithm


def check_layout(names: Iterable[str]) -> None:
    """behaviour: checkpoint_key_layout. Raises KeyError where a part of the model finds no weights of its own."""
    names = list(names)
    for prefix in _PREFIXES:
        if not any(name.startswith(prefix) for name in names):
            raise KeyError(f"{prefix}*: no weights")
