"""The children that are loaded, one for each engine and setting. One of them works at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from benchmarks.peers.closed_loop import Run
from benchmarks.peers.exports import Exports
from benchmarks.peers.protocol import Child
from benchmarks.peers.question import Question
from benchmarks.peers.roster import Peer, Setting, child_settings


class Runner(Protocol):
    def run(self, peer: Peer, setting: Setting, questions: Sequence[Question], concurrency: int, way: str) -> Run:
        """Raises PeerError."""
        ...


class Children:
    """Loads a child at its first run and keeps it. out: folder of their logs."""

    def __init__(self, exports: Exports, out: Path) -> None:
        self._exports = exports
        self._out = out
        self._loaded: dict[str, Child] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in list(self._loaded):
            self._loaded.pop(key).close()

    def run(self, peer: Peer, setting: Setting, questions: Sequence[Question], concurrency: int, way: str) -> Run:
        """Raises PeerError."""
        written = [question.written() for question in questions]
        child = self._child(peer, setting)
        return Run.read(child.ask("run", questions=written, concurrency=concurrency, way=way))

    def drop(self, peer: Peer, setting: Setting) -> None:
        """End the child, where there is one."""
        child = self._loaded.pop(key_of(peer, setting), None)
        if child is not None:
            child.close()

    def _child(self, peer: Peer, setting: Setting) -> Child:
        key = key_of(peer, setting)
        if key not in self._loaded:
            child = Child(peer.command, self._out / f"{peer.name}.log", environment={"HF_HUB_OFFLINE": "1"})
            # Before it is loaded: one that fails there must be ended too.
            self._loaded[key] = child
            try:
                child.ask("load", settings=child_settings(peer, setting, self._exports))
            except BaseException:
                self.drop(peer, setting)
                raise
        return self._loaded[key]


def key_of(peer: Peer, setting: Mapping[str, Any]) -> str:
    return f"{peer.name} {json.dumps(setting, sort_keys=True)}"
