"""How a client of release 0.1.0 reads a reply. Frozen with the release: nothing of today's package is imported.

Only the protocol's own message class comes from outside (tritonclient). A client of that release names the eleven
outputs it wants, so that outputs of a newer server never reach it; keys that it does not know it leaves out.
"""

from __future__ import annotations

import json
import math
import re
import struct
from typing import Any

from tritonclient.grpc import service_pb2

OUTPUTS = {
    "USER_SAFETY": ("BYTES", [1, 1]),
    "RESPONSE_SAFETY": ("BYTES", [1, 1]),
    "P_UNSAFE": ("FP32", [1, 2]),
    "CATEGORIES": ("BYTES", [1, 1]),
    "REASONING": ("BYTES", [1, 1]),
    "REASONING_SOURCE": ("BYTES", [1, 1]),
    "LABEL_DETAILS": ("BYTES", [1, 1]),
    "REASON_INDETERMINATE": ("BYTES", [1, 1]),
    "DECISION": ("BYTES", [1, 1]),
    "DECISION_REASON": ("BYTES", [1, 1]),
    "RECORD": ("BYTES", [1, 1]),
}
LABELS = ("safe", "unsafe", "indeterminate")
DECISIONS = ("allow", "review", "block")
NUMBER_OR_NONE = (int, type(None))
TEXT_OR_NONE = (str, type(None))
RECORD = {
    "contract_version": (int,),
    "request_id": (str,),
    "policy_name": (str,),
    "policy_sha256": (str,),
    "judged": (list,),
    "floor_sha256": TEXT_OR_NONE,
    "image_sha256": (list,),
    "model_revision": TEXT_OR_NONE,
    "bundle_revision": TEXT_OR_NONE,
    "engine": TEXT_OR_NONE,
    "precision": TEXT_OR_NONE,
    "prompt_tokens": NUMBER_OR_NONE,
    "prefix_tokens": NUMBER_OR_NONE,
    "timings_ms": (dict,),
}
DETAILS = {
    "reasoning_truncated": (bool,),
    "reasoning_contradicts": (bool,),
    "flagged_by": (list,),
    "text_only": (dict, type(None)),
}
REQUIRED = ("contract_version", "request_id", "policy_name", "policy_sha256")
KINDS = {
    "invalid_request": "INVALID_ARGUMENT",
    "prompt_too_long": "INVALID_ARGUMENT",
    "invalid_image": "INVALID_ARGUMENT",
    "image_too_large": "INVALID_ARGUMENT",
    "unsupported_contract": "FAILED_PRECONDITION",
    "unimplemented": "UNIMPLEMENTED",
    "deadline_exceeded": "DEADLINE_EXCEEDED",
    "overloaded": "RESOURCE_EXHAUSTED",
    "unavailable": "UNAVAILABLE",
    "internal": "INTERNAL",
    "bundle": "INTERNAL",
    "indeterminate": "INTERNAL",
}
MARKER = re.compile(r"tritonguard:(?P<kind>[a-z_]+)(?: field=(?P<field>[A-Za-z0-9_.\[\]-]+))?: (?P<message>[^\n]*)")


class BrokenReply(AssertionError):
    """Release 0.1.0 would raise InternalError for this reply."""


def read_verdict(reply: bytes) -> dict[str, Any]:
    """The verdict of a serialized ModelInferResponse. Raises BrokenReply."""
    message = service_pb2.ModelInferResponse.FromString(reply)
    _hold(len(message.outputs) == len(message.raw_output_contents), "contents apart from their outputs")
    raw = {}
    for output, content in zip(message.outputs, message.raw_output_contents, strict=True):
        _hold(output.name in OUTPUTS, f"unknown output {output.name}")
        _hold((output.datatype, list(output.shape)) == OUTPUTS[output.name], f"{output.name}: another type or shape")
        raw[output.name] = content
    _hold(set(raw) == set(OUTPUTS), f"missing outputs {sorted(set(OUTPUTS) - set(raw))}")
    texts = {name: _text(content) for name, content in raw.items() if name != "P_UNSAFE"}
    p_user, p_response = (None if math.isnan(p) else p for p in struct.unpack("<2f", raw["P_UNSAFE"]))
    user, response = texts["USER_SAFETY"], texts["RESPONSE_SAFETY"] or None
    _hold(user in LABELS and response in (*LABELS, None), "an unknown label")
    for label, p_unsafe in ((user, p_user), (response, p_response)):
        _hold((label in ("safe", "unsafe")) == (p_unsafe is not None), "a label apart from its probability")
        _hold(p_unsafe is None or (label == "unsafe") == (p_unsafe >= 0.5), "a label against its probability")
    reason = texts["REASON_INDETERMINATE"] or None
    _hold(("indeterminate" in (user, response)) == (reason is not None), "indeterminate apart from its reason")
    reasoning, source = texts["REASONING"] or None, texts["REASONING_SOURCE"] or None
    _hold((reasoning is None) == (source is None), "reasoning apart from its source")
    decision, decided = texts["DECISION"], texts["DECISION_REASON"]
    _hold(decision in DECISIONS and bool(decided), "an unknown decision")
    on_error = decided.startswith("on_error=")
    _hold(not on_error or (decision == "allow") == decided.startswith("on_error=allow:"), "a wrong mark of on_error")
    _hold(not on_error or reason is not None, "on_error decided on a judged label")
    _hold(decision != "allow" or reason is None or on_error, "an indeterminate label was allowed unmarked")
    categories = json.loads(texts["CATEGORIES"])
    _hold(isinstance(categories, (list, type(None))), "categories that are no list")
    record = _known(json.loads(texts["RECORD"]), RECORD)
    _hold(set(REQUIRED) <= set(record), "a record without its required keys")
    details = _known(json.loads(texts["LABEL_DETAILS"]), DETAILS)
    if details.get("text_only"):
        _hold(details["text_only"]["user_safety"] in LABELS, "an unknown label of the texts")
    return {
        "user": user,
        "response": response,
        "p_unsafe_user": p_user,
        "p_unsafe_response": p_response,
        "categories": categories,
        "reasoning": reasoning,
        "reason": reason,
        "decision": decision,
        "decision_reason": decided,
        "record": record,
        **details,
    }


def read_error(text: str, status: str) -> tuple[str, str | None]:
    """Kind and field of an error's text; status: the gRPC status, such as UNAVAILABLE. An unknown kind goes by it."""
    marker = MARKER.search(text)
    if marker and marker["kind"] in KINDS:
        return marker["kind"], marker["field"]
    by_status = {known: kind for kind, known in reversed(KINDS.items())}
    return by_status.get(status, "internal"), marker["field"] if marker else None


def _text(content: bytes) -> str:
    (length,) = struct.unpack_from("<I", content)
    _hold(len(content) == 4 + length, "not one text")
    return content[4:].decode("utf-8")


def _known(values: Any, kinds: dict[str, tuple[type, ...]]) -> dict[str, Any]:
    _hold(isinstance(values, dict), "not a JSON object")
    known = {key: value for key, value in values.items() if key in kinds}
    for key, value in known.items():
        _hold(isinstance(value, kinds[key]), f"{key}: another kind of value")
    return known


def _hold(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenReply(what)
