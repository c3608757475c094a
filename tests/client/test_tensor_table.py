from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonguard import tensors as wire

GROUPS = (wire.REQUEST, wire.MODEL_INPUT, wire.CONTEXT, wire.DECODED, wire.VERDICT)
REQUIRED_REQUEST = ["CONTRACT_VERSION", "REQUEST_ID", "PROMPT", "MODE", "DEADLINE_MS"]


def test_a_name_means_one_tensor() -> None:
    names = [spec.name for group in GROUPS for spec in group]
    assert len(names) == len(set(names)) == len(wire.TENSORS)


def test_only_inputs_of_callers_are_optional() -> None:
    assert [spec.name for spec in wire.REQUEST if not spec.optional] == REQUIRED_REQUEST
    assert not any(spec.optional for group in GROUPS[1:] for spec in group)


def test_every_tensor_is_documented() -> None:
    assert all(spec.doc for spec in wire.TENSORS.values())


@given(st.lists(st.binary(), min_size=1))
def test_bytes_survive_packing_whatever_they_hold(elements: list[bytes]) -> None:
    packed = wire.pack("IMAGES", elements)
    assert packed.shape == (1, len(elements))
    row = wire.unpack({"IMAGES": packed}, "IMAGES")
    assert row is not None
    assert list(row) == elements


def test_an_absent_optional_tensor_is_none_and_an_absent_required_one_is_refused() -> None:
    assert wire.unpack_text({}, "TENANT") is None
    assert wire.unpack_int({}, "PRIORITY") is None
    with pytest.raises(wire.MalformedTensor, match="PROMPT: is required"):
        wire.unpack_text({}, "PROMPT")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        pytest.param("PROMPT", np.array([[1]], dtype=np.int32), id="wrong type"),
        pytest.param("PROMPT", np.array([b"x"], dtype=np.object_), id="no batch dimension"),
        pytest.param("PROMPT", np.array([[b"x", b"y"]], dtype=np.object_), id="too many elements"),
        pytest.param("PROMPT", np.array([[b"x"], [b"y"]], dtype=np.object_), id="two rows"),
        pytest.param("PROMPT", np.array([["x"]], dtype=np.object_), id="text instead of bytes"),
        pytest.param("PROMPT", np.array([[b"\xff"]], dtype=np.object_), id="invalid UTF-8"),
        pytest.param("DEADLINE_MS", np.array([[1]], dtype=np.int64), id="wrong width"),
        pytest.param("CHOICE_LOGPROBS", np.zeros((1, 2, 3), dtype=np.float32), id="wrong columns"),
    ],
)
def test_what_the_table_does_not_say_is_refused(name: str, array: wire.Array) -> None:
    read = wire.unpack_text if wire.TENSORS[name].dtype == "BYTES" else wire.unpack
    with pytest.raises(wire.MalformedTensor, match=name):
        read({name: array}, name)


def test_invalid_utf8_is_refused_without_quoting_it() -> None:
    with pytest.raises(wire.MalformedTensor) as caught:
        wire.unpack_text({"PROMPT": np.array([[b"secret \xff"]], dtype=np.object_)}, "PROMPT")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
