"""Sides of a comparison that say what a test wants, in the place of deployments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritonguard.label import Label, label_from_choices
from tritonguard.policy import Policy
from tritonguard.policy_parts import parts_of
from tritonguard.request import GuardRequest

from build_scripts.parity_corpus import Row
from build_scripts.parity_figures import Pair
from build_scripts.parity_reading import EXACT_MARGINS, Reading, of_label


def row(name: str = "r", *, known: tuple[bool | None, bool | None] = (None, None), **values: Any) -> Row:
    language = values.pop("language", "en")
    policy = values.pop("policy", Policy())
    request = GuardRequest.create(**{"prompt": "Is it late?", "policy": policy, **values})
    return Row(name, request, parts_of(policy)[0], language, known)


def label(*margins: float, categories: tuple[str, ...] | None = None) -> Label:
    pair = np.array([[-np.logaddexp(0, m), -np.logaddexp(0, -m)] for m in margins], np.float32)
    said = label_from_choices(pair, has_response=len(margins) == 2)
    return said.model_copy(update={"categories": categories})


def reading(*margins: float, categories: tuple[str, ...] | None = None, ms: float = 1.0) -> Reading:
    return of_label(label(*margins, categories=categories), margins, ms=ms)


def failed(error: str = "unavailable") -> Reading:
    return Reading(None, error=error)


def indeterminate() -> Reading:
    return Reading(Label.indeterminate("there is no verdict", has_response=False), ms=1.0)


def pairs(a: Sequence[float], b: Sequence[float]) -> list[Pair]:
    """Rows with one choice each."""
    return [
        Pair(row(f"r{index}"), reading(one), reading(other))
        for index, (one, other) in enumerate(zip(a, b, strict=True))
    ]


@dataclass
class SaidSide:
    """Answers by a row's id. batches: the ids of each call, in order."""

    readings: Mapping[str, Reading]
    ids: tuple[tuple[int, ...], int] | None = ((1, 2, 3, 4), 2)
    taxonomy: str | None = "t"
    margin_limit: float = EXACT_MARGINS
    name: str = "said"
    batches: list[list[str]] = field(default_factory=list)

    def describe(self) -> dict[str, str | None]:
        return {"kind": "said"}

    def prompt_ids(self, row: Row) -> tuple[tuple[int, ...], int] | None:
        return self.ids

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        self.batches.append([one.id for one in rows])
        return [self.readings[one.id] for one in rows]

    def close(self) -> None:
        pass
