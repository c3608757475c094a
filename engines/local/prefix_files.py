"""Keys and values of policies' prefixes on disk, beside the bundle, so that a server that starts again has them.

.<bundle>-prefixes/     beside the folder `<bundle>`, which is read-only and hashed
    <key>.prefix        SHA-256 of the rest; a line of JSON {"revision", "ids", "shape"}; keys, then values, float32
    <random>.partial    one being written

They decide verdicts like weights: a folder that somebody else could write into is not used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from engines.bundle import Bundle
from engines.checkpoint import FloatArray
from engines.local.context import Context
from engines.local.engine_config import RUNTIMES
from engines.local.runtime import cpu_name

_SUFFIX, _PARTIAL = ".prefix", ".partial"
_DIGEST_BYTES = hashlib.sha256().digest_size
_LOGGER = logging.getLogger(__name__)


class PrefixFiles:
    """revision: of all that makes keys and values from ids. most_bytes: of all files of the folder; beyond that those
    that were not read or written for the longest time go. Thread-safe; several processes may share a folder.
    """

    def __init__(self, folder: Path, revision: str, most_bytes: int) -> None:
        self._folder = folder
        self._revision = revision
        self._most_bytes = most_bytes
        self._can_save = True

    @classmethod
    def beside(cls, bundle: Bundle, most_bytes: int) -> PrefixFiles:
        """For this bundle on this CPU and these runtimes, whose sums another one may round in another way."""
        runtimes = [version(name) for name in RUNTIMES]
        made_by = [bundle.revision, bundle.model_revision, *runtimes, cpu_name()]
        revision = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()
        folder = bundle.folder.resolve()
        return cls(folder.parent / f".{folder.name}-prefixes", revision, most_bytes)

    def load(self, ids: Sequence[int]) -> Context | None:
        """The context of exactly these ids; None where there is no file, or none to rely on."""
        path = self._path(ids)
        try:
            self._refuse_foreign_folder()
            context = _decoded(path.read_bytes(), self._said_of(ids))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            _LOGGER.warning("%s is not used (%s): the prefix is computed", path.name, error)
            return None
        with suppress(OSError):
            os.utime(path)
        return context

    def save(self, ids: Sequence[int], context: Context) -> None:
        """Write it, whole or not at all. Where that can't be done the log says so, once, and nothing is saved."""
        if not self._can_save:
            return
        header = {**self._said_of(ids), "shape": context.keys.shape}
        rest = [json.dumps(header).encode() + b"\n", context.keys.tobytes(), context.values.tobytes()]
        digest = hashlib.sha256()
        for part in rest:
            digest.update(part)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._refuse_foreign_folder()
            self._write(self._path(ids), [digest.digest(), *rest])
            self._drop_oldest()
        except OSError as error:
            self._can_save = False
            _LOGGER.warning("prefixes are not saved in %s: %s", self._folder.name, error.strerror or error)

    def _refuse_foreign_folder(self) -> None:
        """Raises OSError for a folder that is a link, or that another user could write into."""
        about = self._folder.lstat()
        others_write = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or others_write:
            raise PermissionError("the folder could be another user's")

    def _path(self, ids: Sequence[int]) -> Path:
        return self._folder / f"{prefix_key(ids, self._revision).hex()}{_SUFFIX}"

    def _said_of(self, ids: Sequence[int]) -> dict[str, object]:
        return {"revision": self._revision, "ids": list(ids)}

    def _write(self, path: Path, parts: Sequence[bytes]) -> None:
        descriptor, partial = tempfile.mkstemp(suffix=_PARTIAL, dir=self._folder)  # readable by this user only
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(parts)
            # Not flushed to the disk: what a power cut leaves of it does not have its hash.
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    def _drop_oldest(self) -> None:
        """Also what a killed process left, and what was saved for other revisions."""
        found = []
        for path in (*self._folder.glob(f"*{_SUFFIX}"), *self._folder.glob(f"*{_PARTIAL}")):
            with suppress(FileNotFoundError):
                found.append((path.stat(), path))
        total = 0
        for about, path in sorted(found, key=lambda each: each[0].st_mtime_ns, reverse=True):
            total += about.st_size
            if total > self._most_bytes:
                path.unlink(missing_ok=True)


def prefix_key(ids: Sequence[int], revision: str = "") -> bytes:
    """SHA-256 over the revision and the exact ids."""
    return hashlib.sha256(revision.encode() + b"\0" + np.asarray(ids, "<i4").tobytes()).digest()


def _decoded(content: bytes, said: dict[str, object]) -> Context:
    """Raises ValueError, LookupError or TypeError for what `save` did not write for this."""
    if hashlib.sha256(memoryview(content)[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
        raise ValueError("it is damaged")
    end = content.index(b"\n", _DIGEST_BYTES) + 1
    header = json.loads(content[_DIGEST_BYTES:end])
    shape = header.pop("shape")
    if header != said:
        raise ValueError("it is of another prefix or revision")
    states: FloatArray = np.frombuffer(content, np.float32, offset=end).reshape(2, *shape).copy()
    ids = said["ids"]
    assert isinstance(ids, list)
    return Context(len(ids), states[0], states[1])
