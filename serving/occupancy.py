"""When the engine could be done with one more request: shown by `decode`, read at the door.

A request that the queue would refuse is then refused before it is tokenised, so that refusing costs the engine as
little as can be. What passes the door is still the queue's to admit.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

VARIABLE = "TRITONGUARD_OCCUPANCY"
"""File that the stages of one server share; empty or not set: the door knows nothing, and lets all pass."""

_SHAPE = (1,)  # of int64, in the machine's byte order: one aligned word, so that nobody reads half a time


class Occupancy:
    """One time, in nanoseconds of the monotonic clock, which all processes of a machine have in common."""

    def __init__(self, path: Path | None) -> None:
        """path: a file that `clear` made. Raises OSError or ValueError where it is none."""
        self._word = np.zeros(_SHAPE, np.int64) if path is None else np.memmap(path, np.int64, "r+", shape=_SHAPE)

    @classmethod
    def of_server(cls) -> Occupancy:
        """That of the server which this process belongs to."""
        path = os.environ.get(VARIABLE)
        return cls(Path(path) if path else None)

    @staticmethod
    def clear(path: Path) -> None:
        """Make the file, or make it say that the engine is free: nobody has shown anything yet."""
        path.write_bytes(bytes(np.zeros(_SHAPE, np.int64)))

    def show(self, done_ns: int) -> None:
        """Say when another request, of the lowest priority, would be done; 0: as soon as it can be run."""
        self._word[0] = done_ns

    def done_ns(self) -> int:
        """What was shown last."""
        return int(self._word[0])
