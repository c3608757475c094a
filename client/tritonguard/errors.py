"""Everything that this package raises on purpose.

    GuardError
     +- InvalidRequest          the caller's mistake: a value is wrong or missing
     |   +- PromptTooLong       the text does not fit the model's token budget; it is never cut
     |   +- InvalidImage        no readable PNG, JPEG or WebP: broken, cut off, animated, something else
     |   +- ImageTooLarge       more bytes, pixels or images than the server takes
     +- UnsupportedContract     client and server speak different contract versions
     +- Unimplemented           declared, not built yet; `field` names what
     +- DeadlineExceeded        the time ran out                               (*)
     +- Overloaded              the server refuses more work for the moment    (*)
     +- Unavailable             no server, or it is not ready                  (*)
     +- IndeterminateVerdict    the model's answer could not be read as a verdict; raised by the client (*)
     +- InternalError           a fault on the server, or a reply that makes no sense (*)
     +- BundleError             the served bundle is damaged or does not fit   (*)

(*) a failure of the service, decided by the policy's `on_error`: `block` and `allow` answer with a marked
verdict, `raise` raises. The others are the caller's to mend and always raised.

`ERRORS` is the one table from kind to class and status code. On the wire an error is one line,
`tritonguard:<kind>[ field=<field>]: <message>`, which survives the text that Triton puts before it.
Messages never hold a user's text, and those of internal faults never leave the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from tritonguard.verdict import Verdict

INTERNAL_MESSAGE = "internal error"
"""What a caller is told of a fault inside the server, whatever it was."""

_FIELD_CHARACTERS = re.compile(r"[^A-Za-z0-9_.\[\]-]")
_MARKER = re.compile(r"tritonguard:(?P<kind>[a-z_]+)(?: field=(?P<field>[A-Za-z0-9_.\[\]-]+))?: (?P<message>[^\n]*)")
_MOST_CHARACTERS = 500


class GuardError(Exception):
    """Base of all errors of this package.

        try:
            verdict = guard.check(text)
        except tritonguard.GuardError as error:
            print(error.kind, error.field, error)

    kind: the name in the table `ERRORS`, stable across releases.
    message: one line.
    field: dotted name of the value at fault (`policy.suppress`); None where no single value is.
    request_id: of the request it answers; None where there was none yet.
    """

    kind: ClassVar[str] = "internal"

    def __init__(self, message: str, *, field: str | None = None, request_id: str | None = None) -> None:
        self.message = _one_line(message)
        self.field = _FIELD_CHARACTERS.sub("_", field) if field else None
        self.request_id = request_id
        super().__init__(self.message)


class InvalidRequest(GuardError):
    """A value of the request is wrong or missing; sending it again unchanged cannot help."""

    kind = "invalid_request"


class PromptTooLong(InvalidRequest):
    """The rendered prompt exceeds the token budget. Text is never cut silently."""

    kind = "prompt_too_long"


class InvalidImage(InvalidRequest):
    """Not a readable PNG, JPEG or WebP: another format, damaged, cut off, animated, or of an unsupported mode."""

    kind = "invalid_image"


class ImageTooLarge(InvalidRequest):
    """More bytes, pixels or images than the server takes. Nothing is scaled down or left out silently."""

    kind = "image_too_large"


class UnsupportedContract(GuardError):
    """The server does not know the contract version of the request."""

    kind = "unsupported_contract"


class Unimplemented(GuardError):
    """Declared in the contract and not built in this release; `field` always says what."""

    kind = "unimplemented"

    def __init__(self, message: str, *, field: str, request_id: str | None = None) -> None:
        super().__init__(message, field=field, request_id=request_id)


class DeadlineExceeded(GuardError):
    """No verdict within the request's deadline."""

    kind = "deadline_exceeded"


class Overloaded(GuardError):
    """The server sheds load; trying again later can help."""

    kind = "overloaded"


class Unavailable(GuardError):
    """The server cannot be reached or is not ready.

    retryable: asking the same server again can help; False for a TLS handshake that one side refused.
    """

    kind = "unavailable"

    def __init__(
        self, message: str, *, field: str | None = None, request_id: str | None = None, retryable: bool = True
    ) -> None:
        super().__init__(message, field=field, request_id=request_id)
        self.retryable = retryable


class InternalError(GuardError):
    """A fault on the server, or a reply that breaks the contract. Never read as safe."""

    kind = "internal"

    def __init__(
        self, message: str = INTERNAL_MESSAGE, *, field: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message, field=field, request_id=request_id)

    @classmethod
    def of(cls, cause: BaseException) -> InternalError:
        """What a caller is told of a fault, whatever it was; `cause` is chained, for the log."""
        error = cls()
        error.__cause__ = cause
        return error


class BundleError(GuardError):
    """The bundle is damaged, incomplete, or made for something else; raised at build and load time."""

    kind = "bundle"


class IndeterminateVerdict(GuardError):
    """The label is indeterminate and the policy says `on_error: raise`.

    verdict: the whole verdict with its reason; None where the error was read from the wire.
    """

    kind = "indeterminate"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        request_id: str | None = None,
        verdict: Verdict | None = None,
    ) -> None:
        super().__init__(message, field=field, request_id=request_id)
        self.verdict = verdict


@dataclass(frozen=True)
class ErrorSpec:
    """A row of the table.

    grpc_status: name of the status as a gRPC service would answer it.
    triton_code: name in `pb_utils.TritonError`; Triton 2.51 has no code for some statuses, the kind on the
    wire
        tells them apart.
    on_error: the policy's `on_error` decides; otherwise the client raises.
    """

    error: type[GuardError]
    grpc_status: str
    triton_code: str
    on_error: bool
    meaning: str


_TABLE = (
    ErrorSpec(InvalidRequest, "INVALID_ARGUMENT", "INVALID_ARG", False, "the request is malformed"),
    ErrorSpec(PromptTooLong, "INVALID_ARGUMENT", "INVALID_ARG", False, "the text exceeds the token budget"),
    ErrorSpec(InvalidImage, "INVALID_ARGUMENT", "INVALID_ARG", False, "not a readable PNG, JPEG or WebP"),
    ErrorSpec(ImageTooLarge, "INVALID_ARGUMENT", "INVALID_ARG", False, "too many bytes, pixels or images"),
    ErrorSpec(UnsupportedContract, "FAILED_PRECONDITION", "INVALID_ARG", False, "unknown contract version"),
    ErrorSpec(Unimplemented, "UNIMPLEMENTED", "UNSUPPORTED", False, "declared and not built yet"),
    ErrorSpec(DeadlineExceeded, "DEADLINE_EXCEEDED", "CANCELLED", True, "no verdict in time"),
    ErrorSpec(Overloaded, "RESOURCE_EXHAUSTED", "UNAVAILABLE", True, "the server sheds load"),
    ErrorSpec(Unavailable, "UNAVAILABLE", "UNAVAILABLE", True, "no server, or it is not ready"),
    ErrorSpec(InternalError, "INTERNAL", "INTERNAL", True, "a fault on the server"),
    ErrorSpec(BundleError, "INTERNAL", "INTERNAL", True, "the served bundle is damaged or does not fit"),
    ErrorSpec(IndeterminateVerdict, "INTERNAL", "INTERNAL", True, "the answer is no readable verdict"),
)

ERRORS: Mapping[str, ErrorSpec] = MappingProxyType({spec.error.kind: spec for spec in _TABLE})
"""Every kind of error, its class, its status, and whether `on_error` covers it."""

# The first row of a status stands for it where a text carries no marker (Triton's own errors).
_BY_STATUS: Mapping[str, ErrorSpec] = MappingProxyType(
    {
        **{spec.grpc_status: spec for spec in reversed(_TABLE)},
        # A model that is not loaded (yet, or any more), and a server that ended the call as it went away.
        "NOT_FOUND": ERRORS[Unavailable.kind],
        "CANCELLED": ERRORS[Unavailable.kind],
    }
)

# Texts of Triton and gRPC without a marker that say more than their status does.
_BY_TEXT: tuple[tuple[re.Pattern[str], ErrorSpec], ...] = (
    (re.compile(r"Exceeds maximum queue size", re.IGNORECASE), ERRORS[Overloaded.kind]),
    (re.compile(r"Request timeout expired", re.IGNORECASE), ERRORS[DeadlineExceeded.kind]),
    (re.compile(r"Stub process '[^'\n]{1,200}' is not healthy"), ERRORS[Unavailable.kind]),
    (re.compile(r"Server exiting|RST_STREAM|Stream removed|GOAWAY"), ERRORS[Unavailable.kind]),
)
_TLS_REFUSED = re.compile(r"handshake failed|CERTIFICATE_VERIFY_FAILED|verification check failed", re.IGNORECASE)
TLS_REFUSED_MESSAGE = "the TLS handshake was refused: certificate, authority or server name do not fit"


def to_wire(error: GuardError) -> str:
    """One line for the caller. What went wrong inside the server stays there: its message is replaced."""
    internal = ERRORS[error.kind].grpc_status == "INTERNAL"
    message = INTERNAL_MESSAGE if internal else error.message
    field = f" field={error.field}" if error.field and not internal else ""
    return f"tritonguard:{error.kind}{field}: {message}"


def from_wire(message: str, grpc_status: str | None = None, *, request_id: str | None = None) -> GuardError:
    """The error that a server's text stands for; returned, not raised.

    The marker of `to_wire` is found anywhere in the text. Without one (or with a kind of a newer server) the
    gRPC status decides (`"UNAVAILABLE"` or `"StatusCode.UNAVAILABLE"`; None: unknown), and InternalError is
    the rest.
    """
    marker = _MARKER.search(message)
    if marker and marker["kind"] in ERRORS:
        return _build(ERRORS[marker["kind"]], marker["message"], marker["field"], request_id)
    status = (grpc_status or "").removeprefix("StatusCode.")
    spec = _BY_STATUS.get(status, ERRORS[InternalError.kind])
    if marker:
        return _build(spec, _told(spec, status, marker["message"]), marker["field"], request_id)
    if status == "UNAVAILABLE" and _TLS_REFUSED.search(message):
        return Unavailable(TLS_REFUSED_MESSAGE, request_id=request_id, retryable=False)
    if spec.grpc_status in ("INTERNAL", "UNAVAILABLE"):
        spec = next((known for text, known in _BY_TEXT if text.search(message)), spec)
    return _build(spec, _told(spec, status, message), None, request_id)


def _told(spec: ErrorSpec, status: str, message: str) -> str:
    # Texts of internal faults can hold tracebacks and paths of the server.
    if spec.error is InternalError:
        return INTERNAL_MESSAGE
    return message if message and status in _BY_STATUS and status != "INTERNAL" else spec.meaning


def _build(spec: ErrorSpec, message: str, field: str | None, request_id: str | None) -> GuardError:
    if spec.error is Unimplemented:
        return Unimplemented(message, field=field or "unknown", request_id=request_id)
    return spec.error(message, field=field, request_id=request_id)


def _one_line(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."
