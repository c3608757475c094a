"""The way to TensorRT-LLM at the real guard's size, on this machine's CPU: memory, time, and the predicted bytes.

    .venv-modelopt/bin/python -m benchmarks.real_size --base build/base --work build/real_size

Writes a random checkpoint with the shapes of the 4B guard, in two shards and the published layout, merges a random LoRA
adapter of rank 16 into all its linear layers, and quantizes the result to fp8-kv, each step a process of its own whose
peak of memory is read from the kernel. Numbers of random weights say nothing of verdicts; sizes, names and scales are
those of the real thing. Tokenizer and template are the embedded checkpoint's (--base). Takes 23 GB of disk, 18 GB of
memory and some minutes; what it made is removed again, unless --keep. Exit 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonguard.errors import BundleError

from benchmarks.report import Bar, markdown, write_json
from build_scripts import embedded_vision
from build_scripts.progress import Steps
from build_scripts.tensor_checks import INDEX
from build_scripts.tensorrt_llm.layout import (
    Layout,
    data_bytes,
    layout_of,
    linear_shapes,
    published_layout,
    quantized_layout,
)
from build_scripts.tensorrt_llm.profiles import PROFILES
from build_scripts.vision_files import PREPROCESSOR, PROCESSOR
from engines.bundle import TENSORRT_LLM
from engines.checkpoint import TEXT_PREFIX, Checkpoint, TextConfig, float32_to_bfloat16, write_tensors
from engines.vision_config import VisionConfig

# The published config.json of Gemma 3 4B IT, which leaves out what equals transformers' defaults.
GEMMA_4B: Mapping[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    },
}
PROFILE = PROFILES["fp8-kv"]
EXPECTED_BYTES = 5_391_518_560
"""Of the 4B guard in fp8-kv, without headers: 3,208,642,560 of weights in FP8, 2,182,873,824 left in bfloat16 and 2,176
of scales."""
DISK_BYTES = 23_000_000_000
MERGE_GB, QUANTIZE_GB = 1.5, 20.0
SHARDS, RANK = 2, 16
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_POOL = 1 << 22


@dataclass(frozen=True)
class Step:
    """seconds: on the wall. cpu_s: of all its threads. peak_gb: of resident memory. written: bytes in its folder."""

    name: str
    seconds: float
    cpu_s: float
    peak_gb: float
    written: int


def write_checkpoint(folder: Path, config: Mapping[str, Any], base: Path) -> None:
    """Random weights in the published layout, one tensor in memory at a time; tokenizer and template of `base`."""
    folder.mkdir(parents=True)
    values = _Values(seed=0, deviation=0.02)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards(published_layout(config), SHARDS), 1):
        file = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        write_tensors(folder / file, shard, (values.bfloat16(shape) for _, shape in shard.values()))
        weight_map |= dict.fromkeys(shard, file)
    metadata = {"total_size": data_bytes(published_layout(config))}
    (folder / INDEX).write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    vision = VisionConfig.read(config)
    assert vision is not None
    size = {"height": vision.image_size, "width": vision.image_size}
    tokens = {"image_seq_length": vision.mm_tokens_per_image}
    (folder / PREPROCESSOR).write_text(json.dumps({**embedded_vision.preprocessor_config(), **tokens, "size": size}))
    (folder / PROCESSOR).write_text(json.dumps({**embedded_vision.processor_config(), **tokens}))
    for name in _TEXT_FILES:
        shutil.copyfile(base / name, folder / name)


def shards(layout: Layout, count: int) -> Iterator[Layout]:
    """The tensors by name, in `count` files of about the same size."""
    total, seen = data_bytes(layout), 0
    parts: list[Layout] = [{} for _ in range(count)]
    for name in sorted(layout):
        parts[min(count - 1, seen * count // total)][name] = layout[name]
        seen += data_bytes({name: layout[name]})
    return iter(parts)


def write_adapter(folder: Path, config: Mapping[str, Any]) -> None:
    """A random LoRA adapter for every linear layer of the text model, as PEFT writes it."""
    folder.mkdir(parents=True)
    values = _Values(seed=1, deviation=0.01)
    modules = linear_shapes(TextConfig.read(config))
    shapes: dict[str, tuple[int, int]] = {}
    for module, (rows, columns) in modules.items():
        name = f"base_model.model.model.language_model.{module.removeprefix(TEXT_PREFIX)}"
        shapes[f"{name}.lora_A.weight"] = (RANK, columns)
        shapes[f"{name}.lora_B.weight"] = (rows, RANK)
    layout = {name: ("F32", shape) for name, shape in shapes.items()}
    write_tensors(folder / "adapter_model.safetensors", layout, (values.float32(shape) for shape in shapes.values()))
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none", "target_modules": "text"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


class _Values:
    """Random values from one pool, from another place of it each time: drawing 4.3 billion anew would take minutes."""

    def __init__(self, *, seed: int, deviation: float) -> None:
        self._random = np.random.default_rng(seed)
        self._pool = self._random.normal(0, deviation, _POOL).astype(np.float32)
        self._bits = float32_to_bfloat16(self._pool)

    def bfloat16(self, shape: Sequence[int]) -> npt.NDArray[Any]:
        return self._taken(self._bits, shape)

    def float32(self, shape: Sequence[int]) -> npt.NDArray[Any]:
        return self._taken(self._pool, shape)

    def _taken(self, pool: npt.NDArray[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
        return np.resize(np.roll(pool, int(self._random.integers(_POOL))), tuple(shape))


def run(name: str, command: Sequence[str], folder: Path) -> Step:
    """Run `python -m ...` in a process of its own. Raises BundleError when it fails; what it says goes to stderr."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise BundleError(f"{name} ended with status {process.returncode}")
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    seconds = time.monotonic() - began
    return Step(name, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9, written)


def chain(config: Mapping[str, Any], base: Path, work: Path) -> tuple[list[Step], int]:
    """The steps, and the bytes of tensor data in what was quantized. Raises BundleError."""
    steps = Steps("real size", total=4)
    steps.next(f"writing a random checkpoint of {data_bytes(published_layout(config)) / 1e9:.1f} GB, and an adapter")
    checkpoint, adapter, merged, out = (work / name for name in ("checkpoint", "adapter", "merged", PROFILE.name))
    # Not in this process: Linux counts a parent's peak as its children's.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as writer:
        writer.submit(write_checkpoint, checkpoint, config, base).result()
        writer.submit(write_adapter, adapter, config).result()
    steps.next(f"merge_lora: {len(linear_shapes(TextConfig.read(config)))} layers")
    merge = ["--base", str(checkpoint), "--adapter", str(adapter), "--out", str(merged)]
    taken = [run("merge_lora", ["build_scripts.merge_lora", *merge], merged)]
    steps.next(f"quantize: {PROFILE.name}, one prompt, and it again with an image")
    options = ["--target", TENSORRT_LLM, "--profile", PROFILE.name, "--rows", "1"]
    quantize = [*options, "--checkpoint", str(merged), "--out", str(out)]
    taken.append(run("quantize", ["build_scripts.quantize", *quantize], out))
    steps.next("counting")
    found = layout_of(Checkpoint.open(out).files)
    if found != quantized_layout(config, PROFILE):
        raise BundleError(f"{out.name} does not hold the tensors that its config predicts")
    return taken, data_bytes(found)


def bars(taken: Sequence[Step], tensor_bytes: int, expected: int) -> list[Bar]:
    merge, quantize = taken
    return [
        Bar("bytes of tensor data beside those predicted", abs(tensor_bytes - expected), most=0),
        Bar("peak memory of merge_lora, GB", merge.peak_gb, most=MERGE_GB),
        Bar("peak memory of quantize, GB", quantize.peak_gb, most=QUANTIZE_GB),
    ]


def table(taken: Sequence[Step]) -> str:
    rows = [(step.name, step.seconds, step.cpu_s, step.peak_gb, step.written / 1e9) for step in taken]
    return markdown(("step", "s", "CPU s", "peak GB", "written GB"), rows)


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", type=Path, default=Path("build/base"), help="tokenizer and template (%(default)s)")
    parser.add_argument(
        "--work", type=Path, default=Path("build/real_size"), help="new folder to work in (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("build/real_size.json"), help="figures (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints where they were made")
    args = parser.parse_args(argv)
    if args.work.exists():
        parser.error(f"--work {args.work} is there already: name a new folder, which is removed at the end")
    args.work.mkdir(parents=True)
    try:
        free = shutil.disk_usage(args.work).free
        if free < DISK_BYTES:
            raise BundleError(f"{DISK_BYTES / 1e9:.0f} GB of disk are needed, and {free / 1e9:.1f} GB are free")
        taken, tensor_bytes = chain(GEMMA_4B, args.base, args.work)
    except (BundleError, OSError) as error:
        print(f"real_size: {error}", file=sys.stderr)
        return 2
    finally:
        if not args.keep:
            shutil.rmtree(args.work, ignore_errors=True)
    found = bars(taken, tensor_bytes, EXPECTED_BYTES)
    print(f"{table(taken)}\n\n{tensor_bytes:,} bytes of tensor data\n" + "\n".join(f"- {bar}" for bar in found))
    write_json(args.out, {"steps": taken, "tensor_bytes": tensor_bytes, "bars": found, "machine": machine()})
    return 0 if all(bar.met for bar in found) else 1


if __name__ == "__main__":
    sys.exit(main())
