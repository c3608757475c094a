"""Where an answer comes from: the machine, the packages, and whether tensorrt_llm was the real one."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tritonguard import __version__

from benchmarks.gpu_day_one.recording import DOUBLE, RECORDED
from engines.tensorrt_llm.machine import Machine, read_machine

PACKAGES = (
    "tensorrt_llm",
    "torch",
    "transformers",
    "flashinfer-python",
    "flashinfer-jit-cache",
    "xgrammar",
    "numpy",
    "openai",
)


def hardware(machine: Machine) -> dict[str, Any]:
    """gpu, driver: None where there is no GPU."""
    gpu = machine.gpu
    return {
        "gpu": None if gpu is None else gpu.name,
        "sm": None if gpu is None else gpu.sm,
        "driver": None if gpu is None else gpu.driver,
        "free_bytes": None if gpu is None else gpu.free_bytes,
        "cuda": machine.cuda,
        "system": platform.platform(),
    }


def versions() -> dict[str, str | None]:
    """Of every package that has a say in an answer; None: not installed."""
    found: dict[str, str | None] = {"tritonguard": __version__, "python": sys.version.split()[0]}
    return found | {name: _installed(name) for name in PACKAGES}


def evidence() -> str:
    """RECORDED where there is a GPU and tensorrt_llm lies where its distribution was installed.

    The double is a folder on the path: no distribution has put it there.
    """
    found = find_spec("tensorrt_llm")
    if found is None or found.origin is None or _installed("tensorrt_llm") is None:
        return DOUBLE
    installed = Path(str(distribution("tensorrt_llm").locate_file("tensorrt_llm/__init__.py")))
    is_real = Path(found.origin).resolve() == installed.resolve()
    return RECORDED if is_real and read_machine().gpu is not None else DOUBLE


def free_bytes() -> int | None:
    """GPU memory that nobody has taken now; None: not known."""
    gpu = read_machine().gpu
    return None if gpu is None else gpu.free_bytes


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
