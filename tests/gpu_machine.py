"""A machine with an H100 and TensorRT-LLM's double, as far as anybody looks: programs on the PATH, package records."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DOUBLE = Path(__file__).parent / "tensorrt_llm_double"
PACKAGES = {"tensorrt_llm": "1.2.1", "openai": "1.109.1", "flashinfer_python": "0.6.4"}
H100 = "0, GPU-5ca1ab1e, NVIDIA H100 80GB HBM3, 9.0, 590.48.01, 80994"
MEBIBYTE = 1 << 20


@contextmanager
def double_on_path() -> Iterator[None]:
    """`import tensorrt_llm` finds the double, and `import torch` a stand-in where there is no torch; gone afterwards,
    with what the engine has put into the environment."""
    environment, path, before = dict(os.environ), list(sys.path), set(sys.modules)
    sys.path.insert(0, str(DOUBLE))
    sys.path.append(str(DOUBLE / "torch_stand_in"))
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("tensorrt_llm", "torch"):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)


def write_machine(folder: Path, *, smi: str = H100, packages: dict[str, str] = PACKAGES) -> dict[str, str]:
    """Its programs and records, written to `folder`. Returns the environment of a process on it.

    smi: what nvidia-smi prints of its GPUs, a line each.
    """
    for program, text in (("nvidia-smi", f"cat <<'END'\n{smi}\nEND\n"), ("nvcc", "exit 1\n"), ("ninja", "exit 0\n")):
        path = folder / "bin" / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)
    for package, version in packages.items():
        record = folder / "records" / f"{package}-{version}.dist-info" / "METADATA"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    found = [folder / "records", DOUBLE, DOUBLE / "torch_stand_in", os.environ.get("PYTHONPATH", "")]
    return {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, found))),
        "TRITONGUARD_JIT_CACHE": str(folder / "jit"),
        "CUDA_HOME": str(folder),
    }


def be_there(monkeypatch: pytest.MonkeyPatch, folder: Path, **machine: object) -> None:
    """Make this process, and those it starts, one on that machine. The double itself is on the path of theirs alone."""
    for name, value in write_machine(folder, **machine).items():  # type: ignore[arg-type]
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.syspath_prepend(str(folder / "records"))
