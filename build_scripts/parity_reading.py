"""What one deployment said about one row, in the one form that is compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tritonguard.label import Label, Safety

from build_scripts.parity_corpus import Row

EXACT_MARGINS = math.inf
PROBABILITY_MARGINS = 12.0
"""Largest |margin| in nats that a probability sent as FP32 still holds to about 0.01: the spacing of FP32 below 1 is
6e-8, and 1 - P is e^-12 = 6e-6 there."""


class SideError(Exception):
    """A deployment that can't be opened or asked at all. Holds no user text and no secret."""


@dataclass(frozen=True)
class Reading:
    """label: None exactly where there is an error (one line, no user text).

    margins: of each choice in program order, log P(unsafe) - log P(safe) in nats; () where the label is
    indeterminate or missing. ms: from submitting the row until its answer. prompt_tokens: None: not known.
    """

    label: Label | None
    margins: tuple[float, ...] = ()
    ms: float = math.nan
    prompt_tokens: int | None = None
    error: str | None = None

    @property
    def judged(self) -> bool:
        """True where there is a safe or unsafe for every side, with finite margins."""
        return self.label is not None and not self.label.is_indeterminate and bool(self.margins)

    @property
    def unsafe(self) -> tuple[bool, ...]:
        """Is it unsafe, for each choice. Raises ValueError without a label."""
        if self.label is None:
            raise ValueError("there is no label")
        return tuple(safety is Safety.UNSAFE for _, safety, _ in self.label.sides if safety is not None)


def of_label(label: Label, margins: Sequence[float], *, ms: float, prompt_tokens: int | None = None) -> Reading:
    """A reading. Margins that are not finite make its label indeterminate: a comparison would drop them unseen."""
    if label.is_indeterminate:
        return Reading(label, ms=ms, prompt_tokens=prompt_tokens)
    if not all(map(math.isfinite, margins)):
        has_response = label.response_safety is not None
        label = Label.indeterminate("a margin is not a finite number", has_response=has_response)
        return Reading(label, ms=ms, prompt_tokens=prompt_tokens)
    return Reading(label, tuple(margins), ms, prompt_tokens)


def margins_of_logprobs(logprobs: npt.NDArray[np.float32]) -> tuple[float, ...]:
    """logprobs float32 [choices, 2] (log P(safe), log P(unsafe)) -> logit(unsafe) - logit(safe) in nats.

    Both log-probabilities are logits less the same normaliser (log-softmax), which falls out of the difference.
    """
    return tuple(float(unsafe) - float(safe) for safe, unsafe in logprobs)


def margin_of_probability(p_unsafe: float, limit: float = PROBABILITY_MARGINS) -> float:
    """log(p / (1 - p)), the same margin read from a probability, held within +-limit."""
    if not 0.0 <= p_unsafe <= 1.0:
        return math.nan
    if p_unsafe in (0.0, 1.0):
        return math.copysign(limit, p_unsafe - 0.5)
    return min(max(math.log(p_unsafe) - math.log1p(-p_unsafe), -limit), limit)


class Side(Protocol):
    """A deployment. Not thread-safe; `read` never raises for what a row does, it answers with an error.

    margin_limit: largest |margin| that it can say. taxonomy: version of its category list; None: not known.
    """

    @property
    def name(self) -> str: ...

    @property
    def margin_limit(self) -> float: ...

    @property
    def taxonomy(self) -> str | None: ...

    def describe(self) -> dict[str, str | None]:
        """What it is, for the report: kind, revision, precision."""
        ...

    def prompt_ids(self, row: Row) -> tuple[tuple[int, ...], int] | None:
        """The prompt's token ids and how many depend on the policy alone; None: this side keeps them to itself."""
        ...

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        """One reading a row, in order. The rows go out together."""
        ...

    def close(self) -> None: ...
