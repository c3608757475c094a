"""The processes of a server, as /proc shows them (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
STUB = b"triton_python_backend_stub"


def command(pid: int, proc: Path = PROC) -> list[bytes]:
    """The command line of a process; [] for one that has ended."""
    try:
        return (proc / str(pid) / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return []


def parents(proc: Path = PROC) -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                # The name, in brackets, may hold spaces and brackets of its own.
                after = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if after[0] != "Z":
                found[int(entry.name)] = int(after[1])
    return found


def descendants(root: int, proc: Path = PROC) -> list[int]:
    """Every living process under `root`, without itself."""
    above = parents(proc)

    def under(pid: int) -> Iterator[int]:
        for child in (one for one, parent in above.items() if parent == pid):
            yield child
            yield from under(child)

    return sorted(under(root))


def servers(root: int, proc: Path = PROC) -> list[int]:
    """The tritonserver processes at or under `root`."""
    return [
        pid for pid in [root, *descendants(root, proc)] if Path(os.fsdecode(_program(pid, proc))).name == "tritonserver"
    ]


def stubs(root: int, model: str, proc: Path = PROC) -> list[int]:
    """The stub processes of one model under `root`: the stub's first argument is the path of its model.py."""
    wanted = f"/{model}/".encode()
    found = []
    for pid in descendants(root, proc):
        line = command(pid, proc)
        if line and STUB in line[0] and any(wanted in argument for argument in line[1:2]):
            found.append(pid)
    return found


def _program(pid: int, proc: Path) -> bytes:
    line = command(pid, proc)
    return line[0] if line else b""
