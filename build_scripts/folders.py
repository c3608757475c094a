"""A result folder appears whole or not at all.

.<name>-partial/    beside the folder `<name>`, locked while a process writes it
    new/            becomes <name> when it is whole
    replaced/       what was <name> before, between the two renames that exchange them
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tritonguard.errors import BundleError

_NEW, _REPLACED = "new", "replaced"


@contextmanager
def finished_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success it replaces `out`, on any exception it is removed.

    So is what a killed run left there. Raises BundleError as `locked_workspace` does.
    """
    with locked_workspace(out) as workspace:
        try:
            shutil.rmtree(workspace / _NEW, ignore_errors=True)
            yield new_folder(workspace)
            publish(workspace, out)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)


@contextmanager
def locked_workspace(out: Path) -> Iterator[Path]:
    """Yield the workspace of `out`, as the run before left it; but what a kill had moved away is put back first.

    Raises BundleError while another process has it, and for an OSError inside.
    """
    workspace = _workspace(out)
    with plain_file_errors(out):
        workspace.mkdir(parents=True, exist_ok=True)
        with _locked(workspace, out):
            restore(workspace, out)
            yield workspace


def remove_partial(out: Path) -> None:
    """Remove what a killed run left beside `out`, unless a process is writing it."""
    workspace = _workspace(out)
    with suppress(FileNotFoundError, BundleError), _locked(workspace, out):
        shutil.rmtree(workspace, ignore_errors=True)


@contextmanager
def plain_file_errors(writing: Path | None = None) -> Iterator[None]:
    """An OSError inside (a full disk, no permission) becomes a BundleError: its reason and its file, else `writing`."""
    try:
        yield
    except OSError as error:
        reason, name = error.strerror or error, error.filename or writing
        raise BundleError(f"reading or writing failed: {reason}{f': {name}' if name else ''}") from error


def new_folder(workspace: Path) -> Path:
    """The folder of a workspace that `publish` makes to `out`."""
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


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under two names; a copy where the file system has no such thing."""
    with suppress(OSError):
        os.link(source.resolve(), target)
        return
    shutil.copyfile(source, target)


def _flush(folder: Path) -> None:
    """Bytes reach the disk before the name does: else a power cut leaves whole names with empty files."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _workspace(out: Path) -> Path:
    return out.parent / f".{out.name}-partial"


@contextmanager
def _locked(workspace: Path, out: Path) -> Iterator[None]:
    """The kernel frees the lock of a killed process."""
    lock = os.open(workspace, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BundleError(f"another process is writing {out}") from error
        yield
    finally:
        os.close(lock)
