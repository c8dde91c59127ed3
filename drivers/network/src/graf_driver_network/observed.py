"""What was last seen of something far away, looked at again in the background when it is old.

A status must be quick, and one server that does not answer must not hold up the watch of the other components.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from graf_driver_network.announcer import Seen

_MAX_AGE_S: Final = 1.0
_PATIENCE_S: Final = 0.5


class Observed:
    """The observation of one component. Invariant: what :meth:`get` gives was seen, and says how long ago."""

    def __init__(self, look: Callable[[], Awaitable[Seen]], on_change: Callable[[], None]) -> None:
        """``look`` goes there and sees, with time-outs of its own; ``on_change`` is told when it saw something new."""
        self._look = look
        self._on_change = on_change
        self._seen: Seen | None = None
        self._at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def get(self) -> Seen:
        """The last sight. Waits for a moment only when there is none."""
        if time.monotonic() - self._at > _MAX_AGE_S and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._refresh())
        if self._seen is None and self._task is not None:
            await asyncio.wait({self._task}, timeout=_PATIENCE_S)
        seen = self._seen
        if seen is None:
            return Seen(False, "not observed yet: there has been no answer", "not observed yet")
        age_ms = round((time.monotonic() - self._at) * 1000)
        return replace(seen, facts={**seen.facts, "observed_ms_ago": str(age_ms)})

    def put(self, seen: Seen) -> None:
        """Another call has just looked."""
        self._seen, self._at = seen, time.monotonic()

    def forget(self) -> None:
        """Something was changed: what was seen before, or is being seen, says nothing any more."""
        self._seen, self._at = None, 0.0
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._ending.add(self._task)
            self._task.add_done_callback(self._ending.discard)
        self._task = None

    async def close(self) -> None:
        """Ends a look that is under way."""
        self.forget()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _refresh(self) -> None:
        before = self._seen
        self.put(await self._look())
        if before is not None and before != self._seen:
            self._on_change()
