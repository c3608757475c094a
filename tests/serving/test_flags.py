"""tritonserver's arguments: this machine only, closed where nobody has business, and encrypted where asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import NotLoopback, PortInUse
from serving.flags import RESTRICTED, Ports, choose_ports, flags, listening
from serving.tls_files import TlsFiles

PORTS = Ports(1, 2, 3)
FILES = TlsFiles(Path("/c"), Path("/k"))


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def given(ports: Ports = PORTS, tls: TlsFiles | None = None) -> dict[str, str]:
    made = flags(Path("/models"), Path("/backends"), host="127.0.0.1", ports=ports, tls=tls, exit_timeout_s=10)
    pairs = [argument.split("=", 1) for argument in made]
    return {pair[0]: pair[1] if len(pair) == 2 else "" for pair in pairs}


@pytest.mark.parametrize("reachable", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost"])
def test_loopback_is_served(host: str, reachable: bool) -> None:
    assert listening(host, reachable=reachable).startswith("127.")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "::1", "example.org", ""])
def test_everything_else_is_refused_with_the_reason(host: str) -> None:
    with pytest.raises(NotLoopback, match=r"fixed in 25\.07") as refused:
        listening(host, reachable=False)
    assert "production image" in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2"])
def test_a_release_without_holes_listens_where_it_is_told(host: str) -> None:
    assert listening(host, reachable=True) == host


@pytest.mark.parametrize("host", ["::", "example.org", ""])
def test_what_is_no_address_is_refused_by_every_release(host: str) -> None:
    with pytest.raises(NotLoopback, match="give an IPv4 address"):
        listening(host, reachable=True)


def test_the_same_port_twice_is_refused(taken: int) -> None:
    with pytest.raises(PortInUse):
        choose_ports("127.0.0.1", Ports(taken, taken, 0))


def test_free_ports_are_three_different_ones() -> None:
    ports = choose_ports("127.0.0.1", Ports(0, 0, 0))
    assert len({ports.http, ports.grpc, ports.metrics, 0}) == 4


def test_a_port_of_http_that_is_not_served_may_be_taken() -> None:
    assert choose_ports("127.0.0.1", Ports(None, 0, 0)).http is None


def test_every_protocol_is_told_its_address_and_port() -> None:
    made = given()
    assert {made[f"--{name}-address"] for name in ("http", "grpc", "metrics")} == {"127.0.0.1"}
    assert [made[f"--{name}-port"] for name in ("http", "grpc", "metrics")] == ["1", "2", "3"]
    assert made["--model-control-mode"] == "none"


def test_gpu_metrics_are_those_of_a_server_that_has_some() -> None:
    assert given()["--allow-gpu-metrics"] == "false"
    told = flags(Path("/m"), Path("/b"), host="::", ports=PORTS, tls=None, exit_timeout_s=1, gpu_metrics=True)
    assert "--allow-gpu-metrics=true" in told


def test_without_http_nothing_of_it_is_left() -> None:
    made = given(Ports(None, 2, 3))
    assert made["--allow-http"] == "false"
    assert made["--metrics-address"] == "127.0.0.1"
    assert not [name for name in made if name.startswith("--http")]


def test_the_closed_endpoints_have_a_header_that_is_new_each_time_and_cannot_be_sent() -> None:
    made, again = given(), given()
    assert made["--http-restricted-api"] == made["--grpc-restricted-protocol"]
    closed, _, secret = made["--grpc-restricted-protocol"].partition(":")
    assert tuple(closed.split(",")) == RESTRICTED
    assert secret.endswith("\n")
    assert len(secret) > 64
    assert secret != again["--grpc-restricted-protocol"].partition(":")[2]


def test_tls_names_its_files() -> None:
    assert not [name for name in given() if "ssl" in name or "cert" in name]
    made = given(tls=FILES)
    assert (made["--grpc-use-ssl"], made["--grpc-server-cert"], made["--grpc-server-key"]) == ("true", "/c", "/k")
    assert "--grpc-root-cert" not in made
    made = given(tls=TlsFiles(Path("/c"), Path("/k"), Path("/a")))
    assert (made["--grpc-use-ssl-mutual"], made["--grpc-root-cert"]) == ("true", "/a")
