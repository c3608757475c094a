"""A double of `triton_python_backend_utils`: what the adapter uses of it, recording instead of sending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        if not hasattr(array, "dtype"):
            raise TypeError("the real one takes arrays only")
        self.name = name
        self.array = array

    def as_numpy(self) -> Any:
        return self.array


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG = "UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG"
    UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = (
        "UNAVAILABLE",
        "UNSUPPORTED",
        "ALREADY_EXISTS",
        "CANCELLED",
    )

    def __init__(self, message: str, code: str) -> None:
        self.message = message
        self.code = code


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor]
    error: TritonError | None = None


@dataclass
class Request:
    """tensors: arrays by name; an exception in place of an array is raised when it is read."""

    tensors: Mapping[str, Any]
    id: str = "request-1"

    sent: list[InferenceResponse] = field(default_factory=list)

    def request_id(self) -> str:
        return self.id

    def get_response_sender(self) -> Sender:
        return Sender(self.sent)


@dataclass
class Sender:
    """Keeps what is sent; a second response to one request is an error, as in Triton."""

    sent: list[InferenceResponse]

    def send(self, response: InferenceResponse, flags: int) -> None:
        if flags != RecordingTriton.TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            raise ValueError("a response that is not the final one leaves the request open")
        if self.sent:
            raise RuntimeError("the request has its response")
        self.sent.append(response)


class _Unreadable:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def as_numpy(self) -> Any:
        raise self.error


@dataclass
class _Logger:
    lines: list[str] = field(default_factory=list)
    broken: bool = False

    def log_error(self, line: str) -> None:
        if self.broken:
            raise RuntimeError("no log")
        self.lines.append(line)

    def log_warn(self, line: str) -> None:
        self.lines.append(line)


@dataclass
class Metric:
    labels: Mapping[str, str]
    value: float = 0

    def set(self, value: float) -> None:
        self.value = value

    def increment(self, by: float) -> None:
        if by < 0:
            raise ValueError("a counter does not go back")
        self.value += by


@dataclass
class Family:
    name: str
    kind: str
    metrics: list[Metric] = field(default_factory=list)

    def Metric(self, labels: Mapping[str, str]) -> Metric:
        self.metrics.append(Metric(labels))
        return self.metrics[-1]


class _MetricFamily:
    """Called like the class of that name: one family for a name, as in Triton. refused: no metrics are served."""

    GAUGE, COUNTER = "gauge", "counter"

    def __init__(self) -> None:
        self.made: list[Family] = []
        self.refused = False

    def __call__(self, *, name: str, description: str, kind: str) -> Family:
        if self.refused or not description or name in {family.name for family in self.made}:
            raise RuntimeError("no such family can be made")
        self.made.append(Family(name, kind))
        return self.made[-1]


class RecordingTriton:
    """Handed to the adapter as `pb_utils`. `logged`: lines of its log. `families`: of metrics, as made."""

    Tensor = Tensor
    TritonError = TritonError
    InferenceResponse = InferenceResponse
    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

    def __init__(self) -> None:
        self.Logger = _Logger()
        self.MetricFamily = _MetricFamily()

    @property
    def families(self) -> list[Family]:
        return self.MetricFamily.made

    @property
    def logged(self) -> list[str]:
        return self.Logger.lines

    def get_input_tensor_by_name(self, request: Request, name: str) -> Any:
        value = request.tensors.get(name)
        if value is None:
            return None
        return _Unreadable(value) if isinstance(value, Exception) else Tensor(name, value)
