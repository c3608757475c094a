"""What this machine is, as far as an engine on TensorRT-LLM depends on it. Read here, judged in `preflight`."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from engines.tensorrt_llm.jit_cache import cache_folder

QUERY = ("index", "uuid", "name", "compute_cap", "driver_version", "memory.free")
NVIDIA_SMI = ("nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits")
VOUCHED = "TRITONGUARD_TENSORRT_LLM"
"""Environment variable: another version of the package, that the operator vouches for."""
PACKAGES = ("tensorrt_llm", "openai", "flashinfer-python", "flashinfer-jit-cache")
MPI_PREFIXES = ("OMPI_", "PMIX_", "PMI_")
# Its size is asked; nothing is written there.
SHARED_MEMORY = Path("/dev/shm")  # nosec B108
_MIB = 1 << 20
_QUERY_S = 30.0


@dataclass(frozen=True)
class Gpu:
    """sm: 90 for compute capability 9.0. free_bytes: of its memory; None where nvidia-smi doesn't say."""

    index: str
    uuid: str
    name: str
    sm: int
    driver: str
    free_bytes: int | None


@dataclass(frozen=True)
class Machine:
    """gpu: the first that this process may use; None: gpu_problem says why. cuda: the version that the loaded driver
    library supports, 13010 for 13.1; None: there is none. versions: of the packages that matter, None: not installed.
    vouched: the version of VOUCHED. nvcc, ninja: where they are. jit_folder: where kernels are kept, and whether this
    process can write there. shm_bytes: of SHARED_MEMORY as a whole. mpi_variables: names of those inherited.
    """

    gpu: Gpu | None
    gpu_problem: str
    cuda: int | None
    versions: Mapping[str, str | None]
    vouched: str | None
    nvcc: str | None
    ninja: str | None
    jit_folder: Path
    jit_is_writable: bool
    jit_free_bytes: int
    shm_bytes: int
    mpi_variables: tuple[str, ...]


def read_machine(
    environ: Mapping[str, str] = os.environ,
    *,
    run: Callable[[Sequence[str]], str] | None = None,
    which: Callable[[str], str | None] = shutil.which,
    version: Callable[[str], str] = metadata.version,
    cuda: Callable[[], int | None] | None = None,
    disk_usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage,
) -> Machine:
    """This machine. run: the standard output of a command, or OSError, or subprocess.SubprocessError."""
    gpu, problem = _gpu(run or _run, environ.get("CUDA_VISIBLE_DEVICES"))
    folder = cache_folder(environ)
    beside = _existing(folder)
    return Machine(
        gpu=gpu,
        gpu_problem=problem,
        cuda=(cuda or driver_cuda)(),
        versions={name: _version(version, name) for name in PACKAGES},
        vouched=environ.get(VOUCHED),
        nvcc=which("nvcc") or _nvcc(environ.get("CUDA_HOME", "/usr/local/cuda")),
        ninja=which("ninja"),
        jit_folder=folder,
        jit_is_writable=beside.is_dir() and os.access(beside, os.W_OK | os.X_OK),
        jit_free_bytes=disk_usage(beside)[2],
        shm_bytes=disk_usage(SHARED_MEMORY)[0] if SHARED_MEMORY.is_dir() else 0,
        mpi_variables=tuple(sorted(name for name in environ if name.startswith(MPI_PREFIXES))),
    )


def parse_gpus(text: str) -> list[Gpu]:
    """The lines of NVIDIA_SMI. Raises ValueError for a line of another form."""
    gpus = []
    for line in filter(None, map(str.strip, text.splitlines())):
        index, uuid, name, capability, driver, free = (part.strip() for part in line.split(","))
        gpus.append(Gpu(index, uuid, name, int(capability.replace(".", "")), driver, _mebibytes(free)))
    return gpus


def visible(gpus: Sequence[Gpu], asked: str | None) -> Gpu | None:
    """The first GPU of CUDA_VISIBLE_DEVICES (None: not set); None: it names none that is there.

    Of a MIG instance the GPU that holds it, without its memory: the instance has a part of that.
    """
    if asked is None:
        return gpus[0] if gpus else None
    first = asked.split(",")[0].strip()
    if first.startswith("MIG-"):
        return replace(gpus[0], free_bytes=None) if gpus else None
    found = (gpu for gpu in gpus if first and (gpu.index == first or gpu.uuid.startswith(first)))
    return next(found, None)


def driver_cuda() -> int | None:
    """The CUDA version of the driver library that a process here would load: with forward compatibility, its."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        found = ctypes.c_int()
        return found.value if library.cuDriverGetVersion(ctypes.byref(found)) == 0 else None
    except (OSError, AttributeError):
        return None


def _gpu(run: Callable[[Sequence[str]], str], asked: str | None) -> tuple[Gpu | None, str]:
    try:
        gpu = visible(parse_gpus(run(NVIDIA_SMI)), asked)
    except FileNotFoundError:
        return None, "there is no nvidia-smi here"
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"nvidia-smi failed ({type(error).__name__})"
    except ValueError:
        return None, "nvidia-smi answered in a form that this release does not read"
    if gpu is None:
        return None, "nvidia-smi lists none" if asked is None else f"CUDA_VISIBLE_DEVICES={asked} names none of them"
    return gpu, ""


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_QUERY_S).stdout


def _mebibytes(text: str) -> int | None:
    return int(text) * _MIB if text.isdigit() else None


def _version(version: Callable[[str], str], name: str) -> str | None:
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        return None


def _nvcc(cuda_home: str) -> str | None:
    """FlashInfer looks there too (0.6.4, jit/cpp_ext.py)."""
    path = Path(cuda_home) / "bin" / "nvcc"
    return str(path) if path.is_file() else None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: where it would be made."""
    return next(path for path in (folder, *folder.parents) if path.exists())
