"""A result folder appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tritonguard.errors import BundleError

_NEW, _REPLACED = "new", "replaced"


@contextmanager
def finished_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success it replaces `out`, on any exception it is removed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield new_folder(workspace)
        publish(workspace, out)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def new_folder(workspace: Path) -> Path:
    """The folder of a workspace (itself beside `out`) that `publish` makes to `out`."""
    folder = workspace / _NEW
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    return folder


def publish(workspace: Path, out: Path) -> None:
    """Put the workspace's new folder in `out`'s place. Raises BundleError when `out` is no folder.

    Only whole folders are renamed: whoever reads `out` finds the old one, the new one, or (killed between the
    two renames) none. The old one is then in the workspace, for `restore`.
    """
    if out.exists() and not out.is_dir():
        raise BundleError(f"{out} is not a folder")
    _flush(workspace / _NEW)
    try:
        if out.exists():
            out.rename(workspace / _REPLACED)
        (workspace / _NEW).rename(out)
    except BaseException:
        restore(workspace, out)
        raise


def restore(workspace: Path, out: Path) -> None:
    """Put back what `publish` had moved away, where nothing has taken its place."""
    if (workspace / _REPLACED).exists():
        if out.exists():
            shutil.rmtree(workspace / _REPLACED)
        else:
            (workspace / _REPLACED).rename(out)


def _flush(folder: Path) -> None:
    """Bytes reach the disk before the name does: else a power cut leaves whole names with empty files."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
