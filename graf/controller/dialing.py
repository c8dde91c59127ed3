"""Where the drivers of this site are reached, without asking anybody.

What the API server told once is kept on the disk: after a restart of the controller its drivers are dialled although
the API server is away. An address is a Service's cluster IP, which never changes as long as the Service is there.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from graf.controller.rendering import server_name
from graf.shell.disk import write_durably
from graf.shell.logs import event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from graf.controller.driver_pki import DriverPki, Pem

LOG = logging.getLogger("graf.deploy")


@dataclass(frozen=True, slots=True)
class Dial:
    """How to open a channel. Equal values are one way: nothing is dialled again for it."""

    target: str
    tls: Pem | None = None
    server_name: str = ""

    def open(self, options: Sequence[tuple[str, int]]) -> grpc.aio.Channel:
        """A new channel."""
        if self.tls is None:
            return grpc.aio.insecure_channel(self.target, options=options)
        credentials = grpc.ssl_channel_credentials(self.tls.ca, self.tls.key, self.tls.certificate)
        named = [*options, ("grpc.ssl_target_name_override", self.server_name)]
        return grpc.aio.secure_channel(self.target, credentials, options=named)


class Dialer:
    """Driver class -> how to reach it. `told` comes from the cluster's thread, everything else from the lease loop."""

    def __init__(self, socket_dir: Path, kept: Path | None = None, pki: DriverPki | None = None) -> None:
        self._socket_dir, self._kept, self._pki = socket_dir, kept, pki
        self._addresses: dict[str, str] = {}
        if kept is None or not kept.exists():
            return
        try:
            self._addresses = {str(name): str(address) for name, address in json.loads(kept.read_bytes()).items()}
        except (OSError, ValueError, AttributeError) as error:
            event(
                LOG,
                "kept addresses of drivers unreadable; those with TLS wait for the API server",
                logging.ERROR,
                file=str(kept),
                cause=str(error),
            )

    def dial(self, driver_class: str) -> Dial:
        """How the driver is reached now. Reads memory only."""
        address = self._addresses.get(driver_class)
        if not address or self._pki is None:
            return Dial(f"unix:{self._socket_dir}/{driver_class}.sock")
        return Dial(address, self._pki.client(), server_name(driver_class))

    def told(self, addresses: Mapping[str, str]) -> None:
        """Addresses of the drivers that serve TLS; one that is absent serves on its socket.

        Raises:
            OSError: they are in use, and could not be kept.
        """
        if addresses == self._addresses:
            return
        self._addresses = dict(addresses)
        if self._kept is not None:
            write_durably(self._kept, json.dumps(self._addresses, indent=1, sort_keys=True).encode())
