"""The one table of tensors, and the only code that packs and reads them.

Client, ensemble and adapters read names, types and dimensions here; the `config.pbtxt` files are held equal
to this table by a test. Every Triton model has `max_batch_size > 0`, so on the wire each tensor has the shape
`[1, *dims]`: one request is one row.

Reading is strict: whatever does not have the declared type and shape raises `MalformedTensor`, and the caller
decides what that means (a caller's mistake at the door of the server, an internal error in a reply).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

CONTRACT_VERSION = 1
SUPPORTED_CONTRACTS = frozenset({CONTRACT_VERSION})
"""Versions that a server of this release answers; a client's version travels with each request."""

Array = npt.NDArray[Any]
Dtype = Literal["BYTES", "INT32", "INT64", "FP32"]

NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BYTES": np.dtype(np.object_),
        "INT32": np.dtype(np.int32),
        "INT64": np.dtype(np.int64),
        "FP32": np.dtype(np.float32),
    }
)


class MalformedTensor(ValueError):
    """A tensor is missing or is not what the table says. `name` is the tensor's; the text holds no
    contents."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"tensor {name}: {problem}")
        self.name = name


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: `dims` leaves the batch dimension out, -1 is a variable length."""

    name: str
    dtype: Dtype
    dims: tuple[int, ...]
    optional: bool = False
    doc: str = ""


def _optional(name: str, dtype: Dtype, dims: tuple[int, ...], doc: str) -> TensorSpec:
    return TensorSpec(name, dtype, dims, optional=True, doc=doc)


REQUEST: tuple[TensorSpec, ...] = (
    TensorSpec("CONTRACT_VERSION", "INT32", (1,), doc="version of this table that the caller speaks"),
    TensorSpec("REQUEST_ID", "BYTES", (1,), doc="printable ASCII, at most 128 characters"),
    TensorSpec("PROMPT", "BYTES", (1,), doc="UTF-8 text of the user; empty only beside an image"),
    TensorSpec("MODE", "BYTES", (1,), doc="verdict | categories | think"),
    TensorSpec("DEADLINE_MS", "INT32", (1,), doc="what is left of the caller's time, milliseconds"),
    _optional("RESPONSE", "BYTES", (1,), "UTF-8 text of the assistant"),
    _optional("IMAGES", "BYTES", (-1,), "encoded image files, in the order of the conversation"),
    _optional("POLICY", "BYTES", (1,), "canonical JSON of the policy; absent: the built-in one"),
    _optional("POLICY_NAME", "BYTES", (1,), "in the place of POLICY: the name of one on the server"),
    _optional("THINK_BUDGET", "INT32", (1,), "most tokens of reasoning, think mode only"),
    _optional("PRIORITY", "INT32", (1,), "0 and up; absent: 0"),
    _optional("TENANT", "BYTES", (1,), "printable ASCII, at most 128 characters"),
    _optional("TURNS", "BYTES", (1,), "reserved: JSON list of earlier turns"),
)
"""Inputs of the ensemble and of `preprocess`."""

MODEL_INPUT: tuple[TensorSpec, ...] = (
    TensorSpec("INPUT_IDS", "INT32", (-1,), doc="token ids of one prompt or more, one after another"),
    TensorSpec("PROMPT_LENGTHS", "INT32", (-1,), doc="how many of the ids each prompt has"),
    TensorSpec("PREFIX_LENGTHS", "INT32", (-1,), doc="how many leading ids of each are the policy's shared prefix"),
    TensorSpec("PIXELS", "BYTES", (1,), doc='uint8 RGB [images, size, size, 3] of the tower\'s size; "" for none'),
    TensorSpec("ANSWER", "BYTES", (1,), doc="JSON: which answer program to run for each prompt"),
    TensorSpec("DEADLINE_NS", "INT64", (1,), doc="CLOCK_MONOTONIC of this host, nanoseconds"),
)
"""`preprocess` to `decode`. A request is one prompt for each part of its policy, or more (`judgement`)."""

CONTEXT: tuple[TensorSpec, ...] = (
    TensorSpec("CONTEXT", "BYTES", (1,), doc="JSON: the part of the record known before decoding"),
)
"""`preprocess` to `verdict`."""

DECODED: tuple[TensorSpec, ...] = (
    TensorSpec("CHOICE_LOGPROBS", "FP32", (-1, 2), doc="a row per choice of each prompt: log P(safe), log P(unsafe)"),
    TensorSpec("OUTPUT_TEXT", "BYTES", (-1,), doc="UTF-8 of each prompt's answer, forced text included"),
    TensorSpec("DECODE_INFO", "BYTES", (1,), doc="JSON: bundle and model revision, timings, what each prompt took"),
)
"""`decode` to `verdict`."""

VERDICT: tuple[TensorSpec, ...] = (
    TensorSpec("USER_SAFETY", "BYTES", (1,), doc="safe | unsafe | indeterminate"),
    TensorSpec("RESPONSE_SAFETY", "BYTES", (1,), doc='the same; "" when no response was judged'),
    TensorSpec("P_UNSAFE", "FP32", (2,), doc="user, response; NaN where not judged"),
    TensorSpec("CATEGORIES", "BYTES", (1,), doc="JSON list of names; null when not asked for"),
    TensorSpec("REASONING", "BYTES", (1,), doc='"" when there is none'),
    TensorSpec("REASONING_SOURCE", "BYTES", (1,), doc='who wrote the reasoning; "" when there is none'),
    TensorSpec("LABEL_DETAILS", "BYTES", (1,), doc="JSON: what else belongs to the label (flagged_by, text_only, ...)"),
    TensorSpec("REASON_INDETERMINATE", "BYTES", (1,), doc='"" unless a label is indeterminate'),
    TensorSpec("DECISION", "BYTES", (1,), doc="allow | block | review"),
    TensorSpec("DECISION_REASON", "BYTES", (1,), doc="one line, no user text"),
    TensorSpec("RECORD", "BYTES", (1,), doc="JSON of the record, no user text"),
)
"""`verdict` to the caller: outputs of the ensemble."""

TENSORS: Mapping[str, TensorSpec] = MappingProxyType(
    {spec.name: spec for group in (REQUEST, MODEL_INPUT, CONTEXT, DECODED, VERDICT) for spec in group}
)
"""Every tensor by its name; a name means one thing wherever it appears."""


def pack(name: str, values: Sequence[Any] | Array) -> Array:
    """The array of shape `[1, *dims]` for the tensor `name`.

    `values` is one row: a flat sequence (bytes for BYTES), or rows of two for CHOICE_LOGPROBS.
    Raises `MalformedTensor` where the row does not fit the table.
    """
    spec = TENSORS[name]
    if spec.dtype == "BYTES":
        packed: Array = np.empty((1, len(values)), dtype=np.object_)
        # By element: numpy would turn equally long bytes into a fixed-width string array, eating trailing
        # NULs.
        for index, value in enumerate(values):
            packed[0, index] = value
    else:
        row = np.asarray(values, dtype=NUMPY_DTYPES[spec.dtype])
        packed = row.reshape(1, *row.shape)
    return _checked(spec, packed)


def pack_text(name: str, text: str) -> Array:
    """The `[1, 1]` BYTES array with `text` in UTF-8. Raises UnicodeEncodeError on lone surrogates."""
    return pack(name, [text.encode("utf-8")])


def unpack(tensors: Mapping[str, Array], name: str) -> Array | None:
    """The row of the tensor `name` without its batch dimension; None where an optional one is absent.

    Raises `MalformedTensor` where a required tensor is absent, or the type or shape is not the table's.
    """
    spec = TENSORS[name]
    packed = tensors.get(name)
    if packed is None:
        if spec.optional:
            return None
        raise MalformedTensor(name, "is required and missing")
    row: Array = _checked(spec, packed)[0]
    return row


def unpack_bytes(tensors: Mapping[str, Array], name: str) -> bytes | None:
    """The single element of a BYTES tensor of dims [1]; None where an optional one is absent."""
    row = unpack(tensors, name)
    return None if row is None else bytes(row[0])


def unpack_text(tensors: Mapping[str, Array], name: str) -> str | None:
    """Like `unpack_bytes`, decoded from UTF-8; invalid UTF-8 raises `MalformedTensor`."""
    raw = unpack_bytes(tensors, name)
    if raw is None:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # Without the cause: a UnicodeDecodeError prints the bytes, which are a user's text.
        raise MalformedTensor(name, "is not valid UTF-8") from None


def unpack_int(tensors: Mapping[str, Array], name: str) -> int | None:
    """The single element of an integer tensor of dims [1]; None where an optional one is absent."""
    row = unpack(tensors, name)
    return None if row is None else int(row[0])


def require_text(tensors: Mapping[str, Array], name: str) -> str:
    """`unpack_text` for a required tensor."""
    text = unpack_text(tensors, name)
    if text is None:
        raise MalformedTensor(name, "is required and missing")
    return text


def require_int(tensors: Mapping[str, Array], name: str) -> int:
    """`unpack_int` for a required tensor."""
    value = unpack_int(tensors, name)
    if value is None:
        raise MalformedTensor(name, "is required and missing")
    return value


def _checked(spec: TensorSpec, packed: Array) -> Array:
    # The stages read some forty tensors for each request, so this is plain.
    if not isinstance(packed, np.ndarray) or packed.dtype != NUMPY_DTYPES[spec.dtype]:
        raise MalformedTensor(spec.name, f"is not of type {spec.dtype}")
    shape, dims = packed.shape, spec.dims
    if shape != (1, *dims) and not (len(shape) == len(dims) + 1 and shape[0] == 1 and _fits(dims, shape[1:])):
        raise MalformedTensor(spec.name, f"has shape {list(shape)}, expected {[1, *dims]}")
    if spec.dtype == "BYTES":
        for element in packed.flat:
            if not isinstance(element, bytes):
                raise MalformedTensor(spec.name, "holds elements that are not bytes")
    return packed


def _fits(dims: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return all(want in (-1, have) for want, have in zip(dims, shape, strict=True))
