"""Opening the package: its environment, what it is constructed with, and a start that fails with a reason."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drafting_llm import ENDS, Llm
from tritonguard.errors import BundleError

from engines.tensorrt_llm import jit_cache, runtime
from engines.tensorrt_llm.engine_config import EngineConfig
from engines.tensorrt_llm.processor import PassthroughProcessor
from engines.tensorrt_llm.runtime import Runtime, prepare_environment
from engines.tensorrt_llm.sampling import Ends

CONFIG = EngineConfig(max_seq_len=640)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    known = {
        "encoded": {},
        "decoded": [],
        "end": ENDS[1],
        "warm_up": {"ids": [2], "prefix_length": 0, "answer": ""},
    }
    (tmp_path / "answers.json").write_text(json.dumps(known))
    return tmp_path


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """`tensorrt_llm` with an LLM that `package.build` makes; a nested type is told by its name."""
    made = SimpleNamespace(build=Llm, kwargs={}, thread=None)

    def construct(**kwargs: Any) -> Any:
        made.kwargs, made.thread = kwargs, threading.current_thread()
        return made.build()

    nested = {name: partial(dict, made=name) for name in ("KvCacheConfig", "SchedulerConfig")}
    monkeypatch.setitem(sys.modules, "tensorrt_llm", SimpleNamespace(LLM=construct))
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", SimpleNamespace(**nested))
    monkeypatch.setattr(runtime.os, "environ", {jit_cache.FOLDER: str(tmp_path / "kernels")})
    return made


def test_the_environment_is_that_of_one_process_without_a_network(tmp_path: Path) -> None:
    environ = {
        "OMPI_COMM_WORLD_RANK": "0",
        "PMIX_RANK": "0",
        "PMI_RANK": "0",
        "PATH": "/bin",
        jit_cache.FOLDER: str(tmp_path / "kernels"),
    }
    prepare_environment(tmp_path, environ)
    assert not [name for name in environ if name.startswith(("OMPI_", "PMIX_", "PMI_"))]
    assert environ["PATH"] == "/bin"
    assert environ["TLLM_WORKER_USE_SINGLE_PROCESS"] == "1"
    assert environ["HF_HUB_OFFLINE"] == "1"
    assert environ["FLASHINFER_WORKSPACE_BASE"] == str(tmp_path / "kernels")


def test_an_operator_may_have_worker_processes(tmp_path: Path) -> None:
    environ = {"TLLM_WORKER_USE_SINGLE_PROCESS": "0", jit_cache.FOLDER: str(tmp_path)}
    prepare_environment(tmp_path, environ)
    assert environ["TLLM_WORKER_USE_SINGLE_PROCESS"] == "0"


def test_the_bundles_kernels_are_put_in_place(tmp_path: Path) -> None:
    bundle, cache = tmp_path / "bundle", tmp_path / "kernels"
    for made in (bundle, cache):
        made.mkdir()
    (cache / "kernel.so").write_bytes(b"compiled")
    jit_cache.capture(cache, bundle)
    (cache / "kernel.so").unlink()
    prepare_environment(bundle, {jit_cache.FOLDER: str(cache)})
    assert (cache / "kernel.so").read_bytes() == b"compiled"


def test_the_llm_is_made_of_the_bundle_and_lives_on_one_thread(folder: Path, package: SimpleNamespace) -> None:
    opened = Runtime.open(folder, CONFIG)
    kwargs = dict(package.kwargs)
    assert kwargs["model"] == str(folder)
    assert kwargs.pop("kv_cache_config")["made"] == "KvCacheConfig"
    assert kwargs.pop("scheduler_config")["made"] == "SchedulerConfig"
    assert kwargs.items() <= CONFIG.llm_kwargs(folder).items()
    assert isinstance(opened.llm.input_processor, PassthroughProcessor)
    assert opened.ends == Ends(*ENDS)

    async def where() -> threading.Thread:
        assert asyncio.get_running_loop() is opened.loop
        return threading.current_thread()

    assert opened.submit(where()).result(30) is package.thread is opened.thread
    opened.close()
    assert opened.llm.shutdowns == 1
    assert not opened.thread.is_alive()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ModuleNotFoundError("No module named 'tensorrt_llm'"), "trtllm-python-py3"),
        (ImportError("cannot import name 'PartReasoningText' from 'openai'"), "openai"),
        (RuntimeError("MPI_ERR_SPAWN: could not spawn processes"), "TLLM_WORKER_USE_SINGLE_PROCESS"),
        (AttributeError("'X' object has no attribute 'kv_layout'"), "FLASHINFER"),
        (ValueError("unsupported quant mode: 4"), "quantize"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nand more"), "memory"),
        (ValueError("LLM got invalid argument: attention"), "compile"),
        (RuntimeError("Ninja build failed"), "nvcc"),
        (KeyError("something new"), "something new"),
    ],
)
def test_a_start_that_fails_says_why(folder: Path, package: SimpleNamespace, error: Exception, advice: str) -> None:
    def fail() -> None:
        raise error

    package.build = fail
    with pytest.raises(BundleError, match="TensorRT-LLM") as told:
        Runtime.open(folder, CONFIG)
    assert advice in told.value.message
    assert type(error).__name__ in told.value.message
    assert told.value.__cause__ is error
    assert not package.thread.is_alive()


def test_a_tokenizer_with_another_end_of_turn_is_refused_and_the_llm_shut_down(
    folder: Path, package: SimpleNamespace
) -> None:
    llm = Llm()
    llm.tokenizer.encode = lambda text, add_special_tokens: [7]
    package.build = lambda: llm
    with pytest.raises(BundleError, match=r"7 in the engine's tokenizer and 1 in answers\.json"):
        Runtime.open(folder, CONFIG)
    assert llm.shutdowns == 1


def test_a_tokenizer_that_splits_a_mark_is_refused(folder: Path, package: SimpleNamespace) -> None:
    llm = Llm()
    llm.tokenizer.encode = lambda text, add_special_tokens: [7, 8]
    package.build = lambda: llm
    with pytest.raises(BundleError, match="no token <eos>"):
        Runtime.open(folder, CONFIG)
