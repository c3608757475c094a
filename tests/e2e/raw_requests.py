"""Requests that the client would never send, and errors as they come off the wire."""

from __future__ import annotations

from collections.abc import Mapping

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype
from tritonguard.errors import GuardError, from_wire
from tritonguard.request import GuardRequest, to_tensors
from tritonguard.tensors import Array

TIMEOUT_S = 60.0


def request_tensors(prompt: str = "How do I bake bread?", **changes: Array | None) -> dict[str, Array]:
    """The tensors of a good request, with some replaced, added, or (None) left out."""
    tensors: dict[str, Array | None] = {**to_tensors(GuardRequest(prompt=prompt, deadline_s=60.0)), **changes}
    return {name: array for name, array in tensors.items() if array is not None}


def infer(url: str, tensors: Mapping[str, Array], *, model: str = "guard") -> grpcclient.InferResult:
    """Send the tensors as they are. Raises tritonclient's InferenceServerException."""
    inputs = []
    for name, array in tensors.items():
        # By what the array is, not by what the table says: some are wrong on purpose.
        tensor = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    with grpcclient.InferenceServerClient(url) as client:
        return client.infer(model, inputs, client_timeout=TIMEOUT_S)


def refused(url: str, tensors: Mapping[str, Array], *, model: str = "guard") -> tuple[GuardError, str]:
    """The error that these tensors get, typed as the client types it, and the text that carried it."""
    try:
        infer(url, tensors, model=model)
    except InferenceServerException as error:
        return from_wire(str(error.message()), error.status()), str(error.message())
    raise AssertionError(f"answered: {sorted(tensors)}")
