"""All cases of the conformance suite: each module below adds its own."""

from __future__ import annotations

import conformance_answers
import conformance_replies
import conformance_requests
import conformance_running
import conformance_serving
import conformance_start
from conformance import CASES

MODULES = (
    conformance_answers,
    conformance_replies,
    conformance_requests,
    conformance_running,
    conformance_serving,
    conformance_start,
)

__all__ = ["CASES", "MODULES"]
