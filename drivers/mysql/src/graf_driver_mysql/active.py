"""The active's side: acknowledge only what the synchronous set has, stop and go on for a planned move."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graf_driver_sdk import logs
from graf_driver_sdk.errors import NotActiveError, PreconditionError
from graf_driver_sdk.types import Follower, Progress

from graf_driver_mysql import acks
from graf_driver_mysql.backend import Backend, Mode
from graf_driver_mysql.observe import Observation, positions, semi_sync
from graf_driver_mysql.parameters import REPLICATION_USER
from graf_driver_mysql.permits import Permits
from graf_driver_mysql.record import DataRole, Record
from graf_driver_mysql.sql import SqlError, quoted

log = logging.getLogger("graf.driver.mysql")

QUIESCE_TIMEOUT_S = 2.0
GROW_WAIT_S = 0.25  # how long one call waits for the follower's acknowledgement
GROW_PATIENCE_S = 1.0  # then clients are let go again: the follower is connected and does not answer
STRANGER_LOOKS = 4
PERMIT_TRIES = 6  # of half a second each: the end of a connection to a frozen standby takes MySQL more than one
STILL_CONNECTED = "a standby that may acknowledge no more is still connected"
NUDGE_AFTER_S = 0.2  # a commit waits for so long although everybody is connected that it waits for


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Since when commits wait without any acknowledgement coming in."""

    acknowledged: int
    since: float


class Active:
    """Invariant: before anything is acknowledged by fewer sites, the record on disk says so."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.in_force: tuple[str, ...] = ()
        self._changing = asyncio.Lock()  # what is waited for, and `in_force`: not both are true at every moment
        self.lacking = ""  # what an asynchronous standby was promoted without
        self.permits = Permits(backend)
        self.server_ids: Mapping[str, int] = {}  # of the other sites, where there is more than one standby
        self._looks_with_strangers = 0
        self._raised = False  # commits are made to wait for more than the set in force
        self._waiting: _Waiting | None = None
        self._probe: asyncio.Task[None] | None = None
        self._probe_started = 0.0
        self._stuck: _Waiting | None = None
        self._nudge: asyncio.Task[None] | None = None
        backend.on_death.append(self._died)

    async def promote(self, epoch: int, wanted: tuple[str, ...]) -> None:
        """Opens a running, read-only server that follows nobody. A few milliseconds.

        The semi-synchronous source is switched on before the first write can come, and the record is on disk before.
        """
        async with self._changing:
            await self._promote(epoch, wanted)
        logs.event(log, "promoted", site=self.backend.site, epoch=epoch, set=wanted)
        self.backend.changed()

    async def _promote(self, epoch: int, wanted: tuple[str, ...]) -> None:
        await self.backend.save(Record(DataRole.ACTIVE, wanted, epoch))
        engine = self.backend.engine
        required: tuple[str, ...] = ()
        if self._by_permit and len(wanted) > 1:
            await self.backend.control.run(*engine.open_to_administrator)
            await self._permit_only(wanted)
            required = engine.require(len(wanted) - 1)
        # Together and before the statements: a call that is cancelled here is continued by ``keep_to``, whose
        # statements queue behind these.
        self.backend.mode, self.in_force, self.lacking = Mode.ACTIVE, wanted, ""
        await self.backend.control.run(*required, engine.acknowledge(len(wanted) > 1), engine.open_writes)

    async def keep_to(self, epoch: int, wanted: tuple[str, ...]) -> Progress:
        """Brings the set in force to the wanted one, while serving.

        Returns:
            Pending while a site that is to be added does not acknowledge yet; until then the smaller set is in force.
        """
        async with self._changing:
            return await self._keep_to(epoch, wanted)

    async def _keep_to(self, epoch: int, wanted: tuple[str, ...]) -> Progress:
        record = await self.backend.record()
        read_only, _, _ = await positions(self.backend.control)  # it lives, or this raises
        if read_only and self.backend.mode is Mode.ACTIVE:
            await self.backend.control.run(self.backend.engine.open_writes)
        if wanted == self.in_force:
            if self._probe is not None or self._raised:  # it was to grow and is not any more: clients wait for nothing
                await self._fall_back()
                await self._settle_probe()
            if (record.synchronous_set, record.epoch) != (wanted, epoch):
                await self.backend.save(Record(DataRole.ACTIVE, wanted, epoch))
            return Progress.done()
        stay = tuple(site for site in self.in_force if site in wanted)
        if self.in_force and stay != self.in_force:
            await self._shrink(epoch, stay)
        elif len(wanted) <= 1:
            await self._shrink(epoch, wanted)
        return Progress.done() if self.in_force == wanted else await self._grow(epoch, wanted)

    async def _shrink(self, epoch: int, wanted: tuple[str, ...]) -> None:
        # Recorded first: a commit that waits is acknowledged by fewer sites as soon as the source is told so.
        await self.backend.save(Record(DataRole.ACTIVE, wanted, epoch))
        await self._keep(wanted)
        self.in_force = wanted
        await self._settle_probe()
        logs.event(log, "set shrunk", site=self.backend.site, epoch=epoch, set=wanted)
        self.backend.changed()

    async def _keep(self, wanted: tuple[str, ...]) -> None:
        """Commits wait for these sites and no more. Who goes acknowledges no more before one less is waited for."""
        engine = self.backend.engine
        if len(wanted) <= 1:
            await self.backend.control.run(engine.acknowledge(False))
        else:
            await self._permit_only(wanted)
            await self.backend.control.run(*engine.require(len(wanted) - 1))
        self._raised = False

    async def _fall_back(self) -> None:
        """Growing is given up: the record still names the smaller set."""
        await self._keep(self.in_force)

    async def _permit_only(self, wanted: tuple[str, ...]) -> None:
        for _ in range(PERMIT_TRIES):
            if await self.permits.only(self._others(wanted)):
                return
        raise SqlError(f"{STILL_CONNECTED}: call again", 0)

    async def _permitted(self, wanted: tuple[str, ...]) -> str:
        """With more than one standby: lets exactly these acknowledge; who is waited for, "" when all of them do.

        Where commits wait for somebody already, they wait for one more *before* another one may acknowledge.
        """
        if not self._by_permit:
            return ""
        others = self._others(wanted)
        if len(self.in_force) > 1 and not self._raised:
            self._raised, self._probe_started = True, asyncio.get_running_loop().time()
            await self.backend.control.run(*self.backend.engine.require(len(others)))
        if not await self.permits.only(others):
            return STILL_CONNECTED
        here = await self.permits.connected()
        if missing := [site for site, number in sorted(others.items()) if number not in here]:
            return f"{', '.join(missing)} does not acknowledge yet"
        clients = (await semi_sync(self.backend.control)).clients
        if clients != len(others):
            return f"{clients} servers acknowledge, and only {', '.join(sorted(others))} may"
        await self.backend.control.run(*self.backend.engine.require(len(others)))
        return ""

    async def _grow(self, epoch: int, wanted: tuple[str, ...]) -> Progress:
        """Switches the source on, then proves with a write of its own that the follower has everything up to there.

        The probe is written after the switch and waits for the follower's acknowledgement, as any client's write
        does. The follower receives in order: its acknowledgement of the probe covers all that was written before.
        """
        now = await semi_sync(self.backend.control)
        if self._probe is None:
            if now.clients < 1 and not self._by_permit:
                return Progress.pending(f"no standby is connected yet, so {self._names(wanted)} cannot be added", 100)
            if missing := await self._permitted(wanted):
                if self._raised and asyncio.get_running_loop().time() - self._probe_started > GROW_PATIENCE_S:
                    await self._fall_back()
                    return Progress.pending(f"{missing}: given up, to be tried again", 1000)
                return Progress.pending(missing, 20)
            await self.backend.control.run(self.backend.engine.acknowledge(True))
            self._probe = asyncio.create_task(self._write_probe())
            self._probe_started = asyncio.get_running_loop().time()
        await asyncio.wait({self._probe}, timeout=GROW_WAIT_S)
        if self._probe.done():
            probe, self._probe = self._probe, None
            try:
                probe.result()
            except SqlError as error:
                await self._fall_back()
                return Progress.pending(f"{self._names(wanted)} cannot be added: {error}", 100)
            await self.backend.save(Record(DataRole.ACTIVE, wanted, epoch))
            self.in_force, self._raised = wanted, False
            logs.event(log, "set grown", site=self.backend.site, epoch=epoch, set=wanted)
            self.backend.changed()
            return Progress.done()
        now = await semi_sync(self.backend.control)
        waited = asyncio.get_running_loop().time() - self._probe_started
        if now.clients < 1 or waited > GROW_PATIENCE_S:
            # Clients would hang for a set that is not in force: let them go, the record still names the smaller one.
            await self._fall_back()
            await self._settle_probe()
            return Progress.pending(f"{self._names(wanted)} does not acknowledge: given up, to be tried again", 200)
        return Progress.pending(f"{self._names(wanted)} has not acknowledged everything yet", 20)

    async def _write_probe(self) -> None:
        side = await self.backend.side_session("probe")
        try:
            before = await semi_sync(self.backend.control)
            await side.run(self._probe_statement, timeout_s=GROW_PATIENCE_S + 5)
            after = await semi_sync(self.backend.control)
            if not after.on or after.acknowledged <= before.acknowledged:
                raise SqlError("the probe was not acknowledged by the standby", 0)
        finally:
            side.close()

    @property
    def _probe_statement(self) -> str:
        row = f"({quoted(self.backend.site)}, 1)"
        return f"INSERT INTO graf.probe VALUES {row} ON DUPLICATE KEY UPDATE number = number + 1"  # noqa: S608

    async def _settle_probe(self) -> None:
        if self._probe is not None:
            probe, self._probe = self._probe, None
            probe.cancel()
            with contextlib.suppress(asyncio.CancelledError, SqlError):
                await probe

    async def quiesce(self) -> str:
        """Stops accepting writes, finishes those in flight, sends clients away; returns the final position.

        Raises:
            PreconditionError: It would block (a commit waits for a standby): undone, nothing has changed.
        """
        if self.backend.mode not in (Mode.ACTIVE, Mode.QUIESCED):  # before the session, which a dead server has not
            raise NotActiveError("only an active server can be quiesced, this one is not")
        control = self.backend.control
        if self.backend.mode is Mode.ACTIVE:
            await self._have_a_position()
            await self._shut()
            self.backend.mode = Mode.QUIESCED
        for row in await control.rows("SHOW PROCESSLIST"):
            if self._is_client(row["User"]):
                with contextlib.suppress(SqlError):  # gone meanwhile
                    await control.run(f"KILL CONNECTION {row['Id']}")
        _, logged, _ = await positions(control)
        self.backend.changed()
        return str(logged)

    def _is_client(self, user: str) -> bool:
        scope = self.backend.parameters.scope
        stay = {"root", REPLICATION_USER, "system user", "event_scheduler"} | (scope.local_users if scope else set())
        return user not in stay and not acks.is_one(user)

    async def _who_is_in_the_way(self, own: int) -> str:
        """The connections that may keep the server from being shut, for people. Their statements may hold secrets."""
        try:
            rows = await self.backend.control.rows("SHOW PROCESSLIST", timeout_s=1.0)
        except SqlError as error:
            return f"who writes could not be asked: {error}"
        clients = [row for row in rows if self._is_client(row["User"]) or row["User"] == "root"]
        busy = [row for row in clients if row["Command"] != "Sleep" and row["Info"] and int(row["Id"]) != own]
        busy = [row for row in busy if not str(row["Info"]).startswith(("SHOW PROCESSLIST", "KILL CONNECTION"))]
        if not busy:
            return "no client runs a statement: one of them holds LOCK TABLES; let it end, or KILL its connection"
        busy.sort(key=lambda row: -int(row["Time"]))
        told = [f"{row['Id']} of {row['User']} at {row['Host'] or 'the socket'} for {row['Time']} s" for row in busy]
        return f"these connections run a statement: {', '.join(told[:5])}; let them end, or KILL them"

    async def _have_a_position(self) -> None:
        """A server to which nobody has written has no position to give: it writes something of its own first.

        A set of more than one has had the probe of its growth, so nothing is waited for here.
        """
        _, logged, _ = await positions(self.backend.control)
        if not logged and len(self.in_force) <= 1:
            await self.backend.control.run(self._probe_statement)

    async def unquiesce(self) -> None:
        """Accepts writes again, as before."""
        if self.backend.mode not in (Mode.ACTIVE, Mode.QUIESCED):
            raise NotActiveError("only an active or quiesced server can go on, this one is not")
        self.backend.mode = Mode.ACTIVE
        await self.backend.control.run(self.backend.engine.open_writes)
        self.backend.changed()

    async def _shut(self) -> None:
        side = await self.backend.side_session("quiesce")
        number = int((await side.row("SELECT CONNECTION_ID() AS i"))["i"])
        try:
            await side.run(self.backend.engine.shut_writes, timeout_s=QUIESCE_TIMEOUT_S)
        except BaseException as error:
            # The statement goes on in the server without us: end it there, then open again whatever it did.
            with contextlib.suppress(SqlError):
                await self.backend.control.run(f"KILL CONNECTION {number}")
            await self.backend.control.run(self.backend.engine.open_writes)
            if isinstance(error, SqlError):
                # Not before: a session that gets no answer is closed, and this one opens again.
                who = await self._who_is_in_the_way(number)
                raise PreconditionError(
                    f"writes did not end within {QUIESCE_TIMEOUT_S:g} s ({error}); {who}; it goes on serving"
                ) from error
            raise
        finally:
            side.close()

    def followers(self, seen: Observation, peers: Sequence[str], now_s: float) -> tuple[Follower, ...]:
        """Who follows and may be in a set, and for how long an acknowledgement has been outstanding."""
        if self.backend.parameters.asynchronous:
            return ()
        stalled_ms = 0
        state = seen.semi_sync
        if state.waiting == 0:
            self._waiting = None
        elif self._waiting is None or state.acknowledged != self._waiting.acknowledged:
            self._waiting = _Waiting(state.acknowledged, now_s)
        else:
            stalled_ms = max(1, round((now_s - self._waiting.since) * 1000))
        found = []
        for site in sorted({*peers, *seen.followers}):
            member = site in self.in_force
            if self._by_permit and not member and len(self.in_force) > self.backend.engine.most_acknowledging:
                continue  # the set has no room for it: it follows beside the set, see ``facts``
            connected = site in seen.followers and (state.clients > 0 or self._by_permit)
            if self._by_permit and member:
                connected = connected and self.server_ids.get(site) in seen.acknowledgers
            counts = connected and state.on and member
            outstanding = state.waiting > 0 and (member or not self._by_permit)
            found.append(Follower(site, connected, counts, stalled_ms if outstanding else 0))
        return tuple(found)

    def facts(self, seen: Observation) -> dict[str, str]:
        """With more than one standby, or in mode async: who follows without a commit that waits for it."""
        asynchronous = self.backend.parameters.asynchronous
        if not (self._by_permit or asynchronous) or self.backend.mode not in (Mode.ACTIVE, Mode.QUIESCED):
            return {}
        return {
            "lost_at_promotion": self.lacking,
            "asynchronous": ", ".join(site for site in seen.followers if site not in self.in_force),
        }

    async def mend(self, seen: Observation) -> str:
        """After each observation: what is wrong with the acknowledgement in force, "" when nothing is.

        With an infinite time-out the server never falls back by itself; a person or a tool may have switched it. Where
        nobody else is in the set it must be off, or every commit would wait for ever.
        """
        if self.backend.mode is not Mode.ACTIVE or not self.in_force:
            return ""
        if len(self.in_force) > 1:
            if strangers := self._strangers_seen(seen):
                return strangers
            if self._is_as_in_force(seen):
                self._nudge_if_stuck(seen)
        if self._is_as_in_force(seen) or self._changing.locked():
            return ""  # a look in the middle of a change means nothing; the next one will tell
        async with self._changing:
            return await self._switch()

    def _is_as_in_force(self, seen: Observation) -> bool:
        if len(self.in_force) > 1:
            return seen.semi_sync_enabled and seen.semi_sync.on
        return not seen.semi_sync_enabled or self._probe is not None or self._raised

    async def _switch(self) -> str:
        """What was seen may be of before the last change: looks again, and sets it right."""
        seen = await self.backend.look()
        if seen is None or self.backend.mode is not Mode.ACTIVE or self._is_as_in_force(seen):
            return ""
        on = len(self.in_force) > 1
        if not on and not (await self.backend.record()).lone():
            return ""  # a growth was cut short behind its record: it goes on, or is taken back there first
        await self.backend.control.run(self.backend.engine.acknowledge(on))
        word, which = ("off", "has another site") if on else ("on", "has no other site")
        logs.event(log, f"semi-sync was {word}", logging.ERROR, site=self.backend.site, set=self.in_force)
        return f"the semi-synchronous source was found {word} although the set in force {which}; it was switched back"

    def _strangers_seen(self, seen: Observation) -> str:
        """Who acknowledges without a permit, as a standby whose driver does not know of them would.

        Its server counts it a moment before or after it is listed, so one look alone means nothing.
        """
        more = self._by_permit and seen.semi_sync.clients > len(seen.acknowledgers)
        self._looks_with_strangers = self._looks_with_strangers + 1 if more else 0
        if self._looks_with_strangers < STRANGER_LOOKS:
            return ""
        return (
            f"{seen.semi_sync.clients} servers acknowledge and {len(seen.acknowledgers)} by a permit: "
            "one runs without severalStandbys, and its word would count"
        )

    def _nudge_if_stuck(self, seen: Observation) -> None:
        """A standby may have received what waits for it *before* it was let acknowledge, and never tells (measured).

        Its acknowledgement of one more write covers everything before.
        """
        now = asyncio.get_running_loop().time()
        state = seen.semi_sync
        if not self._by_permit or state.waiting == 0 or state.clients < len(self.in_force) - 1:
            self._stuck = None
        elif self._stuck is None or self._stuck.acknowledged != state.acknowledged:
            self._stuck = _Waiting(state.acknowledged, now)
        elif now - self._stuck.since > NUDGE_AFTER_S and (self._nudge is None or self._nudge.done()):
            self._stuck = _Waiting(state.acknowledged, now)
            self._nudge = asyncio.create_task(self._write_nudge())

    async def _write_nudge(self) -> None:
        with contextlib.suppress(SqlError):  # nobody acknowledges: the stall is told as such
            side = await self.backend.side_session("nudge")
            try:
                await side.run(self._probe_statement, timeout_s=GROW_PATIENCE_S)
            finally:
                side.close()

    @property
    def _by_permit(self) -> bool:
        return self.backend.parameters.several_standbys

    def _others(self, wanted: Iterable[str]) -> dict[str, int]:
        """The other sites of a set and by which number each acknowledges."""
        others = [site for site in wanted if site != self.backend.site]
        if unknown := [site for site in others if site not in self.server_ids]:
            raise PreconditionError(f"no parameters of {', '.join(unknown)} were given: they cannot be let acknowledge")
        return {site: self.server_ids[site] for site in others}

    def _names(self, wanted: Iterable[str]) -> str:
        return ", ".join(site for site in wanted if site not in self.in_force)

    def _died(self, how: str) -> None:
        self.in_force = ()
        self.lacking = ""
        self._waiting = None
        self._raised = False
        self._stuck = None
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
