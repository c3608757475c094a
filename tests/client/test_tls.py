"""TLS and mutual TLS against a gRPC server on this machine, with certificates made here."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_server import Server, serving
from tritonguard import AsyncGuard, Guard, InvalidRequest, Policy, Retries, Tls, Unavailable, Verdict

RAISING = Policy(on_error="raise")
# A handshake that is refused must not be tried again: these pauses would be noticed.
SLOW_RETRIES = Retries(attempts=3, first_s=30.0, most_s=30.0)
Check = Callable[..., Verdict]
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


def with_guard(url: str, tls: Tls | None, retries: Retries = SLOW_RETRIES) -> Verdict:
    with Guard(url, tls=tls, policy=RAISING, retries=retries) as guard:
        return guard.check("text", deadline_s=20.0)


def with_async_guard(url: str, tls: Tls | None, retries: Retries = SLOW_RETRIES) -> Verdict:
    async def check() -> Verdict:
        async with AsyncGuard(url, tls=tls, policy=RAISING, retries=retries) as guard:
            return await guard.check("text", deadline_s=20.0)

    return asyncio.run(check())


both = pytest.mark.parametrize("check", [with_guard, with_async_guard])


class Certificates:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority, self.other = trustme.CA(), trustme.CA()

    def write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path

    def ca(self, authority: trustme.CA | None = None) -> Path:
        return self.write("ca.pem", (authority or self.authority).cert_pem.bytes())

    def pair(self, authority: trustme.CA | None = None, **options: Any) -> tuple[bytes, bytes]:
        issued = (authority or self.authority).issue_cert(options.pop("name", "127.0.0.1"), **options)
        return issued.private_key_pem.bytes(), b"".join(blob.bytes() for blob in issued.cert_chain_pems)

    def client(self, authority: trustme.CA | None = None, **options: Any) -> Tls:
        key, certificate = self.pair(authority, **options)
        return Tls(self.ca(), self.write("client.pem", certificate), self.write("client.key", key))

    def credentials(self, *, mutual: bool = False, **options: Any) -> Any:
        root = self.authority.cert_pem.bytes() if mutual else None
        return grpc.ssl_server_credentials([self.pair(**options)], root, require_client_auth=mutual)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def refused_by_us(check: Check, url: str, tls: Tls) -> None:
    start = time.monotonic()
    with pytest.raises(Unavailable, match="TLS handshake was refused") as caught:
        check(url, tls)
    assert time.monotonic() - start < 15
    assert not caught.value.retryable


def refused_by_the_server(check: Check, url: str, tls: Tls | None) -> None:
    # In TLS 1.3 the client is through when the server refuses it: the connection just ends, which looks like a
    # server that goes away. So the usual tries are made, all of them within a fraction of a second.
    start = time.monotonic()
    with pytest.raises(Unavailable):
        check(url, tls, Retries())
    assert time.monotonic() - start < 15


@both
def test_a_server_under_the_right_authority_is_trusted(check: Check, certificates: Certificates) -> None:
    with serving(Server(), certificates.credentials()) as (url, _):
        assert check(url, Tls(ca=certificates.ca())).allowed


@both
def test_a_server_under_another_authority_is_refused(check: Check, certificates: Certificates) -> None:
    with serving(Server(), certificates.credentials()) as (url, _):
        refused_by_us(check, url, Tls(ca=certificates.ca(certificates.other)))
        refused_by_us(check, url, Tls())


@both
def test_an_expired_server_is_refused(check: Check, certificates: Certificates) -> None:
    with serving(Server(), certificates.credentials(not_after=PAST)) as (url, _):
        refused_by_us(check, url, Tls(ca=certificates.ca()))


@both
def test_the_servers_name_counts_and_can_be_given(check: Check, certificates: Certificates) -> None:
    with serving(Server(), certificates.credentials(name="guard.example.org")) as (url, _):
        refused_by_us(check, url, Tls(ca=certificates.ca()))
        assert check(url, Tls(ca=certificates.ca(), server_name="guard.example.org")).allowed


@both
def test_mutual_tls_takes_the_right_client_and_no_other(check: Check, certificates: Certificates) -> None:
    with serving(Server(), certificates.credentials(mutual=True)) as (url, _):
        assert check(url, certificates.client()).allowed
        refused_by_the_server(check, url, Tls(ca=certificates.ca()))
        refused_by_the_server(check, url, certificates.client(certificates.other))
        refused_by_the_server(check, url, certificates.client(not_after=PAST))
        assert check(url, certificates.client()).allowed


@both
def test_a_plain_client_of_a_tls_server_is_refused(check: Check, certificates: Certificates) -> None:
    servicer = Server()
    with serving(servicer, certificates.credentials()) as (url, _):
        refused_by_the_server(check, url, None)
    assert servicer.calls == []


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    for values, field in (({"certificate": tmp_path}, "tls.key"), ({"key": tmp_path}, "tls.certificate")):
        with pytest.raises(InvalidRequest) as caught:
            Tls(**values)
        assert caught.value.field == field
    with pytest.raises(InvalidRequest):
        Tls(server_name=" ")


@pytest.mark.parametrize("client", [Guard, AsyncGuard])
def test_wrong_files_are_named_and_never_shown(client: Any, certificates: Certificates, tmp_path: Path) -> None:
    good = certificates.client()
    nonsense = certificates.write("nonsense.pem", b"secret content")
    stranger = certificates.write("stranger.key", certificates.pair()[0])
    for tls, field in (
        (Tls(ca=tmp_path / "nowhere.pem"), "tls.ca"),
        (Tls(ca=tmp_path), "tls.ca"),
        (Tls(ca=nonsense), "tls.ca"),
        (Tls(certificate=tmp_path / "nowhere.pem", key=good.key), "tls.certificate"),
        (Tls(certificate=good.certificate, key=tmp_path / "nowhere.key"), "tls.key"),
        (Tls(certificate=nonsense, key=nonsense), "tls.certificate"),
        (Tls(certificate=good.certificate, key=stranger), "tls.certificate"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            client("127.0.0.1:1", tls=tls)
        assert caught.value.field == field
        assert "secret" not in str(caught.value)


def test_an_encrypted_key_is_refused_without_asking(certificates: Certificates) -> None:
    from cryptography.hazmat.primitives import serialization

    key, chain = certificates.pair()
    encrypted = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    tls = Tls(certificate=certificates.write("c.pem", chain), key=certificates.write("c.key", encrypted))
    with pytest.raises(InvalidRequest, match="without a password"):
        tls.read()


def test_contents_are_not_printed(certificates: Certificates) -> None:
    tls = certificates.client()
    assert "PRIVATE" not in repr(tls) + repr(tls.read())
