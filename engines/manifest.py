"""manifest.json: the one format that says what a folder holds, what it was made from, and by what.

{"format": 1, "kind": "checkpoint" | "adapter" | "bundle", "tritonguard": version,
 "inputs": what it was made from, "files": {name: {"bytes", "sha256"}}, "revision": sha256 of files, ...extra}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tritonguard import __version__
from tritonguard.errors import BundleError

FORMAT = 1
NAME = "manifest.json"


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_FIELDS = {"kind": str, "revision": str, "inputs": dict, "files": dict}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises BundleError when there is none, or it is of another format or lacks what every manifest has."""
    try:
        manifest: dict[str, Any] = json.loads((folder / NAME).read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder.name} has no readable {NAME}") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise BundleError(f"{folder.name}/{NAME} has format {found!r}, this release reads {FORMAT}")
    for name, kind in _FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            raise BundleError(f"{folder.name}/{NAME} has no {name!r}")
    return manifest


def write_manifest(folder: Path, *, kind: str, inputs: Mapping[str, Any], **extra: Any) -> dict[str, Any]:
    """Hash every file of `folder` (subfolders too) and write its manifest. Returns the manifest."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in paths
    }
    revision = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "tritonguard": __version__,
        "inputs": dict(inputs),
        **extra,
        "revision": revision,
        "files": files,
    }
    (folder / NAME).write_text(json.dumps(manifest, indent=2, sort_keys=False) + "\n")
    return manifest


_WRITTEN = ("format", "kind", "tritonguard", "inputs", "revision", "files")


def extra_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What `write_manifest` was given beside kind and inputs, for a folder with some of the same files."""
    return {name: value for name, value in manifest.items() if name not in _WRITTEN}


def is_current(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """True when `folder` was made from `inputs` by this release and none of its files is missing or resized."""
    try:
        manifest = read_manifest(folder)
    except BundleError:
        return False
    if manifest["inputs"] != dict(inputs) or manifest["tritonguard"] != __version__:
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == spec["bytes"]
        for name, spec in manifest["files"].items()
    )


def verify_files(folder: Path, manifest: Mapping[str, Any], *, unread: Collection[str] = ()) -> None:
    """Raises BundleError unless `folder` holds exactly the files of its manifest, byte for byte.

    unread: suffixes of files that the caller never reads: only their presence and size are looked at.
    """
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != NAME}
    listed: Mapping[str, Any] = manifest["files"]
    for name in sorted(present ^ set(listed)):
        raise BundleError(f"{folder.name}: {name} is {'missing' if name in listed else 'not in the manifest'}")

    def is_whole(name: str) -> bool:
        path, spec = folder / name, listed[name]
        if path.stat().st_size != spec["bytes"]:
            return False
        return path.suffix in unread or sha256_file(path) == spec["sha256"]

    # Hashing leaves other threads run, and the largest file is most of a folder.
    with ThreadPoolExecutor() as pool:
        for name, whole in zip(listed, pool.map(is_whole, listed), strict=True):
            if not whole:
                raise BundleError(f"{folder.name}: {name} is not the file that was built")
