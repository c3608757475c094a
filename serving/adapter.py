"""Between Triton's Python backend and the pure stages: what the `model.py` files share.

A stage is a function over {tensor name: array [1, *dims]} that raises GuardErrors. This module reads a
request's tensors, runs the stage and builds the response. Three promises hold whatever the stage does:

- every request gets exactly one response (a request without one hangs for ever in Triton);
- a GuardError reaches the caller as its wire line and code; every other exception is the fixed InternalError;
- the log says where something broke, with the request id, and never holds a text of a user.

`pb_utils` (the module `triton_python_backend_utils`, which exists only inside Triton) is handed in.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
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

BUILT_IN_FLOOR = "built-in"

Tensors = Mapping[str, Array]
Result = Tensors | GuardError
Stage = Callable[[Tensors], Tensors]
BatchStage = Callable[[Sequence[Tensors]], Sequence[Result]]

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

        def run(rows: Sequence[Tensors]) -> list[Result]:
            return [stage(row) for row in rows]

        return [response for request in requests for response in self.batch([request], run)]

    def batch(self, requests: Sequence[Any], stage: BatchStage) -> list[Any]:
        """One response per request, in order; `stage` sees all that could be read at once. Raises nothing.

        A stage that raises, or answers with another number of results, fails every request it was given.
        """
        results: dict[int, Result] = {}
        rows: dict[int, Tensors] = {}
        for index, request in enumerate(requests):
            try:
                rows[index] = self._read(request)
            except Exception as error:
                results[index] = self._typed(error, request)
        if rows:
            try:
                answered = list(stage(list(rows.values())))
                if len(answered) != len(rows):
                    raise InternalError(f"the stage gave {len(answered)} results for {len(rows)} requests")
            except Exception as error:
                results |= {index: self._typed(error, requests[index]) for index in rows}
            else:
                results |= dict(zip(rows, answered, strict=True))
        return [self._respond(results[index], request) for index, request in enumerate(requests)]

    def _read(self, request: Any) -> dict[str, Array]:
        found = {name: self._pb.get_input_tensor_by_name(request, name) for name in self._inputs}
        # A copy: the arrays are views of memory that Triton takes back after the call, and a stage may keep
        # some.
        return {name: tensor.as_numpy().copy() for name, tensor in found.items() if tensor is not None}

    def _respond(self, result: Result, request: Any) -> Any:
        try:
            if not isinstance(result, GuardError):
                return self._pb.InferenceResponse(output_tensors=self._pack(result))
        except Exception as error:
            result = self._typed(error, request)
        if _is_internal(result):
            self._log(result, request)
        code = getattr(self._pb.TritonError, ERRORS[result.kind].triton_code)
        return self._pb.InferenceResponse(output_tensors=[], error=self._pb.TritonError(to_wire(result), code))

    def _pack(self, result: Tensors) -> list[Any]:
        if set(result) != set(self._outputs):
            odd = sorted(set(result) ^ set(self._outputs))
            raise InternalError(f"the stage's outputs are not the model's: {', '.join(odd)}")
        return [self._pb.Tensor(name, result[name]) for name in self._outputs]

    def _typed(self, error: Exception, request: Any) -> GuardError:
        if isinstance(error, GuardError):
            return error
        internal = InternalError()
        # As the cause, it is described where the response is made, once.
        internal.__cause__ = error
        return internal

    def _log(self, error: GuardError, request: Any) -> None:
        # Logging may not cost the request its response.
        try:
            request_id = ascii(request.request_id())[:_MOST_ID_CHARACTERS]
            self._pb.Logger.log_error(f"request {request_id}: {describe(error)}")
        except Exception:
            return


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
