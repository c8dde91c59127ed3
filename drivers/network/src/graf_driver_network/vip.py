"""Mode ``vip``: the address itself moves between hosts of one link, told by gratuitous ARP or advertisements.

The address has a lifetime in the kernel, renewed with the lease: when nobody is left to remove it, it goes by itself
about a second after the gate has shut, and the new holder's announcements are not contradicted any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from graf_driver_network.address import AddressError, is_held, lend_address, places_of, remove_address
from graf_driver_network.announcer import Announcer, Held, Outcome, Seen
from graf_driver_network.elements import NftError
from graf_driver_network.gate import Gate
from graf_driver_network.link import Link, LinkError
from graf_driver_network.parameters import Parameters
from graf_driver_network.parameters_vip import Vip

_LOG: Final = logging.getLogger(__name__)
_CONFLICT_REMEMBERED_S: Final = 5.0


@dataclass(slots=True)
class _Telling:
    """What one component has told its link for one epoch."""

    epoch: int
    sent: int = 0
    problem: str = ""
    expires_ns: int = 0
    others: dict[str, float] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class VipAnnouncer(Announcer):
    """Invariant: the address is on the link only while the lease lasts, or for less than its lifetime's last second.

    A site that stands down has completed it only when the address is seen to be gone: two hosts that answer for one
    address would share out its users by chance.
    """

    wait_s: ClassVar[float] = 1.0

    def __init__(self, gate: Gate, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._gate = gate
        self._clock_ns = clock_ns
        self._telling: dict[str, _Telling] = {}

    def conflicts(self, parameters: Parameters, others: Sequence[Parameters]) -> list[str]:
        """Nothing but the address itself, which the backend compares."""
        return []

    def proves_withdrawal(self, held: Held) -> bool:
        """The address itself must be gone."""
        return True

    def take_address(self, held: Held, deadline_ns: int) -> None:
        """Lends the address until the lease's end, rounded up to a whole second."""
        lifetime_s = max(1, math.ceil((deadline_ns - self._clock_ns()) / 1e9))
        lend_address(held.parameters.service_address, held.parameters.interface, lifetime_s)
        if telling := self._telling.get(held.address):
            telling.expires_ns = self._clock_ns() + lifetime_s * 1_000_000_000

    def renewed(self, held: Held, deadline_ns: int) -> None:
        """One netlink message about once a second: only when the kernel would take the address away too early."""
        telling = self._tell(held)
        if telling is None or deadline_ns <= telling.expires_ns:
            return
        try:
            self.take_address(held, deadline_ns)
        except AddressError as error:
            _LOG.error("the lifetime of %s could not be renewed: %s", held.address, error)

    def rest_address(self, held: Held) -> None:
        """The address is removed by :meth:`withdraw`, which proves it."""

    def needs_address(self, gate_open: bool) -> bool:
        """Only the active site has the address."""
        return gate_open

    async def announce(self, held: Held) -> Outcome:
        """Completed when the first announcement is on the wire; the others follow."""
        telling = self._tell(held)
        if telling is None:
            return Outcome(False, "the gate has shut meanwhile", 50)
        if telling.problem or not telling.sent:
            return Outcome(False, f"the gate is open, nothing is announced: {telling.problem or 'not sent yet'}", 100)
        return Outcome(True, f"announced on {held.parameters.interface}")

    async def withdraw(self, held: Held, why: str) -> Outcome:
        """Removes the address, and looks whether it has gone."""
        await self._stop(held)
        address, interface = held.parameters.service_address, held.parameters.interface
        try:
            remove_address(address, interface)
        except AddressError as error:
            if not is_held(address):
                return Outcome(True, f"{address} is not at this node")
            return Outcome(False, f"{address} could not be removed ({why}): {error}", 100)
        if is_held(address):
            where = ", ".join(map(str, places_of(address)))
            return Outcome(False, f"{address} is still at this node, {where}: remove it there", 100)
        return Outcome(True, f"{address} is removed from {interface}")

    async def observe(self, held: Held) -> Seen:
        """What was sent for this epoch, and who else claims the address."""
        telling = self._telling.get(held.address)
        here = is_held(held.parameters.service_address)
        facts = {"vip_interface": held.parameters.interface, "vip_here": "yes" if here else "no"}
        if telling is None:
            return Seen(here, detail=f"{held.address} is still here" if here else "nothing is announced", facts=facts)
        since = time.monotonic() - _CONFLICT_REMEMBERED_S
        others = sorted(mac for mac, at in telling.others.items() if at > since)
        facts["vip_announcements"] = str(telling.sent)
        if others:
            facts["vip_also_claimed_by"] = ",".join(others)
            return Seen(here, f"{held.address} is also claimed by {', '.join(others)} on the same link", facts=facts)
        if telling.problem:
            return Seen(here, f"nothing is announced: {telling.problem}", facts=facts)
        detail = f"announced on {held.parameters.interface}" if here else "the address is not here"
        return Seen(here and telling.sent > 0, detail=detail, facts=facts)

    async def close(self) -> None:
        """Stops telling. Address and gate stay to the end of the lease: another driver process may go on."""
        for telling in self._telling.values():
            if telling.task is not None:
                telling.task.cancel()
        tasks = [telling.task for telling in self._telling.values() if telling.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tell(self, held: Held) -> _Telling | None:
        """The telling for the present epoch, begun when there is none yet."""
        epoch = held.announced_epoch
        if epoch is None:
            return None
        telling = self._telling.get(held.address)
        if telling is not None and telling.epoch == epoch and telling.task is not None and not telling.task.done():
            return telling
        if telling is not None and telling.task is not None:
            telling.task.cancel()
        telling = _Telling(epoch, expires_ns=0 if telling is None else telling.expires_ns)
        self._telling[held.address] = telling
        try:
            with contextlib.ExitStack() as opened:
                link = Link(held.parameters.interface, held.parameters.service_address)
                opened.callback(link.close)
                link.announce()
                telling.sent = 1
                opened.pop_all()
        except LinkError as error:
            telling.problem = str(error)
            return telling
        telling.task = asyncio.get_running_loop().create_task(self._go_on(held, telling, link))
        return telling

    async def _go_on(self, held: Held, telling: _Telling, link: Link) -> None:
        """Hosts ignore a second claim within their own lock time (1 s on Linux): it is told more than once."""
        vip = held.parameters.announcement
        assert isinstance(vip, Vip)
        listen_s = min(0.2, vip.interval_ms / 1000)
        loop = asyncio.get_running_loop()
        due = loop.time() + vip.interval_ms / 1000
        with contextlib.closing(link):
            while held.announced_epoch == telling.epoch:
                await asyncio.sleep(listen_s)
                try:
                    for mac in link.claimants():
                        telling.others[mac] = time.monotonic()
                except LinkError as error:  # it went down: told, and announced anew as soon as it is back
                    telling.problem, due = str(error), loop.time()
                if loop.time() < due or not self._may_tell(held, telling.epoch):
                    continue
                try:
                    link.announce()
                    telling.sent += 1
                    telling.problem = ""
                except LinkError as error:
                    telling.problem = str(error)
                often = telling.problem or telling.sent < vip.announcements
                due = loop.time() + (vip.interval_ms / 1000 if often else vip.refresh_s or math.inf)

    def _may_tell(self, held: Held, epoch: int) -> bool:
        """Nothing is announced on memory alone: frames pass by nftables, so the kernel is asked each time."""
        try:
            state = self._gate.read(held.address)
        except NftError as error:
            _LOG.error("gate of %s cannot be read, so it is not announced: %s", held.address, error)
            return False
        return state.protected and state.open and state.epoch == epoch

    async def _stop(self, held: Held) -> None:
        telling = self._telling.pop(held.address, None)
        if telling is not None and telling.task is not None:
            telling.task.cancel()
            await asyncio.gather(telling.task, return_exceptions=True)
