"""Observes the server while it runs, keeps the standby's evidence and connection, and rings on every change.

The server's death needs no look: its process descriptor wakes the loop (server.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from graf_driver_sdk import logs

from graf_driver_mysql.backend import Mode
from graf_driver_mysql.component import Component
from graf_driver_mysql.observe import Observation
from graf_driver_mysql.rate import ApplyRate
from graf_driver_mysql.sql import SqlError

log = logging.getLogger("graf.driver.mysql")

ACTIVE_INTERVAL_S = 0.05  # a standby that no longer acknowledges must be seen within this
STANDBY_INTERVAL_S = 0.1
QUIET_INTERVAL_S = 0.2  # a change of nothing but the position is told this often


class Watch:
    """One task that looks, and one that tends the standby so that a slow peer does not delay the looks."""

    def __init__(self, component: Component, ring: Callable[[], None]) -> None:
        self.component = component
        self.trouble = ""
        self.rate = ApplyRate()
        self._ring = ring
        self._task: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._last: tuple[object, ...] = ()
        self._rang_at = 0.0

    def start(self) -> None:
        """Begins to watch."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends watching."""
        for task in (self._task, self._tending):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except SqlError as error:
                self._tell(("unanswered",), str(error))
            except Exception:  # the watch must outlive anything that one look meets
                log.exception("a look failed")
            active = self.component.backend.mode in (Mode.ACTIVE, Mode.QUIESCED)
            await asyncio.sleep(ACTIVE_INTERVAL_S if active else STANDBY_INTERVAL_S)

    async def _look(self) -> None:
        backend = self.component.backend
        seen = await backend.look()
        if seen is None:
            self.trouble = ""
            return
        self.rate.see(seen, asyncio.get_running_loop().time())
        trouble = await self.component.active.mend(seen) or self.component.guard.trouble
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tend(seen))
        replica = seen.replica
        self._tell(
            (
                backend.mode,
                seen.read_only,
                seen.semi_sync_enabled,
                seen.semi_sync.on,
                seen.semi_sync.clients,
                seen.semi_sync.waiting > 0 and asyncio.get_running_loop().time(),  # a stall grows
                seen.followers,
                replica and (replica.receiver, replica.applying, replica.receive_error, replica.apply_error),
                self.component.standby.caught_up,
                self.component.standby.reason,
            ),
            trouble,
            quiet=(str(seen.applied), replica and str(replica.received)),
        )

    async def _tend(self, seen: Observation) -> None:
        for tend in (self.component.standby.tend, self.component.guard.tend):
            try:
                await tend(seen)
            except SqlError as error:
                logs.event(log, "tending failed", site=self.component.site, cause=str(error))

    def _tell(self, loud: tuple[object, ...], trouble: str, quiet: tuple[object, ...] = ()) -> None:
        now = asyncio.get_running_loop().time()
        last_loud, last_quiet = self._last[:1], self._last[1:]
        changed = last_loud != (loud,) or trouble != self.trouble
        self.trouble = trouble
        if changed or (last_quiet != (quiet,) and now - self._rang_at >= QUIET_INTERVAL_S):
            self._last = (loud, quiet)
            self._rang_at = now
            self._ring()
