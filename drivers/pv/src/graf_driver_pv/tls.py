"""Mutual TLS between the sites: who may ask for generations, and who may give them."""

from __future__ import annotations

import shlex
import ssl
from collections.abc import Collection
from typing import Any, Final

from graf_driver_sdk.errors import DriverError

from graf_driver_pv.parameters import Tls

# One port, two protocols, told apart before the first byte (RFC 7301).
CONTROL: Final = "graf-pv"
RSYNC: Final = "rsync"


class TlsError(DriverError):
    """The identity of this site cannot be used."""

    reason = "tls-unusable"


def server_context(tls: Tls) -> ssl.SSLContext:
    """For the active site.

    Raises:
        TlsError: a file cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, tls)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([CONTROL, RSYNC])
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """For a site that follows; the name of the other one is checked when it connects.

    Raises:
        TlsError: a file cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, tls)
    context.set_alpn_protocols([CONTROL])
    return context


def _context(protocol: int, tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(tls.ca_file)
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(
            f"the TLS identity {tls.cert_file}, {tls.key_file}, {tls.ca_file} cannot be used: {error}; "
            f"put a certificate, its key and the authority of both sites there"
        ) from error
    return context


def names_of(certificate: Any) -> set[str]:
    """The DNS names of a verified certificate."""
    return {value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"}


def is_allowed(certificate: Any, names: Collection[str]) -> bool:
    """Whether a verified certificate is that of one of the named sites."""
    return bool(names_of(certificate) & set(names))


def rsync_connect_command(tls: Tls, host: str, port: int, name: str) -> str:
    """What rsync runs instead of opening a connection itself (RSYNC_CONNECT_PROG): TLS by openssl."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return shlex.join(
        [
            *("openssl", "s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-alpn", RSYNC),
            *("-connect", address, "-servername", name, "-verify_hostname", name),
            *("-CAfile", str(tls.ca_file), "-cert", str(tls.cert_file), "-key", str(tls.key_file)),
        ]
    )
