"""The Triton server on this machine, and what it needs of this Python environment.

In NVIDIA's images it is in /opt/tritonserver. Elsewhere it is the one inside the `nvidia-pytriton` wheel, which holds
the whole server but no ready backend folder: the stub of this Python's minor version has to be put beside the backend.
Both find a Python environment by two variables: `LD_LIBRARY_PATH` for libpython, and the first `python3` on `PATH` for
the prefix. The wheel's ignores `PYTHONPATH`.
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.adapter import BUNDLE_VARIABLE
from serving.errors import LibPythonMissing, NumpyTooNew, PythonUnsupported, TritonMissing

IMAGE = Path("/opt/tritonserver")
RELEASE_VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"
"""The release of NVIDIA's image that this is, such as 26.07; the image sets it (build.py of the server)."""

FIXED = (25, 7)
"""The first release without the published holes (SECURITY.md)."""

_BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Installation:
    """Where the parts are.

    server: the tritonserver binary. libraries: folder of the shared libraries it needs.
    backend: folder of the Python backend. stub: the binary that embeds this Python's minor version.
    libpython: folder of its shared library; None where the loader finds it by itself.
    reachable: whether others than this machine may be let in, as it is a release without the published holes.
    """

    server: Path
    libraries: Path
    backend: Path
    stub: Path
    libpython: Path | None
    reachable: bool = False

    @classmethod
    def find(cls) -> Installation:
        """The image's, else the wheel's. Raises TritonMissing, PythonUnsupported, LibPythonMissing or NumpyTooNew."""
        refuse_numpy(importlib.metadata.version("numpy"))
        return cls._of_image(IMAGE) if (IMAGE / "bin" / "tritonserver").exists() else cls._of_wheel()

    @classmethod
    def _of_image(cls, folder: Path) -> Installation:
        backend, libraries = folder / "backends" / "python", folder / "lib"
        return cls(
            folder / "bin" / "tritonserver",
            libraries,
            backend,
            backend / _STUB,
            find_libpython(_minor(), also=libraries),
            reachable=is_fixed(os.environ.get(RELEASE_VARIABLE, "")),
        )

    @classmethod
    def _of_wheel(cls) -> Installation:
        package = importlib.util.find_spec("pytriton")
        if package is None or not package.submodule_search_locations:
            raise TritonMissing(
                "the Triton server is not installed; `pip install nvidia-pytriton==0.7.0` has it (Linux, glibc >= 2.35)"
            )
        folder = Path(package.submodule_search_locations[0])
        triton = folder / "tritonserver"
        minor = _minor()
        server, backend = triton / "bin" / "tritonserver", triton / "backends" / "python"
        libraries = folder.parent / "nvidia_pytriton.libs"
        for part in (server, libraries, backend, *(backend / name for name in _BACKEND_FILES)):
            if not part.exists():
                raise TritonMissing(f"nvidia-pytriton is installed without {part.name}; 0.7.0 is the version to use")
        stub = triton / "python_backend_stubs" / minor / _STUB
        if not stub.exists():
            raise PythonUnsupported(
                f"nvidia-pytriton has no backend for Python {minor}; use a Python that it knows, such as 3.11"
            )
        return cls(server, libraries, backend, stub, find_libpython(minor, also=libraries))

    def assemble(self, folder: Path) -> Path:
        """Build the backend folder under `folder` from links, and return it."""
        python = folder / "backends" / "python"
        python.mkdir(parents=True)
        for source in (self.stub, *(self.backend / name for name in _BACKEND_FILES)):
            (python / source.name).symlink_to(source)
        return python.parent

    def environment(self, base: Mapping[str, str], *, bundle: Path) -> dict[str, str]:
        """`base` with what the server and its Python need; what was on its paths stays behind."""
        libraries = [str(self.libraries), *([str(self.libpython)] if self.libpython else [])]
        # Not resolved: a virtual environment is known by the place of its link, not by where that leads.
        programs = str(Path(sys.executable).parent)
        return {
            **base,
            "LD_LIBRARY_PATH": _joined(*libraries, base.get("LD_LIBRARY_PATH")),
            "PATH": _joined(programs, base.get("PATH", os.defpath)),
            BUNDLE_VARIABLE: str(bundle.resolve()),
        }


def is_fixed(release: str) -> bool:
    """Whether a release, such as "26.07", has no published holes; False for what can't be read."""
    numbers = re.fullmatch(r"(\d{2})\.(\d{2})", release)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= FIXED


def refuse_numpy(version: str) -> None:
    """Raises NumpyTooNew for numpy 2 and later."""
    if int(version.split(".")[0]) >= 2:
        raise NumpyTooNew(
            f"numpy {version} is installed, and with numpy 2 Triton's Python backend sends empty tensors; "
            "`pip install 'numpy<2'`"
        )


def find_libpython(minor: str, *, also: Path) -> Path | None:
    """The folder with this Python's shared library; None: the loader knows one. Raises LibPythonMissing.

    minor: such as "3.11". also: a further folder to look into.
    """
    name = f"libpython{minor}.so.1.0"
    declared = [sysconfig.get_config_var(variable) for variable in ("LIBDIR", "LIBPL")]
    for folder in (*(Path(text) for text in declared if text), Path(sys.base_prefix) / "lib", also):
        if (folder / name).exists():
            return folder
    if ctypes.util.find_library(f"python{minor}"):
        return None
    raise LibPythonMissing(
        f"{name} is not on this machine, and Triton's Python backend needs it; on Debian and Ubuntu: "
        f"`apt-get install libpython{minor}`; with pyenv: build Python with --enable-shared"
    )


def _minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _joined(*paths: str | None) -> str:
    return os.pathsep.join(path for path in paths if path)
