"""Where the answers to a request are kept: under a digest of all that decides them, and of whose they are.

It is made of what the engine would be given, not of what a stage before says about that: whoever calls `decode` by
itself can't put one prompt's answer in another's place. What a later release adds to the request is in it by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritonguard import tensors as wire
from tritonguard.policy_cache import Caching

_DECIDES_NOTHING = frozenset({"ANSWER", "DEADLINE_NS"})
"""ANSWER is in the key as the values that are read from it."""


@dataclass(frozen=True)
class Place:
    """key: 32 bytes. ttl_s: seconds that the answers may stay there."""

    key: bytes
    ttl_s: int


def place_of(
    tensors: Mapping[str, wire.Array], asked: Mapping[str, Any], model: Mapping[str, str | None]
) -> Place | None:
    """The place of the answers to MODEL_INPUT tensors; None: the policy has none kept.

    asked: the JSON of ANSWER: all of it counts but the priority, so tenant, policies, parts, modes, names and think
    budget do. model: what answers, with its revisions. Raises MalformedTensor, KeyError, TypeError or InvalidRequest
    where the stage before broke the contract.
    """
    # An older bundle's warm-up (answers.json) has no such key.
    if asked.get("cache") is None:
        return None
    described = json.dumps({"asked": {**asked, "priority": None}, "model": dict(model)}, sort_keys=True)
    names = [spec.name for spec in wire.MODEL_INPUT if spec.name not in _DECIDES_NOTHING]
    key = digest(described.encode(), *(_raw(wire.unpack(tensors, name)) for name in names))
    return Place(key, Caching(ttl_s=asked["cache"]["ttl_s"]).ttl_s)


def digest(*parts: bytes) -> bytes:
    """SHA-256 of the parts, each behind its length: no two lists of parts are the same bytes."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.digest()


def _raw(row: wire.Array | None) -> bytes:
    if row is None:
        return b""
    return digest(*row) if row.dtype == object else row.tobytes()
