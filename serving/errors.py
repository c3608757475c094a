"""Why a server was not started, or did not stay.

    LaunchError
     +- TritonMissing           the nvidia-pytriton wheel is not installed, or lacks what it should hold
     +- PythonUnsupported       the wheel has no Python backend for this minor version
     +- LibPythonMissing        the shared library of this Python is not on the machine
     +- NumpyTooNew             numpy 2: Triton's Python backend of this release sends empty tensors with it
     +- NotLoopback             an address that others could reach
     +- PortInUse               another program has the port
     +- BundleMissing           no bundle in the folder
     +- RepositoryMissing       no model repository in the folder
     +- TlsFilesRefused         the certificates or keys are missing, broken, or do not fit each other
     +- StartFailed             the server died or was not ready in time; the text ends with the log's tail

Every message says what to do about it.
"""

from __future__ import annotations


class LaunchError(Exception):
    """Base of the errors of this room."""


class TritonMissing(LaunchError):
    """The Triton server of the `nvidia-pytriton` wheel is not there."""


class PythonUnsupported(LaunchError):
    """This Python's minor version has no stub in the wheel."""


class LibPythonMissing(LaunchError):
    """The Python backend links libpython, and this Python came without it."""


class NumpyTooNew(LaunchError):
    """numpy 2 or later, with which every output tensor of the Python backend silently has no bytes."""


class NotLoopback(LaunchError):
    """The embedded server may only be reached from this machine."""


class PortInUse(LaunchError):
    """A port is taken."""


class BundleMissing(LaunchError):
    """The folder holds no bundle."""


class RepositoryMissing(LaunchError):
    """The folder holds no model repository."""


class TlsFilesRefused(LaunchError):
    """The files of TLS can't be served with."""


class StartFailed(LaunchError):
    """The server ended, or did not become ready in time."""
