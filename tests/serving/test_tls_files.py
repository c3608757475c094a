"""The files of TLS are tried out before the server sees them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import trustme

from serving.errors import TlsFilesRefused
from serving.tls_files import TlsFiles


class Files:
    """A server's certificate of one authority, and callers' of another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority, self.callers = trustme.CA(), trustme.CA()
        self.client_ca = folder / "clients.pem"
        self.callers.cert_pem.write_to_path(self.client_ca)
        self.server = TlsFiles(*self.pair(self.authority, "guard.test"))
        caller = self.pair(self.callers, "caller.test")
        self.mutual = replace(self.server, client_ca=self.client_ca, canary_certificate=caller[0], canary_key=caller[1])

    def pair(self, authority: trustme.CA, *names: str, **options: datetime) -> tuple[Path, Path]:
        issued = authority.issue_cert(*names, **options)
        certificate, key = (self.folder / f"{names[0].strip('*.')}.{kind}" for kind in ("pem", "key"))
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_the_canary_trusts_the_servers_own_certificate(files: Files) -> None:
    tls = files.server.canary()
    assert (tls.ca, tls.certificate, tls.server_name) == (files.server.certificate, None, "guard.test")


def test_a_wildcard_is_a_name_too(files: Files) -> None:
    assert TlsFiles(*files.pair(files.authority, "*.guard.test")).canary().server_name == "canary.guard.test"


def test_an_address_is_a_name_too(files: Files) -> None:
    assert TlsFiles(*files.pair(files.authority, "127.0.0.1")).canary().server_name == "127.0.0.1"


def test_with_mutual_tls_the_canary_shows_its_own_certificate(files: Files) -> None:
    tls = files.mutual.canary()
    assert (tls.certificate, tls.key) == (files.mutual.canary_certificate, files.mutual.canary_key)


def test_the_servers_pair_serves_the_canary_where_one_authority_signs_both(files: Files) -> None:
    both = TlsFiles(*files.pair(files.callers, "guard.test"), client_ca=files.client_ca)
    assert both.canary().certificate == both.certificate


def test_a_canary_that_the_authority_does_not_know_is_refused_with_what_to_do(files: Files) -> None:
    with pytest.raises(TlsFilesRefused, match="--tls-canary-cert") as refused:
        replace(files.server, client_ca=files.client_ca).canary()
    assert "the server refuses" in str(refused.value)


@pytest.mark.parametrize("field", ["certificate", "key", "client_ca", "canary_certificate", "canary_key"])
def test_a_missing_file_is_named(files: Files, field: str) -> None:
    with pytest.raises(TlsFilesRefused, match=r"nowhere\.pem cannot be read"):
        replace(files.mutual, **{field: files.folder / "nowhere.pem"}).canary()


@pytest.mark.parametrize("field", ["certificate", "key", "client_ca", "canary_certificate", "canary_key"])
def test_a_broken_file_is_refused(files: Files, field: str) -> None:
    broken = files.folder / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
    with pytest.raises(TlsFilesRefused, match=r"broken\.pem"):
        replace(files.mutual, **{field: broken}).canary()


def test_a_key_of_another_certificate_is_refused(files: Files) -> None:
    with pytest.raises(TlsFilesRefused, match="not a pair"):
        replace(files.server, key=files.pair(files.authority, "other.test")[1]).canary()


def test_a_certificate_that_is_out_of_date_is_refused(files: Files) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    pair = files.pair(files.authority, "late.test", not_before=past - timedelta(days=1), not_after=past)
    with pytest.raises(TlsFilesRefused, match="expired"):
        TlsFiles(*pair).canary()


def test_half_a_pair_for_the_canary_is_refused(files: Files) -> None:
    with pytest.raises(TlsFilesRefused, match="come together"):
        replace(files.mutual, canary_key=None).canary()


@pytest.mark.parametrize("mutual", [False, True])
def test_grpc_accepts_what_the_canary_found(files: Files, mutual: bool) -> None:
    chosen = files.mutual if mutual else files.server
    credentials = grpc.ssl_server_credentials(
        [(chosen.key.read_bytes(), chosen.certificate.read_bytes())],
        root_certificates=chosen.client_ca.read_bytes() if chosen.client_ca else None,
        require_client_auth=mutual,
    )
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    contents, name = chosen.canary().read(), chosen.canary().server_name
    channel = grpc.secure_channel(
        f"127.0.0.1:{port}",
        grpc.ssl_channel_credentials(contents.ca, contents.key, contents.certificate),
        [("grpc.ssl_target_name_override", name)],
    )
    try:
        grpc.channel_ready_future(channel).result(10)
    finally:
        channel.close()
        server.stop(None).wait()
