"""OpenVINO reads nothing past the ends of a pass's inputs: behind each stands a page that may not be read.

Its kernel for a gather with batch_dims did: 16 indices at a time, however few there are. Where the numbers ended with
the last mapped page, the process that served was gone.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tiny_checkpoint import tiny_config, write_checkpoint
from tiny_engine import VOCABULARY, tiny_passes

from engines.checkpoint import Checkpoint
from engines.local.forward_openvino import build_graph
from engines.local.head_openvino import build_head_graph
from engines.local.runtime import Runtime
from engines.local.tree import Tree
from engines.local.vision_openvino import build_vision_graph

BRANCHES = (4, 5), (6,)
PASSES = {
    "a prompt": [Tree((1, 2, 3), last=True)],
    "a prompt and a response": [Tree((1, 2, 3), BRANCHES, last=True)],
    "a batch": [Tree((1, 2, 3) * length, BRANCHES) for length in (1, 2, 2, 5, 6, 7, 9)],
    "an image": [
        Tree((1, *[VOCABULARY] * 4, 2), features=np.ones((4, tiny_config()["text_config"]["hidden_size"]), np.float32))
    ],
    "a token": [Tree((1,))],
    "a token of each row": [Tree((1,))] * 3,
}
PAGE = mmap.PAGESIZE
MOST_S = 300.0
_kept: list[mmap.mmap] = []


def at_an_end(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that ends where the memory that may be read does."""
    size = -(-array.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, size + PAGE)
    _kept.append(memory)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    nothing_allowed = 0
    assert protect(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + size, PAGE, nothing_allowed) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


def run_guarded(folder: Path) -> None:
    run = Runtime.run

    def guarded(runtime: Runtime, **inputs: npt.NDArray[Any]) -> Any:
        return run(runtime, **{name: at_an_end(value) for name, value in inputs.items()})

    Runtime.run = guarded  # type: ignore[method-assign]
    passes = tiny_passes(folder)
    context = passes.extend(passes.empty, [1, 2, 3, 4, 5])
    for name, trees in PASSES.items():
        print(name, flush=True)
        passes.run(context, trees, [1, 2])


def read_past_an_end() -> None:
    array = at_an_end(np.zeros(3, np.int32))
    print(ctypes.c_int.from_address(array.ctypes.data + array.nbytes).value)


def exit_code(target: Any, *args: Any) -> int | None:
    """Of a process of its own: what is looked for ends it. None: it did not end."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    process.start()
    process.join(MOST_S)
    return process.exitcode


def test_a_pass_reads_nothing_past_the_end_of_an_input(tmp_path: Path) -> None:
    assert exit_code(run_guarded, write_checkpoint(tmp_path / "checkpoint", tiny_config())) == 0


def test_a_process_that_reads_past_an_end_is_gone() -> None:
    assert exit_code(read_past_an_end) == -signal.SIGSEGV


def test_no_gather_has_batch_dims(tmp_path: Path) -> None:
    """Within the graph no page stands behind anything."""
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "checkpoint", tiny_config()))
    for graph in (build_graph(checkpoint), build_head_graph(checkpoint), build_vision_graph(checkpoint)):
        gathers = [node for node in graph.get_ops() if node.get_type_name() == "Gather"]
        assert {node.get_attributes().get("batch_dims", 0) for node in gathers} <= {0}
