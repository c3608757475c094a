"""What was judged, beside how fast: right or wrong where the texts are labelled, and flips against a reference.

The reference is the result of an earlier run (`--reference`: another bundle, another form of the numbers), or, without
one, the first answer that this run itself got to the same request: then a flip is a verdict that changed with the load.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonguard.errors import InvalidRequest
from tritonguard.label import Label, Safety

from benchmarks.latency.loops import VERDICT, Sample

OWN = "own first answers"


@dataclass(frozen=True)
class Judged:
    """user, response: safe, unsafe or indeterminate; None: no response. p_user, p_response: of unsafe, or None."""

    user: str
    response: str | None
    p_user: float | None
    p_response: float | None

    @classmethod
    def of(cls, label: Label) -> Judged:
        """Of the texts alone where the label is about images that could not be judged."""
        said = label.text_only or label
        response = None if said.response_safety is None else said.response_safety.value
        return cls(said.user_safety.value, response, said.p_unsafe_user, said.p_unsafe_response)

    @property
    def sides(self) -> tuple[str, str | None]:
        return self.user, self.response


@dataclass(frozen=True)
class Flips:
    """compared: verdicts that the reference has too. flipped: those with another label. p_moved: the largest difference
    of a probability."""

    compared: int
    flipped: int
    p_moved: float


@dataclass(frozen=True)
class Accuracy:
    """labelled: sides of verdicts of which it is known whether they are unsafe. right: those that got that label."""

    labelled: int
    right: int

    @property
    def share(self) -> float | None:
        return self.right / self.labelled if self.labelled else None


def judged_of(samples: Iterable[Sample]) -> dict[str, Judged]:
    """The first verdict for each key, in the order of the samples."""
    first: dict[str, Judged] = {}
    for sample in samples:
        if (label := _label(sample)) is not None:
            first.setdefault(sample.planned.key, Judged.of(label))
    return first


def flips(samples: Iterable[Sample], reference: Mapping[str, Judged]) -> Flips:
    compared = flipped = 0
    moved = 0.0
    for sample in samples:
        label, known = _label(sample), reference.get(sample.planned.key)
        if label is None or known is None:
            continue
        own = Judged.of(label)
        compared += 1
        flipped += own.sides != known.sides
        for a, b in ((own.p_user, known.p_user), (own.p_response, known.p_response)):
            if a is not None and b is not None:
                moved = max(moved, abs(a - b))
    return Flips(compared, flipped, moved)


def accuracy(samples: Iterable[Sample]) -> Accuracy:
    labelled = right = 0
    for sample in samples:
        label = _label(sample)
        if label is None:
            continue
        for known, said in zip(sample.planned.known, (label.user_safety, label.response_safety), strict=True):
            if known is not None and said is not None:
                labelled += 1
                right += said is (Safety.UNSAFE if known else Safety.SAFE)
    return Accuracy(labelled, right)


def read_reference(path: Path) -> dict[str, Judged]:
    """The verdicts of an earlier run's result. Raises InvalidRequest for a file that is none."""
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        reference = {str(key): Judged(**judged) for key, judged in values["verdicts"].items()}
    except OSError as error:
        raise InvalidRequest(f"{path.name} can't be read: {error.strerror}", field="reference") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InvalidRequest(f"{path.name} is not the JSON of an earlier run", field="reference") from None
    if not reference:
        raise InvalidRequest(f"{path.name} holds no verdict", field="reference")
    return reference


def _label(sample: Sample) -> Label | None:
    return None if sample.reply.word != VERDICT or sample.reply.verdict is None else sample.reply.verdict.label
