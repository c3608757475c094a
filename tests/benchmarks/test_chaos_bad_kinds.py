"""The table of bad requests: what it names is what its makers make."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype
from tritonguard.errors import ERRORS, GuardError
from tritonguard.request import from_tensors, refuse_unbuilt

from benchmarks.chaos.bad_kinds import KINDS, Kind
from benchmarks.chaos.bad_makers import Maker
from benchmarks.chaos.wire import Sent
from preprocessing.images import read_images

MARK = "zqmarkmark"
# Refused by Triton, by the model's token budget, by the policies on the server, or by another stage than the door.
ELSEWHERE = {
    "two-rows", "too-many-rows", "no-rows", "uneven-rows", "tensor-twice", "unknown-datatype", "wrong-length",
    "element-length", "no-content", "long-prompt", "long-response", "budget-room", "policy-name", "policy-path",
    "unknown-model", "unknown-version", "unknown-output", "stage-preprocess", "stage-decode", "stage-verdict",
    "no-message", "http-json", "http-missing", "http-type", "http-value",
}  # fmt: skip
AT_THE_DOOR = [kind for kind in KINDS if kind.name not in ELSEWHERE]


def made(kind: Kind, seed: int) -> Sent:
    return kind.make(Maker(random.Random(seed), MARK))


def at_the_door(sent: Sent) -> None:
    """What the server's own code does with the tensors, without a server."""
    message = service_pb2.ModelInferRequest.FromString(sent.body)
    tensors = {}
    for tensor, content in zip(message.inputs, message.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            flat = np.array(list(deserialize_bytes_tensor(content)), np.object_)
        else:
            flat = np.frombuffer(content, triton_to_np_dtype(tensor.datatype))
        tensors[tensor.name] = flat.reshape(tuple(tensor.shape))
    request = from_tensors(tensors)
    refuse_unbuilt(request)
    list(read_images(request.images))


def test_there_are_many_kinds_each_named_once_with_an_error_of_the_table() -> None:
    assert len(KINDS) >= 25
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert {kind.name for kind in KINDS} >= ELSEWHERE
    for kind in KINDS:
        assert kind.error in ERRORS
        assert kind.wrong


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_seed_makes_the_same_request_again(kind: Kind) -> None:
    assert made(kind, 5) == made(kind, 5)


@pytest.mark.parametrize("kind", AT_THE_DOOR, ids=lambda kind: kind.name)
def test_the_door_refuses_each_kind_as_the_table_says(kind: Kind) -> None:
    for seed in range(6):
        with pytest.raises(GuardError) as refusal:
            at_the_door(made(kind, seed))
        assert refusal.value.kind == kind.error
        assert MARK not in str(refusal.value)


def test_a_request_in_which_nothing_is_wrong_passes_the_door() -> None:
    at_the_door(Maker(random.Random(0), MARK).changed())


def test_texts_hold_the_mark() -> None:
    sent = Maker(random.Random(0), MARK).changed()
    assert MARK.encode() in sent.body
