"""A fault at the n-th thing that a build does to files below a folder: an interrupt, an order to stop, a full disk."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path
from typing import Any

import openvino as ov
import pytest

from build_scripts.progress import Steps

FAULTS: dict[str, Callable[[], BaseException]] = {
    "interrupt": KeyboardInterrupt,
    "stop": lambda: SystemExit(143),
    "full": lambda: OSError(ENOSPC, os.strerror(ENOSPC)),  # as of a write: it names no file
}
HALF = b"half"


class Fault:
    """seen: what was counted. reached: whether the error was raised."""

    def __init__(self, below: Path, number: int, error: BaseException) -> None:
        self._below, self._number, self._error = below, number, error
        self.seen = 0

    @property
    def reached(self) -> bool:
        return self.seen >= self._number

    def concerns(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).is_relative_to(self._below)

    def count(self, written: Path | None = None) -> None:
        """written: a file that is begun. At the n-th it is left with half of its bytes."""
        self.seen += 1
        if self.seen == self._number:
            if written is not None:
                with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT), "wb") as file:
                    file.write(HALF)
            raise self._error


@contextmanager
def fault_at(number: int, error: BaseException, *, below: Path) -> Iterator[Fault]:
    """Raise `error` in place of the n-th (from 1) of: a file opened for writing, a graph saved, a folder made, a mode
    set, a link, a rename, bytes flushed; and of a step that is told, which a full disk does not hinder.
    """
    fault = Fault(below, number, error)
    with pytest.MonkeyPatch.context() as patch:
        real_open, save_model, next_step = builtins.open, ov.save_model, Steps.next

        def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if set(mode) & set("wxa+") and fault.concerns(file):
                fault.count(Path(file))
            return real_open(file, mode, *arguments, **options)

        def saved(graph: ov.Model, path: Path, **options: Any) -> None:
            fault.count(Path(path))
            save_model(graph, path, **options)

        def stepped(steps: Steps, text: str) -> None:
            if not isinstance(error, OSError):
                fault.count()
            next_step(steps, text)

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def counting(path: Any, *arguments: Any, **options: Any) -> Any:
                # A descriptor is of a file that is there whole, to be flushed.
                if isinstance(path, int) or fault.concerns(path) or any(map(fault.concerns, arguments)):
                    fault.count()
                return call(path, *arguments, **options)

            return counting

        for module in (builtins, io):
            patch.setattr(module, "open", opened)
        for name in ("mkdir", "chmod", "link", "rename", "replace", "fsync"):
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(ov, "save_model", saved)
        patch.setattr(Steps, "next", stepped)
        yield fault
