"""Something that is looked at again and again, beside the role changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from graf_driver_sdk import logs

from graf_driver_mysql.sql import SqlError


class Looking:
    """Calls a look every `interval_s`; what it raises is logged once as long as it stays the same."""

    def __init__(self, log: logging.Logger, site: str, interval_s: float, waits: str, about: str) -> None:
        """`waits` is logged with the cause when a look could not be made, `about` says what a defect was met in."""
        self._log = log
        self._site = site
        self._interval_s = interval_s
        self._waits = waits
        self._about = about
        self._task: asyncio.Task[None] | None = None

    def start(self, look: Callable[[], Awaitable[object]]) -> None:
        """Begins. `look` may raise SqlError and OSError."""
        self._task = asyncio.create_task(self._run(look))

    async def stop(self) -> None:
        """Ends; a look under way is cancelled."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, look: Callable[[], Awaitable[object]]) -> None:
        last = ""
        while True:
            try:
                await look()
                last = ""
            except (SqlError, OSError) as error:
                if str(error) != last:  # a site that is away is away for many looks
                    last = str(error)
                    logs.event(self._log, self._waits, site=self._site, cause=last)
            except Exception:
                self._log.exception("a look at the %s failed", self._about)
            await asyncio.sleep(self._interval_s)
