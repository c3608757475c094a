"""Which policy a request is judged under: the built-in one, one that lives on the server, or the caller's own.

Policies of the server are the `*.yaml` files of one folder, each named as the policy in it. A running server
takes up new, changed and removed files by itself: replace a file by renaming another over it. A file that can't
be read as a policy changes nothing, so the one before it stays in force, and is reported once.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tritonguard.errors import InvalidRequest
from tritonguard.limits import MAX_POLICY_FILE_BYTES
from tritonguard.policy import Policy
from tritonguard.policy_parts import PolicyPart, parts_of
from tritonguard.request import GuardRequest

LOOK_EVERY_S = 0.5
SETTLE_S = 0.05
"""A file that was changed less than this long ago may still be being written: it waits for the next look. This
also keeps two changes within one tick of the file system's clock apart."""

_MOST_NAMES = 12
# As strict as the built-in policy: `raise` is `block` to everybody but the client, which raises by itself.
_PLAIN = (Policy(), Policy(on_error="raise"))
_BUILT_IN = Policy().name

Problem = Callable[[str, str], None]
_Signature = tuple[int, int, int, int]


@dataclass(frozen=True)
class Resolved:
    """policy: its hash goes into the record. parts: what is judged, one decode request each."""

    policy: Policy
    parts: tuple[PolicyPart, ...]

    @property
    def floor(self) -> Policy | None:
        """The policy that the part "floor" is judged under; None: there is no such part."""
        return next((part.policy for part in self.parts if part.name == "floor"), None)


class PolicyStore:
    """The policies of one server; safe to use from several threads.

    folder: of the named policies; None: there are none. floor: a policy on the built-in taxonomy, judged beside
    every other (`policy_parts.parts_of`); None: no floor. allow_callers: whether a request may bring a policy of
    its own. Without that, thresholds and `on_error` of a caller are refused as well: they too decide what
    passes.
    on_problem: told the name of a file and what is wrong with it (one line, no path), once for each change; ""
    is the folder. look_every_s, settle_s: seconds, for tests.

    A broken file or folder is no error here, not at the start either: `on_problem` is told. Raises InvalidRequest
    for a floor on another taxonomy.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        floor: Policy | None = None,
        allow_callers: bool,
        on_problem: Problem | None = None,
        look_every_s: float = LOOK_EVERY_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        if floor is not None and not floor.is_builtin:
            raise InvalidRequest("floor: not a policy on the built-in taxonomy", field="floor")
        self._folder = folder
        self._floor = floor
        self._allow_callers = allow_callers
        self._on_problem = on_problem
        self._look_every_s = look_every_s
        self._settle_s = settle_s
        self._looking = threading.Lock()
        self._seen: dict[str, _Signature] = {}
        self._unreadable: dict[str, str] = {}
        # Replaced as a whole, never changed: a thread that has it keeps one state of the folder.
        self._served: Mapping[str, Resolved] = {}
        self._look(at_start=True)
        self._next_look = time.monotonic() + look_every_s

    @property
    def names(self) -> tuple[str, ...]:
        """The policies that a request can name now, sorted, the built-in one first."""
        return (_BUILT_IN, *sorted(self._current()))

    def resolve(self, request: GuardRequest) -> Resolved:
        """The policy of a request and what it asks the model.

        Raises InvalidRequest for a name that is not known and for a policy of a caller where the operator
        takes none.
        """
        served = self._current()
        name = request.policy_name
        if name is not None and name != _BUILT_IN:
            if name not in served:
                raise InvalidRequest(f"policy_name: not on this server; it has {_listed(served)}", field="policy_name")
            return served[name]
        if not self._allow_callers and request.policy not in _PLAIN:
            raise InvalidRequest(
                "policy: this server takes no policies from callers, thresholds and on_error included; "
                f"name one with policy_name: {_listed(served)}",
                field="policy",
            )
        return self._resolved(request.policy)

    def _resolved(self, policy: Policy) -> Resolved:
        return Resolved(policy, parts_of(policy, floor=self._floor))

    def _current(self) -> Mapping[str, Resolved]:
        # One thread looks; the others go on with what is there instead of waiting for the disk.
        if time.monotonic() >= self._next_look and self._looking.acquire(blocking=False):
            try:
                self._look()
                self._next_look = time.monotonic() + self._look_every_s
            finally:
                self._looking.release()
        return self._served

    def _look(self, *, at_start: bool = False) -> None:
        if self._folder is None:
            return
        try:
            with os.scandir(self._folder) as entries:
                files = sorted(e.name for e in entries if e.name.endswith(".yaml") and not e.name.startswith("."))
        except OSError as error:
            # A folder that is being swapped is no reason to drop every policy.
            self._report_unreadable("", error)
            return
        self._unreadable.pop("", None)
        served = {name: resolved for name, resolved in self._served.items() if f"{name}.yaml" in files}
        self._seen = {file: signature for file, signature in self._seen.items() if file in files}
        for file in files:
            try:
                policy = self._changed(file, at_start=at_start)
            except InvalidRequest as error:
                self._report(file, error.message)
            except OSError as error:
                self._report_unreadable(file, error)
            else:
                self._unreadable.pop(file, None)
                if policy is not None:
                    served[policy.name] = self._resolved(policy)
        self._served = served

    def _changed(self, file: str, *, at_start: bool) -> Policy | None:
        """The policy of a file that has changed since it was last read; None: it has not, or not for good yet.

        Raises InvalidRequest and OSError, each once for one state of the file.
        """
        assert self._folder is not None
        path = self._folder / file
        try:
            found = path.stat()
            if self._seen.get(file) == _signature(found) or not stat.S_ISREG(found.st_mode):
                return None
            fresh = 0.0 <= time.time() - found.st_mtime < self._settle_s
            if fresh and not at_start:
                return None
            self._seen[file] = _signature(found)
            with path.open("rb") as opened:
                # One byte more than `Policy` takes: a file that is too large is refused there, not held in memory.
                text = opened.read(MAX_POLICY_FILE_BYTES + 1)
            unsettled = fresh or _signature(path.stat()) != _signature(found)
        except FileNotFoundError:
            self._seen.pop(file, None)
            return None  # gone since the folder was read; the next look finds that
        if unsettled and not at_start:
            del self._seen[file]
            return None
        policy = _policy(text, file)
        if unsettled:
            # Good enough to start with; the next look reads it once more.
            del self._seen[file]
        return policy

    def _report_unreadable(self, file: str, error: OSError) -> None:
        """Once, until it can be read again: what can't be looked at has no state to tell one from the next."""
        reason = error.strerror or "unknown reason"
        if self._unreadable.get(file) != reason:
            self._unreadable[file] = reason
            self._report(file, f"cannot be read: {reason}")

    def _report(self, file: str, message: str) -> None:
        if self._on_problem is not None:
            # A log that fails may not cost a request its verdict.
            with suppress(Exception):
                self._on_problem(file, message)


def _policy(text: bytes, file: str) -> Policy:
    policy = Policy.from_yaml(text)
    if f"{policy.name}.yaml" != file:
        raise InvalidRequest("policy.name: not the file's name without .yaml", field="policy.name")
    if policy.name == _BUILT_IN:
        raise InvalidRequest("policy.name: taken by the built-in policy", field="policy.name")
    return policy


def _signature(found: os.stat_result) -> _Signature:
    # The change time too: of all of them it alone tells a file whose permissions were put right.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _listed(served: Mapping[str, Resolved]) -> str:
    names = [_BUILT_IN, *sorted(served)]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
