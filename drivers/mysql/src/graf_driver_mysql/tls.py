"""TLS between the sites: the files, whether they are usable here, and how each of the two clients is told of them.

Every site's server and every site's driver show a certificate of the group's authority and ask for one of the other.
What is not verified is not used: there is no way back to a connection in the clear.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pymysql
from graf_driver_sdk.types import FieldProblem
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor

DEFAULT_DIR = "/etc/graf/mysql-tls"
_MANY_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. The names in a Secret of type ``kubernetes.io/tls`` are the defaults."""

    ca: Path
    cert: Path
    key: Path

    def server_settings(self) -> str:
        """Lines of the server's configuration."""
        return f"ssl_ca = {self.ca}\nssl_cert = {self.cert}\nssl_key = {self.key}\n"

    def content(self) -> tuple[bytes, bytes, bytes]:
        """What is in the files now; raises OSError."""
        return self.ca.read_bytes(), self.cert.read_bytes(), self.key.read_bytes()


if TYPE_CHECKING:
    _Connection = pymysql.Connection[DictCursor]
else:
    _Connection = pymysql.Connection


class Verified(_Connection):
    """A connection that gives no password to a server without TLS, whatever PyMySQL's version would do."""

    def _request_authentication(self) -> None:
        if not self.server_capabilities & CLIENT.SSL:  # type: ignore[attr-defined]
            raise pymysql.err.OperationalError(2026, "the server there offers no TLS, and this site asks for it")
        super()._request_authentication()  # type: ignore[misc]


def client_context(files: TlsFiles, *, check_name: bool = True) -> ssl.SSLContext:
    """For the driver's own connections; raises OSError (ssl.SSLError is one)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_name
    _load(context, files)
    return context


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For connections to the driver: whoever connects shows a certificate of the group's authority. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, files)
    return context


def problems(files: TlsFiles, address: str) -> tuple[FieldProblem, ...]:
    """Why the files cannot be used by this site at its replication address; empty when they can.

    The handshake that peers will do is done here, in memory, with both sides verifying: it finds a certificate that is
    expired, not of this authority, not for this address or not for clients, and a key that belongs to another one.
    """
    found = []
    for field, path in (("tls.ca", files.ca), ("tls.cert", files.cert), ("tls.key", files.key)):
        try:
            path.read_bytes()
        except OSError as error:
            found.append(FieldProblem(field, f"cannot read {path}: {error.strerror}", "mount the Secret there"))
    if found:
        return tuple(found)
    try:
        _shake_hands(files, address)
    except ssl.SSLCertVerificationError as error:
        return (FieldProblem("tls.cert", f"{files.cert}: {error.verify_message}", _fix(address)),)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        return (
            FieldProblem(
                "tls", f"{files.ca}, {files.cert}, {files.key}: {reason}", "put PEM files without a passphrase there"
            ),
        )
    return ()


def expires(files: TlsFiles, address: str) -> str:
    """Until when this site's certificate is valid; raises OSError."""
    return _shake_hands(files, address)


def _fix(address: str) -> str:
    return f"issue a certificate for IP:{address}, for servers and clients, by the authority in tls.ca"


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key, password=_no_passphrase)  # else it would ask at the terminal


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _shake_hands(files: TlsFiles, address: str) -> str:
    server_side = server_context(files)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(files).wrap_bio(to_client, to_server, server_hostname=address)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(_MANY_ROUNDS):
        for one in tuple(waiting):
            try:
                one.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(one)
        if not waiting:
            certificate = client.getpeercert() or {}
            return str(certificate.get("notAfter", ""))
    raise ssl.SSLError("the handshake does not end")
