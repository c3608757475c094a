"""The local engine: decode programs on the OpenVINO graphs of a bundle.

A verdict is one pass, with or without a response: prompt and forced head behind the cached prefix, both answers
to the user's choice as branches of one tree. Jobs of all policies ride in one batch, and the images of a call
pass the tower together, those that it has not seen. Category lists and reasoning take further passes, in which each
job goes on behind its own past; jobs of other calls join between passes (`turns`).
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Sequence

from tritonguard.errors import BundleError, GuardError, Unavailable, Unimplemented

from engines.bundle import Bundle
from engines.local.cache_limits import CacheLimits
from engines.local.grouping import MOST_ROWS
from engines.local.image_cache import ImageCache
from engines.local.passes import Passes
from engines.local.prefix_cache import PrefixCache
from engines.local.prefix_files import PrefixFiles
from engines.local.row import Row
from engines.local.turns import Turns
from engines.protocol import Answer, Capabilities, Job

SERVED_SEGMENTS = frozenset({"Forced", "Choice", "NameList", "FreeText"})
"""Program segments that this engine executes, and the most choices in a program."""
SERVED_CHOICES = 2
_QUIET_S = 2.0
"""Without a call, until memory is asked for that large batches need."""
_LOGGER = logging.getLogger(__name__)


class LocalEngine:
    """Thread-safe: one pass at a time over one set of graphs, for the jobs of all calls under way."""

    def __init__(
        self,
        passes: Passes,
        capabilities: Capabilities,
        limits: CacheLimits | None = None,
        files: PrefixFiles | None = None,
    ) -> None:
        """limits: of its caches; None: the default. files: where prefixes are kept on disk; None: nowhere."""
        limits = limits or CacheLimits()
        self._capabilities = capabilities
        self._prefixes = PrefixCache(limits.prefixes, files)
        self._images = ImageCache(limits.images)
        self._passes = passes
        self._turns = Turns(passes, self._prefixes, self._images)
        # Its thread would keep the graphs of an engine that nobody has closed.
        weakref.finalize(self, self._turns.end)
        self._calls, self._ended_s = 0, math.inf
        self._closed = False
        self._changed = threading.Condition()

    @classmethod
    def load(cls, bundle: Bundle, *, keep_prefixes: bool = False) -> LocalEngine:
        """Compile the bundle's graphs for this CPU, with caches as the environment limits them.

        keep_prefixes: on disk, beside the bundle. Raises BundleError when the graphs can't be compiled, and ValueError
        for a variable of the environment that says nothing.
        """
        limits = CacheLimits.of(os.environ)
        passes = Passes.load(bundle.folder)
        files = PrefixFiles.beside(bundle, limits.prefixes) if keep_prefixes and limits.prefixes else None
        engine = cls(passes, bundle.capabilities, limits, files)
        threading.Thread(target=engine.reserve, name="reserve", daemon=True).start()
        return engine

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def lanes(self) -> int:
        """A pass's worth, and another that is at hand when it ends. More would be a second queue, in which everybody
        waits longer and nobody is done sooner."""
        return 2 * MOST_ROWS

    def statistics(self) -> dict[str, float]:
        return {**self._prefixes.statistics(), **self._images.statistics(), **self._turns.statistics()}

    def health(self) -> bool:
        return not self._closed

    def close(self) -> None:
        """Nothing runs once this returns; a call after it is answered with Unavailable."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._calls)
        self._turns.close()
        self._prefixes.close()

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        """One result per job: an Answer; DeadlineExceeded if its time ran out before or during a pass; Unimplemented
        for a program that this engine can't execute. Any other failure of a pass that a job was in is raised.
        """
        with self._changed:
            if self._closed:
                return [Unavailable("the engine is shut down") for _ in jobs]
            self._calls += 1
        try:
            begun = [self._begin(job) for job in jobs]
            rows = [row for row in begun if isinstance(row, Row)]
            self._turns.run(rows)
        finally:
            with self._changed:
                self._calls -= 1
                self._ended_s = time.monotonic()
                self._changed.notify_all()
        for row in rows:
            if row.error is not None:
                raise row.error
        return [_result(each) if isinstance(each, Row) else each for each in begun]

    def reserve(self) -> None:
        """Ask for the memory of large batches before one comes: behind the first call, when no other has come for a
        while. The start does not wait for it; who comes meanwhile waits for one pass. Returns when that is done, or the
        engine is closed.
        """
        with self._changed:
            while not self._closed and (self._calls or time.monotonic() < self._ended_s + _QUIET_S):
                self._changed.wait(_QUIET_S)
            if self._closed:
                return
            self._calls += 1
        try:
            self._turns.reserve()
        except Exception:
            _LOGGER.warning("memory for large batches can't be had: they will ask for it themselves", exc_info=True)
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _begin(self, job: Job) -> Row | GuardError:
        if not job.program.kinds <= self._capabilities.segments or len(job.program.choices) > SERVED_CHOICES:
            return Unimplemented("this bundle does not execute what this mode needs", field="mode")
        try:
            return Row.of(job)
        except GuardError as error:
            return error


def _result(row: Row) -> Answer | GuardError:
    return row.result if row.result is not None else BundleError("a job was not run")
