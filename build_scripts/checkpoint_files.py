"""What goes along with a checkpoint's weights from one folder to the next, and what a build may replace."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from tritonguard.errors import BundleError

from engines.manifest import NAME

NOTICES = "notices"
_COPIED = ("*.json", "*.jinja", "*.model")
_NOTICES = ("LICENSE*", "NOTICE*", "README*", "GEMMA_TERMS*")


def copy_described(source: Path, folder: Path, *, but: Collection[str] = ()) -> None:
    """Config, tokenizer, template and processor of `source`, as bytes; not its manifest, nor the names in `but`."""
    for path in sorted(path for pattern in _COPIED for path in source.glob(pattern)):
        if path.name not in {NAME, *but}:
            shutil.copyfile(path, folder / path.name)


def own_notices(folder: Path) -> dict[str, Path]:
    """{name: file} of licence terms and the like, as a download or an adapter has them."""
    return {path.name: path for pattern in _NOTICES for path in sorted(folder.glob(pattern)) if path.is_file()}


def kept_notices(folder: Path) -> dict[str, Path]:
    """{name below NOTICES: file} of what a build put there."""
    below = folder / NOTICES
    return {str(path.relative_to(below)): path for path in sorted(below.rglob("*")) if path.is_file()}


def copy_notices(notices: dict[str, Path], folder: Path) -> None:
    """notices: {name below NOTICES: file}."""
    for name, path in sorted(notices.items()):
        (folder / NOTICES / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / NOTICES / name)


def refuse_overwriting(out: Path, *read: Path) -> None:
    """`out` is replaced as a whole: it must be new, empty, or a folder that a build made, and none of those read."""
    resolved = out.resolve()
    for folder in (each.resolve() for each in read):
        if resolved == folder or resolved in folder.parents or folder in resolved.parents:
            raise BundleError(f"--out {out} overlaps {folder.name}, which is read")
    if out.exists() and not (out / NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"--out {out} holds something that no build made; remove it or choose another")
