"""What is known of a Triton server's processes from outside, by /proc (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_STUB = b"triton_python_backend_stub"
_SHARED_MEMORY = "/dev/shm/triton_python_backend_shm_region"  # nosec B108  # only read and removed, by its owner
_PR_SET_PDEATHSIG = 1
_GONE = "ZX"


def stubs(server: int) -> frozenset[int]:
    """Process ids of the server's Python stages."""
    found = set()
    for folder in _PROC.iterdir():
        if not folder.name.isdigit() or _parent(int(folder.name)) != server:
            continue
        with suppress(OSError):
            if Path(os.fsdecode(folder.joinpath("cmdline").read_bytes().split(b"\0")[0])).name == _STUB.decode():
                found.add(int(folder.name))
    return frozenset(found)


def is_alive(process: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    return _parent(process) is not None


def missing(children: Iterable[int], parent: int) -> frozenset[int]:
    """Those that are not living children of the parent any more."""
    return frozenset(child for child in children if _parent(child) != parent)


def shared_memory(server: int) -> frozenset[Path]:
    """Files of the regions that the server shares with its stages; killed, it leaves them behind."""
    try:
        maps = (_PROC / str(server) / "maps").read_text()
    except OSError:
        return frozenset()
    return frozenset(
        Path(line.split()[-1]) for line in maps.splitlines() if line.split()[-1].startswith(_SHARED_MEMORY)
    )


def end_with_parent() -> Callable[[], None] | None:
    """For `preexec_fn`: the child gets SIGTERM when this process ends, however it ends; None where that can't be.

    The system means the end of the thread that starts the child, so it is for the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    # All that is looked up, here: after the fork only the two calls may happen.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)

    return ask


def _parent(process: int) -> int | None:
    """Of a living process; None where there is none."""
    try:
        stat = (_PROC / str(process) / "stat").read_text()
    except OSError:
        return None
    # The name in brackets can hold anything, so from its end on.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return None if state in _GONE else int(parent)
