"""Which failures are worth another try, where, and when: decided without a network or a clock of its own.

A verdict is a pure function of its request, so asking twice does no harm. Still only `unavailable` is tried
again: no connection, a server that starts or drains, a dead model process. An overloaded server must not get
more load, a missed deadline leaves no time, and a mistake or a fault stays one.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tritonguard import tensors as wire
from tritonguard.endpoints import Endpoints
from tritonguard.errors import DeadlineExceeded, GuardError, InvalidRequest, Unavailable
from tritonguard.replies import read_reply
from tritonguard.request import GuardRequest, to_tensors
from tritonguard.steps import Send, Steps, Wait
from tritonguard.verdict import Verdict

logger = logging.getLogger("tritonguard")

_MOST_DOUBLINGS = 60


@dataclass(frozen=True)
class Retries:
    """How often an unavailable server is tried again: exponential backoff with full jitter.

    attempts: all tries of a request, the first one included; 1: no retries. first_s, most_s: seconds; before
    try n + 1 of the same endpoint the client waits a random time up to `first_s * 2 ** (n - 1)`, at most
    `most_s`. An endpoint that was not tried yet and is in good standing is tried without waiting.
    No try begins after the request's deadline. Raises InvalidRequest for numbers that make no sense.
    """

    attempts: int = 3
    first_s: float = 0.05
    most_s: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise InvalidRequest("retries: attempts is a whole number from 1 on", field="retries.attempts")
        if not (math.isfinite(self.most_s) and 0 <= self.first_s <= self.most_s):
            raise InvalidRequest("retries: give 0 <= first_s <= most_s, in seconds", field="retries.first_s")

    def wait_s(self, failures: int, draw: Callable[[], float]) -> float:
        """Seconds before the next try after so many failed ones. draw: a random number in [0, 1)."""
        return draw() * min(self.most_s, self.first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))


DEFAULT_RETRIES = Retries()


def attempts(
    request: GuardRequest,
    endpoints: Endpoints,
    retries: Retries,
    *,
    clock: Callable[[], float] = time.monotonic,
    draw: Callable[[], float] = random.random,
) -> Steps[Verdict]:
    """The steps to a verdict. Each try carries as DEADLINE_MS what is left of the request's time.

    Raises the server's error as it is, before `on_error`; DeadlineExceeded where the time ran out between two
    tries. What `read_reply` finds wrong with a reply is raised and never tried again.
    """
    tensors = to_tensors(request)
    start, left_s = clock(), request.deadline_s
    tried: list[int] = []
    while True:
        endpoint = endpoints.take(tried)
        failed: bool | None = None
        try:
            reply = yield Send(endpoint, tensors, left_s, request.request_id)
            failed = False
        except Unavailable as error:
            failed, failure = True, error
        except DeadlineExceeded as error:
            if not tried:
                raise
            raise _late(request) from error
        except GuardError:
            failed = False
            raise
        finally:
            endpoints.give_back(endpoint, failed=failed)
        if not failed:
            return read_reply(reply, request)
        tried.append(endpoint)
        logger.info("request %s: try %d failed (%s)", request.request_id, len(tried), failure.kind)
        elsewhere = endpoints.has_another(tried)
        if len(tried) >= retries.attempts or not (failure.retryable or elsewhere):
            raise failure
        wait_s = 0.0 if elsewhere else retries.wait_s(len(tried), draw)
        if wait_s >= request.deadline_s - (clock() - start):
            raise failure  # there is time left, but not for another try
        if wait_s:
            yield Wait(wait_s)
        left_ms = math.floor((request.deadline_s - (clock() - start)) * 1000)
        if left_ms < 1:
            raise _late(request) from failure
        left_s = left_ms / 1000
        tensors = {**tensors, "DEADLINE_MS": wire.pack("DEADLINE_MS", [left_ms])}


def _late(request: GuardRequest) -> DeadlineExceeded:
    return DeadlineExceeded(
        "the time ran out after a try that the server did not answer",
        field="deadline_s",
        request_id=request.request_id,
    )
