"""What each release promised still holds: its tables (`tests/data/wire_*/contract.json`) against today's.

Growing is allowed. Whatever fails here needs a new contract version, see "Changing the contract" in CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import answer
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor
from tritonguard import ERRORS, Decision, GuardRequest, Label, Mode, Policy, Record, Safety
from tritonguard.errors import to_wire
from tritonguard.tensors import REQUEST, SUPPORTED_CONTRACTS, VERDICT, Array, pack, pack_text
from tritonguard.verdict import to_tensors

RELEASES = sorted((Path(__file__).parents[1] / "data").glob("wire_*"))


@pytest.fixture(params=RELEASES, ids=[folder.name for folder in RELEASES])
def release(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


@pytest.fixture
def contract(release: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((release / "contract.json").read_text())
    return loaded


def kind_of(schema: Mapping[str, Any]) -> str:
    """The JSON types that a value may have, without bounds: those of a request may only be held tighter by a limit."""
    if "$ref" in schema:
        return str(schema["$ref"])
    if "anyOf" in schema:
        return " | ".join(sorted({kind_of(choice) for choice in schema["anyOf"]}))
    inside = schema.get("items") or schema.get("additionalProperties")
    return f"{schema.get('type')}[{kind_of(inside)}]" if isinstance(inside, Mapping) else str(schema.get("type"))


def test_the_releases_have_fixtures() -> None:
    assert [folder.name for folder in RELEASES][:1] == ["wire_0_1_0"]


def test_the_contract_version_of_the_release_is_answered(release: Path) -> None:
    assert json.loads((release / "index.json").read_text())["contract_version"] in SUPPORTED_CONTRACTS


def test_every_request_of_the_release_has_its_bytes(release: Path) -> None:
    named = {request["name"] for request in json.loads((release / "index.json").read_text())["requests"]}
    assert named == {path.stem for path in release.glob("*.bin")}


def test_every_tensor_is_what_it_was_and_none_is_newly_required(contract: dict[str, Any]) -> None:
    for old, specs in ((contract["request"], REQUEST), (contract["verdict"], VERDICT)):
        table = {spec.name: (spec.dtype, list(spec.dims), spec.optional) for spec in specs}
        for name, row in old.items():
            assert table[name] == (row["dtype"], row["dims"], row["optional"]), name
    assert [spec.name for spec in REQUEST if not spec.optional and spec.name not in contract["request"]] == []


def test_every_kind_of_error_has_the_status_that_it_had(contract: dict[str, Any]) -> None:
    assert contract["errors"].items() <= {kind: spec.triton_code for kind, spec in ERRORS.items()}.items()


@pytest.mark.parametrize(("name", "values"), [("modes", Mode), ("safety", Safety), ("decisions", Decision)])
def test_every_word_is_still_there(contract: dict[str, Any], name: str, values: type[Mode]) -> None:
    assert set(contract[name]) <= {value.value for value in values}


@pytest.mark.parametrize("name", ["safety", "decisions"])
def test_an_answer_holds_no_word_that_the_release_does_not_know(contract: dict[str, Any], name: str) -> None:
    values = {"safety": Safety, "decisions": Decision}[name]
    assert {value.value for value in values} <= set(contract[name])


@pytest.mark.parametrize(("name", "model"), [("record", Record), ("label", Label), ("policy", Policy)])
def test_every_key_is_there_with_the_kind_of_value_it_had(
    contract: dict[str, Any], name: str, model: type[Record]
) -> None:
    today = model.model_json_schema()["properties"]
    for key, schema in contract[name].items():
        assert kind_of(today[key]) == kind_of(schema), key


@pytest.fixture
def reader(release: Path) -> dict[str, Any]:
    return runpy.run_path(str(release / "reader.py"))


def reply(tensors: Mapping[str, Array]) -> bytes:
    """A serialized ModelInferResponse with the outputs that a client of any release asked for by name."""
    message = service_pb2.ModelInferResponse(model_name="guard")
    types = {spec.name: spec.dtype for spec in VERDICT}
    for name, array in tensors.items():
        message.outputs.add(name=name, datatype=types[name], shape=list(array.shape))
        raw = serialize_byte_tensor(array).item() if array.dtype == np.object_ else array.tobytes()
        message.raw_output_contents.append(raw)
    written: bytes = message.SerializeToString()
    return written


@pytest.fixture
def tensors(contract: dict[str, Any]) -> dict[str, Array]:
    """Today's verdict on a prompt, as far as the release asks for it."""
    today = to_tensors(answer(GuardRequest(prompt="How do I bake bread?"), 0.25))
    return {name: today[name] for name in contract["verdict"]}


def test_todays_verdict_is_read_by_the_release(reader: dict[str, Any], tensors: dict[str, Array]) -> None:
    verdict = reader["read_verdict"](reply(tensors))
    assert (verdict["user"], verdict["p_unsafe_user"], verdict["decision"]) == ("safe", 0.25, "allow")


@pytest.mark.parametrize("key", ["RECORD", "LABEL_DETAILS"])
def test_a_new_key_is_left_out_by_the_release(reader: dict[str, Any], tensors: dict[str, Array], key: str) -> None:
    grown = {**json.loads(tensors[key][0, 0]), "new": 1}
    told = reader["read_verdict"](reply({**tensors, key: pack_text(key, json.dumps(grown))}))
    assert told == reader["read_verdict"](reply(tensors))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"USER_SAFETY": pack_text("USER_SAFETY", "harmless")}, id="unknown label"),
        pytest.param({"DECISION": pack_text("DECISION", "pass")}, id="unknown decision"),
        pytest.param({"P_UNSAFE": pack("P_UNSAFE", [0.75, float("nan")])}, id="label against its probability"),
        pytest.param({"RECORD": pack_text("RECORD", "{}")}, id="empty record"),
        pytest.param({"RECORD": pack_text("RECORD", "[]")}, id="another kind of record"),
    ],
)
def test_what_the_release_would_refuse_is_seen(
    reader: dict[str, Any], tensors: dict[str, Array], changes: dict[str, Array]
) -> None:
    with pytest.raises(reader["BrokenReply"]):
        reader["read_verdict"](reply({**tensors, **changes}))


def test_a_lost_output_is_seen(reader: dict[str, Any], tensors: dict[str, Array]) -> None:
    del tensors["REASONING"]
    with pytest.raises(reader["BrokenReply"], match="REASONING"):
        reader["read_verdict"](reply(tensors))


def test_every_error_of_today_is_typed_by_the_release(reader: dict[str, Any], contract: dict[str, Any]) -> None:
    for kind, spec in ERRORS.items():
        read, field = reader["read_error"](f"in ensemble 'guard', {to_wire(spec.error('text', field='prompt'))}", "X")
        assert read == (kind if kind in contract["errors"] else "internal")
        assert field in ("prompt", None)
    assert reader["read_error"]("tritonguard:novel field=prompt: text", "UNAVAILABLE") == ("unavailable", "prompt")
