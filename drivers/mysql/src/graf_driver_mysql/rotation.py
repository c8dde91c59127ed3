"""One task that keeps passwords and certificates in force what the mounted files say, while the server runs."""

from __future__ import annotations

import asyncio
import hashlib
import logging

from graf_driver_sdk import logs

from graf_driver_mysql import tls
from graf_driver_mysql.backend import Mode
from graf_driver_mysql.component import Component
from graf_driver_mysql.looking import Looking
from graf_driver_mysql.passwords import Passwords

log = logging.getLogger("graf.driver.mysql")

INTERVAL_S = 0.5


class Rotation:
    """Level-based: each look compares files with what is in force and does what is missing."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.passwords = Passwords(component.backend)
        self.facts: dict[str, str] = {}
        self._looking = Looking(log, component.site, INTERVAL_S, "rotation waits", "credentials")
        self._certificates: tuple[int, str] | None = None  # the server's run, and what it has loaded

    def start(self) -> None:
        """Begins."""
        self._looking.start(self.look)

    async def stop(self) -> None:
        """Ends."""
        await self._looking.stop()
        self.component.backend.credentials.hide()

    async def look(self) -> None:
        """One look; raises SqlError, OSError."""
        backend = self.component.backend
        if backend.mode in (Mode.DOWN, Mode.STARTING):
            backend.credentials.hide()
            return
        await self._certificates_in_force()
        if backend.mode is Mode.STANDBY:
            await self.component.standby.use_newest_password()
        else:
            backend.credentials.hide()
        await self.passwords.tend([peer.site for peer in self.component.peers], self.component.active.in_force)
        self.facts["rotation"] = "; ".join(f"{who}: {why}" for who, why in sorted(self.passwords.waiting.items()))

    async def _certificates_in_force(self) -> None:
        """A server reads its files when it starts; replication and the driver read them for each connection."""
        backend = self.component.backend
        files = backend.parameters.tls
        if files is None:
            return
        digest = hashlib.sha256(b"\0".join(await asyncio.to_thread(files.content))).hexdigest()
        if self._certificates is None or self._certificates[0] != backend.run:
            # Read a moment after the start: what changed in between is loaded again, which does no harm.
            self._certificates = (backend.run, "")
        if self._certificates == (backend.run, digest):
            return
        found = await asyncio.to_thread(tls.problems, files, backend.parameters.replication_address)
        if found:  # e.g. a Secret of which only one file is new yet
            self.facts["tls"] = f"not loaded: {found[0].field}: {found[0].cause}"
            return
        await backend.control.run(backend.engine.reload_tls)
        self._certificates = (backend.run, digest)
        until = await asyncio.to_thread(tls.expires, files, backend.parameters.replication_address)
        self.facts["tls"] = f"certificate valid until {until}"
        logs.event(log, "certificates loaded", site=backend.site, until=until)
