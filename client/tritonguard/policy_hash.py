"""The one text of a policy, and its hash."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonguard.policy import Policy


def canonical(policy: Policy) -> tuple[str, str]:
    """`Policy.canonical_json` and `Policy.sha256`, kept for the latest: most requests come under the same few policies,
    and several stages ask."""
    try:
        return _kept(policy)
    except TypeError:  # no key: a copy that was updated with a list, and not validated
        return _made(policy)


def _made(policy: Policy) -> tuple[str, str]:
    fields = policy.model_dump(mode="json", exclude=set() if policy.cache else {"cache"})
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text, hashlib.sha256(text.encode("utf-8")).hexdigest()


_kept = lru_cache(maxsize=32)(_made)
