"""Is a reply an answer to what was asked?"""

from __future__ import annotations

from collections.abc import Mapping

from tritonguard.errors import IndeterminateVerdict, InternalError
from tritonguard.request import GuardRequest
from tritonguard.tensors import Array
from tritonguard.verdict import ON_ERROR, Verdict, verdict_from_tensors


def read_reply(reply: Mapping[str, Array], request: GuardRequest) -> Verdict:
    """The verdict that the VERDICT tensors of a reply hold, held against the request that it answers.

    Raises InternalError for a reply that is malformed or answers something else than was asked, and
    IndeterminateVerdict (with the verdict) where the policy's `on_error` is `raise` and decided. Of a named
    policy the server alone knows `on_error`; the reason of its decision says which it was.
    """
    request_id = request.request_id
    try:
        verdict = verdict_from_tensors(reply)
    except InternalError as error:
        error.request_id = request_id
        raise
    if verdict.record.request_id != request_id:
        raise InternalError("reply: answers another request", field="record", request_id=request_id)
    if (verdict.label.response_safety is None) != (request.response is None):
        raise InternalError("reply: judges other sides than asked", field="label", request_id=request_id)
    named = request.policy_name is not None
    if named and verdict.record.policy_name != request.policy_name:
        raise InternalError("reply: judged under another policy", field="record", request_id=request_id)
    if verdict.on_error_applied:
        if verdict.reason.startswith(f"{ON_ERROR}raise:") if named else request.policy.on_error == "raise":
            raise IndeterminateVerdict(
                f"indeterminate: {verdict.label.indeterminate_reason}", request_id=request_id, verdict=verdict
            )
        # The server may be stricter than the caller's policy (its operator's floor), never laxer.
        if verdict.allowed and not named and request.policy.on_error != "allow":
            raise InternalError("reply: allowed on an error against the policy", field="outcome", request_id=request_id)
    return verdict
