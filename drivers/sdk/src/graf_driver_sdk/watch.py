"""Watching one component: its status at once, each change as it is notified, and a sign of life in between."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from graf_driver_sdk.bus import StatusBus
from graf_driver_sdk.errors import DriverError
from graf_driver_sdk.logs import event
from graf_driver_sdk.types import Spec, Status

_log = logging.getLogger("graf_driver_sdk.watch")


class Watcher:
    """Turns a driver's `status` and `notify` into a stream.

    A status that cannot be read, or takes too long, is told as `Status.unknown`: the stream goes on. A slow read is
    never started a second time beside itself.
    """

    def __init__(
        self, bus: StatusBus, read: Callable[[Spec], Awaitable[Status]], refresh_s: float, patience_s: float
    ) -> None:
        """`refresh_s`: the longest silence; `patience_s`: how long a status may take before it is unknown."""
        self._bus = bus
        self._read = read
        self._refresh_s = refresh_s
        self._patience_s = patience_s

    async def statuses(self, spec: Spec) -> AsyncGenerator[Status, None]:
        """The stream; ends when the server stops."""
        last: Status | None = None
        sent_at = 0.0
        reading: asyncio.Future[Status] | None = None
        with self._bus.subscribe(spec.key) as subscription:
            try:
                while not subscription.closed:
                    if reading is None:
                        reading = asyncio.ensure_future(self._read(spec))
                    await asyncio.wait({reading}, timeout=self._patience_s)
                    status = self._outcome(spec, reading)
                    if reading.done():
                        reading = None
                    now = time.monotonic()
                    if last is None or not _same(status, last) or now - sent_at >= self._refresh_s:
                        last, sent_at = status, now
                        yield status
                    if reading is None:
                        await subscription.wait(max(0.0, sent_at + self._refresh_s - time.monotonic()))
            finally:
                if reading is not None:
                    reading.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await reading

    def _outcome(self, spec: Spec, reading: asyncio.Future[Status]) -> Status:
        if not reading.done():
            return Status.unknown(f"the status of {spec.key} could not be read within {self._patience_s:g} s")
        error = None if reading.cancelled() else reading.exception()
        if reading.cancelled() or error is not None:
            words = str(error) if isinstance(error, DriverError) else type(error).__name__
            event(_log, "status could not be read", logging.WARNING, component=str(spec.key), error=repr(error))
            return Status.unknown(f"the status of {spec.key} could not be read: {words}")
        return reading.result()


def _same(one: Status, other: Status) -> bool:
    return dataclasses.replace(one, observed_at_ns=0) == dataclasses.replace(other, observed_at_ns=0)
