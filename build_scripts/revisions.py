"""Which checkpoint it is: the revision of its manifest, or, of a download without one, the hash over its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tritonguard.errors import BundleError

from engines.manifest import NAME, read_manifest, sha256_file

_READ = (".safetensors", ".json", ".jinja", ".model")


def revision_of(folder: Path, *, kind: str = "checkpoint") -> str:
    """64 hex digits: what `write_manifest` gives, or would give of the files that are read.

    Raises BundleError: no folder, or a manifest of another kind.
    """
    if not folder.is_dir():
        raise BundleError(f"there is no folder {folder}")
    if (folder / NAME).is_file():
        manifest = read_manifest(folder)
        if manifest["kind"] != kind:
            raise BundleError(f"{folder} is of kind {manifest['kind']!r}, expected is {kind!r}")
        return str(manifest["revision"])
    paths = sorted(path for path in folder.iterdir() if path.suffix in _READ and path.is_file())
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in paths}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
