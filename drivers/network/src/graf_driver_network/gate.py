"""The gate: who may talk to a service address, and until when. The kernel keeps the time, not this process.

A service address is *protected*: packets to it and from it pass only while it is an element of the set ``open``,
whose elements have a time-out. How the transactions below keep a stopped process from opening it again is told in
``docs/reference/drivers/network.md``; the tests stop a process at the worst place and watch.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from graf_driver_network.elements import Add, Delete, Elements, MissingElementError, NftError
from graf_driver_network.libnftables import Nftables

_NAME: Final = "graf_gate"
TABLE: Final = f"inet {_NAME}"
TICKET_MS: Final = 20
"""How long a computed time-out may be on its way to the kernel. The kernel itself measures it."""
TICK_RESERVE_MS: Final = 10
"""Two ticks of a kernel at HZ=250 and a rest: its timers count in ticks, each element up to one tick late."""
_ATTEMPTS: Final = 5

_TYPES: Final = {"": ("ip", "ipv4_addr"), "6": ("ip6", "ipv6_addr")}
"""The sets' ending, and what nftables calls the family and its addresses."""


def _rules(ending: str) -> str:
    """The sets and rules of one family. They name an address at either end, never a connection's state."""
    family, kind = _TYPES[ending]
    shut_to = f"{family} daddr @protected{ending} {family} daddr != @open{ending}"
    shut_from = f"{family} saddr @protected{ending} {family} saddr != @open{ending}"
    # A local client's packet has the service address at both ends. It goes on to ``request``, which resets it.
    local_request = f'oifname "lo" {shut_to}'
    return f"""
add set {TABLE} protected{ending} {{ type {kind}; }}
add set {TABLE} open{ending} {{ type {kind}; flags timeout; }}
add set {TABLE} ticket{ending} {{ type {kind}; flags timeout; }}
add rule {TABLE} request {shut_to} tcp flags & rst == 0 reject with tcp reset
add rule {TABLE} request {shut_to} meta l4proto != tcp drop
add rule {TABLE} answer {local_request} accept
add rule {TABLE} answer {shut_from} tcp flags & rst == 0 drop
add rule {TABLE} answer {shut_from} meta l4proto != tcp drop
add rule {TABLE} leave {local_request} accept
add rule {TABLE} leave {shut_from} tcp flags & rst == 0 drop
add rule {TABLE} leave {shut_from} meta l4proto != tcp drop
"""


_LAYOUT: Final = f"""
add table {TABLE}
add chain {TABLE} request {{ type filter hook prerouting priority -310; policy accept; }}
add chain {TABLE} answer {{ type filter hook output priority -310; policy accept; }}
add chain {TABLE} leave {{ type filter hook postrouting priority 310; policy accept; }}
flush chain {TABLE} request
flush chain {TABLE} answer
flush chain {TABLE} leave
{_rules("")}{_rules("6")}"""

_EPOCH = re.compile(r"epoch (\d+)")


@dataclass(frozen=True, slots=True)
class GateState:
    """What the kernel says about one address.

    Attributes:
        protected: the address is behind the gate at all; when not, everybody passes.
        open_for_ms: how long it will yet be open; 0 when it is shut.
        epoch: the epoch for which it was opened; 0 when it is shut.
    """

    protected: bool
    open_for_ms: int
    epoch: int

    @property
    def open(self) -> bool:
        """Clients pass. True as well for an address without protection: the gate does not stop anybody."""
        return not self.protected or self.open_for_ms > 0


class Gate:
    """All gates of this driver process in its network namespace.

    Invariant: no element of ``open`` outlives the lease deadline with which it was last written, wherever this
    process is stopped and however often. Only :meth:`open` makes a shut gate open.

    Every method is a few netlink messages and may be called from an event loop; only :meth:`install`, which is
    called once for an address, reads the machine's ruleset.
    """

    def __init__(self, nft: Nftables, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._nft = nft
        self._elements = Elements(_NAME)
        self._clock_ns = clock_ns
        self._lock = threading.RLock()

    def install(self, address: str) -> None:
        """Puts ``address`` behind the gate. Neither opens nor shuts it when it is behind it already.

        One transaction: also when the rules are written anew no packet slips through between two of them.

        Raises:
            NftError: the kernel refused; the address is not known to be protected.
        """
        with self._lock:
            self._nft.run(f"{_LAYOUT}add element {TABLE} {_set('protected', address)} {{ {address} }}\n")

    def open(self, address: str, epoch: int, deadline_ns: int) -> bool:
        """Opens the gate for ``epoch`` until ``deadline_ns`` (CLOCK_MONOTONIC) at the latest.

        Returns:
            Whether it is open. False when too little of the lease is left.

        Raises:
            NftError: the kernel refused for another reason than time.
        """
        return self._write(
            address,
            deadline_ns,
            lambda timeout_ms: [
                # The first add makes the delete succeed when it is shut; the ticket bounds the whole.
                Add(_set("open", address), address, timeout_ms),
                Delete(_set("open", address), address),
                Add(_set("open", address), address, timeout_ms, f"epoch {epoch}"),
            ],
            reopen=True,
        )

    def renew(self, address: str, epoch: int, deadline_ns: int) -> bool:
        """Keeps an open gate open until ``deadline_ns``. A gate that has shut stays shut.

        Returns:
            Whether it is open, as the kernel says. False as well when it is open for another epoch.

        Raises:
            NftError: the kernel refused for another reason than time.
        """
        state = self.read(address)
        if not state.protected:
            # Somebody flushed the ruleset. Open to everybody is worse than shut.
            self.install(address)
            return False
        if not state.open or state.epoch != epoch:
            return False
        return self._write(
            address,
            deadline_ns,
            lambda timeout_ms: [
                Delete(_set("open", address), address),
                Add(_set("open", address), address, timeout_ms, f"epoch {epoch}"),
            ],
            reopen=False,
        )

    def shut(self, address: str) -> None:
        """Shuts the gate now, and puts the address behind it if it was not. Proved by reading back.

        Raises:
            NftError: it could not be shut, or not be seen to be.
        """
        with self._lock:
            with contextlib.suppress(MissingElementError):
                # Not an element, or not even a table: what counts is what is read next.
                self._elements.transaction([Delete(_set("open", address), address)])
            state = self.read(address)
            if not state.protected:
                self.install(address)
                state = self.read(address)
            if state.open:
                raise NftError(f"the gate of {address} is still open for {state.open_for_ms} ms")

    def read(self, address: str) -> GateState:
        """Asks the kernel.

        Raises:
            NftError: it does not answer.
        """
        with self._lock:
            if self._elements.get(_set("protected", address), address) is None:
                return GateState(protected=False, open_for_ms=0, epoch=0)
            element = self._elements.get(_set("open", address), address)
        if element is None:
            return GateState(protected=True, open_for_ms=0, epoch=0)
        match = _EPOCH.fullmatch(element.comment)
        # An element in its last millisecond is still an element: it counts as open.
        return GateState(True, max(1, element.expires_ms), int(match[1]) if match else 0)

    def close(self) -> None:
        """Closes the sockets to the kernel; every gate stays as it is."""
        self._elements.close()
        self._nft.close()

    def _write(
        self, address: str, deadline_ns: int, changes: Callable[[int], list[Add | Delete]], *, reopen: bool
    ) -> bool:
        """Writes the element with a time-out that the kernel accepts only as long as it is fresh.

        A ticket that ran out on the way (this process was held up) is no error: as long as the lease lasts it is
        tried again with the clock read anew.
        """
        with self._lock:
            refusal = NftError("not tried")
            for _ in range(_ATTEMPTS):
                self._take_ticket(address)
                timeout_ms = (deadline_ns - self._clock_ns()) // 1_000_000 - TICKET_MS - TICK_RESERVE_MS
                if timeout_ms <= 0:
                    return self.read(address).open
                try:
                    self._elements.transaction([*self._use_ticket(address), *changes(timeout_ms)])
                    return True
                except NftError as error:
                    refusal = error
                    if not reopen and not self.read(address).open:
                        return False
            if self.read(address).open:
                return True  # not prolonged, and it ends when it was to end before
            raise NftError(f"the gate of {address} could not be opened in {_ATTEMPTS} attempts: {refusal}")

    def _take_ticket(self, address: str) -> None:
        """Before the clock is read: the add;delete;add makes it fresh when an older one is still there."""
        fresh = Add(_set("ticket", address), address, TICKET_MS)
        self._elements.transaction([fresh, Delete(_set("ticket", address), address), fresh])

    def _use_ticket(self, address: str) -> list[Add | Delete]:
        """The first change of the transaction: it fails, and all of it, when the ticket has run out."""
        return [Delete(_set("ticket", address), address)]


def _set(name: str, address: str) -> str:
    """The set that holds addresses of this family."""
    return f"{name}6" if ":" in address else name
