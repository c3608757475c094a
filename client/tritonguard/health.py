"""Is a server able to judge? A port that answers is no proof, two right verdicts are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tritonguard.errors import GuardError
from tritonguard.example import Example
from tritonguard.examples import CANARY
from tritonguard.replies import read_reply
from tritonguard.request import to_tensors
from tritonguard.steps import Ask, Send, Steps
from tritonguard.transport import Readiness
from tritonguard.verdict import Verdict


@dataclass(frozen=True)
class CanaryResult:
    """One example text through the server. verdict: None where an error came instead, and the other way
    round."""

    example: Example
    latency_ms: float
    verdict: Verdict | None
    error: GuardError | None

    @property
    def passed(self) -> bool:
        """True where the verdict is the expected one."""
        return self.verdict is not None and not self.example.expected.differences(self.verdict)


@dataclass(frozen=True)
class Health:
    """readiness: the server's word. canary: what it can do; empty where it says that it is not ready."""

    readiness: Readiness
    canary: tuple[CanaryResult, ...]

    @property
    def healthy(self) -> bool:
        """True where the server is ready and every canary got its expected label."""
        says = self.readiness.live and self.readiness.ready and self.readiness.model_ready
        return says and bool(self.canary) and all(result.passed for result in self.canary)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "healthy": self.healthy,
            "live": self.readiness.live,
            "ready": self.readiness.ready,
            "model_ready": self.readiness.model_ready,
            "canary": [
                {
                    "example": result.example.id,
                    "expected": result.example.expected.user.value,
                    "label": result.verdict.label.user_safety.value if result.verdict else None,
                    "p_unsafe": result.verdict.label.p_unsafe_user if result.verdict else None,
                    "error": result.error.kind if result.error else None,
                    "latency_ms": round(result.latency_ms, 1),
                    "passed": result.passed,
                }
                for result in self.canary
            ],
        }


def examined(endpoint: int, *, deadline_s: float) -> Steps[Health]:
    """The steps to the health of one endpoint: its own word, then each canary once, without another try."""
    readiness: Readiness = yield Ask(endpoint, deadline_s)
    results: list[CanaryResult] = []
    for example in CANARY if readiness.model_ready else ():
        results.append((yield from _canary(example, endpoint, deadline_s)))
    return Health(readiness, tuple(results))


def _canary(example: Example, endpoint: int, deadline_s: float) -> Steps[CanaryResult]:
    # Built-in policy and on_error raise: nobody's own thresholds may colour what the server can do.
    request = example.request(deadline_s=deadline_s, on_error="raise")
    verdict, failure = None, None
    start = time.perf_counter()
    try:
        reply = yield Send(endpoint, to_tensors(request), request.deadline_s, request.request_id)
        verdict = read_reply(reply, request)
    except GuardError as error:
        failure = error
    return CanaryResult(example, (time.perf_counter() - start) * 1000, verdict, failure)
