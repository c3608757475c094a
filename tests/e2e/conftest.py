"""One real Triton over the built bundle, for all end-to-end tests; `raw_requests` comes on the path."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonguard import Guard

from serving.adapter import BUNDLE_VARIABLE
from serving.launch import ServerSettings, TritonServer
from serving.policy_switches import PolicySwitches

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def bundle() -> Path:
    """$TRITONGUARD_BUNDLE or build/bundle. Without one nothing here says anything, so it is a failure."""
    folder = Path(os.environ.get(BUNDLE_VARIABLE) or ROOT / "build" / "bundle")
    if not (folder / "manifest.json").is_file():
        pytest.fail(f"no bundle in {folder}: `make demo` builds one, or set {BUNDLE_VARIABLE}", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def server_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton") / "triton.log"


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's folder of named policies: the shipped ones, to which tests add."""
    folder = tmp_path_factory.mktemp("policies")
    shutil.copytree(ROOT / "policies", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def server(bundle: Path, server_log: Path, policies: Path) -> Iterator[TritonServer]:
    switches = PolicySwitches(folder=policies)
    settings = ServerSettings(bundle=bundle, log=server_log, policies=switches)
    with TritonServer(settings) as running:
        yield running
        # Whatever was sent, nothing hangs: a request without a response would run into the exit timeout.
        assert running.stop() == 0


@pytest.fixture(autouse=True)
def no_stage_is_lost(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a process of the shared server died, no later test says anything: the first one tells, and is the last."""
    running: TritonServer | None = request.getfixturevalue("server") if "server" in request.fixturenames else None
    yield
    if running is not None and running.has_lost_a_stage():
        pytest.exit(f"a process of the server died in {request.node.nodeid}\n{running.tail()}", returncode=1)


@pytest.fixture(scope="session")
def url(server: TritonServer) -> str:
    """host:port of the gRPC endpoint."""
    return server.endpoints.grpc


@pytest.fixture(scope="session")
def guard(url: str) -> Iterator[Guard]:
    with Guard(url, deadline_s=60.0) as client:
        yield client
