"""The engines that the suite runs on: the local one and the one on the double, over the same tiny checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from conformance import DOUBLE, LOCAL, Subject
from definition import Definition, tiny_passes
from tiny_bundle import Tiny

from engines.local.engine import LocalEngine


@contextmanager
def local_subject(tiny: Tiny, definition: Definition) -> Iterator[Subject]:
    engine = LocalEngine(tiny_passes(tiny.folder), tiny.bundle().capabilities)
    yield Subject(LOCAL, engine, tiny, lambda: local_subject(tiny, definition), definition)
    engine.close()


@contextmanager
def double_subject(tiny: Tiny, definition: Definition) -> Iterator[Subject]:
    """The engine as `load` makes it of the bundle. Left out is what needs a GPU (the checks of the machine) and what
    needs Gemma's own tokenizer (the examples that warm it up)."""
    engine = load_on_double(tiny)
    from tensorrt_llm import _controls

    yield Subject(DOUBLE, engine, tiny, lambda: double_subject(tiny, definition), definition, _controls.latest())
    _controls.latest().release()
    engine.close()


def load_on_double(tiny: Tiny) -> Any:
    """Raises BundleError as `TensorRtLlmEngine.load` does."""
    from engines.tensorrt_llm import engine

    with ExitStack() as stack:
        for name, value in (("check_machine", None), ("require", None), ("read_machine", None), ("warm_up_jobs", ())):
            stack.enter_context(mock.patch.object(engine, name, return_value=value))
        return engine.TensorRtLlmEngine.load(tiny.bundle())
