"""A tiny random checkpoint's graphs behind the real engine, and programs for it that need no tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_checkpoint import tiny_config, write_checkpoint

from engines.checkpoint import Checkpoint
from engines.local.engine import SERVED_CHOICES, SERVED_SEGMENTS, LocalEngine
from engines.local.forward_openvino import build_graph
from engines.local.head_openvino import HeadRuntime
from engines.local.passes import Passes
from engines.local.runtime import Runtime, VisionRuntime
from engines.local.vision_openvino import build_vision_graph
from engines.program import Choice, Forced, Program
from engines.protocol import Capabilities, Job

SAFE, UNSAFE, END = 7, 8, 3
USER, RESPONSE = Choice("user", SAFE, UNSAFE), Choice("response", SAFE, UNSAFE)
PROGRAM = Program((Forced((5, 6)), USER))
PAIR = Program((Forced((5, 6)), USER, Forced((4, 6)), RESPONSE))
VOCABULARY = 96


def load_tiny(folder: Path, *, vision: str = "none") -> LocalEngine:
    write_checkpoint(folder, tiny_config())
    return tiny_engine(tiny_passes(folder, tower=vision != "none"), vision=vision)


def tiny_engine(passes: Passes, *, vision: str = "none", **values: Any) -> LocalEngine:
    """values: to LocalEngine."""
    return LocalEngine(passes, Capabilities(SERVED_SEGMENTS, SERVED_CHOICES, vision, 512), **values)


def tiny_passes(folder: Path, *, tower: bool = False, pair: bool = False) -> Passes:
    """pair: batches are cut in two that run at once."""
    checkpoint = Checkpoint.open(folder)
    _kept.append(checkpoint)  # the graph's constants are views of its files
    graph = build_graph(checkpoint)

    def make_pair() -> tuple[Runtime, Runtime]:
        first = Runtime(graph, precision="f32", streams=2)
        return first, first.beside()

    runtime = Runtime(graph, precision="f32")
    return Passes(
        runtime,
        checkpoint.text_config,
        image_token=VOCABULARY,
        head=HeadRuntime.of(checkpoint, precision="f32"),
        vision=VisionRuntime(build_vision_graph(checkpoint), precision="f32") if tower else None,
        pair=make_pair if pair else None,
    )


_kept: list[Checkpoint] = []


def job(length: int, *, prefix: int = 0, seed: int = 0, **values: Any) -> Job:
    """A random prompt; prompts of the same `prefix` share that many leading ids."""
    head = np.random.default_rng(999).integers(9, VOCABULARY, 64)[:prefix]
    tail = np.random.default_rng(seed).integers(9, VOCABULARY, length - prefix)
    return Job(np.concatenate([head, tail]).astype(np.int32), prefix, **{"program": PROGRAM, **values})
