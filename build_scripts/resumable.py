"""A result folder that a killed run leaves half-made beside its final name, and the next run goes on with.

.<name>-partial/          see `folders`
    progress.json         what it is made from, and the files that are finished, with their hashes
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tritonguard.errors import BundleError

from build_scripts.folders import locked_workspace, new_folder, publish
from engines.manifest import sha256_file

_PROGRESS = "progress.json"


class ResumableFolder:
    """`path`: the folder to write to. Files that this run or one before it recorded are finished."""

    def __init__(self, workspace: Path, made_from: Mapping[str, Any]) -> None:
        self._workspace, self._made_from = workspace, json.loads(json.dumps(made_from))
        self._finished = self._recorded()
        self.path = new_folder(workspace)
        self.drop_unfinished()

    @property
    def finished(self) -> frozenset[str]:
        """Names of the recorded files."""
        return frozenset(self._finished)

    def facts(self, name: str) -> dict[str, Any] | None:
        """What was recorded of file `name`; None: it is not finished, or its bytes are no longer those recorded."""
        entry = self._finished.get(name)
        path = self.path / name
        if entry is None or not path.is_file() or sha256_file(path) != entry["sha256"]:
            return None
        facts: dict[str, Any] = entry["facts"]
        return facts

    def record(self, name: str, facts: Mapping[str, Any]) -> None:
        """File `name` is finished; `facts` (JSON values) come back from `facts()`. A kill leaves the record before."""
        entry = {"sha256": sha256_file(self.path / name), "facts": dict(facts)}
        finished = {**self._finished, name: entry}
        draft = self._workspace / f"{_PROGRESS}.draft"
        draft.write_text(json.dumps({"made_from": self._made_from, "finished": finished}))
        draft.replace(self._workspace / _PROGRESS)
        self._finished = finished

    def drop_unfinished(self) -> None:
        """Remove what isn't recorded."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in self._finished:
                path.unlink()

    def _recorded(self) -> dict[str, Any]:
        try:
            progress = json.loads((self._workspace / _PROGRESS).read_text())
            if progress["made_from"] == self._made_from:
                return {str(name): {**entry} for name, entry in progress["finished"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass
        return {}


@contextmanager
def resumable_folder(out: Path, made_from: Mapping[str, Any], *, fresh: bool = False) -> Iterator[ResumableFolder]:
    """Yield the folder that replaces `out` on success; what was left by a run from the same `made_from` is in it.

    made_from: JSON values. fresh: begin from nothing. A BundleError removes the partial folder (its inputs are no
    good); any other exception, a full disk or an interrupt, keeps its finished files for the next run. Raises
    BundleError as `locked_workspace` does.
    """
    with locked_workspace(out) as workspace:
        if fresh:
            (workspace / _PROGRESS).unlink(missing_ok=True)
        folder = ResumableFolder(workspace, made_from)
        keep = False
        try:
            yield folder
            publish(workspace, out)
        except BundleError:
            raise
        except BaseException:
            keep = bool(folder.finished) and folder.path.is_dir()
            if keep:
                folder.drop_unfinished()
            raise
        finally:
            if not keep:
                shutil.rmtree(workspace, ignore_errors=True)
