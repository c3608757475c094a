"""The double of TensorRT-LLM on the path, and tiny bundles for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from gpu_machine import double_on_path

if TYPE_CHECKING:
    from tiny_bundle import Tiny

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: runs TensorRT-LLM itself, where TRITONGUARD_GPU_BUNDLE names a bundle")


@pytest.fixture(scope="module")
def double() -> Iterator[None]:
    # Graphs this small take longer on two threads than on one.
    with double_on_path(), mock.patch.object(os, "sched_getaffinity", return_value={0}):
        yield


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, double: None) -> Tiny:
    """A tiny bundle whose vocabulary is as many tokens as the package reports at each place."""
    from tiny_bundle import NARROW, write_tiny

    os.environ["TLLM_WORKER_USE_SINGLE_PROCESS"] = "1"
    return write_tiny(tmp_path_factory.mktemp("narrow") / "bundle", NARROW)


@pytest.fixture(scope="module")
def opened(narrow: Tiny) -> Iterator[Callable[..., Any]]:
    """LLM(...) of the double on the tiny bundle, with changes to how it is served; one for each kind."""
    from double_llm import AS_SERVED
    from tensorrt_llm import LLM

    made: dict[str, Any] = {}

    def open_(**changes: Any) -> Any:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = LLM(str(narrow.folder), **{**AS_SERVED, **changes})
        return made[key]

    yield open_
    for llm in made.values():
        llm.shutdown()


@pytest.fixture
def llm(opened: Callable[..., Any]) -> Any:
    return opened()
