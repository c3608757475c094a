"""How long a pass takes, several forms in turn, so that a noisy machine disturbs all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from build_scripts.request_sizes import PREFIX, SUFFIX
from engines.checkpoint import Checkpoint
from engines.local.context import Context
from engines.local.engine_config import EngineConfig
from engines.local.text_runtime import TextRuntime, load_text_runtime
from engines.local.tree import Tree, pass_inputs

_WARM_UPS = 2


@dataclass(frozen=True)
class Form:
    """folder: of a bundle, or of a text graph and its config.json. how: how to run it."""

    folder: Path
    how: EngineConfig

    @classmethod
    def of(cls, bundle: Path) -> Form:
        """Run as the bundle says. Raises BundleError where that can't be read."""
        return cls(bundle, EngineConfig.read(bundle))


def pass_times(forms: Mapping[str, Form], *, batches: Sequence[int], rounds: int = 3) -> dict[str, dict[int, float]]:
    """{form: {batch: median milliseconds}} of one pass over `batch` short requests behind a cached prefix.

    All forms are loaded together and run in turn in each round, behind one round that warms up. Raises BundleError for
    a form that can't be loaded.
    """
    runtimes = {name: load_text_runtime(form.folder, form.how) for name, form in forms.items()}
    asked = {batch: short_requests(next(iter(forms.values())).folder, batch) for batch in batches}
    times: dict[str, dict[int, list[float]]] = {name: {batch: [] for batch in batches} for name in runtimes}
    for round_number in range(rounds + 1):
        for name, runtime in runtimes.items():
            for batch, inputs in asked.items():
                began = time.perf_counter()
                runtime.run(**inputs)
                if round_number:
                    times[name][batch].append((time.perf_counter() - began) * 1e3)
    return {
        name: {batch: statistics.median(values) for batch, values in found.items()} for name, found in times.items()
    }


@dataclass(frozen=True)
class Halves:
    """Requests a second: of one pass on all threads, and of two halves of it at once, medians. gain: of the halves, the
    median of what they gained in each round; 1 is none."""

    batch: int
    one_pass: float
    two_halves: float
    gain: float


def halves_at_once(form: Form, *, batches: Sequence[int], rounds: int = 3) -> list[Halves]:
    """Each batch as one pass on all threads and as two halves at the same time on half of them each, in turn; medians.

    batches: even numbers. Raises BundleError for a form that can't be loaded.
    """
    whole, first = (load_text_runtime(form.folder, form.how, streams=streams) for streams in (1, 2))
    split = (first, first.beside())
    found = []
    with ThreadPoolExecutor(len(split)) as pool:
        for batch in batches:
            one, two = short_requests(form.folder, batch), short_requests(form.folder, batch // len(split))
            times: list[tuple[float, float]] = []
            for _ in range(_WARM_UPS + rounds):
                took = _seconds(whole, one)
                began = time.perf_counter()
                list(pool.map(_seconds, split, [two] * len(split)))
                times.append((took, time.perf_counter() - began))
            times = times[_WARM_UPS:]
            one_pass, two_halves = (batch / statistics.median(each) for each in zip(*times, strict=True))
            gain = statistics.median(took / cut for took, cut in times)
            found.append(Halves(batch, one_pass, two_halves, gain))
    return found


def _seconds(runtime: TextRuntime, inputs: Mapping[str, npt.NDArray[Any]]) -> float:
    began = time.perf_counter()
    runtime.run(**inputs)
    return time.perf_counter() - began


def short_requests(folder: Path, batch: int) -> dict[str, npt.NDArray[Any]]:
    """The inputs of a pass over `batch` short requests of random ids behind a prefix of random states."""
    config = Checkpoint.read_config(folder)
    generator = np.random.default_rng(0)
    states = generator.standard_normal(
        (2, config.num_hidden_layers, config.num_key_value_heads, PREFIX, config.head_dim), np.float32
    )
    trees = [Tree(tuple(generator.integers(0, config.vocab_size, SUFFIX).tolist()), last=True) for _ in range(batch)]
    return pass_inputs(Context(PREFIX, *states), trees, candidates=[0, 1], image_token=-1, padded=True)
