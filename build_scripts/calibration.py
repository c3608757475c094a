"""The calibration set: requests in every language of the guard, drawn from a file. What a target's model is given of
them is the target's (`openvino/calibration_inputs.py`, `tensorrt_llm/calibration_inputs.py`).

The rows are a corpus as `parity_corpus` reads it, and none of them is in the parity corpus: a scale that was fitted to
a row says nothing about the next one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from build_scripts.parity_corpus import CorpusError, Row, read_corpus
from engines.manifest import sha256_file

SHIPPED = Path(__file__).with_name("calibration_prompts.jsonl")
DEFAULT_ROWS = 48
"""With their prefixes about 11,000 tokens: more change what is measured little, and take minutes."""


@dataclass(frozen=True)
class CalibrationSet:
    """rows: those drawn. file, sha256: name and hash of the file that they are from. seed: of the draw."""

    rows: tuple[Row, ...]
    file: str
    sha256: str
    seed: int

    def describe(self) -> dict[str, str | int]:
        """For a manifest: with the file, it says which rows these are."""
        return {"file": self.file, "sha256": self.sha256, "rows": len(self.rows), "seed": self.seed}


def draw(path: Path = SHIPPED, *, count: int | None = None, seed: int = 0) -> CalibrationSet:
    """`count` rows of a file, drawn without replacement, in the order of the draw; None: all of them.

    Raises CorpusError: a file that can't be read, a count below 1 or above the file's.
    """
    rows = read_corpus(path)
    count = len(rows) if count is None else count
    if not 1 <= count <= len(rows):
        raise CorpusError(f"{path.name} holds {len(rows)} rows; {count} can't be drawn")
    return CalibrationSet(tuple(random.Random(seed).sample(rows, count)), path.name, sha256_file(path), seed)
