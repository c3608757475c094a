"""What is missing on a machine is named, with the way to get it."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import stat
import sys
import sysconfig
from pathlib import Path

import pytest

from serving import installation as module
from serving.adapter import BUNDLE_VARIABLE
from serving.errors import LibPythonMissing, NumpyTooNew, PythonUnsupported, TritonMissing
from serving.installation import RELEASE_VARIABLE, Installation, find_libpython, is_fixed, refuse_numpy


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an unpacked wheel that is first on the path."""
    package = tmp_path / "site" / "pytriton"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in (
        "__init__.py",
        "tritonserver/bin/tritonserver",
        "tritonserver/backends/python/libtriton_python.so",
        "tritonserver/backends/python/triton_python_backend_utils.py",
        f"tritonserver/python_backend_stubs/{minor}/triton_python_backend_stub",
        "../nvidia_pytriton.libs/libtritonserver.so",
    ):
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    return package


def test_the_installed_wheel_is_whole() -> None:
    found = Installation.find()
    assert found.server.stat().st_mode & stat.S_IXUSR
    assert list(found.libraries.glob("libtritonserver*.so*"))


def test_the_backend_folder_holds_the_stub_of_this_python(wheel: Path, tmp_path: Path) -> None:
    backends = Installation.find().assemble(tmp_path / "run")
    assert {path.name for path in (backends / "python").iterdir()} == {
        "libtriton_python.so",
        "triton_python_backend_utils.py",
        "triton_python_backend_stub",
    }
    assert all(path.exists() for path in (backends / "python").iterdir())


def test_the_environment_leads_to_this_python_and_the_bundle(wheel: Path, tmp_path: Path) -> None:
    base = {"PATH": "/elsewhere", "LD_LIBRARY_PATH": "/its/libraries", "HOME": "/home/me"}
    environment = Installation.find().environment(base, bundle=tmp_path)
    assert environment["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/elsewhere"]
    libraries = environment["LD_LIBRARY_PATH"].split(os.pathsep)
    assert libraries[0] == str(wheel.parent / "nvidia_pytriton.libs")
    assert libraries[-1] == "/its/libraries"
    assert environment[BUNDLE_VARIABLE] == str(tmp_path)
    assert environment["HOME"] == "/home/me"


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the server in one of NVIDIA's images, of release 26.07."""
    folder = tmp_path / "tritonserver"
    for name in (
        "bin/tritonserver",
        "lib/libtritonserver.so",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        "backends/python/triton_python_backend_stub",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.setattr(module, "IMAGE", folder)
    monkeypatch.setenv(RELEASE_VARIABLE, "26.07")
    return folder


def test_the_server_of_an_image_goes_before_that_of_the_wheel(wheel: Path, image: Path, tmp_path: Path) -> None:
    found = Installation.find()
    assert found.server == image / "bin" / "tritonserver"
    python = found.assemble(tmp_path / "run") / "python"
    assert {path.resolve().parent for path in python.iterdir()} == {image / "backends" / "python"}
    assert len(list(python.iterdir())) == 3


def test_only_a_release_without_the_published_holes_may_be_reached(
    wheel: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Installation.find().reachable
    monkeypatch.setenv(RELEASE_VARIABLE, "25.06")
    assert not Installation.find().reachable
    monkeypatch.delenv(RELEASE_VARIABLE)
    assert not Installation.find().reachable


def test_the_wheels_server_may_not_be_reached_whatever_the_environment_says(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RELEASE_VARIABLE, "26.07")
    assert not Installation.find().reachable


@pytest.mark.parametrize(
    ("release", "fixed"),
    [("25.07", True), ("26.01", True), ("25.06", False), ("24.10", False), ("", False), ("x", False)],
)
def test_a_release_is_read(release: str, fixed: bool) -> None:
    assert is_fixed(release) == fixed


def test_a_missing_wheel_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TritonMissing, match="pip install nvidia-pytriton"):
        Installation.find()


def test_an_incomplete_wheel_is_named_by_what_it_lacks(wheel: Path) -> None:
    (wheel / "tritonserver/backends/python/libtriton_python.so").unlink()
    with pytest.raises(TritonMissing, match=r"libtriton_python\.so"):
        Installation.find()


def test_a_python_without_a_stub_is_refused(wheel: Path) -> None:
    for stub in (wheel / "tritonserver/python_backend_stubs").glob("*/*"):
        stub.unlink()
    with pytest.raises(PythonUnsupported, match=r"3\.11"):
        Installation.find()


def test_libpython_in_a_declared_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libpython3.11.so.1.0").touch()
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path) if name == "LIBDIR" else None)
    assert find_libpython("3.11", also=Path("/nowhere")) == tmp_path


def test_libpython_that_the_loader_knows_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: "libpython9.9.so.1.0")
    assert find_libpython("9.9", also=Path("/nowhere")) is None


def test_a_missing_libpython_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(LibPythonMissing, match=r"apt-get install libpython9\.9"):
        find_libpython("9.9", also=Path("/nowhere"))


@pytest.mark.parametrize("version", ["2.0.0", "2.5.1rc1", "10.0"])
def test_numpy_2_is_refused(version: str) -> None:
    with pytest.raises(NumpyTooNew, match="numpy<2"):
        refuse_numpy(version)


def test_numpy_1_is_taken() -> None:
    refuse_numpy("1.26.4")
