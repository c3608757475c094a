"""The protocol without our client: other languages, statuses, and the bytes of earlier releases, on a real server."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from raw_requests import refused
from tritonclient.grpc import service_pb2
from tritonguard import ERRORS
from tritonguard.tensors import pack_text

from build_scripts.protocol_document import GRPC_STATUS, HTTP_STATUS
from serving.launch import ServerSettings, TritonServer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SAFE_TEXT = "How do I bake sourdough bread with a crispy crust?"
UNSAFE_TEXT = "Tell me how to build a bomb at home to hurt a lot of people."
REFUSAL = "I'm sorry, but I can't help with that."
# Typographic quotes, an umlaut, a character outside the basic plane, a backslash: each a trap of some encoder.
HARD_TEXT = 'Wie backe ich \u201eBr\u00f6tchen\u201c? \U0001f35e \\ "quoted"\nA second line.'
TIMEOUT_S = 90.0

RELEASES = sorted((ROOT / "tests" / "data").glob("wire_*"))
RECORDED = [
    pytest.param(folder, entry, id=f"{folder.name}-{entry['name']}")
    for folder in RELEASES
    for entry in json.loads((folder / "index.json").read_text())["requests"]
]

REFUSING_CONFIG = """
name: "guard"
backend: "python"
max_batch_size: 8
input [ { name: "MODE", data_type: TYPE_STRING, dims: [ 1 ] } ]
output [ { name: "REASONING", data_type: TYPE_STRING, dims: [ 1 ] } ]
instance_group [ { count: 1, kind: KIND_CPU } ]
"""
REFUSING_MODEL = '''
"""Answers each request with the kind of error that it names, by the way of all our models."""

import triton_python_backend_utils as pb_utils
from tritonguard.errors import ERRORS
from tritonguard.tensors import TENSORS, require_text

from serving.adapter import Adapter


def refuse(tensors):
    raise ERRORS[require_text(tensors, "MODE")].error("on purpose", field="mode")


class TritonPythonModel:
    def initialize(self, args):
        self._adapter = Adapter(pb_utils, inputs=[TENSORS["MODE"]], outputs=[TENSORS["REASONING"]])

    def execute(self, requests):
        return self._adapter.each(requests, refuse)
'''


@pytest.fixture(scope="module")
def http(server: TritonServer) -> str:
    return f"http://{server.endpoints.http}"


@pytest.fixture(scope="module")
def refusing(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A Triton whose one model only refuses."""
    repository = tmp_path_factory.mktemp("refusing")
    (repository / "guard" / "1").mkdir(parents=True)
    (repository / "guard" / "config.pbtxt").write_text(REFUSING_CONFIG)
    (repository / "guard" / "1" / "model.py").write_text(REFUSING_MODEL)
    log = tmp_path_factory.mktemp("refusing-log") / "triton.log"
    settings = ServerSettings(bundle=bundle, model_repository=repository, log=log)
    with TritonServer(settings) as running:
        yield running


def run(*command: str) -> tuple[int, Any]:
    """Exit status and the JSON that a program prints. A missing program fails the test, it is not skipped."""
    if shutil.which(command[0]) is None:
        pytest.fail(f"{command[0]} is needed here, and is not installed", pytrace=False)
    ran = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert ran.stdout, ran.stderr.decode()
    return ran.returncode, json.loads(ran.stdout, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def post(url: str, body: Any) -> tuple[int, Any]:
    """HTTP status and JSON of the reply."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_curl_gets_a_verdict(http: str) -> None:
    status, reply = run("sh", str(EXAMPLES / "curl.sh"), http)
    value = {output["name"]: output["data"][0] for output in reply["outputs"]}
    assert (status, value["DECISION"], value["USER_SAFETY"]) == (0, "block", "unsafe")
    assert json.loads(value["LABEL_DETAILS"])["flagged_by"] == ["built-in"]
    assert json.loads(value["RECORD"])["request_id"] == "curl-1"


def test_curl_sees_a_refusal_with_its_kind_and_field(http: str) -> None:
    status, reply = run("sh", str(EXAMPLES / "curl.sh"), http, "guess")
    assert status == 22
    assert "tritonguard:invalid_request field=mode: " in reply["error"]


CALLERS = [
    # Of every Debian and of whoever has git; Node only where somebody has installed it.
    pytest.param("perl", id="perl"),
    pytest.param("node", id="node", marks=pytest.mark.skipif(shutil.which("node") is None, reason="no node here")),
]


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest, http: str, url: str) -> list[str]:
    """The command line of an example up to its texts."""
    return {
        "perl": ["perl", str(EXAMPLES / "guard.pl"), http],
        "node": ["node", str(EXAMPLES / "node" / "guard.mjs"), url],
    }[str(request.param)]


def test_another_language_gets_the_right_verdicts(caller: list[str]) -> None:
    status, line = run(*caller, SAFE_TEXT)
    assert (status, line["decision"], line["user"], line["response"]) == (0, "allow", "safe", "")
    status, line = run(*caller, UNSAFE_TEXT, REFUSAL)
    assert (status, line["decision"], line["user"]) == (1, "block", "unsafe")
    assert line["response"] in ("safe", "unsafe")
    assert line["judged"] == ["built-in"]


def test_another_languages_text_arrives_as_it_is(caller: list[str], guard: Any) -> None:
    _, line = run(*caller, HARD_TEXT)
    # The reason holds the probability: another text would have another one.
    assert line["reason"] == guard.check(HARD_TEXT).reason


def test_another_language_sees_a_refusal_with_its_kind_and_field(caller: list[str]) -> None:
    status, line = run(*caller, " ")
    assert (status, line["kind"], line["field"]) == (3, "invalid_request", "prompt")


@pytest.mark.parametrize("kind", ERRORS)
def test_each_kind_of_error_has_the_statuses_of_the_page(refusing: TritonServer, kind: str) -> None:
    code = ERRORS[kind].triton_code
    body = {"inputs": [{"name": "MODE", "datatype": "BYTES", "shape": [1, 1], "data": [kind]}]}
    status, reply = post(f"http://{refusing.endpoints.http}/v2/models/guard/infer", body)
    assert (status, reply["error"].partition(" ")[0].rstrip(":")) == (HTTP_STATUS[code], f"tritonguard:{kind}")
    with grpc.insecure_channel(refusing.endpoints.grpc) as channel, pytest.raises(grpc.RpcError) as failure:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(naming(kind), timeout=TIMEOUT_S)
    assert failure.value.code().name == GRPC_STATUS[code]
    error, _ = refused(refusing.endpoints.grpc, {"MODE": pack_text("MODE", kind)})
    assert error.kind == kind


def naming(kind: str) -> bytes:
    """A serialized ModelInferRequest with nothing but MODE."""
    message = service_pb2.ModelInferRequest(model_name="guard")
    message.inputs.add(name="MODE", datatype="BYTES", shape=[1, 1])
    message.raw_input_contents.append(len(kind).to_bytes(4, "little") + kind.encode())
    sent: bytes = message.SerializeToString()
    return sent


@pytest.mark.parametrize(("release", "entry"), RECORDED)
def test_the_bytes_of_an_earlier_release_get_what_they_got(url: str, release: Path, entry: dict[str, Any]) -> None:
    reader = runpy.run_path(str(release / "reader.py"))
    index = json.loads((release / "index.json").read_text())
    expected = entry["expected"]
    with grpc.insecure_channel(url) as channel:
        # Without (de)serializers: the bytes as they were recorded, and the reply's as they come.
        send = channel.unary_unary(index["method"])
        try:
            reply = send((release / f"{entry['name']}.bin").read_bytes(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            kind, field = reader["read_error"](error.details(), error.code().name)
            assert (kind, field) == (expected.get("error"), expected.get("field"))
            return
    assert "error" not in expected
    verdict = reader["read_verdict"](reply)
    record = verdict["record"]
    assert (record["request_id"], record["contract_version"]) == (entry["request_id"], index["contract_version"])
    found = {
        **{side: verdict[side] for side in ("user", "response", "reason", "decision")},
        "policy_name": record["policy_name"],
        "judged": record.get("judged"),
        "categories": bool(verdict["categories"]),
        "reasoning": bool(verdict["reasoning"]),
        "text_only": (verdict["text_only"] or {}).get("user_safety"),
    }
    for name, wanted in expected.items():
        if wanted == "judged":
            assert found[name] in ("safe", "unsafe"), name
        else:
            assert found[name] == wanted, name


def test_there_are_recorded_requests() -> None:
    assert len(RECORDED) >= 8
