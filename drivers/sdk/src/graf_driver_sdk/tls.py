"""Mutual TLS of a driver that is reached over TCP: files of a Secret, read again when they are replaced.

A directory has `ca.crt`, `tls.crt` and `tls.key`. The controller of the site makes them, short-lived, and replaces them
long before they end; a driver takes the new ones with the next connection and is not restarted for that.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from graf_driver_sdk import logs
from graf_driver_sdk.errors import DriverError

TLS_DIR_VARIABLE: Final = "GRAF_DRIVER_TLS_DIR"
FILES: Final = ("ca.crt", "tls.crt", "tls.key")

_log = logging.getLogger("graf_driver_sdk.tls")


class TlsFilesError(DriverError):
    """The certificates cannot be used; the message says which file and what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM bytes: the authority that the other side is checked by, the own certificate and its key."""

    ca: bytes
    certificate: bytes
    key: bytes

    @classmethod
    def load(cls, directory: Path) -> TlsFiles:
        """Reads the three files.

        Raises:
            TlsFilesError: one is missing, unreadable or empty.
        """
        contents = []
        for name in FILES:
            path = directory / name
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise TlsFilesError(
                    f"cannot read {path}: {error.strerror}; mount the Secret with {', '.join(FILES)} there"
                ) from error
            if not contents[-1].strip():
                raise TlsFilesError(f"{path} is empty; the Secret must have {', '.join(FILES)}")
        return cls(*contents)


def server_credentials(directory: Path) -> grpc.ServerCredentials:
    """Credentials of a server that takes only clients of the same authority, and new files with new connections.

    Raises:
        TlsFilesError: the files cannot be used now. Later on, the last usable ones stay in use.
    """
    files = _Files(directory)
    return grpc.dynamic_ssl_server_credentials(
        files.configuration(),
        files.changed_configuration,  # type: ignore[arg-type]  # the stubs do not know that None keeps the old one
        require_client_authentication=True,
    )


class _Files:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._now = TlsFiles.load(directory)

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        now = self._now
        return grpc.ssl_server_certificate_configuration([(now.key, now.certificate)], root_certificates=now.ca)

    def changed_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC for each new connection; None keeps what is in use."""
        try:
            found = TlsFiles.load(self._directory)
        except TlsFilesError as error:
            logs.event(_log, "certificates not read, the last ones stay in use", logging.WARNING, cause=str(error))
            return None
        if found == self._now:
            return None
        self._now = found
        logs.event(_log, "new certificates in use", directory=str(self._directory))
        return self.configuration()


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a client proves itself, and who the server must prove to be."""

    files: TlsFiles
    server_name: str

    def open(self, address: str, options: tuple[tuple[str, int], ...]) -> grpc.aio.Channel:
        """A channel to `host:port`."""
        credentials = grpc.ssl_channel_credentials(self.files.ca, self.files.key, self.files.certificate)
        return grpc.aio.secure_channel(
            address, credentials, options=[*options, ("grpc.ssl_target_name_override", self.server_name)]
        )
