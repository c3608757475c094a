"""A function in a process of its own, with an end: an engine that dies or hangs takes only that with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

T = TypeVar("T")


class Broken(Exception):
    """The process gave no result: it raised, died or hung. The text says which."""


def apart(function: Callable[..., T], *arguments: Any, seconds: float) -> T:
    """`function(*arguments)` in a new process; both have to be picklable. Raises Broken.

    The process and whatever it started are killed behind its answer: nothing of it stays on the GPU.
    """
    context = get_context("spawn")  # CUDA does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise Broken(f"no answer within {seconds:.0f} s")
        is_result, value = ours.recv()
    except EOFError:
        process.join()
        raise Broken(f"its process ended with exit status {process.exitcode}") from None
    finally:
        _kill(process)
        ours.close()
    if not is_result:
        raise Broken(value)
    result: T = value
    return result


def _answer(connection: Connection, function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    os.setsid()  # a group of its own, so that workers of the package are killed with it
    try:
        connection.send((True, function(*arguments)))
    except Exception as error:
        connection.send((False, f"{type(error).__name__}: {error}"))


def _kill(process: BaseProcess) -> None:
    """Its group, where it has made one; itself in any case."""
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
