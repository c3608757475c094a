"""The package, opened: the environment that it wants, its `LLM`, and the event loop that requests live on."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Coroutine, MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tritonguard.errors import BundleError

from engines.program import END_OF_TURN
from engines.tensorrt_llm import jit_cache
from engines.tensorrt_llm.engine_config import EngineConfig
from engines.tensorrt_llm.machine import MPI_PREFIXES
from engines.tensorrt_llm.processor import PassthroughProcessor
from engines.tensorrt_llm.sampling import Ends
from preprocessing.answer_text import AnswerText

EOS = "<eos>"
Result = TypeVar("Result")

_CAUSES = (
    (r"No module named 'tensorrt_llm'", "TensorRT-LLM is not installed here: take Triton's trtllm-python-py3 image"),
    (r"PartReasoningText", "the openai package is too old for TensorRT-LLM: pip install -U openai"),
    (r"MPI_ERR_SPAWN|could not spawn", "MPI can't start a worker: leave TLLM_WORKER_USE_SINGLE_PROCESS at 1"),
    (r"kv_layout", "attn_backend must be FLASHINFER for Gemma 3: compile the bundle again"),
    (r"unsupported quant mode", "this form of the weights is not one that TensorRT-LLM loads: quantize to another"),
    (r"out of memory", "the GPU's memory does not suffice: end what else runs there, or compile for fewer requests"),
    (r"got invalid argument", "engine.yaml holds a key that this TensorRT-LLM does not know: compile the bundle again"),
    (r"ninja|nvcc", "FlashInfer could not compile its kernels: it needs nvcc, ninja and a folder to write to"),
)
"""Known ways for a start to fail, by the text of the error, and what to do."""


@dataclass(frozen=True)
class Runtime:
    """llm: `tensorrt_llm.LLM`, used on `loop` only, which runs in `thread`. ends: what ends its answers."""

    llm: Any
    ends: Ends
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    @classmethod
    def open(cls, folder: Path, config: EngineConfig) -> Runtime:
        """Load the bundle. It takes minutes where kernels are to be compiled. Raises BundleError with the cause."""
        prepare_environment(folder, os.environ)
        opened: Future[tuple[Any, Ends]] = Future()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_live, args=(loop, folder, config, opened), name="tensorrt-llm", daemon=True)
        thread.start()
        try:
            return cls(*opened.result(), loop, thread)
        except Exception as error:
            thread.join()
            raise _told(error) from error

    def submit(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run it on the loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        """Shut the LLM down, and the loop. Nothing may run there any more."""
        try:
            self.llm.shutdown()
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()


def _live(
    loop: asyncio.AbstractEventLoop, folder: Path, config: EngineConfig, opened: Future[tuple[Any, Ends]]
) -> None:
    """The body of the loop's thread: open the LLM, then serve what is submitted until the loop is stopped."""
    try:
        opened.set_result(open_llm(folder, config))
    except BaseException as error:
        opened.set_exception(error)
    else:
        asyncio.set_event_loop(loop)
        loop.run_forever()
    finally:
        loop.close()


def prepare_environment(folder: Path, environ: MutableMapping[str, str]) -> None:
    """What the package reads when it is imported. Raises BundleError: the bundle's kernels can't be put in place."""
    # Of the server's own launcher; with them the package takes itself for a worker of another job.
    for name in [name for name in environ if name.startswith(MPI_PREFIXES)]:
        del environ[name]
    # One GPU needs no second process, and Triton's container lets MPI spawn none (MPI_ERR_SPAWN).
    environ.setdefault("TLLM_WORKER_USE_SINGLE_PROCESS", "1")
    # What is missing in the bundle is an error, not a download of gated files.
    environ["HF_HUB_OFFLINE"] = "1"
    # FlashInfer compiles its kernels at first use, into a folder that a non-root container may not have.
    cache = jit_cache.cache_folder(environ)
    jit_cache.restore(folder, cache)
    environ.update(jit_cache.variables(cache))


def open_llm(folder: Path, config: EngineConfig) -> tuple[Any, Ends]:
    """`tensorrt_llm.LLM` on the bundle, its processor replaced (`PassthroughProcessor`), and what ends its answers."""
    from tensorrt_llm import LLM
    from tensorrt_llm.llmapi import KvCacheConfig, SchedulerConfig

    kwargs = config.llm_kwargs(folder)
    kwargs["kv_cache_config"] = KvCacheConfig(**kwargs["kv_cache_config"])
    kwargs["scheduler_config"] = SchedulerConfig(**kwargs["scheduler_config"])
    llm = LLM(**kwargs)
    try:
        # A plain attribute; `llm.tokenizer` is read through it.
        llm.input_processor = PassthroughProcessor(llm.input_processor)
        return llm, read_ends(llm, folder)
    except BaseException:
        llm.shutdown()
        raise


def read_ends(llm: Any, folder: Path) -> Ends:
    """By the engine's own tokenizer. Raises BundleError where the bundle's answers.json names another end of a turn."""

    def single(token: str) -> int:
        ids = llm.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise BundleError(f"the engine's tokenizer has no token {token}")
        return int(ids[0])

    ends = Ends(single(EOS), single(END_OF_TURN))
    expected = AnswerText(folder, max_tokens=0).end
    if ends.turn != expected:
        raise BundleError(f"{END_OF_TURN} is {ends.turn} in the engine's tokenizer and {expected} in answers.json")
    return ends


def _told(error: Exception) -> BundleError:
    """Why the engine can't be loaded, for a person: what to do, where that is known, and the error's first line."""
    if isinstance(error, BundleError):
        return error
    text = f"{type(error).__name__}: {error}"
    causes = [cause for pattern, cause in _CAUSES if re.search(pattern, text, re.IGNORECASE)]
    return BundleError(": ".join(["TensorRT-LLM could not load the bundle", *causes[:1], text.splitlines()[0]]))
