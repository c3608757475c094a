"""TLS to the server, and mutual TLS with a certificate of the client's own."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from tritonguard.errors import InvalidRequest


@dataclass(frozen=True)
class TlsContents:
    """The bytes of the PEM files; None where no file was named."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None

    def __repr__(self) -> str:
        return "TlsContents(...)"


@dataclass(frozen=True)
class Tls:
    """Paths of PEM files.

    ca: authorities that may vouch for the server; None: the ones that gRPC brings.
    certificate, key: the client's own, for a server that asks for one; both or neither, the key without a
    password. server_name: the name to look for in the server's certificate, where it is not the host of the
    url.

    The files are read when a client is made. Raises InvalidRequest whose `field` names the file (`tls.ca`).
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise InvalidRequest("tls: a certificate and its key come together", field=f"tls.{missing}")
        if self.server_name is not None and not self.server_name.strip():
            raise InvalidRequest("tls: the server's name is blank", field="tls.server_name")

    def read(self) -> TlsContents:
        """The contents, checked: a wrong file would otherwise look like a server that is down.

        Raises InvalidRequest for a file that cannot be read or holds no such thing, and for a key that does
        not belong to the certificate.
        """
        contents = TlsContents(_bytes("ca", self.ca), _bytes("certificate", self.certificate), _bytes("key", self.key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if contents.ca is not None:
            try:
                context.load_verify_locations(cadata=contents.ca.decode("ascii", "replace"))
            except (ssl.SSLError, ValueError):
                raise InvalidRequest("tls: the ca file holds no PEM certificate", field="tls.ca") from None
        if self.certificate is not None and self.key is not None:
            try:
                # A password, so that an encrypted key is refused instead of asked for on the terminal.
                context.load_cert_chain(self.certificate, self.key, password="")
            except (ssl.SSLError, ValueError, OSError):
                message = "tls: certificate and key are not a pair of PEM files without a password"
                raise InvalidRequest(message, field="tls.certificate") from None
        return contents


def _bytes(name: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise InvalidRequest(f"tls: the {name} file: {reason}", field=f"tls.{name}") from None
