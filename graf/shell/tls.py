"""Mutual TLS of GRAF's own streams, and who a peer is by its certificate.

A location has one directory with `ca.crt`, `tls.crt` and `tls.key` (the layout of a Kubernetes Secret of type
`kubernetes.io/tls`, plus the CA). The identity of a process is the DNS name (RFC 5280 subjectAltName) in its
certificate, never something that it says about itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VOTER_SUFFIX = ".voter.graf.dev"
MANAGER_NAME = "manager.graf.dev"

# An idle or cut-off stream must be noticed by GRAF's own heartbeats, never by TCP's patience; and a new dial must
# not wait for gRPC's default back-off of up to two minutes.
CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


class TlsError(Exception):
    """The TLS material of this process is unusable; the message says which file and what to do."""


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """PEM bytes of one process: its certificate chain, its key and the CA that it trusts."""

    ca: bytes
    certificate: bytes
    key: bytes

    @classmethod
    def load(cls, directory: Path) -> TlsMaterial:
        """Reads the three files of a Secret mount.

        Raises:
            TlsError: a file is missing, unreadable or empty.
        """
        contents: dict[str, bytes] = {}
        for name in ("ca.crt", "tls.crt", "tls.key"):
            path = directory / name
            try:
                contents[name] = path.read_bytes()
            except OSError as error:
                raise TlsError(
                    f"cannot read {path}: {error.strerror}; mount the Secret graf-tls there (ca.crt, tls.crt, tls.key)"
                ) from error
            if not contents[name].strip():
                raise TlsError(f"{path} is empty; issue the certificate again and restart this process")
        return cls(contents["ca.crt"], contents["tls.crt"], contents["tls.key"])


def server_credentials(directory: Path) -> grpc.ServerCredentials:
    """Credentials of a server that takes only clients with a certificate of the same CA."""
    material = TlsMaterial.load(directory)
    return grpc.ssl_server_credentials(
        [(material.key, material.certificate)], root_certificates=material.ca, require_client_auth=True
    )


def channel_credentials(directory: Path) -> grpc.ChannelCredentials:
    """Credentials of a client that shows its own certificate."""
    material = TlsMaterial.load(directory)
    return grpc.ssl_channel_credentials(
        root_certificates=material.ca, private_key=material.key, certificate_chain=material.certificate
    )


def channel_options(server_name: str) -> list[tuple[str, Any]]:
    """Options of a channel whose server must prove to be `server_name`, at whatever address it is dialled."""
    return [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", server_name)]


def identities(auth_context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """DNS names in the peer's verified certificate; empty when it showed none."""
    names = auth_context.get("x509_subject_alternative_name", ())
    return tuple(name.decode("utf-8", "replace") for name in names)


def voter_of(auth_context: Mapping[str, Iterable[bytes]]) -> str | None:
    """Name of the voter (site or witness) that the peer's certificate proves, or None."""
    for name in identities(auth_context):
        if name.endswith(VOTER_SUFFIX) and "." not in name.removesuffix(VOTER_SUFFIX):
            return name.removesuffix(VOTER_SUFFIX)
    return None


def voter_server_name(voter: str) -> str:
    """DNS name that the certificate of a voter carries."""
    return f"{voter}{VOTER_SUFFIX}"
