"""How a build command ends: what its caller gets, and what a person reads."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tritonguard.errors import GuardError

BUILT, REFUSED, INTERRUPTED = 0, 2, 130


def exit_status(command: str, build: Callable[[], object], *reasons: type[Exception]) -> int:
    """BUILT, or the folder was current; REFUSED for a GuardError or one of `reasons`, whose text goes to stderr;
    INTERRUPTED. Any other exception is a fault of the command and passes.
    """
    refusals: tuple[type[Exception], ...] = (GuardError, *reasons)
    try:
        build()
    except refusals as error:
        print(f"{command}: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"{command}: interrupted; nothing is half-written", file=sys.stderr)
        return INTERRUPTED
    return BUILT
