"""The files of TLS for gRPC, checked before the server sees them.

Triton 2.51 tells a wrong path as `Socket already in use`, and a pair that does not fit not at all.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonguard.tls import Tls

from serving.errors import TlsFilesRefused

_MOST_STEPS = 10


@dataclass(frozen=True)
class TlsFiles:
    """PEM files, keys without a password.

    certificate, key: the server's (with the certificates between it and its authority). client_ca: the authorities
    whose certificates a caller must have; None: callers need none. canary_certificate, canary_key: what the launcher's
    own canary shows then; None: the server's own pair.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    canary_certificate: Path | None = None
    canary_key: Path | None = None

    def canary(self) -> Tls:
        """How the launcher's own client connects: it trusts exactly the server's certificate.

        Found out by a handshake in memory with the same files. Raises TlsFilesRefused where that fails: a file that
        is missing or broken, a key of another certificate, one that is out of date, or a canary that the client_ca
        does not vouch for.
        """
        self._refuse_missing()
        server = self._server()
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False  # the name is what is asked for
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        client.load_verify_locations(self.certificate)
        pair = self._canary_pair() if self.client_ca else (None, None)
        if pair[0] is not None and pair[1] is not None:
            _load_pair(client, pair[0], pair[1], "--tls-canary-cert and --tls-canary-key")
        name = _name(_handshake(server, client, hint=self._hint()))
        return Tls(ca=self.certificate, certificate=pair[0], key=pair[1], server_name=name)

    def _server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load_pair(context, self.certificate, self.key, "--tls-cert and --tls-key")
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self.client_ca)
            except (ssl.SSLError, ValueError) as error:
                raise TlsFilesRefused(f"{self.client_ca} (--tls-client-ca) holds no PEM certificate") from error
        return context

    def _canary_pair(self) -> tuple[Path | None, Path | None]:
        if (self.canary_certificate is None) != (self.canary_key is None):
            raise TlsFilesRefused("--tls-canary-cert and --tls-canary-key come together")
        if self.canary_certificate is None:
            return self.certificate, self.key
        return self.canary_certificate, self.canary_key

    def _hint(self) -> str:
        if self.client_ca is None:
            return ""
        return (
            "; with --tls-client-ca the launcher's own canary needs a certificate of that authority: give one with "
            "--tls-canary-cert and --tls-canary-key"
        )

    def _refuse_missing(self) -> None:
        for path in (self.certificate, self.key, self.client_ca, self.canary_certificate, self.canary_key):
            if path is None:
                continue
            try:
                path.open("rb").close()
            except OSError as error:
                raise TlsFilesRefused(f"{path} cannot be read ({error.strerror})") from error


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path, options: str) -> None:
    try:
        # A password, so that an encrypted key is refused instead of asked for on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        raise TlsFilesRefused(
            f"{certificate} and {key} ({options}) are not a pair of PEM files without a password"
        ) from error


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, *, hint: str) -> dict[str, Any]:
    """The server's certificate as a client sees it that trusts it, once both sides are content."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = {
        "client": client.wrap_bio(to_client, to_server),
        "server": server.wrap_bio(to_server, to_client, server_side=True),
    }
    for _ in range(_MOST_STEPS):
        for side in list(ends):
            try:
                ends[side].do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                what = getattr(error, "verify_message", "") or error.reason or "unknown"
                raise TlsFilesRefused(
                    f"the TLS files do not work together: the {side} refuses ({what}){hint if side == 'server' else ''}"
                ) from error
            done = ends.pop(side)
            if side == "client":
                seen = done.getpeercert() or {}
        if not ends:
            return seen
    raise TlsFilesRefused("the TLS files do not work together: the handshake does not end")


def _name(certificate: dict[str, Any]) -> str | None:
    """A name that the certificate is valid for; as gRPC reads it, the common name where it lists none."""
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    names = names or [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    if not names:
        raise TlsFilesRefused("the certificate of --tls-cert names no host (subjectAltName)")
    return str(names[0]).replace("*", "canary")
