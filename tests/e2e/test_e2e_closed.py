"""What nobody may call is refused by a real server, and TLS lets in only those with a certificate."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
import trustme
from tritonclient.utils import InferenceServerException
from tritonguard import CANARY, Guard, Tls

from serving.launch import ServerSettings, TritonServer
from serving.tls_files import TlsFiles

CLOSED_GRPC = [
    ("update_log_settings", ({"log_verbose_level": 1},)),
    ("get_log_settings", ()),
    ("register_system_shared_memory", ("region", "/region", 4)),
    ("get_system_shared_memory_status", ()),
    ("unregister_system_shared_memory", ()),
    ("get_cuda_shared_memory_status", ()),
    ("update_trace_settings", ("guard", {"trace_level": ["TIMESTAMPS"]})),
    ("get_trace_settings", ()),
    ("get_model_repository_index", ()),
    ("load_model", ("guard",)),
    ("unload_model", ("guard",)),
]
CLOSED_HTTP = [
    ("logging", b'{"log_verbose_level":1}'),
    ("logging", None),
    ("systemsharedmemory/region/region/register", b'{"key":"/region","offset":0,"byte_size":4}'),
    ("systemsharedmemory/status", None),
    ("cudasharedmemory/status", None),
    ("trace/setting", b'{"trace_level":["TIMESTAMPS"]}'),
    ("trace/setting", None),
    ("repository/index", b""),
    ("repository/models/guard/load", b""),
]
OPEN_HTTP = ["health/ready", "models/guard", "models/guard/config", "models/stats"]


@pytest.fixture(scope="module")
def raw(url: str) -> Iterator[Any]:
    with triton.InferenceServerClient(url) as client:
        yield client


@pytest.mark.parametrize(("call", "arguments"), CLOSED_GRPC)
def test_grpc_refuses_what_is_closed(raw: Any, call: str, arguments: tuple[Any, ...]) -> None:
    for headers in (None, {"triton-grpc-protocol-tritonguard-closed": "guess"}):
        with pytest.raises(InferenceServerException, match="restricted"):
            getattr(raw, call)(*arguments, headers=headers)


@pytest.mark.parametrize(("path", "body"), CLOSED_HTTP)
def test_http_refuses_what_is_closed(server: TritonServer, path: str, body: bytes | None) -> None:
    for headers in ({}, {"tritonguard-closed": "guess"}):
        request = urllib.request.Request(f"http://{server.endpoints.http}/v2/{path}", data=body, headers=headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        with refused.value:
            assert refused.value.code == 403


def test_who_reads_the_servers_arguments_gets_in_no_more_than_others(server: TritonServer, raw: Any) -> None:
    assert server._process is not None
    arguments = Path(f"/proc/{server._process.pid}/cmdline").read_bytes().decode().split("\0")
    (closed,) = (argument for argument in arguments if argument.startswith("--grpc-restricted"))
    secret = closed.partition("closed=")[2].strip()
    assert len(secret) == 64
    with pytest.raises(InferenceServerException, match="restricted"):
        raw.get_log_settings(headers={"triton-grpc-protocol-tritonguard-closed": secret})
    headers = {"tritonguard-closed": secret}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"http://{server.endpoints.http}/v2/logging", headers=headers))
    with refused.value:
        assert refused.value.code == 403


@pytest.mark.parametrize("path", OPEN_HTTP)
def test_what_callers_need_is_open(server: TritonServer, guard: Guard, path: str) -> None:
    with urllib.request.urlopen(f"http://{server.endpoints.http}/v2/{path}") as page:
        assert page.status == 200
    assert guard.check(CANARY[0].prompt).allowed


def test_mutual_tls_without_http(bundle: Path, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    paths = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "own", "own-key", "odd", "odd-key")}
    authority.cert_pem.write_to_path(paths["ca"])
    for issuer, kind, host in ((authority, "cert", "guard.test"), (authority, "own", "me"), (stranger, "odd", "you")):
        issued = issuer.issue_cert(host)
        issued.cert_chain_pems[0].write_to_path(paths[kind])
        issued.private_key_pem.write_to_path(paths["key" if kind == "cert" else f"{kind}-key"])
    settings = ServerSettings(
        bundle=bundle,
        http=False,
        http_port=1,  # nobody may have it: not asked for
        tls=TlsFiles(paths["cert"], paths["key"], paths["ca"]),
        log=tmp_path / "log",
    )
    me = Tls(paths["ca"], paths["own"], paths["own-key"], "guard.test")
    with TritonServer(settings) as server:
        assert server.endpoints.http == ""
        for tls in (server.tls, me):
            with Guard(server.endpoints.grpc, tls=tls, deadline_s=30.0) as guard:
                assert guard.health().healthy
        strangers = (None, Tls(paths["ca"], None, None, "guard.test"))
        for tls in (*strangers, Tls(paths["ca"], paths["odd"], paths["odd-key"], "guard.test")):
            with Guard(server.endpoints.grpc, tls=tls, deadline_s=5.0) as guard:
                assert not guard.health().readiness.live
        assert server.stop() == 0
    assert "Fatal Python error" not in (tmp_path / "log").read_text()
