"""Lanes: which calls for one component exclude each other."""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Iterator

from graf_driver_sdk.errors import BusyError
from graf_driver_sdk.types import ComponentKey


class Lane(enum.Enum):
    """CHANGE for what gives or takes a role; RENEW for RenewLease, which never waits behind a slow change."""

    CHANGE = "change"
    RENEW = "renew"


class Lanes:
    """Invariant: at most one call holds a lane of a component, until its coroutine has ended, cancelled or not."""

    def __init__(self) -> None:
        self._held: dict[tuple[ComponentKey, Lane], tuple[str, int]] = {}

    @contextlib.contextmanager
    def hold(self, key: ComponentKey, lane: Lane, call: str) -> Iterator[None]:
        """Holds the lane while the context is open.

        Raises:
            BusyError: another call holds it; its name and age are in the message.
        """
        holder = self._held.get((key, lane))
        if holder is not None:
            name, since_ns = holder
            age_ms = (time.monotonic_ns() - since_ns) // 1_000_000
            raise BusyError(
                f"{call} of {key} was not begun: {name} has been in flight for {age_ms} ms, and a component takes one "
                f"at a time. Wait for it, then call again"
            )
        self._held[key, lane] = (call, time.monotonic_ns())
        try:
            yield
        finally:
            del self._held[key, lane]
