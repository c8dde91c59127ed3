"""Mode ``bgp``: BIRD announces the service address of each component whose gate is open.

Preference follows from the epoch (MED, and local preference for iBGP neighbours). A route that is given up in good
order may linger as the last choice, so that users always have one: make before break.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from graf_driver_network.announcer import Announcer, Held, Outcome, RefusedError, Seen
from graf_driver_network.bird import Announcement, Bird, BirdConfigError, BirdError, BirdHungError
from graf_driver_network.bird_config import Route, Session, conflicts, med_of, render, sessions_of
from graf_driver_network.elements import NftError
from graf_driver_network.fields import prefix_of
from graf_driver_network.gate import Gate
from graf_driver_network.parameters import Parameters
from graf_driver_network.parameters_bgp import Bgp
from graf_driver_network.passwords import USED, Passwords, refused_segments

_LOG: Final = logging.getLogger(__name__)
_SIGNED: Final = ("OpenSent", "OpenConfirm")
"""States in which TCP is up, so that each end has accepted the other's signature (of the TTL it says nothing)."""


class BgpAnnouncer(Announcer):
    """One BIRD for all components of this mode.

    Invariant: a route is announced only for a component whose gate the kernel shows open for the same epoch, or,
    with a shut gate, as the last choice and for as long as the component's ``drain`` says.
    """

    def __init__(
        self,
        gate: Gate,
        run_dir: Path,
        components: Callable[[], Iterable[Held]],
        *,
        on_change: Callable[[], None],
        on_secret: Callable[[str], None],
        program: str,
    ) -> None:
        """``components`` gives those of this mode; ``on_change`` is told when something changed by itself.

        ``on_secret`` is told each password that was read, so that no log line has it.
        """
        self._gate = gate
        self._components = components
        self._on_change = on_change
        self._lingering: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._passwords = Passwords(on_secret)
        self._tend_again = False
        self._bird = Bird(run_dir, self._render, on_change=on_change, program=program)

    def check(self, held: Held, epoch: int) -> None:
        """An epoch without a MED of its own cannot be preferred."""
        try:
            med_of(epoch)
        except ValueError as error:
            raise RefusedError(str(error)) from error

    def conflicts(self, parameters: Parameters, others: Sequence[Parameters]) -> list[str]:
        """Two components may share a session, not disagree about it; and a process has one router id."""
        bgp = parameters.bgp
        if bgp is None:
            return []
        known = [other.bgp for other in others if other.bgp is not None]
        found = conflicts(session for each in (*known, bgp) for session in sessions_of(each))
        found += [
            f"routerId {bgp.router_id} differs from another component's {other.router_id}"
            for other in known
            if other.router_id != bgp.router_id
        ]
        return found

    async def announce(self, held: Held) -> Outcome:
        """Completed when BIRD has the route and at least one neighbour hears it."""
        self._stop_lingering(held)
        try:
            await self._bird.apply()
            seen = await self._announcements(held.parameters)
        except BirdError as error:
            self._replace_hung(error)
            return Outcome(False, f"the gate is open, the route is not announced: {error}", 50)
        if not any(session.established for session in seen):
            return Outcome(
                False, f"the gate is open, but no neighbour hears the route yet: {self._states(held, seen)}", 100
            )
        return Outcome(True, f"announced with MED {med_of(held.announced_epoch or 0)}")

    async def withdraw(self, held: Held, why: str) -> Outcome:
        """Drains first where the component says so; the gate is shut already, so that nothing depends on BIRD."""
        bgp = held.parameters.bgp
        remark = "BIRD has been told"
        if held.drained_epoch is not None and (bgp is None or bgp.drain is None or bgp.drain.linger_ms == 0):
            held.drained_epoch = None
        if held.drained_epoch is not None and bgp is not None and bgp.drain is not None:
            remark = f"the route lingers for {bgp.drain.linger_ms} ms as the last choice"
            loop = asyncio.get_running_loop()
            self._cancel_timer(held)
            self._lingering[held.address] = loop.call_later(bgp.drain.linger_ms / 1000, self._end_linger, held)
        await self._apply_quietly(why)
        return Outcome(True, remark)

    async def observe(self, held: Held) -> Seen:
        """Asks BIRD: sessions, and what it sends over them."""
        try:
            seen = await self._announcements(held.parameters)
        except BirdError as error:
            self._replace_hung(error)
            return Seen(False, f"nothing is announced: {error}", facts={"exported": "no"})
        prefix = prefix_of(held.parameters.service_address)
        meds = [session.routes[prefix] for session in seen if prefix in session.routes]
        facts = {"exported": "yes" if meds else "no"}
        if meds:
            facts["med"] = str(min(meds))
            facts["exported_to"] = str(len(meds))
        if held.drained_epoch is not None and meds:
            facts["draining"] = "yes"
        facts |= {f"session_{session.session}": session.state for session in seen}
        facts |= self._password_facts(held)
        if not all(session.established for session in seen):
            facts |= {f"tcp_refused_{why}": str(count) for why, count in refused_segments().items() if count}
        if not any(session.established for session in seen):
            return Seen(bool(meds), f"no BGP session is established: {self._states(held, seen)}", facts=facts)
        if not meds:
            return Seen(False, detail=f"the route is not announced: {self._states(held, seen)}", facts=facts)
        return Seen(True, detail=f"announced with MED {min(meds)}{self._unheard(held, seen)}", facts=facts)

    async def tend(self) -> None:
        """Takes new passwords; the other sessions do not notice."""
        if self._bird.pid is None:
            return  # it is started with what the files hold then
        due = self._passwords.due(self._sessions())
        if not due and not self._tend_again:
            return
        try:
            await self._bird.apply()
            self._tend_again = False
            self._on_change()
        except BirdError as error:
            self._replace_hung(error)
            if not self._tend_again:
                _LOG.error("a new password of a BGP session could not be used now: %s; trying again", error)
            self._tend_again = True

    def adopt(self, why: str) -> None:
        """Tells BIRD about a component that is known from now on."""
        self._in_background(self._apply_quietly(why))

    async def close(self) -> None:
        """Ends BIRD: the neighbours withdraw its routes at once."""
        for timer in self._lingering.values():
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._bird.close()

    def _render(self) -> str:
        """The configuration for now. The gate is asked: no route is announced on memory alone."""
        found = [(held, held.parameters.bgp) for held in self._components() if held.parameters.bgp is not None]
        sessions = self._sessions()
        routes = [route for held, bgp in found if bgp is not None and (route := self._route(held, bgp)) is not None]
        known = [bgp for _, bgp in found if bgp is not None]
        router_id = min((bgp.router_id for bgp in known), default=IPv4Address("127.0.0.1"))
        return render(router_id, sessions, routes, self._passwords.choose(sessions))

    def _sessions(self) -> list[Session]:
        """Each once, of all components."""
        known = (held.parameters.bgp for held in self._components())
        return sorted({s for bgp in known if bgp is not None for s in sessions_of(bgp)}, key=lambda s: s.order)

    def _route(self, held: Held, bgp: Bgp) -> Route | None:
        epoch, drained_by = held.announced_epoch, None
        if epoch is None:
            if held.drained_epoch is None or bgp.drain is None:
                return None
            epoch, drained_by = held.drained_epoch, bgp.drain.prepend
        else:
            try:
                state = self._gate.read(held.address)
            except NftError as error:
                _LOG.error("gate of %s cannot be read, so it is not announced: %s", held.address, error)
                return None
            if not (state.protected and state.open and state.epoch == epoch):
                return None
        address = held.parameters.service_address
        return Route(address, epoch, bgp.local_as, bgp.communities, bgp.local_preference, drained_by)

    async def _announcements(self, parameters: Parameters) -> tuple[Announcement, ...]:
        assert parameters.bgp is not None
        found = await self._bird.announcements(session.name for session in sessions_of(parameters.bgp))
        for announcement in found.values():
            self._passwords.saw(announcement.session, established=announcement.established)
        return tuple(found.values())

    def _password_facts(self, held: Held) -> dict[str, str]:
        assert held.parameters.bgp is not None
        states = {session.name: self._passwords.state(session) for session in sessions_of(held.parameters.bgp)}
        return {f"password_{name}": state for name, state in states.items() if state}

    def _states(self, held: Held, seen: Iterable[Announcement]) -> str:
        """Each session's state as BIRD names it, and what is known about why it is not established."""
        assert held.parameters.bgp is not None
        sessions = {session.name: session for session in sessions_of(held.parameters.bgp)}
        return ", ".join(
            f"{known.session} {known.state}{f', {known.error}' if known.error and not known.established else ''}"
            f"{self._remark(sessions[known.session], known)}"
            for known in seen
        )

    def _unheard(self, held: Held, seen: Iterable[Announcement]) -> str:
        """Neighbours without a session. Without BIRD's words, which change with each try: watchers would be told."""
        assert held.parameters.bgp is not None
        sessions = {session.name: session for session in sessions_of(held.parameters.bgp)}
        down = [(sessions[known.session], known) for known in seen if not known.established]
        return "".join(f", not to {session.neighbour.address}{self._remark(session, known)}" for session, known in down)

    def _remark(self, session: Session, seen: Announcement) -> str:
        """What is dropped for its signature or TTL is answered by nothing, as by a router that is not there."""
        if seen.established:
            return ""
        state = self._passwords.state(session)
        parts = []
        if state == USED and seen.state not in _SIGNED:
            parts.append("is the password the same at the router?")
        elif state and state != USED:
            parts.append(f"neighbours[{session.neighbour.index}].passwordFile: {state}")
        if session.neighbour.ttl_security:
            parts.append("does the router send with TTL 255?")
        return f" ({'; '.join(parts)})" if parts else ""

    def _end_linger(self, held: Held) -> None:
        self._lingering.pop(held.address, None)
        held.drained_epoch = None
        self._in_background(self._apply_quietly("the drained route has lingered long enough"))

    def _stop_lingering(self, held: Held) -> None:
        held.drained_epoch = None
        self._cancel_timer(held)

    def _cancel_timer(self, held: Held) -> None:
        if timer := self._lingering.pop(held.address, None):
            timer.cancel()

    def _replace_hung(self, error: BirdError) -> None:
        if isinstance(error, BirdHungError):
            _LOG.error("%s: replacing it", error)
            self._bird.kill()

    async def _apply_quietly(self, why: str) -> None:
        try:
            await self._bird.apply()
        except BirdError as error:
            self._replace_hung(error)
            if isinstance(error, BirdConfigError):
                self._bird.kill()  # a route that cannot be withdrawn goes with its speaker
            _LOG.error("%s, and the announcement could not be changed now: %s", why, error)
        self._on_change()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
