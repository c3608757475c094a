"""Kernels that are compiled when they are first used, kept: in a folder of the machine, and in a warmed bundle.

FlashInfer compiles its attention kernels with nvcc at the first request of a shape, which takes minutes; Triton has
some too. A warmed bundle brings what was compiled, and a start puts it where those packages look.

The folder must have the same path where a bundle is warmed and where it is served. FlashInfer 0.6.4 keeps absolute
paths (jit/cpp_ext.py: the outputs in build.ninja) and asks ninja at each load whether they are up to date
(jit/core.py, build_and_load); Triton's entries name their files by absolute paths as well. Ninja goes by the times of
files, which a copy or an object store may lose: hence one tar, which has them inside.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tritonguard.errors import BundleError

KERNELS = "jit/kernels.tar"
"""In a bundle; only in a warmed one."""
FOLDER = "TRITONGUARD_JIT_CACHE"
"""Environment variable: the folder, where DEFAULT_FOLDER is not it."""
DEFAULT_FOLDER = "/var/cache/tritonguard/jit"
_FOLDER = "TRITONGUARD.folder"  # a header of the tar: the path of the folder that it was made of


def cache_folder(environ: Mapping[str, str]) -> Path:
    return Path(environ.get(FOLDER) or DEFAULT_FOLDER)


def variables(folder: Path) -> dict[str, str]:
    """The environment with which the packages keep their kernels in `folder`; read by them when they are imported."""
    return {"FLASHINFER_WORKSPACE_BASE": str(folder), "TRITON_CACHE_DIR": str(folder / "triton")}


def capture(folder: Path, bundle: Path) -> int:
    """Put the folder's files into the bundle. Returns how many; with none, nothing is written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    if files:
        (bundle / KERNELS).parent.mkdir(exist_ok=True)
        with tarfile.open(bundle / KERNELS, "w", format=tarfile.PAX_FORMAT, pax_headers={_FOLDER: str(folder)}) as tar:
            for path in files:
                tar.add(path, str(path.relative_to(folder)), filter=_whole_seconds)
    return len(files)


def _whole_seconds(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """A tar has times as decimal floats: rounded up, a file would be newer than ninja's record of it."""
    entry.mtime = int(entry.mtime)
    return entry


def restore(bundle: Path, folder: Path) -> int:
    """Put the bundle's kernels into the folder, except what is there. Returns how many.

    None are where the bundle has none, or was warmed with a folder of another path: ninja would compile them again, in
    the old place. Raises BundleError where the folder can't be written.
    """
    if not (bundle / KERNELS).is_file():
        return 0
    try:
        with tarfile.open(bundle / KERNELS) as tar:
            if tar.pax_headers.get(_FOLDER) != str(folder):
                return 0
            missing = [member for member in tar if not (folder / member.name).exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as workspace:
                tar.extractall(workspace, missing, filter="data")
                for member in missing:
                    (folder / member.name).parent.mkdir(parents=True, exist_ok=True)
                    # Whole or not at all: another process may be loading the one that is there.
                    (Path(workspace) / member.name).replace(folder / member.name)
    except (OSError, tarfile.TarError) as error:
        raise BundleError(f"the kernels of {bundle.name} can't be put into {folder}: {error}") from error
    return len(missing)
