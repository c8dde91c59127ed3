"""Roles made of gate, address and route. Of the SDK it knows only the names of components.

Order, everywhere: what shuts comes first when standing down, what announces comes last when taking over. The gate
alone decides safety; the route only decides where packets go.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from graf_driver_sdk.types import ComponentKey

from graf_driver_network.address import AddressError, is_held, own_place
from graf_driver_network.announcer import Announcer, Held, Outcome, RefusedError, Seen
from graf_driver_network.bgp import BgpAnnouncer
from graf_driver_network.connections import ConnectionsError, end_connections
from graf_driver_network.dns_name import DnsAnnouncer
from graf_driver_network.elements import NftError
from graf_driver_network.gate import Gate, GateState
from graf_driver_network.objects import ObjectsAnnouncer
from graf_driver_network.parameters import Mode, Parameters
from graf_driver_network.vip import VipAnnouncer

_LOG = logging.getLogger(__name__)

_WATCH_EVERY_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one component, without what was asked for."""

    gate: GateState
    address_held: bool
    address_needed: bool
    announcement: Seen


class NetworkBackend:
    """All components of this driver process at this site.

    Invariant: an address is announced only for a component whose gate the kernel shows open for the same epoch, or as
    the last choice for a moment after it was shut; when the gate shuts without anybody's call, the announcement
    follows.
    """

    def __init__(
        self,
        gate: Gate,
        run_dir: Path,
        *,
        on_change: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        bird_program: str = "bird",
        on_secret: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``on_change`` is told, in the event loop, when something changed by itself; ``on_secret`` each secret."""
        self._gate = gate
        self._clock_ns = clock_ns
        self._on_change = on_change
        self._held: dict[ComponentKey, Held] = {}
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._bgp = BgpAnnouncer(
            gate, run_dir, self._held.values, on_change=on_change, on_secret=on_secret, program=bird_program
        )
        self._announcers: dict[Mode, Announcer] = {
            Mode.BGP: self._bgp,
            Mode.VIP: VipAnnouncer(gate),
            Mode.DNS: DnsAnnouncer(on_change, on_secret),
            Mode.METALLB: ObjectsAnnouncer(on_change),
            Mode.CILIUM: ObjectsAnnouncer(on_change),
        }

    @property
    def components(self) -> tuple[ComponentKey, ...]:
        """Every component that this process has met."""
        return tuple(self._held)

    async def activate(self, key: ComponentKey, parameters: Parameters, epoch: int, deadline_ns: int) -> Outcome:
        """Opens the gate until the deadline, then announces.

        Completed when the gate is open and those who should hear have been told. The gate is open from the first call
        on, also when nobody can be told: it is the lease that permits to serve.

        Raises:
            RefusedError: the epoch or the parameters cannot be announced beside what is announced already.
        """
        held = self._adopt(key, parameters)
        announcer = self._announcer(held)
        announcer.check(held, epoch)
        try:
            before = self._gate.read(held.address)
            if not before.protected:
                _check_is_not_the_nodes_own(parameters)
                self._gate.install(held.address)
            if not before.open:
                # What an earlier lease left behind must not answer its clients under this one.
                self._end_connections(parameters)
            announcer.take_address(held, deadline_ns)
            opened = self._gate.open(held.address, epoch, deadline_ns)
        except (NftError, AddressError) as error:
            return Outcome(False, f"the gate is not open: {error}", 50)
        if not opened:
            return Outcome(False, "the gate is not open: too little of the lease is left", 50)
        held.gated = True
        held.announced_epoch = epoch
        self._withdraw_at(key, held, deadline_ns)
        announced = await announcer.announce(held)
        if not announced.completed:
            return announced
        if not self._gate.read(held.address).open:
            return Outcome(False, "the gate has shut meanwhile: the lease was not renewed", 50)
        return Outcome(True, f"open for epoch {epoch}, {announced.message}")

    async def stand_down(self, key: ComponentKey, parameters: Parameters, *, drain: bool = False) -> Outcome:
        """Shuts the gate, then withdraws.

        Completed when the kernel shows the gate shut, whatever the speakers do; where packets can come past this node,
        and where the address itself moves, when the withdrawal has been seen as well. ``drain``: in good order, so
        that the announcement may linger as the last choice.

        Raises:
            RefusedError: the address is another component's, and open.
        """
        try:
            if (owner := self._owner(key, parameters)) and self._gate.read(str(parameters.service_address)).open:
                # Not this component's to shut, and not a fence to be claimed either.
                raise RefusedError(f"{parameters.service_address} is open for {owner}, another component of this site")
            if not self._gate.read(str(parameters.service_address)).protected:
                _check_is_not_the_nodes_own(parameters)
            self._gate.shut(str(parameters.service_address))
        except (NftError, AddressError) as error:
            return Outcome(False, f"the gate is not proved shut: {error}", 20)
        held = self._adopt(key, parameters, tolerate_conflicts=True)
        held.gated = True
        held.drained_epoch = (held.announced_epoch or held.drained_epoch) if drain else None
        self._forget(held)
        remarks = ["shut", self._end_connections(parameters)]
        announcer = self._announcer(held)
        try:
            announcer.rest_address(held)
        except AddressError as error:
            remarks.append(str(error))
        # A speaker that hangs must not hold up the answer that the gate is shut.
        withdrawal = self._in_background(announcer.withdraw(held, "standing down"))
        done, _ = await asyncio.wait({withdrawal}, timeout=announcer.wait_s)
        outcome = withdrawal.result() if done else Outcome(False, "the announcement is not withdrawn yet", 100)
        remarks.append(outcome.message)
        completed = outcome.completed or not announcer.proves_withdrawal(held)
        return Outcome(completed, "; ".join(remarks), 0 if completed else outcome.retry_after_ms)

    def renew(self, key: ComponentKey, parameters: Parameters, epoch: int, deadline_ns: int) -> bool:
        """Keeps an open gate open. Under a millisecond, waits for nothing.

        Raises:
            NftError: the kernel cannot be asked.
        """
        held = self._adopt(key, parameters)
        if self._gate.renew(held.address, epoch, deadline_ns):
            self._withdraw_at(key, held, deadline_ns)
            self._announcer(held).renewed(held, deadline_ns)
            return True
        # A renewal of an older epoch that comes late must not take away what a newer one has opened.
        if held.announced_epoch == epoch:
            self._forget(held)
            self._end_connections(parameters)
            self._withdraw_in_background(held, "the gate is shut")
            self._on_change()
        return False

    async def observe(self, key: ComponentKey, parameters: Parameters) -> Observation:
        """Asks the kernel and those who announce.

        Raises:
            NftError: the kernel cannot be asked: whether the gate is open is unknown.
        """
        held = self._adopt(key, parameters, tolerate_conflicts=True)
        gate = self._gate.read(str(parameters.service_address))
        announcer = self._announcer(held)
        seen = await announcer.observe(held)
        return Observation(gate, is_held(parameters.service_address), announcer.needs_address(gate.open), seen)

    def conflicts_with_held(self, key: ComponentKey, parameters: Parameters) -> list[str]:
        """Why these parameters cannot stand beside those of the other components of this process."""
        others = [held.parameters for other, held in self._held.items() if other != key]
        found = self._announcers[parameters.mode].conflicts(
            parameters, [other for other in others if other.mode is parameters.mode]
        )
        found += [
            f"{other.service_address} is the service address of another component of this site"
            for other in others
            if other.service_address == parameters.service_address
        ]
        return found

    async def watch(self) -> None:
        """Looks at the kernel and at those who announce for ever, and tells ``on_change`` when they differ from before.

        Repairs what a foreign ``nft flush ruleset`` does: without its table the gate stops nobody.
        """
        last: dict[ComponentKey, tuple[object, ...]] = {}
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            for key, held in list(self._held.items()):
                try:
                    if held.gated and not self._gate.read(held.address).protected:
                        _LOG.error("the gate of %s was taken away: putting it back, shut", held.address)
                        self._gate.install(held.address)
                        self._forget(held)
                        await self._announcer(held).withdraw(held, "the gate was taken away")
                    seen = await self.observe(key, held.parameters)
                except (NftError, OSError) as error:
                    now: tuple[object, ...] = (str(error),)
                else:
                    told = seen.announcement
                    now = (seen.gate.open, seen.gate.epoch, told.announced, told.problem, told.detail)
                if last.setdefault(key, now) != now:
                    last[key] = now
                    self._on_change()
            for announcer in self._announcers.values():
                await announcer.tend()

    async def close(self) -> None:
        """Ends the speakers. The gates stay as they are: the kernel keeps each lease to its end."""
        for held in self._held.values():
            if held.withdrawal is not None:
                held.withdrawal.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for announcer in self._announcers.values():
            await announcer.close()

    def _owner(self, key: ComponentKey, parameters: Parameters) -> ComponentKey | None:
        """Another component of this process that has the address already."""
        if key in self._held:
            return None
        for other, held in self._held.items():
            if held.parameters.service_address == parameters.service_address:
                return other
        return None

    def _announcer(self, held: Held) -> Announcer:
        return self._announcers[held.parameters.mode]

    def _adopt(self, key: ComponentKey, parameters: Parameters, *, tolerate_conflicts: bool = False) -> Held:
        """Knows the component from now on, and takes over what an earlier driver process left in the kernel."""
        held = self._held.get(key)
        if held is not None and held.parameters == parameters:
            return held
        problems = self.conflicts_with_held(key, parameters)
        if problems and not tolerate_conflicts:
            raise RefusedError("; ".join(problems))
        if held is not None:
            self._forget(held)
            if held.parameters.service_address != parameters.service_address:
                _LOG.warning("%s is no longer the service address of %s: its gate is shut", held.address, key)
                self._gate.shut(held.address)
            if held.parameters.mode is not Mode.BGP:
                self._withdraw_in_background(held, "its parameters have changed")
        modes = {parameters.mode} if held is None else {parameters.mode, held.parameters.mode}
        held = Held(key, parameters)
        if problems:
            return held  # seen, but not announced and not remembered
        self._held[key] = held
        try:
            state = self._gate.read(held.address)
        except NftError as error:
            _LOG.error("gate of %s cannot be read: %s", held.address, error)
            return held
        if state.protected and state.open and state.epoch:
            _LOG.warning("adopted: gate of %s is open for epoch %d", held.address, state.epoch)
            held.gated = True
            held.announced_epoch = state.epoch
            self._withdraw_at(key, held, self._clock_ns() + state.open_for_ms * 1_000_000)
        if Mode.BGP in modes:
            self._bgp.adopt("a component is known")
        return held

    def _withdraw_at(self, key: ComponentKey, held: Held, deadline_ns: int) -> None:
        """A safety net: the kernel shuts the gate by itself, and the announcement shall not outlive it."""
        if held.withdrawal is not None:
            held.withdrawal.cancel()
        delay_s = max(0.0, (deadline_ns - self._clock_ns()) / 1e9)
        loop = asyncio.get_running_loop()
        held.withdrawal = loop.call_later(delay_s, self._lease_ended, key, held)

    def _lease_ended(self, key: ComponentKey, held: Held) -> None:
        held.withdrawal = None
        if held.announced_epoch is None or self._held.get(key) is not held:
            return
        _LOG.warning("lease of %s ended without a renewal: withdrawing epoch %d", key, held.announced_epoch)
        held.announced_epoch = None
        self._end_connections(held.parameters)
        self._withdraw_in_background(held, "the lease has ended")
        self._on_change()

    def _end_connections(self, parameters: Parameters) -> str:
        """Frees the clients that wait for an answer which the shut gate lets nobody have."""
        try:
            if self._gate.read(str(parameters.service_address)).open:
                return "connections go on: the gate is open"
            return f"{end_connections(parameters.service_address)} connections ended"
        except (ConnectionsError, NftError) as error:
            _LOG.warning("each connection is cut with its next packet only: %s", error)
            return str(error)

    @staticmethod
    def _forget(held: Held) -> None:
        held.announced_epoch = None
        if held.withdrawal is not None:
            held.withdrawal.cancel()
            held.withdrawal = None

    def _withdraw_in_background(self, held: Held, why: str) -> None:
        self._in_background(self._announcer(held).withdraw(held, why))

    def _in_background(self, work: Coroutine[None, None, Outcome]) -> asyncio.Task[Outcome]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a withdrawal failed: %s", error)


def nodes_own(parameters: Parameters) -> str:
    """Why the gate of this address would shut out the node itself; "" when it would not.

    Raises:
        AddressError: that cannot be told.
    """
    place = own_place(parameters.service_address)
    if place is None:
        return ""
    return (
        f"{parameters.service_address} is this node's own address ({place}): its gate would shut the node for everybody"
    )


def _check_is_not_the_nodes_own(parameters: Parameters) -> None:
    """Before an address is put behind a gate for the first time.

    Raises:
        AddressError: that cannot be told.
        RefusedError: it is.
    """
    if cause := nodes_own(parameters):
        raise RefusedError(f"{cause}; give an address of the service alone")
