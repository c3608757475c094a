"""Can this machine run this bundle? Asked before anything is loaded, and answered with all that is in the way at once.

`check_machine` is pure: a finding for each thing that was looked at, with what to do where it is not as it must be.
Sizes are computed from the bundle (`sizes`), limits are those of the bundle's precision and of 1.2.1.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonguard.errors import BundleError
from tritonguard.limits import MAX_IMAGES

from engines.checkpoint import Checkpoint
from engines.scheduler import MOST_WAITING
from engines.tensorrt_llm.engine_config import ANSWER_TOKENS, ENGINE_CONFIG, EngineConfig
from engines.tensorrt_llm.jit_cache import FOLDER, KERNELS
from engines.tensorrt_llm.machine import SHARED_MEMORY, VOUCHED, Gpu, Machine
from engines.tensorrt_llm.sizes import Sizes

VERSION = "1.2.1"
IMAGE = "Triton's image 26.07-trtllm-python-py3"
LEAST_SM: Mapping[str, int] = {"bf16": 80, "int8-weight-only": 80, "fp8": 89, "fp8-kv": 89}
"""By precision: bfloat16 products came with Ampere, fp8 ones with Ada."""
LEAST_DRIVER, LEAST_CUDA = 590, 13010  # of the image's CUDA 13.1
LEAST_OPENAI = (1, 108, 1)  # the first with PartReasoningText, which 1.2.1 imports
KERNEL_BYTES = 1 << 30
"""Room for kernels that are compiled here: a reserve, where no warmed bundle says how much it is."""
LOADED = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
"""What the package reads beside the weights: one that is missing it would look for on the Hub, where it is gated."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """name: what was looked at. found: what is there. problem, remedy: None where nothing is in the way."""

    name: str
    found: str
    problem: str | None = None
    remedy: str | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None


def check_machine(folder: Path, manifest: Mapping[str, Any], config: EngineConfig, machine: Machine) -> list[Finding]:
    """One finding for each thing that a bundle needs; without a GPU the only one, since nothing else matters then.

    manifest, config: of the bundle in `folder`. Raises BundleError: a precision that is unknown, no config.json.
    """
    if manifest["precision"] not in LEAST_SM:
        raise BundleError(f"precision {manifest['precision']!r} is not one of: {', '.join(LEAST_SM)}")
    if machine.gpu is None:
        return [
            Finding(
                "GPU",
                "none",
                f"no GPU that this process may use: {machine.gpu_problem}",
                "a bundle for tensorrt-llm runs on an NVIDIA GPU only (docker run --gpus all); for a CPU compile with "
                "--target openvino",
            )
        ]
    return [
        _files(manifest),
        _engine_config(manifest, config),
        _gpu(manifest, machine.gpu),
        _warmed_for(manifest, machine.gpu),
        _driver(machine.gpu, machine.cuda),
        _memory(Sizes.of(folder, manifest, config), config, machine.gpu),
        _package(machine),
        _openai(machine),
        _compilers(manifest, machine),
        _jit_folder(manifest, machine),
        _shared_memory(folder, machine),
        Finding("MPI variables", f"{len(machine.mpi_variables)} inherited; the engine starts without them"),
    ]


def require(findings: Iterable[Finding]) -> None:
    """Raises BundleError with every problem and its remedy; each is logged whole before, as errors are cut off."""
    problems = [finding for finding in findings if not finding.ok]
    for finding in problems:
        _log.error("%s: %s. What to do: %s", finding.name, finding.problem, finding.remedy)
    if problems:
        told = "; ".join(f"{finding.problem} ({finding.remedy})" for finding in problems)
        raise BundleError(f"this machine can't run the bundle: {told}")


def _files(manifest: Mapping[str, Any]) -> Finding:
    needed = LOADED if manifest["precision"] == "bf16" else (*LOADED, "hf_quant_config.json")
    missing = [name for name in needed if name not in manifest["files"]]
    if missing:
        return Finding("files", "not whole", f"the bundle has no {', '.join(missing)}", "quantize and compile it again")
    return Finding("files", f"{len(manifest['files'])}, as the manifest has them")


def _engine_config(manifest: Mapping[str, Any], config: EngineConfig) -> Finding:
    found = f"{config.max_seq_len} tokens, {config.max_batch_size} requests, cache {config.kv_cache_dtype}"
    least = manifest["capabilities"]["max_tokens"] + ANSWER_TOKENS
    wanted = EngineConfig.for_profile(manifest["precision"], manifest["capabilities"]["max_tokens"]).kv_cache_dtype
    problem = None
    if config.max_seq_len < least:
        problem = f"max_seq_len is {config.max_seq_len}; the longest prompt and its answer need {least}"
    elif config.kv_cache_dtype != wanted:
        problem = f"kv_cache_config.dtype is {config.kv_cache_dtype}; {manifest['precision']} needs {wanted}"
    return Finding(ENGINE_CONFIG, found, problem, problem and "compile the bundle again")


def _gpu(manifest: Mapping[str, Any], gpu: Gpu) -> Finding:
    precision = manifest["precision"]
    least, found = LEAST_SM[precision], f"{gpu.name}, SM {gpu.sm}"
    if gpu.sm < least:
        return Finding(
            "GPU",
            found,
            f"{precision} needs SM {least} or newer and this GPU, {gpu.name}, is SM {gpu.sm}",
            "take bf16 or int8-weight-only" if gpu.sm >= LEAST_SM["bf16"] else "take a GPU of the A10, L4 or H100 kind",
        )
    return Finding("GPU", found + ("" if gpu.sm >= 90 else " (upstream tests Gemma 3 with images on SM 90 and newer)"))


def _warmed_for(manifest: Mapping[str, Any], gpu: Gpu) -> Finding:
    if not manifest["warmed"]:
        return Finding("warm-up", "none: kernels are compiled at the first requests, which takes minutes")
    hardware = manifest["hardware"]
    found = f"on {hardware['gpu']}, SM {hardware['sm']}"
    if hardware["sm"] != gpu.sm:
        return Finding(
            "warm-up",
            found,
            f"the bundle was warmed for SM {hardware['sm']} and this GPU is SM {gpu.sm}",
            "compile the bundle on this machine, or with --no-warm-up for any",
        )
    return Finding("warm-up", found)


def _driver(gpu: Gpu, cuda: int | None) -> Finding:
    found = gpu.driver + ("" if cuda is None else f", CUDA {cuda // 1000}.{cuda % 1000 // 10}")
    if (_numbers(gpu.driver) or (0,))[0] >= LEAST_DRIVER or (cuda or 0) >= LEAST_CUDA:
        return Finding("driver", found)
    return Finding(
        "driver",
        found,
        f"driver {gpu.driver} is older than {LEAST_DRIVER}, which CUDA 13.1 needs",
        "install driver 590.44.01 or newer, or on a data-centre GPU start through the image's own entry point, for "
        "CUDA's forward compatibility",
    )


def _memory(sizes: Sizes, config: EngineConfig, gpu: Gpu) -> Finding:
    parts = f"weights {_gb(sizes.weights)}, activations {_gb(sizes.activations)}, tower {_gb(sizes.vision)}"
    if gpu.free_bytes is None:
        return Finding("GPU memory", f"not told (a MIG instance?); {_gb(sizes.least)} are needed: {parts}")
    together = sizes.cache(gpu.free_bytes) // sizes.sequence
    found = f"{_gb(gpu.free_bytes)} free; {parts}; room for {together} requests of {config.max_seq_len} tokens"
    if together:
        return Finding("GPU memory", found)
    return Finding(
        "GPU memory",
        found,
        f"{_gb(gpu.free_bytes)} of GPU memory are free and {_gb(sizes.least)} are needed",
        "end what else runs on this GPU, or compile with a smaller --max-tokens or --max-batch-size, or take fp8",
    )


def _package(machine: Machine) -> Finding:
    version = machine.versions["tensorrt_llm"]
    found = version or "not installed"
    if version == VERSION or (version and version != "1.2.0" and version == machine.vouched):
        return Finding("TensorRT-LLM", found)
    if version is None:
        return Finding("TensorRT-LLM", found, "TensorRT-LLM is not installed", f"run this in {IMAGE}")
    if version == "1.2.0":
        problem = "TensorRT-LLM 1.2.0 corrupts its KV cache (TensorRT-LLM #12770)"
        return Finding("TensorRT-LLM", found, problem, f"take {VERSION}, which is in {IMAGE}")
    return Finding(
        "TensorRT-LLM",
        found,
        f"TensorRT-LLM is {version}; this release was written for {VERSION}",
        f"take {IMAGE}; or set {VOUCHED}={version} once you have seen `python -m benchmarks.gpu_day_one` pass with it",
    )


def _openai(machine: Machine) -> Finding:
    version = machine.versions["openai"]
    least = ".".join(map(str, LEAST_OPENAI))
    if version is not None and _numbers(version) >= LEAST_OPENAI:
        return Finding("openai package", version)
    problem = f"the openai package is {version or 'not installed'}; TensorRT-LLM {VERSION} can't be imported with it"
    return Finding("openai package", version or "not installed", problem, f"pip install 'openai>={least},<2'")


def _compilers(manifest: Mapping[str, Any], machine: Machine) -> Finding:
    prebuilt = machine.versions["flashinfer-jit-cache"]
    if prebuilt is not None:
        return Finding("compilers", f"not needed: flashinfer-jit-cache {prebuilt} brings the kernels")
    # Ninja is asked at each load whether a kernel is up to date, nvcc only when one is not.
    captured = manifest.get("jit")
    brought = captured is not None and captured["folder"] == str(machine.jit_folder)
    needed = {"ninja": machine.ninja} if brought else {"nvcc": machine.nvcc, "ninja": machine.ninja}
    missing = [name for name, path in needed.items() if path is None]
    if not missing:
        return Finding("compilers", ", ".join(str(path) for path in needed.values()))
    return Finding(
        "compilers",
        "not all there",
        f"FlashInfer compiles its attention kernels here, and there is no {' and no '.join(missing)}",
        f"put them on the PATH, or take a bundle that was warmed on such a GPU with {FOLDER}={machine.jit_folder}",
    )


def _jit_folder(manifest: Mapping[str, Any], machine: Machine) -> Finding:
    stored = manifest["files"].get(KERNELS, {"bytes": KERNEL_BYTES})["bytes"]
    found = f"{machine.jit_folder}, {_gb(machine.jit_free_bytes)} free"
    problem = None
    if not machine.jit_is_writable:
        problem = f"kernels are kept in {machine.jit_folder}, where this process can't write"
    elif machine.jit_free_bytes < stored:
        problem = f"{machine.jit_folder} has {_gb(machine.jit_free_bytes)} free and the kernels need {_gb(stored)}"
    remedy = f"make that folder for this user, or name another in {FOLDER}, the same where the bundle was warmed"
    return Finding("kernel cache", found, problem, problem and remedy)


def _shared_memory(folder: Path, machine: Machine) -> Finding:
    tower = Checkpoint.read_vision_config(folder)
    # As many pixels as requests can wait with, on their way from preprocess to decode.
    needed = 0 if tower is None else MOST_WAITING * MAX_IMAGES * 3 * tower.image_size**2
    found = f"{_gb(machine.shm_bytes)}, of which images need up to {_gb(needed)}"
    if machine.shm_bytes >= needed:
        return Finding(str(SHARED_MEMORY), found)
    problem = f"{SHARED_MEMORY} has {_gb(machine.shm_bytes)} and images need up to {_gb(needed)}"
    return Finding(str(SHARED_MEMORY), found, problem, "docker run --shm-size=1g, or a Memory emptyDir mounted there")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
