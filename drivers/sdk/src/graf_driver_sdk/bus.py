"""StatusBus: tells watchers that a component changed, without saying how. Level-based: changes are coalesced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from graf_driver_sdk.types import ComponentKey


class Subscription:
    """One watcher's bell. Rung any number of times between two waits, it wakes the watcher once."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.closed = False

    def ring(self) -> None:
        """Wakes the watcher; on the loop's thread only."""
        self._rung.set()

    async def wait(self, timeout_s: float) -> bool:
        """Waits for a change.

        Returns:
            True when rung since the last wait, False when `timeout_s` went by without.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True


class StatusBus:
    """Where a driver says "this component changed" and the server's watchers hear it within a loop turn.

    Invariant: a notify that comes after a watcher's status was read wakes that watcher again; no change is lost.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._subscriptions: dict[ComponentKey, set[Subscription]] = {}
        self._closed = False

    def notify(self, key: ComponentKey) -> None:
        """Says that `key` may have changed. Cheap, never blocks, callable from any thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return  # nobody has ever watched, or nobody can any more
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            self._ring(key)
            return
        with contextlib.suppress(RuntimeError):  # the loop closed meanwhile
            loop.call_soon_threadsafe(self._ring, key)

    def _ring(self, key: ComponentKey) -> None:
        for subscription in self._subscriptions.get(key, ()):
            subscription.ring()

    @contextlib.contextmanager
    def subscribe(self, key: ComponentKey) -> Iterator[Subscription]:
        """Hears of changes of `key` while the context is open. On the loop's thread."""
        self._loop = asyncio.get_running_loop()
        subscription = Subscription()
        subscription.closed = self._closed
        self._subscriptions.setdefault(key, set()).add(subscription)
        try:
            yield subscription
        finally:
            watchers = self._subscriptions[key]
            watchers.discard(subscription)
            if not watchers:
                del self._subscriptions[key]

    def close(self) -> None:
        """Ends every subscription, present and future: the server stops."""
        self._closed = True
        for watchers in self._subscriptions.values():
            for subscription in watchers:
                subscription.closed = True
                subscription.ring()
