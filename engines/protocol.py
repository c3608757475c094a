"""What an engine is: jobs in, answers out. Every target (local, tensorrt_llm) stands behind this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tritonguard.errors import GuardError

from engines.program import Program


@dataclass(frozen=True)
class Capabilities:
    """What an engine over its bundle can do; the bundle's manifest declares it.

    segments: names of the program segments it executes ("Forced", "Choice", "NameList", "FreeText").
    choices: most choices in one program (1: the prompt's verdict; 2: the response's too).
    vision: "none" (no tower in the bundle), "untrained" or "trained".
    max_tokens: longest prompt, in tokens.
    """

    segments: frozenset[str]
    choices: int
    vision: str
    max_tokens: int


@dataclass(frozen=True)
class Job:
    """One prompt and the program that answers it.

    ids: int32 [n], the prompt. prefix_length: how many leading ids depend on the policy alone and may be
    reused between jobs; 0 when unknown. pixels: uint8 [images, size, size, 3], RGB, in the order of the image
    marks in the prompt; None: no image. deadline_ns: CLOCK_MONOTONIC of this host; None: no deadline. priority: the
    higher goes first, where an engine has jobs that wait for a pass.
    """

    ids: npt.NDArray[np.int32]
    prefix_length: int
    program: Program
    pixels: npt.NDArray[np.uint8] | None = None
    deadline_ns: int | None = None
    priority: int = 0

    @property
    def own_length(self) -> int:
        """Ids behind the prefix, of which there is at least one: a pass needs a query."""
        return len(self.ids) - min(self.prefix_length, len(self.ids) - 1)

    @property
    def split(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids of the prefix, and those behind it."""
        cut = len(self.ids) - self.own_length
        return tuple(self.ids[:cut].tolist()), tuple(self.ids[cut:].tolist())


@dataclass(frozen=True)
class Answer:
    """What the model said.

    choice_logprobs: float32 [choices, 2], log P(safe) and log P(unsafe), normalised over the two; the
    response's is conditional on the likelier user label. ids: the answer's token ids, forced ones included,
    without the end of the turn. truncated: the reasoning was ended by its budget. bounded: an option of a choice was
    not among the likeliest tokens that the engine reports, and stands there with the most that it can be.
    prefix_reused: prompt tokens whose keys and values came from the cache. timings_ms: milliseconds by phase.
    """

    choice_logprobs: npt.NDArray[np.float32]
    ids: tuple[int, ...]
    prefix_reused: int
    truncated: bool = False
    bounded: bool = False
    timings_ms: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """Thread-safe. `run` answers every job, in order, with an Answer or the typed reason why there is none."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def lanes(self) -> int:
        """Calls of `run` that may go on at once. 1: only what comes in one call shares a pass."""
        ...

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]: ...

    def statistics(self) -> Mapping[str, float]:
        """What the engine counts of itself, by name, for the server's metrics; may be empty."""
        ...

    def health(self) -> bool:
        """Whether it can still answer."""
        ...

    def close(self) -> None:
        """Finish what runs and give the device back. A call of `run` after it is answered with Unavailable."""
        ...
