"""One request, and its form on the wire.

`GuardRequest` validates itself, once at the client and once at the door of the server (`from_tensors`).
`to_tensors` and `from_tensors` are each other's inverse. The client sends all that a caller asks for; the
server is the one that refuses what it has not built (`refuse_unbuilt`: earlier turns), so that this client can
use a newer server.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBytes, StrictInt, field_validator

from tritonguard import limits
from tritonguard import tensors as wire
from tritonguard.errors import GuardError, ImageTooLarge, InvalidRequest, Unimplemented, UnsupportedContract
from tritonguard.models import ContractModel, Text
from tritonguard.policy import Policy

MAX_TEXT_BYTES = limits.MAX_TEXT_BYTES
MAX_DEADLINE_S = limits.MAX_DEADLINE_S
DEFAULT_DEADLINE_S = 10.0
DEFAULT_THINK_BUDGET = 128
"""Most tokens of reasoning where a request names no budget."""

_INT32_MAX = 2**31 - 1
# Made once: validating one takes longer than all the rest of a request.
_BUILT_IN = Policy()

PrintableAscii = Annotated[Text, Field(pattern=rf"^[\x20-\x7e]{{1,{limits.MAX_NAME_BYTES}}}$")]


def _refuse_long(text: str | None) -> str | None:
    if text is not None and limits.exceeds(text, MAX_TEXT_BYTES):
        raise ValueError(f"larger than {MAX_TEXT_BYTES} bytes")
    return text


class Mode(str, Enum):
    """verdict: labels and probabilities. categories: also which categories. think: reasoning first."""

    VERDICT = "verdict"
    CATEGORIES = "categories"
    THINK = "think"


class Turn(ContractModel):
    """A turn of an earlier exchange (reserved)."""

    path: ClassVar[str] = "turns"

    role: Literal["user", "assistant"]
    content: Text

    _fits = field_validator("content")(_refuse_long)


class GuardRequest(ContractModel):
    """What is to be judged, under which policy, by when.

    prompt: the user's text; blank only beside an image. response: the assistant's; None: judge the prompt
    alone.
    images: encoded files (never addresses) in the order of the conversation.
    policy: the caller's own. policy_name: in its place, the name of a policy that lives on the server.
    think_budget: most tokens of reasoning, for mode `think`; None leaves it to the server.
    deadline_s: seconds from sending to verdict, more than 0 and at most 600; kept in whole milliseconds.
    priority, tenant: carried and recorded. request_id: printable ASCII, made up where not given.
    turns: reserved for more than one exchange; None today.

    Raises InvalidRequest whose `field` names the value.
    """

    prompt: Text
    response: Text | None = None
    images: tuple[Annotated[StrictBytes, Field(min_length=1)], ...] = ()
    policy: Policy = _BUILT_IN
    policy_name: PrintableAscii | None = None
    mode: Mode = Mode.VERDICT
    think_budget: Annotated[StrictInt, Field(ge=1, le=limits.MAX_THINK_BUDGET)] | None = None
    deadline_s: Annotated[float, Field(gt=0, le=MAX_DEADLINE_S, strict=True)] = DEFAULT_DEADLINE_S
    priority: Annotated[StrictInt, Field(ge=0, le=_INT32_MAX)] = 0
    tenant: PrintableAscii | None = None
    request_id: PrintableAscii = Field(default_factory=lambda: uuid.uuid4().hex)
    turns: Annotated[tuple[Turn, ...], Field(min_length=1, max_length=limits.MAX_TURNS)] | None = None

    _fits = field_validator("prompt", "response")(_refuse_long)

    @field_validator("deadline_s")
    @classmethod
    def _whole_milliseconds(cls, deadline_s: float) -> float:
        return max(1, round(deadline_s * 1000)) / 1000

    def check_whole(self) -> None:
        # The template strips texts, so a blank one would ask about nothing and be answered "safe".
        if not self.prompt.strip() and not self.images:
            raise InvalidRequest("prompt: blank, and there is no image", field="prompt")
        if self.response is not None and not self.response.strip():
            raise InvalidRequest("response: blank; leave it out to judge the prompt alone", field="response")
        if self.policy_name is not None and self.policy != _BUILT_IN:
            raise InvalidRequest("policy_name: given beside a policy; give one of them", field="policy_name")
        if self.think_budget is not None and self.mode is not Mode.THINK:
            raise InvalidRequest("think_budget: needs mode think", field="think_budget")

    @classmethod
    def create(cls, **values: Any) -> GuardRequest:
        """The request of loosely typed values (mode as text, lists for tuples). Raises InvalidRequest."""
        return cls.model_validate(values)


def refuse_unbuilt(request: GuardRequest) -> None:
    """The rule of the server's door: raises Unimplemented for what is declared and not built, earlier turns."""
    if request.turns is not None:
        raise Unimplemented("turns: not served by this release", field="turns", request_id=request.request_id)


def to_tensors(request: GuardRequest) -> dict[str, wire.Array]:
    """The REQUEST tensors of a request; optional ones only where they say more than their default."""
    tensors = {
        "CONTRACT_VERSION": wire.pack("CONTRACT_VERSION", [wire.CONTRACT_VERSION]),
        "REQUEST_ID": wire.pack_text("REQUEST_ID", request.request_id),
        "PROMPT": wire.pack_text("PROMPT", request.prompt),
        "MODE": wire.pack_text("MODE", request.mode.value),
        "DEADLINE_MS": wire.pack("DEADLINE_MS", [round(request.deadline_s * 1000)]),
    }
    if request.response is not None:
        tensors["RESPONSE"] = wire.pack_text("RESPONSE", request.response)
    if request.images:
        tensors["IMAGES"] = wire.pack("IMAGES", request.images)
    if request.policy != _BUILT_IN:
        tensors["POLICY"] = wire.pack_text("POLICY", request.policy.canonical_json())
    if request.policy_name is not None:
        tensors["POLICY_NAME"] = wire.pack_text("POLICY_NAME", request.policy_name)
    if request.think_budget is not None:
        tensors["THINK_BUDGET"] = wire.pack("THINK_BUDGET", [request.think_budget])
    if request.priority:
        tensors["PRIORITY"] = wire.pack("PRIORITY", [request.priority])
    if request.tenant is not None:
        tensors["TENANT"] = wire.pack_text("TENANT", request.tenant)
    if request.turns is not None:
        turns = [turn.model_dump() for turn in request.turns]
        tensors["TURNS"] = wire.pack_text("TURNS", json.dumps(turns, ensure_ascii=False))
    return tensors


def from_tensors(tensors: Mapping[str, wire.Array]) -> GuardRequest:
    """The request that arrives at the server; the inverse of `to_tensors`.

    Raises UnsupportedContract for a version this server does not know (looked at first: nothing else of such
    a request can be trusted to mean what it seems), InvalidRequest for everything malformed, and ImageTooLarge
    for too many images or too large ones. All carry the request id where it could be read. Sizes are looked at
    before anything is decoded or parsed (`limits`).
    """
    request_id = _request_id(tensors)
    try:
        version = wire.require_int(tensors, "CONTRACT_VERSION")
        if version not in wire.SUPPORTED_CONTRACTS:
            known = ", ".join(str(number) for number in sorted(wire.SUPPORTED_CONTRACTS))
            raise UnsupportedContract(f"contract version {version} is not one of: {known}")
        return _read(tensors)
    except wire.MalformedTensor as error:
        raise InvalidRequest(str(error), field=error.name.lower(), request_id=request_id) from None
    except GuardError as error:
        error.request_id = request_id
        raise


def _read(tensors: Mapping[str, wire.Array]) -> GuardRequest:
    unknown = sorted(set(tensors) - {spec.name for spec in wire.REQUEST})
    if unknown:
        raise InvalidRequest(f"unknown tensor {unknown[0]}", field=unknown[0].lower())
    _refuse_large(tensors)
    images = wire.unpack(tensors, "IMAGES")
    policy = wire.unpack_text(tensors, "POLICY")
    turns = wire.unpack_text(tensors, "TURNS")
    return GuardRequest(
        prompt=wire.require_text(tensors, "PROMPT"),
        response=wire.unpack_text(tensors, "RESPONSE"),
        images=() if images is None else tuple(images),
        policy=_BUILT_IN if policy is None else Policy.from_json(policy),
        policy_name=wire.unpack_text(tensors, "POLICY_NAME"),
        mode=_mode(wire.require_text(tensors, "MODE")),
        think_budget=wire.unpack_int(tensors, "THINK_BUDGET"),
        deadline_s=wire.require_int(tensors, "DEADLINE_MS") / 1000,
        priority=wire.unpack_int(tensors, "PRIORITY") or 0,
        tenant=wire.unpack_text(tensors, "TENANT"),
        request_id=wire.require_text(tensors, "REQUEST_ID"),
        turns=None if turns is None else _turns(turns),
    )


def _refuse_large(tensors: Mapping[str, wire.Array]) -> None:
    """By sizes alone. What is no tensor of bytes is left to the table."""
    images = tensors.get("IMAGES")
    if images is not None and images.size > limits.MAX_IMAGES:
        raise ImageTooLarge(f"{images.size} images, this server takes at most {limits.MAX_IMAGES}", field="images")
    for name, most_bytes in limits.REQUEST_BYTES.items():
        packed = tensors.get(name)
        if packed is None or packed.size > limits.MAX_IMAGES:
            continue
        for number, element in enumerate(packed.flat):
            if isinstance(element, bytes) and len(element) > most_bytes:
                if name == "IMAGES":
                    raise ImageTooLarge(
                        f"the file has {len(element)} bytes, this server takes at most {most_bytes}",
                        field=f"images.{number}",
                    )
                raise InvalidRequest(f"{name.lower()}: larger than {most_bytes} bytes", field=name.lower())


def _mode(text: str) -> Mode:
    try:
        return Mode(text)
    except ValueError:
        known = ", ".join(mode.value for mode in Mode)
        raise InvalidRequest(f"mode: not one of {known}", field="mode") from None


def _turns(text: str) -> tuple[Turn, ...]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest("turns: not JSON", field="turns") from None
    if not isinstance(data, list):
        raise InvalidRequest("turns: not a list", field="turns")
    if len(data) > limits.MAX_TURNS:
        raise InvalidRequest(f"turns: more than {limits.MAX_TURNS}", field="turns")
    try:
        limits.refuse_excess(data)
    except ValueError as error:
        raise InvalidRequest(f"turns: {error}", field="turns") from None
    return tuple(Turn.model_validate(turn) for turn in data)


def _request_id(tensors: Mapping[str, wire.Array]) -> str | None:
    """For the error's sake only, so anything wrong with it is None here."""
    try:
        raw = wire.unpack_bytes(tensors, "REQUEST_ID")
        text = raw.decode("ascii") if raw and len(raw) <= limits.MAX_NAME_BYTES else ""
    except (wire.MalformedTensor, UnicodeDecodeError):
        return None
    return text if text and text.isprintable() else None
