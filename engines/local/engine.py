"""The local engine: decode programs on the OpenVINO graph of a bundle.

A verdict is one pass: prompt and forced head behind the cached prefix, the choice read from the last
logits. Jobs that share a prefix ride in one batch.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonguard.errors import BundleError, DeadlineExceeded, GuardError, Unimplemented

from engines.bundle import Bundle
from engines.checkpoint import Checkpoint, FloatArray, TextConfig
from engines.local.runtime import Runtime
from engines.program import Choice, Forced, Program
from engines.protocol import Answer, Capabilities, Job

SERVED_SEGMENTS = frozenset({"Forced", "Choice"})
"""Program segments that this release executes, and no more than one choice in a program."""
SERVED_CHOICES = 1
_KEPT_PREFIXES = 16


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a policy's tokens, float32 [layers, kv heads, T, head dim]; `length` of them count."""

    length: int
    keys: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class _Read:
    """One job, reduced to what a single pass needs: the suffix behind the prefix and the choice after it."""

    index: int
    prefix: tuple[int, ...]
    suffix: npt.NDArray[np.int32]
    choice: Choice


class LocalEngine:
    """Thread-safe: one pass at a time over one graph."""

    def __init__(self, runtime: Runtime, config: TextConfig, capabilities: Capabilities) -> None:
        self._runtime = runtime
        self._config = config
        self._capabilities = capabilities
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, bundle: Bundle) -> LocalEngine:
        """Compile the bundle's graph for this CPU. Raises BundleError when it can't be."""
        config = Checkpoint.read_config(bundle.folder)
        return cls(Runtime.load(bundle.folder, precision=bundle.precision), config, bundle.capabilities)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        """One result per job: an Answer; DeadlineExceeded if its time ran out before its pass began or ended;
        Unimplemented for a program that this engine can't execute. Any other failure is raised.
        """
        results: list[Answer | GuardError | None] = [None] * len(jobs)
        groups: dict[tuple[int, ...], list[_Read]] = defaultdict(list)
        with self._lock:
            for index, job in enumerate(jobs):
                try:
                    _refuse_late(job)
                    read = self._read(index, job)
                except GuardError as error:
                    results[index] = error
                else:
                    groups[read.prefix].append(read)
            for ids, reads in groups.items():
                for read, answer in zip(reads, self._verdicts(ids, reads), strict=True):
                    results[read.index] = _on_time(jobs[read.index], answer)
        return [result if result is not None else BundleError("a job was not run") for result in results]

    def _read(self, index: int, job: Job) -> _Read:
        choice = single_choice(job.program)
        head = [id for segment in job.program.segments if isinstance(segment, Forced) for id in segment.ids]
        # The last prompt token always belongs to the suffix: a pass needs at least one query.
        cut = min(job.prefix_length, len(job.ids) - 1)
        suffix = np.concatenate([job.ids[cut:], np.asarray(head, np.int32)])
        return _Read(index, tuple(job.ids[:cut].tolist()), suffix, choice)

    def _verdicts(self, ids: tuple[int, ...], reads: Sequence[_Read]) -> list[Answer]:
        began = time.monotonic()
        prefix, reused = self._prefix(ids)
        ready = time.monotonic()
        # Right padding: under a causal mask no real token ever sees a padded one.
        length = max(len(read.suffix) for read in reads)
        batch = np.zeros((len(reads), length), np.int32)
        for row, read in enumerate(reads):
            batch[row, : len(read.suffix)] = read.suffix
        candidates = sorted({id for read in reads for id in (read.choice.safe, read.choice.unsafe)})
        last = [[len(read.suffix) - 1] for read in reads]
        logits, _, _ = self._runtime.run(**suffix_inputs(prefix, batch, rows=last, candidates=candidates))
        timings = {"prefix": (ready - began) * 1e3, "forward": (time.monotonic() - ready) * 1e3}
        answers = []
        for row, read in enumerate(reads):
            columns = [candidates.index(id) for id in (read.choice.safe, read.choice.unsafe)]
            logprobs = log_softmax(logits[row, :, columns].T)
            answers.append(Answer(logprobs, prefix.length if reused else 0, timings))
        return answers

    def _prefix(self, ids: tuple[int, ...]) -> tuple[Prefix, bool]:
        """Keys and values of these tokens, and whether they were there already."""
        if ids in self._prefixes:
            self._prefixes.move_to_end(ids)
            return self._prefixes[ids], True
        prefix = self._empty_prefix()
        if ids:
            inputs = suffix_inputs(prefix, np.asarray([ids], np.int32), rows=[[0]], candidates=[0])
            _, keys, values = self._runtime.run(**inputs)
            prefix = Prefix(len(ids), keys[:, 0].copy(), values[:, 0].copy())
        self._prefixes[ids] = prefix
        while len(self._prefixes) > _KEPT_PREFIXES:
            self._prefixes.popitem(last=False)
        return prefix, False

    def _empty_prefix(self) -> Prefix:
        """OpenVINO refuses zero keys, so one that nothing may see stands for none."""
        config = self._config
        zeros = np.zeros((config.num_hidden_layers, config.num_key_value_heads, 1, config.head_dim), np.float32)
        return Prefix(0, zeros, zeros)


def single_choice(program: Program) -> Choice:
    """The choice of a program of the form forced text, choice. Raises Unimplemented for any other."""
    if not program.kinds <= SERVED_SEGMENTS:
        missing = ", ".join(sorted(program.kinds - SERVED_SEGMENTS))
        raise Unimplemented(f"the local engine does not execute {missing} yet", field="mode")
    choices = [segment for segment in program.segments if isinstance(segment, Choice)]
    if len(choices) != SERVED_CHOICES:
        raise Unimplemented("the local engine executes exactly one choice", field="response")
    if program.segments[-1] is not choices[0]:
        raise Unimplemented("the local engine ends with the choice", field="mode")
    return choices[0]


def suffix_inputs(
    prefix: Prefix,
    ids: npt.NDArray[np.int32],
    *,
    rows: Sequence[Sequence[int]],
    candidates: Sequence[int],
) -> dict[str, npt.NDArray[Any]]:
    """The forward's inputs for plain causal suffixes `ids` [B, S] behind one prefix."""
    count, length = ids.shape
    held = prefix.keys.shape[2]
    visible = np.zeros((count, length, held + length), np.bool_)
    visible[:, :, : prefix.length] = True
    visible[:, :, held:] = np.tril(np.ones((length, length), np.bool_))
    positions = np.broadcast_to(np.arange(prefix.length, prefix.length + length, dtype=np.int32), (count, length))
    return {
        "ids": ids,
        "positions": positions,
        "visible": visible,
        "prefix_keys": prefix.keys,
        "prefix_values": prefix.values,
        "rows": np.asarray(rows, np.int32),
        "candidates": np.asarray(candidates, np.int32),
    }


def log_softmax(logits: FloatArray) -> FloatArray:
    """Over the last axis, in float64 on the way. NaN stays NaN: the verdict stage calls it indeterminate."""
    values = logits.astype(np.float64)
    shifted = values - values.max(axis=-1, keepdims=True)
    result: FloatArray = (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
    return np.minimum(result, np.float32(0.0))


def _refuse_late(job: Job) -> None:
    if job.deadline_ns is not None and time.monotonic_ns() >= job.deadline_ns:
        raise DeadlineExceeded("the deadline passed before the model ran")


def _on_time(job: Job, answer: Answer) -> Answer | GuardError:
    if job.deadline_ns is not None and time.monotonic_ns() >= job.deadline_ns:
        return DeadlineExceeded("the deadline passed while the model ran")
    return answer
