"""What is in the way of a bundle on a machine is found before anything is loaded, all of it, with what to do."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from gpu_machine import H100, MEBIBYTE
from tiny_checkpoint import tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from engines.manifest import read_manifest, write_manifest
from engines.tensorrt_llm.engine_config import EngineConfig
from engines.tensorrt_llm.machine import Gpu, Machine, driver_cuda, parse_gpus, read_machine, visible
from engines.tensorrt_llm.preflight import Finding, check_machine, require

GPU = Gpu("0", "GPU-1", "NVIDIA H100 80GB HBM3", 90, "590.48.01", 79 * 10**9)
VERSIONS = {"tensorrt_llm": "1.2.1", "openai": "1.109.1", "flashinfer-python": "0.6.4", "flashinfer-jit-cache": None}
MACHINE = Machine(
    gpu=GPU,
    gpu_problem="",
    cuda=None,
    versions=VERSIONS,
    vouched=None,
    nvcc="nvcc",
    ninja="ninja",
    jit_folder=Path("/cache"),
    jit_is_writable=True,
    jit_free_bytes=10**11,
    shm_bytes=10**10,
    mpi_variables=(),
)
WARMED = {"warmed": True, "hardware": {"gpu": "H100", "sm": 90}, "jit": {"folder": "/cache", "files": 3}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preflight") / "bundle"
    write_checkpoint(folder, tiny_config())
    (folder / "hf_quant_config.json").write_text("{}")
    capabilities = {"segments": [], "choices": 2, "vision": "trained", "max_tokens": 4096}
    described = {"precision": "fp8-kv", "hardware": None, "warmed": False, "jit": None, "capabilities": capabilities}
    write_manifest(folder, kind="bundle", inputs={}, target="tensorrt-llm", **described)
    return folder


def found(bundle: Path, machine: Machine = MACHINE, **manifest: Any) -> list[Finding]:
    manifest = {**read_manifest(bundle), **manifest}
    return check_machine(bundle, manifest, EngineConfig.for_profile(manifest["precision"], 4096), machine)


def problems(findings: Sequence[Finding]) -> dict[str, str]:
    """{name: problem and remedy} of those that are not ok."""
    return {finding.name: f"{finding.problem}. {finding.remedy}" for finding in findings if not finding.ok}


def test_nothing_is_in_the_way_of_a_bundle_on_its_machine(bundle: Path) -> None:
    findings = found(bundle)
    assert problems(findings) == {}
    assert len(findings) == 12
    require(findings)
    require(found(bundle, **WARMED))


def with_versions(**versions: str | None) -> Machine:
    return replace(MACHINE, versions={**VERSIONS, **versions})


def with_gpu(**values: Any) -> Machine:
    return replace(MACHINE, gpu=replace(GPU, **values))


@pytest.mark.parametrize(
    ("machine", "name", "told"),
    [
        (
            with_gpu(sm=86, name="A10"),
            "GPU",
            "fp8-kv needs SM 89 or newer and this GPU, A10, is SM 86.*int8-weight-only",
        ),
        (with_gpu(sm=75), "GPU", "is SM 75.*A10, L4 or H100"),
        (with_gpu(driver="580.95.05"), "driver", "580.95.05 is older than 590.*forward compatibility"),
        (replace(with_gpu(driver="580.95.05"), cuda=13000), "driver", "older than 590"),
        (with_gpu(free_bytes=10**9), "GPU memory", "1.00 GB of GPU memory are free and .* are needed.*--max-tokens"),
        (with_versions(tensorrt_llm=None), "TensorRT-LLM", "not installed.*26.07-trtllm-python-py3"),
        (with_versions(tensorrt_llm="1.2.0"), "TensorRT-LLM", "corrupts its KV cache.*#12770"),
        (replace(with_versions(tensorrt_llm="1.2.0"), vouched="1.2.0"), "TensorRT-LLM", "corrupts"),
        (with_versions(tensorrt_llm="1.3.0"), "TensorRT-LLM", "is 1.3.0.*TRITONGUARD_TENSORRT_LLM=1.3.0"),
        (replace(with_versions(tensorrt_llm="1.3.0"), vouched="1.3.1"), "TensorRT-LLM", "written for 1.2.1"),
        (with_versions(openai="1.107.3"), "openai package", "is 1.107.3.*pip install 'openai>=1.108.1,<2'"),
        (with_versions(openai=None), "openai package", "not installed"),
        (replace(MACHINE, nvcc=None), "compilers", "no nvcc.*/cache"),
        (replace(MACHINE, nvcc=None, ninja=None), "compilers", "no nvcc and no ninja"),
        (replace(MACHINE, jit_is_writable=False), "kernel cache", "can't write.*TRITONGUARD_JIT_CACHE"),
        (replace(MACHINE, jit_free_bytes=10**8), "kernel cache", "0.10 GB free and the kernels need 1.07 GB"),
        (replace(MACHINE, shm_bytes=1000), "/dev/shm", "images need up to.*--shm-size=1g"),
    ],
)
def test_what_is_in_the_way_is_told_with_what_to_do(bundle: Path, machine: Machine, name: str, told: str) -> None:
    findings = found(bundle, machine)
    assert list(problems(findings)) == [name]
    with pytest.raises(BundleError, match=told):
        require(findings)


@pytest.mark.parametrize(
    "machine",
    [
        replace(with_gpu(driver="580.95.05"), cuda=13010),
        replace(with_versions(tensorrt_llm="1.3.0"), vouched="1.3.0"),
        with_versions(openai="2.1.0"),
        replace(with_versions(**{"flashinfer-jit-cache": "0.6.4"}), nvcc=None, ninja=None),
        with_gpu(free_bytes=None),
        with_gpu(sm=89, name="L4"),
        replace(MACHINE, mpi_variables=("OMPI_COMM_WORLD_SIZE",)),
    ],
)
def test_what_is_not_in_the_way_is_no_problem(bundle: Path, machine: Machine) -> None:
    assert problems(found(bundle, machine)) == {}


def test_without_a_gpu_that_is_all_that_is_told(bundle: Path) -> None:
    machine = replace(with_versions(tensorrt_llm=None), gpu=None, gpu_problem="there is no nvidia-smi here", nvcc=None)
    [finding] = found(bundle, machine)
    with pytest.raises(BundleError, match=r"no nvidia-smi here \(.*--gpus all.*--target openvino"):
        require([finding])


def test_all_problems_are_told_at_once_and_logged_whole(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = replace(with_versions(tensorrt_llm="1.2.0", openai="1.0"), ninja=None, shm_bytes=0)
    with pytest.raises(BundleError, match=r"corrupts.*openai"):
        require(found(bundle, machine))
    assert [message.split(":")[0] for message in caplog.messages] == [
        "TensorRT-LLM",
        "openai package",
        "compilers",
        "/dev/shm",
    ]


@pytest.mark.parametrize(
    ("manifest", "name", "told"),
    [
        ({**WARMED, "hardware": {"gpu": "L4", "sm": 89}}, "warm-up", "warmed for SM 89 and this GPU is SM 90"),
        ({"capabilities": {"max_tokens": 5000}}, "engine.yaml", "max_seq_len is 4224; .* need 5128"),
        ({"files": {"config.json": {"bytes": 1}}}, "files", "no tokenizer.json, .*hf_quant_config.json"),
    ],
)
def test_a_bundle_that_does_not_fit_is_found(bundle: Path, manifest: dict[str, Any], name: str, told: str) -> None:
    findings = found(bundle, **manifest)
    assert list(problems(findings)) == [name]
    with pytest.raises(BundleError, match=told):
        require(findings)


def test_a_cache_of_another_form_than_the_weights_is_found(bundle: Path) -> None:
    manifest = {**read_manifest(bundle), "precision": "fp8"}
    findings = check_machine(bundle, manifest, EngineConfig.for_profile("fp8-kv", 4096), MACHINE)
    assert "kv_cache_config.dtype is fp8; fp8 needs auto" in problems(findings)["engine.yaml"]
    with pytest.raises(BundleError, match="precision 'int8-sq' is not one of"):
        check_machine(bundle, {**manifest, "precision": "int8-sq"}, EngineConfig(4224), MACHINE)


def test_a_warmed_bundle_needs_no_nvcc_where_its_kernels_find_their_place(bundle: Path) -> None:
    without = replace(MACHINE, nvcc=None)
    assert problems(found(bundle, without, **WARMED)) == {}
    assert list(problems(found(bundle, replace(without, jit_folder=Path("/other")), **WARMED))) == ["compilers"]


def failing(error: Exception) -> Callable[[Sequence[str]], str]:
    def run(command: Sequence[str]) -> str:
        raise error

    return run


def machine(run: Callable[[Sequence[str]], str], **environ: str) -> Machine:
    def version(name: str) -> str:
        if name == "openai":
            raise PackageNotFoundError(name)
        return "1.2.1"

    return read_machine(environ, run=run, which=lambda name: None, version=version, cuda=lambda: None)


@pytest.mark.parametrize(
    ("run", "visible", "problem"),
    [
        (failing(FileNotFoundError()), None, "no nvidia-smi"),
        (failing(subprocess.CalledProcessError(9, "nvidia-smi")), None, "failed"),
        (failing(subprocess.TimeoutExpired("nvidia-smi", 30)), None, "failed"),
        (lambda command: "No devices were found", None, "does not read"),
        (lambda command: "", None, "lists none"),
        (lambda command: H100, "", "CUDA_VISIBLE_DEVICES= names none"),
        (lambda command: H100, "1", "CUDA_VISIBLE_DEVICES=1 names none"),
    ],
)
def test_why_there_is_no_gpu(run: Callable[[Sequence[str]], str], visible: str | None, problem: str) -> None:
    read = machine(run, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))
    assert read.gpu is None
    assert problem in read.gpu_problem


def test_a_machine_is_read_from_what_it_says_of_itself(tmp_path: Path) -> None:
    environ = {
        "TRITONGUARD_JIT_CACHE": str(tmp_path / "a" / "b"),
        "OMPI_X": "1",
        "PMIX_Y": "",
        "TRITONGUARD_TENSORRT_LLM": "2",
    }
    read = machine(lambda command: H100, CUDA_HOME=str(tmp_path), **environ)
    assert read.gpu == Gpu("0", "GPU-5ca1ab1e", "NVIDIA H100 80GB HBM3", 90, "590.48.01", 80994 * MEBIBYTE)
    assert read.versions == {**VERSIONS, "openai": None, "flashinfer-python": "1.2.1", "flashinfer-jit-cache": "1.2.1"}
    assert (read.jit_folder, read.jit_is_writable, read.nvcc) == (tmp_path / "a" / "b", True, None)
    assert read.mpi_variables == ("OMPI_X", "PMIX_Y")
    assert read.vouched == "2"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    assert machine(lambda command: H100, CUDA_HOME=str(tmp_path)).nvcc == str(tmp_path / "bin" / "nvcc")


def test_the_gpu_is_the_first_that_the_process_may_use() -> None:
    lines = f"{H100}\n1, GPU-b1b, NVIDIA L4, 8.9, 590.44, [N/A]\n"
    gpus = parse_gpus(lines)
    assert [(gpu.sm, gpu.free_bytes) for gpu in gpus] == [(90, 80994 * MEBIBYTE), (89, None)]
    assert visible(gpus, None) == visible(gpus, "0,1") == visible(gpus, "GPU-5ca") == gpus[0]
    assert visible(gpus, "1") == visible(gpus, "GPU-b1b,0") == gpus[1]
    assert visible(gpus, "MIG-3") == replace(gpus[0], free_bytes=None)
    assert driver_cuda() is None or driver_cuda() > 0
