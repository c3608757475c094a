"""`make demo` says what the weights say: with the adapter it passes, with random numbers in its place it fails."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from build_scripts.merge_lora import merge
from build_scripts.openvino.compile import compile_bundle
from engines.checkpoint import TensorFile, write_tensors
from engines.manifest import read_manifest, write_manifest
from serving import processes
from serving.demo import ASKED, LOST, main
from serving.launch import TritonServer

ADAPTER = Path(__file__).parents[2] / "adapters" / "embedded"


def demo(bundle: Path, log: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.demo", "--bundle", str(bundle), "--log", str(log)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if LOST in result.stdout:
        # Nobody killed it here: pytest shows this beside the results, whatever they are.
        warnings.warn(result.stdout, stacklevel=2)
    return result


def random_adapter(folder: Path) -> Path:
    """The committed adapter's shapes and scale, with the numbers shuffled."""
    folder.mkdir()
    file = TensorFile.open(ADAPTER / "adapter_model.safetensors")
    generator = np.random.default_rng(0)
    layout = {name: (spec["dtype"], tuple(spec["shape"])) for name, spec in file.header.items()}
    values = (generator.permutation(file.float32(name).ravel()).reshape(shape) for name, (_, shape) in layout.items())
    write_tensors(folder / "adapter_model.safetensors", layout, values)
    shutil.copyfile(ADAPTER / "adapter_config.json", folder / "adapter_config.json")
    write_manifest(folder, kind="adapter", inputs=read_manifest(ADAPTER)["inputs"])
    return folder


def test_a_random_adapter_makes_the_demo_fail(base_folder: Path, tmp_path: Path) -> None:
    merged = merge(base=base_folder, adapter=random_adapter(tmp_path / "adapter"), out=tmp_path / "merged")
    compiled = compile_bundle(merged, tmp_path / "bundle", precision="f32")
    shutil.rmtree(merged)
    result = demo(compiled, tmp_path / "log")
    assert result.returncode == 1, result.stdout
    # It failed by its verdicts: the server ran and every example was answered.
    assert "FAILED: " in result.stdout
    assert f"of {len(ASKED)} verdicts are as expected" in result.stdout
    assert "error: " not in result.stdout
    assert "is not as expected: " in result.stdout
    shutil.rmtree(compiled)


def test_the_demo_passes_with_the_committed_adapter(bundle: Path, tmp_path: Path) -> None:
    result = demo(bundle, tmp_path / "log")
    assert result.returncode == 0, result.stdout
    assert "p_unsafe" in result.stdout
    shown = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    assert {example.id for example in ASKED} <= shown
    assert "Images: this bundle cannot judge them (vision_untrained)" in result.stdout
    assert "en-think reasoned (source: synthetic" in result.stdout


def test_a_demo_that_loses_a_stage_says_why_and_goes_on(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.demo._DEADLINE_S", 15.0)  # how long an answer is waited for that nobody gives
    ready = TritonServer.start

    def start(server: TritonServer) -> None:
        ready(server)
        assert server._process is not None
        (decode,) = (
            stub
            for stub in processes.stubs(server._process.pid)
            if "/decode/1/" in Path(f"/proc/{stub}/cmdline").read_text()
        )
        threading.Timer(1.0, os.kill, (decode, signal.SIGSEGV)).start()

    monkeypatch.setattr(TritonServer, "start", start)
    said = io.StringIO()
    code = main(["--bundle", str(bundle), "--log", str(tmp_path / "log")], console=Console(file=said, width=200))
    assert code == 0, said.getvalue()
    assert said.getvalue().count(LOST) == 1
    assert "Fatal Python error: Segmentation fault" in said.getvalue()
    assert "OK: " in said.getvalue()
