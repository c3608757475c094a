"""The switch of the verdict cache, which is off unless a policy has it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, StrictInt

from tritonguard.limits import MAX_CACHE_TTL_S
from tritonguard.models import ContractModel


class Caching(ContractModel):
    """A server may answer the same request of the same tenant again from what it keeps in memory, for `ttl_s` seconds.

    Decided anew is what is done about the answer; what the model said is not asked for a second time.
    """

    path: ClassVar[str] = "policy.cache"

    ttl_s: Annotated[
        StrictInt, Field(ge=1, le=MAX_CACHE_TTL_S, description="Seconds that an answer is kept, in memory alone.")
    ]
