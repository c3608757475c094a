"""Keys and values of each policy's prefix, by its exact token ids, in memory and on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from engines.local.byte_cache import ByteCache
from engines.local.context import Context
from engines.local.prefix_files import PrefixFiles, prefix_key


@dataclass
class _Prefix:
    """on_disk: or about to be, or refused there: not to be saved again."""

    context: Context
    on_disk: bool


class PrefixCache:
    """Thread-safe. most_bytes: of memory. files: None: nothing is read from disk or saved.

    Saved is what comes back, beside the work of its second use: a policy that a caller sends once is not worth it, and
    the built-in and the named ones all come back. Nothing waits for a save, and one goes on at a time.
    """

    def __init__(self, most_bytes: int, files: PrefixFiles | None = None) -> None:
        self._held: ByteCache[_Prefix] = ByteCache(most_bytes, lambda prefix: prefix.context.nbytes)
        self._files = files
        self._saving = threading.Lock()

    def obtain(self, ids: tuple[int, ...], compute: Callable[[], Context]) -> tuple[Context, bool]:
        """The context of exactly these ids, never to be written to, and whether it was there already.

        Raises what `compute` raises.
        """
        in_memory = reused = True

        def read_or_compute(_: object) -> list[_Prefix]:
            nonlocal in_memory, reused
            in_memory = False
            context = self._files.load(ids) if self._files else None
            reused = context is not None
            return [_Prefix((compute() if context is None else context).sealed(), on_disk=reused)]

        [prefix] = self._held.obtain([prefix_key(ids)], read_or_compute)
        if in_memory and self._files and not prefix.on_disk and self._saving.acquire(blocking=False):
            prefix.on_disk = True
            threading.Thread(target=self._save, args=(self._files, ids, prefix.context), name="prefix").start()
        return prefix.context, reused

    def statistics(self) -> dict[str, float]:
        """A prefix that is read from disk is a miss too."""
        return self._held.statistics("prefix", "prefixes")

    def close(self) -> None:
        """Returns when nothing is being saved; from then on nothing is."""
        self._saving.acquire()

    def _save(self, files: PrefixFiles, ids: tuple[int, ...], context: Context) -> None:
        try:
            files.save(ids, context)
        finally:
            self._saving.release()
