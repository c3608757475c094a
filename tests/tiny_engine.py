"""A tiny random checkpoint's graph behind the real engine, for tests that need no embedded weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_checkpoint import tiny_config, write_checkpoint

from engines.checkpoint import Checkpoint
from engines.local.engine import SERVED_CHOICES, SERVED_SEGMENTS, LocalEngine
from engines.local.forward_openvino import build_graph
from engines.local.runtime import Runtime
from engines.program import Choice, Forced, Program
from engines.protocol import Capabilities, Job

PROGRAM = Program((Forced((5, 6)), Choice("user", safe=7, unsafe=8)))
VOCABULARY = 96


def load_tiny(folder: Path) -> LocalEngine:
    write_checkpoint(folder, tiny_config())
    checkpoint = Checkpoint.open(folder)
    runtime = Runtime(build_graph(checkpoint), precision="f32")
    capabilities = Capabilities(SERVED_SEGMENTS, SERVED_CHOICES, "none", 512)
    engine = LocalEngine(runtime, checkpoint.text_config, capabilities)
    engine_checkpoints.append(checkpoint)  # the graph's constants are views of its files
    return engine


engine_checkpoints: list[Checkpoint] = []


def job(length: int, *, prefix: int = 0, seed: int = 0, deadline_ns: int | None = None) -> Job:
    """A random prompt; prompts of the same `prefix` share that many leading ids."""
    head = np.random.default_rng(999).integers(9, VOCABULARY, 64)[:prefix]
    tail = np.random.default_rng(seed).integers(9, VOCABULARY, length - prefix)
    return Job(np.concatenate([head, tail]).astype(np.int32), prefix, PROGRAM, deadline_ns)
