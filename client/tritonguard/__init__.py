"""Client and contract of the tritonguard moderation server.

import tritonguard

with tritonguard.Guard() as guard:
    print(guard.check("How do I bake bread?").decision)
"""

from tritonguard.async_guard import AsyncGuard
from tritonguard.errors import (
    ERRORS,
    BundleError,
    DeadlineExceeded,
    ErrorSpec,
    GuardError,
    ImageTooLarge,
    IndeterminateVerdict,
    InternalError,
    InvalidImage,
    InvalidRequest,
    Overloaded,
    PromptTooLong,
    Unavailable,
    Unimplemented,
    UnsupportedContract,
)
from tritonguard.example import Example, Expected
from tritonguard.examples import CANARY, EXAMPLES, PROMPTS
from tritonguard.grpc_aio_transport import AsyncGrpcTransport
from tritonguard.grpc_transport import GrpcTransport
from tritonguard.guard import Guard
from tritonguard.health import CanaryResult, Health
from tritonguard.label import Label, Safety
from tritonguard.policy import CustomCategory, Policy, Thresholds
from tritonguard.policy_cache import Caching
from tritonguard.request import GuardRequest, Mode, Turn
from tritonguard.retries import Retries
from tritonguard.taxonomy import CATEGORIES, TAXONOMY_VERSION, Category
from tritonguard.tensors import CONTRACT_VERSION
from tritonguard.testing import AsyncMockTransport, MockTransport
from tritonguard.tls import Tls
from tritonguard.transport import AsyncTransport, Readiness, Transport
from tritonguard.verdict import Decision, Outcome, Record, Verdict

__version__ = "0.1.0"

__all__ = [
    "CANARY",
    "CATEGORIES",
    "CONTRACT_VERSION",
    "ERRORS",
    "EXAMPLES",
    "PROMPTS",
    "TAXONOMY_VERSION",
    "AsyncGrpcTransport",
    "AsyncGuard",
    "AsyncMockTransport",
    "AsyncTransport",
    "BundleError",
    "Caching",
    "CanaryResult",
    "Category",
    "CustomCategory",
    "DeadlineExceeded",
    "Decision",
    "ErrorSpec",
    "Example",
    "Expected",
    "GrpcTransport",
    "Guard",
    "GuardError",
    "GuardRequest",
    "Health",
    "ImageTooLarge",
    "IndeterminateVerdict",
    "InternalError",
    "InvalidImage",
    "InvalidRequest",
    "Label",
    "MockTransport",
    "Mode",
    "Outcome",
    "Overloaded",
    "Policy",
    "PromptTooLong",
    "Readiness",
    "Record",
    "Retries",
    "Safety",
    "Thresholds",
    "Tls",
    "Transport",
    "Turn",
    "Unavailable",
    "Unimplemented",
    "UnsupportedContract",
    "Verdict",
    "__version__",
]
