"""The engines that take part, how each is started, and the settings that its sweep tries."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.peers.exports import OPENVINO_WEIGHTS, QUANTIZED_GGUF, W8A8, Exports
from engines.local.runtime import has_amx, native_precisions

OURS, GENAI, LLAMA, FLOOR = "tritonguard", "openvino-genai", "llama.cpp", "transformers"
GENAI_W8A8 = "openvino-genai-w8a8"
"""The same engine with inputs rounded by fixed scales: fast, and other verdicts. A peer of its own, so that both are
seen beside each other."""
OPENVINO = (GENAI, GENAI_W8A8)
PEERS = (*OPENVINO, LLAMA, FLOOR)
Setting = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """knobs: each with its values, the first of which is where the sweep starts; {} for an engine without a sweep.
    once: one round with few requests, since it is only a floor."""

    name: str
    module: str
    python: Path
    knobs: Mapping[str, Sequence[Any]]
    once: bool = False

    @property
    def command(self) -> list[str]:
        return [str(self.python), "-m", self.module]

    @property
    def can_run(self) -> bool:
        """Whether each knob has a value: a peer whose exports failed has no weights."""
        return all(self.knobs.values())

    @property
    def start(self) -> Setting:
        return {name: values[0] for name, values in self.knobs.items()}


def ours(bundle: Path) -> Peer:
    return Peer(OURS, "benchmarks.peers.ours", Path(sys.executable), {"bundle": (str(bundle.absolute()),)})


def peer(name: str, exports: Exports) -> Peer:
    """One of PEERS, with the knobs that make sense on this CPU and the exports that are there."""
    python = exports.program("python")
    if name == FLOOR:
        return Peer(name, "benchmarks.peers.floor", python, {"dtype": ("float32",)}, once=True)
    if name in OPENVINO:
        weights = OPENVINO_WEIGHTS if name == GENAI else (W8A8,)
        return Peer(name, "benchmarks.peers.genai", python, genai_knobs(exports, weights))
    return Peer(name, "benchmarks.peers.llama", python, llama_knobs(exports))


def turning(one: Peer, names: str | None) -> Peer:
    """The peer with all knobs but these (comma-separated) fixed at their first values. Raises ValueError where it has
    none of them; None: all of its own."""
    if names is None:
        return one
    wanted = set(names.split(","))
    if not wanted & one.knobs.keys():
        raise ValueError(f"{one.name} has none of the knobs {names}: {', '.join(one.knobs)}")
    return replace(one, knobs={name: values if name in wanted else values[:1] for name, values in one.knobs.items()})


def genai_knobs(exports: Exports, weights: Sequence[str]) -> dict[str, Sequence[Any]]:
    """None: the engine's own default. weights: of these the exports that are there."""
    cores = len(os.sched_getaffinity(0))
    return {
        "weights": [name for name in weights if exports.openvino(name).is_dir()],
        "INFERENCE_PRECISION_HINT": tuple(reversed(native_precisions())),
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": (None, 0, 32, 64, 128),
        "max_num_batched_tokens": (None, 512, 1024, 4096),
        "dynamic_split_fuse": (True, False),
        "KV_CACHE_PRECISION": (None, "f32", "bf16"),
        "max_num_seqs": (32, 8, 256),
        "INFERENCE_NUM_THREADS": (None, *dict.fromkeys((cores, max(cores // 2, 1)))),
        "NUM_STREAMS": (1, 2),
        "cache_size": (1, 4),
    }


def llama_knobs(exports: Exports) -> dict[str, Sequence[Any]]:
    cores = len(os.sched_getaffinity(0))
    return {
        "weights": [name for name in QUANTIZED_GGUF if exports.gguf(name).is_file()],
        "slots": (8, 16, 32),
        "flash-attn": ("auto", "on", "off"),
        "ubatch": (512, 128, 256, 2048),
        "threads": tuple(dict.fromkeys((cores, max(cores // 2, 1)))),
        "kv-unified": (False, True),
        # Repacked weights go to its AMX kernels where there are some, and those of this release end in SIGILL.
        "repack": (False,) if has_amx() else (True, False),
    }


_SCHEDULER = ("max_num_batched_tokens", "dynamic_split_fuse", "max_num_seqs", "cache_size")
_SLOT_TOKENS = 2048


def child_settings(peer: Peer, setting: Setting, exports: Exports) -> dict[str, Any]:
    """What the child's `load` takes."""
    if peer.name in OPENVINO:
        chosen = {name: value for name, value in setting.items() if value is not None and name != "weights"}
        scheduler = {name: value for name, value in chosen.items() if name in _SCHEDULER}
        return {
            "model": str(exports.openvino(setting["weights"]).absolute()),
            "scheduler": {"enable_prefix_caching": True, **scheduler},
            "plugin": {name: value for name, value in chosen.items() if name not in _SCHEDULER},
        }
    if peer.name == LLAMA:
        threads, slots = str(setting["threads"]), setting["slots"]
        arguments = ["--parallel", str(slots), "--ctx-size", str(slots * _SLOT_TOKENS), "--swa-full"]
        arguments += ["--threads", threads, "--threads-batch", threads, "--flash-attn", setting["flash-attn"]]
        arguments += ["--batch-size", str(max(2048, setting["ubatch"])), "--ubatch-size", str(setting["ubatch"])]
        arguments += ["--kv-unified" if setting["kv-unified"] else "--no-kv-unified", "--no-webui"]
        arguments += [] if setting["repack"] else ["--no-repack"]
        return {
            "server": str(exports.program("llama-server")),
            "model": str(exports.gguf(setting["weights"]).absolute()),
            "arguments": arguments,
        }
    if peer.name == FLOOR:
        return {"model": str(exports.text.absolute()), **setting}
    return dict(setting)
