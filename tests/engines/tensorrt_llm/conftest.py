"""The double of TensorRT-LLM on the path, and tiny bundles for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

if TYPE_CHECKING:
    from tiny_bundle import Tiny

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

DOUBLE = HERE.parents[1] / "tensorrt_llm_double"
_STANDS_IN = ("tensorrt_llm", "torch")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: runs TensorRT-LLM itself, where TRITONGUARD_GPU_BUNDLE names a bundle")


@pytest.fixture(scope="module")
def double() -> Iterator[None]:
    """`import tensorrt_llm` finds the double, and `import torch` a stand-in where there is no torch; gone afterwards,
    with what the engine has put into the environment."""
    environment, path = dict(os.environ), list(sys.path)
    sys.path.insert(0, str(DOUBLE))
    sys.path.append(str(DOUBLE / "torch_stand_in"))
    before = set(sys.modules)
    # Graphs this small take longer on two threads than on one.
    with mock.patch.object(os, "sched_getaffinity", return_value={0}):
        yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in _STANDS_IN:
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)


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
