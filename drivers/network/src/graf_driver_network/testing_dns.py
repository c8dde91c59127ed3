"""A real authoritative DNS server (Knot) with a secondary, for the tests of mode dns. Not used by the driver itself."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from graf_driver_network.testing import ADDRESSES, World, wait_until

ZONE = "example.test"
NAME = f"db.{ZONE}"
SECRET = "Z3JhZi10ZXN0LXNlY3JldC1vZi10aGUtem9uZQ=="  # noqa: S105 - of the tests' own server
PRIMARY = ADDRESSES["edge"]
SECONDARY_PORT = 5354

_ZONE_FILE = f"""
$TTL 5
@ IN SOA ns.{ZONE}. admin.{ZONE}. 1 3600 600 86400 5
@ IN NS ns.{ZONE}.
ns IN A {PRIMARY}
"""

_CONFIG = """
server:
  rundir: {directory}
  listen: {address}@{port}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
log:
  - target: stderr
    any: warning
database:
  storage: {directory}
key:
  - id: graf
    algorithm: hmac-sha256
    secret: {secret}
  - id: reader
    algorithm: hmac-sha256
    secret: {secret}
remote:
  - id: other
    address: {other}
    key: reader
acl:
  - id: update
    key: graf
    action: [update, transfer]
  - id: read
    key: reader
    action: [transfer, notify]
zone:
  - domain: {zone}
    storage: {directory}
    file: zone
    acl: [update, read]
    journal-content: all
    zonefile-load: {load}
    {link}: other
"""


class DnsServer:
    """One knotd in the edge's namespace."""

    def __init__(self, world: World, port: int, *, master: bool) -> None:
        self._world = world
        self._port = port
        self._dir = Path(tempfile.mkdtemp(prefix="gnt-dns-"))
        other = f"{PRIMARY}@{SECONDARY_PORT if master else 53}"
        if master:
            (self._dir / "zone").write_text(_ZONE_FILE)
        (self._dir / "knot.conf").write_text(
            _CONFIG.format(
                directory=self._dir,
                address=PRIMARY,
                port=port,
                secret=SECRET,
                other=other,
                zone=ZONE,
                load="whole" if master else "none",
                link="notify" if master else "master",
            )
        )
        self.start()

    def start(self) -> None:
        """Starts the server (again)."""
        self.process = self._world.start("edge", "knotd", "-c", str(self._dir / "knot.conf"))
        wait_until("knotd listens", self._listens, 20)

    def stop(self) -> None:
        """Ends the server; its data stays."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ends the server for good."""
        self.stop()
        shutil.rmtree(self._dir, ignore_errors=True)

    def _listens(self) -> bool:
        with self._world.inside("edge"):
            probe = socket.socket()
        with probe:
            return probe.connect_ex((PRIMARY, self._port)) == 0


def dns_parameters(secret_file: Path, service: str, **more: Any) -> dict[str, Any]:
    """Parameters of a component that moves the name by this server."""
    return {
        "mode": "dns",
        "serviceAddress": service,
        "dns": {
            "zone": ZONE,
            "name": NAME,
            "servers": [PRIMARY],
            "ttlSeconds": 5.0,
            "tsig": {"name": "graf", "secretFile": str(secret_file)},
        }
        | more,
    }
