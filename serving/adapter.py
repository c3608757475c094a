"""Between Triton's Python backend and the pure stages: what the `model.py` files share.

A stage is a function over {tensor name: array [1, *dims]} that raises GuardErrors. This module reads a
request's tensors, runs the stage and builds the response. Three promises hold whatever the stage does:

- every request gets exactly one response (a request without one hangs for ever in Triton), at once or later;
- a GuardError reaches the caller as its wire line and code; every other exception is the fixed InternalError;
- the log says where something broke, with the request id, and never holds a text of a user.

`pb_utils` (the module `triton_python_backend_utils`, which exists only inside Triton) is handed in.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tritonguard.errors import ERRORS, BundleError, GuardError, InternalError, to_wire
from tritonguard.policy import Policy
from tritonguard.tensors import Array, MalformedTensor, TensorSpec

from preprocessing.policies import PolicyStore, Problem

BUNDLE_VARIABLE = "TRITONGUARD_BUNDLE"
"""Environment variable with the folder of the served bundle; the launcher sets it, the models read it."""

POLICIES_VARIABLE = "TRITONGUARD_POLICIES"
"""The folder of the named policies; empty or not set: there are none."""

FLOOR_VARIABLE = "TRITONGUARD_FLOOR"
"""The operator's floor: `built-in`, or a policy file on the built-in taxonomy; empty or not set: no floor."""

CALLER_POLICIES_VARIABLE = "TRITONGUARD_CALLER_POLICIES"
"""Whether callers may send policies of their own: `1`, or `0`. Not set is `0`: who can reach a server that was
set up in another way than by the launcher is not known here."""

QUEUE_VARIABLE = "TRITONGUARD_QUEUE"
"""The most requests that may wait for the engine; empty or not set: the engine's own default."""

CACHE_VARIABLE = "TRITONGUARD_CACHE_MB"
"""Megabytes of answers that are kept for policies with a `cache`; `0`: none, whatever a policy says. Not set: 64."""

DEFAULT_CACHE_MB = 64
BUILT_IN_FLOOR = "built-in"

Tensors = Mapping[str, Array]
Result = Tensors | GuardError
Stage = Callable[[Tensors], Tensors]
Done = Callable[[Result], None]
Submit = Callable[[Tensors, Done], None]

_MOST_POSITIONS = 12
_MOST_ID_CHARACTERS = 128


def bundle_folder() -> Path:
    """The folder that `TRITONGUARD_BUNDLE` names. Raises BundleError where it is not set."""
    folder = os.environ.get(BUNDLE_VARIABLE)
    if not folder:
        raise BundleError(f"the environment variable {BUNDLE_VARIABLE} is not set")
    return Path(folder)


def policy_store(on_problem: Problem | None = None) -> PolicyStore:
    """The policies of this server, as the three variables say.

    on_problem: for the log, see `PolicyStore`. The floor is read here, once. Raises InvalidRequest or OSError for
    a floor that is none, and ValueError for a switch that is neither 0 nor 1.
    """
    folder = os.environ.get(POLICIES_VARIABLE)
    return PolicyStore(
        Path(folder) if folder else None,
        floor=floor_policy(os.environ.get(FLOOR_VARIABLE, "")),
        allow_callers=is_on(CALLER_POLICIES_VARIABLE, unset=False),
        on_problem=on_problem,
    )


def floor_policy(floor: str) -> Policy | None:
    """The policy of a floor: "" for none, `built-in`, or a file. Raises InvalidRequest and OSError."""
    if floor in ("", BUILT_IN_FLOOR):
        return Policy() if floor else None
    return Policy.from_yaml(Path(floor))


def is_on(variable: str, *, unset: bool) -> bool:
    """The switch of an environment variable. Raises ValueError for what is neither 0 nor 1."""
    text = os.environ.get(variable, "")
    if text not in ("", "0", "1"):
        # A mistyped switch must not be one of the two.
        raise ValueError(f"the environment variable {variable} is neither 0 nor 1")
    return text == "1" if text else unset


def most_waiting(default: int) -> int:
    """The length of the engine's queue. Raises ValueError for what is no whole number above 0."""
    return _whole_number(QUEUE_VARIABLE, default, least=1)


def cache_mb() -> int:
    """Megabytes for kept answers. Raises ValueError for what is no whole number."""
    return _whole_number(CACHE_VARIABLE, DEFAULT_CACHE_MB, least=0)


def _whole_number(variable: str, unset: int, *, least: int) -> int:
    text = os.environ.get(variable) or str(unset)
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise ValueError(f"the environment variable {variable} is no whole number from {least} up")
    return int(text)


class Adapter:
    """Runs stages for one Triton model.

    inputs, outputs: the model's rows of the tensor table. A required input that is absent is left out like
    an optional one: what that means is the stage's to say.
    """

    def __init__(self, pb_utils: Any, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._pb = pb_utils
        self._inputs = tuple(spec.name for spec in inputs)
        self._outputs = tuple(spec.name for spec in outputs)

    def each(self, requests: Sequence[Any], stage: Stage) -> list[Any]:
        """One response per request, in order; `stage` sees one request at a time. Raises nothing."""
        return [self._respond(self._staged(request, stage), _request_id(request)) for request in requests]

    def defer(self, requests: Sequence[Any], submit: Submit) -> None:
        """Hand each request to `submit`, and send its one response when that calls back, now or later, from any thread.

        Raises nothing. To Triton, `execute` then answers None; it counts the request as under way until its response.
        """
        for request in requests:
            # All that is needed of the request, now: Triton may take it back when `execute` returns.
            send = _Once(self._pb, request.get_response_sender())
            request_id = _request_id(request)

            def done(result: Result, send: _Once = send, request_id: str = request_id) -> None:
                send(self._respond(result, request_id))

            try:
                submit(self._read(request), done)
            except Exception as error:
                done(_typed(error))

    def _staged(self, request: Any, stage: Stage) -> Result:
        try:
            return stage(self._read(request))
        except Exception as error:
            return _typed(error)

    def _read(self, request: Any) -> dict[str, Array]:
        found = {name: self._pb.get_input_tensor_by_name(request, name) for name in self._inputs}
        # A copy: the arrays are views of memory that Triton takes back after the call, and a stage may keep
        # some.
        return {name: tensor.as_numpy().copy() for name, tensor in found.items() if tensor is not None}

    def _respond(self, result: Result, request_id: str) -> Any:
        try:
            if not isinstance(result, GuardError):
                return self._pb.InferenceResponse(output_tensors=self._pack(result))
        except Exception as error:
            result = _typed(error)
        if _is_internal(result):
            self._log(result, request_id)
        code = getattr(self._pb.TritonError, ERRORS[result.kind].triton_code)
        return self._pb.InferenceResponse(output_tensors=[], error=self._pb.TritonError(to_wire(result), code))

    def _pack(self, result: Tensors) -> list[Any]:
        if set(result) != set(self._outputs):
            odd = sorted(set(result) ^ set(self._outputs))
            raise InternalError(f"the stage's outputs are not the model's: {', '.join(odd)}")
        return [self._pb.Tensor(name, result[name]) for name in self._outputs]

    def _log(self, error: GuardError, request_id: str) -> None:
        # Logging may not cost the request its response.
        with suppress(Exception):
            self._pb.Logger.log_error(f"request {request_id}: {describe(error)}")


class _Once:
    """A response sender that sends the first response and no other: Triton takes a second one badly."""

    def __init__(self, pb_utils: Any, sender: Any) -> None:
        self._sender = sender
        self._final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._lock = threading.Lock()

    def __call__(self, response: Any) -> None:
        with self._lock:
            sender, self._sender = self._sender, None
        if sender is not None:
            sender.send(response, flags=self._final)


def _request_id(request: Any) -> str:
    """The caller's id of a request as the log may hold it; wherever it can't be had, the request goes on without."""
    try:
        return ascii(request.request_id())[:_MOST_ID_CHARACTERS]
    except Exception:
        return "unknown"


def _typed(error: Exception) -> GuardError:
    # As the cause, it is described where the response is made, once.
    return error if isinstance(error, GuardError) else InternalError.of(error)


def describe(error: BaseException) -> str:
    """One line for the log: type, message where it cannot hold a user's text, positions, then the causes."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        # Only these two promise a message without contents; any other could quote what it choked on.
        message = f" ({seen})" if isinstance(seen, (GuardError, MalformedTensor)) else ""
        frames = traceback.extract_tb(seen.__traceback__)[-_MOST_POSITIONS:]
        positions = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
        parts.append(f"{type(seen).__name__}{message}" + (f" at {positions}" if positions else ""))
        seen = seen.__cause__
    return " <- ".join(parts)


def _is_internal(error: GuardError) -> bool:
    return ERRORS[error.kind].grpc_status == "INTERNAL"
