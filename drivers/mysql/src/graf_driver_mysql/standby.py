"""The standby's side: follow the active, and this site's own evidence that it may be promoted.

MariaDB in GTID mode throws its relay log away whenever replication is started with both threads stopped, and so at
every restart of the server. What was received, and acknowledged to the active, but not yet applied is then gone from
here and must be fetched again. Evidence therefore belongs to one run of the applier: it is dropped with every such
event and is gained again only by reaching a position that the active had afterwards.

Each site has a replication domain of its own, and MariaDB's parallel applier keeps no order between domains: what
the new active wrote can be applied before what it builds on (measured: "Table 'app.t' doesn't exist" after a rebuild).
Therefore the applier is parallel only when nothing but the active's own domain can come, and serial until then.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from graf_driver_sdk import logs
from graf_driver_sdk.errors import NeedsResyncError, PreconditionError

from graf_driver_mysql import acks
from graf_driver_mysql.backend import Backend, Mode
from graf_driver_mysql.history import History
from graf_driver_mysql.observe import Observation, Replica, positions, replica
from graf_driver_mysql.parameters import REPLICATION_USER, Endpoint
from graf_driver_mysql.record import DataRole
from graf_driver_mysql.source import compare, left_behind, stop_receiving
from graf_driver_mysql.sql import Session, SqlError, quoted
from graf_driver_mysql.unconfirmed import Freshness, Seen

log = logging.getLogger("graf.driver.mysql")

CONNECT_WAIT_S = 0.3
APPLY_WAIT_S = 1.0
KICK_INTERVAL_S = 0.25
DISCARD_INTERVAL_S = 10.0  # a disk that damages whatever is received is no reason to receive all the time
ACTIVE_ASKED_S = 0.2  # how often an asynchronous standby asks what the active has
PERMIT_INTERVAL_S = 0.2  # how soon a standby notices that it may acknowledge, or may no more
_NO_TABLE = frozenset({1044, 1142, 1143, 1146})  # nobody was ever let acknowledge there
RENEWAL_SEEN_S = 0.3  # an observation that was under way when replication got its new password is no older


class Standby:
    """Invariant: ``caught_up`` implies that everything this site acknowledged to the active is still here."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.caught_up = False
        self._cause = "has not caught up with the active since the driver started"  # what took the evidence away
        self._obstacle = ""  # what stands in the way of gaining it anew, "" where nothing is known
        self.held = False  # receiving was stopped on purpose (fenced)
        self.source: Endpoint | None = None
        self._target: History | None = None
        self._remote: Session | None = None
        self._discarded_at = -DISCARD_INTERVAL_S
        self._kicked_at = 0.0
        self._parallel = False
        self._switching = False  # the applier was stopped here, to be started at once
        self._finished = False  # for promotion: everything received is applied, replication is being removed
        self._password = ""  # what replication connects with, "" where it is not known
        self._token = ""  # what it acknowledges with, where that needs a permit
        self._asked_at = -1.0
        self.freshness = Freshness()  # in mode async
        self._renewed_at = -1.0
        self._renewing = False  # replication is being given another password, everything received being applied
        self.written_here = ""  # what a client that passes read_only did, "" for nothing
        self._own = 0  # own writes that were here when it caught up
        self._receiver = asyncio.Lock()  # one at a time starts or stops the receiver thread
        backend.on_death.append(self._died)

    @property
    def reason(self) -> str:
        """Why this site is not promotable: what took the evidence away, then what it waits for; "" when caught up."""
        if self.caught_up:
            return ""
        return f"{self._cause}; now: {self._obstacle}" if self._obstacle else self._cause

    def drop_evidence(self, cause: str) -> None:
        """From now on this site is not promotable, until it has caught up anew."""
        self.caught_up = False
        self._cause, self._obstacle = cause, ""
        self.freshness.forget()
        self._target = None

    def _hinder(self, obstacle: str) -> None:
        """Something seen takes the evidence away. Where there was none, what took it away before is still told."""
        if self.caught_up:
            self.drop_evidence(obstacle)
        else:
            self._obstacle, self._target = obstacle, None

    async def follow(self, source: Endpoint) -> bool:
        """Begins or continues following; True when the source is being received.

        Raises:
            NeedsResyncError: The histories do not fit. SqlError: This server does not answer.
        """
        if (await self.backend.record()).role is DataRole.REBUILDING:
            raise NeedsResyncError("its scope is being rebuilt and is not whole: Resync goes on with it")
        self.held = False
        self._finished = False
        async with self._receiver:
            await self._begin(source)
        self.source = source
        self.backend.mode = Mode.STANDBY
        return await self._received(CONNECT_WAIT_S)

    async def not_received(self, source: Endpoint) -> str:
        """Why `follow` does not receive yet; raises SqlError."""
        now = await replica(self.backend.control)
        if now is not None and now.apply_error:
            return f"the applier stands still: {now.apply_error}"
        return f"{source.site} ({source.host}:{source.port}) does not answer yet"

    async def _begin(self, source: Endpoint) -> None:
        control = self.backend.control
        now = await replica(control)
        wanted = (source.host, source.port, self.backend.parameters.tls)
        if now is None or (now.host, now.port, now.tls) != wanted:
            await self._turn_to(source, now)
        elif now.receive_errno in self.backend.engine.gone_from_source and not now.receiving:
            await self._explain_1236(source, now)
        elif now.receiver == "No" and now.applying:
            await control.run(self.backend.engine.start_receiver)
        elif now.receiver == "No" and not now.apply_error:
            await self._begin_anew("replication had been stopped: its relay log is discarded at the start")
        elif not now.applying and not now.apply_error:
            await self._start_applier()

    async def _begin_anew(self, why: str, *, discard: bool = False) -> None:
        """Starts both threads, which are stopped; `discard`: the relay log is received again from what is applied.

        MariaDB discards it at every such start.
        """
        self.drop_evidence(why)
        self._parallel = self.backend.engine.ordered
        control, engine = self.backend.control, self.backend.engine
        password = await self.backend.credentials.for_channel()
        _, _, everything = await positions(control)
        resume = engine.resume(everything)
        start = engine.receive_anew_with(password) if discard else engine.start_following_with(password)
        await control.run(*self._how_to_apply(), *self._silent(), *resume, *start)
        self._password = password

    async def _start_applier(self) -> None:
        """Starts the applier alone. The relay log stays while the receiver runs; the evidence is gained anew anyway."""
        self._hinder("the applier had been stopped")
        self._parallel = self.backend.engine.ordered
        await self.backend.control.run(*self._how_to_apply(), self.backend.engine.start_applier)
        self._switching = False

    async def hold(self) -> None:
        """Stops receiving and so acknowledging; what was received is applied on and stays."""
        self.held = True
        async with self._receiver:
            now = await replica(self.backend.control)
            if now is not None and now.receiver != "No":
                await stop_receiving(self.backend, now)

    async def finish(self) -> bool:
        """For promotion: nothing more is received, everything received is applied, replication is removed.

        Returns:
            False while the relay log is still being applied: call again.

        Raises:
            PreconditionError: The applier stands still.
        """
        control = self.backend.control
        self.held = True
        async with self._receiver:
            return await self._finish(control)

    async def _finish(self, control: Session) -> bool:
        if self._finished:  # a call that was cancelled came this far: nothing is to be proved again
            await control.run(self.backend.engine.stop_following, self.backend.engine.forget_source)
            return True
        now = await replica(control)
        if now is None:
            return True
        if now.receiver != "No":
            await stop_receiving(self.backend, now)
            now = await replica(control) or now
        if not now.applying:
            self._hinder(f"the applier stands still: {now.apply_error or 'stopped'}")
            raise PreconditionError(self.reason)
        if now.received:
            wait = self.backend.engine.wait_applied(now.received, APPLY_WAIT_S)
            if int((await control.row(wait, timeout_s=APPLY_WAIT_S + 2))["r"]) != 0:
                return False
        await self._log_skipped(control)
        self._finished = True
        await control.run(self.backend.engine.stop_following, self.backend.engine.forget_source)
        self.source = None
        return True

    async def _log_skipped(self, control: Session) -> None:
        """What the scope's filters kept out gets its name into the binary log, which others will be built from."""
        if self.backend.parameters.scope is None:
            return
        _, logged, everything = await positions(control)
        if statements := self.backend.engine.log_skipped(logged, everything):
            side = await self.backend.side_session("skipped")
            try:
                await side.run(*statements)
            finally:
                side.close()

    async def tend(self, seen: Observation) -> None:
        """After each observation: keeps the evidence true, gains it, and reconnects sooner than MariaDB would."""
        if self._renewing:
            return
        seen = self.steady(seen)
        now = seen.replica
        if self.backend.mode is not Mode.STANDBY or now is None or self.source is None or self._finished:
            return
        self._look_for_writes(seen)
        if not now.applying:
            self._hinder(f"the applier stands still: {now.apply_error or 'stopped'}")
            await self._start_what_was_stopped_here()
            if now.apply_errno in self.backend.engine.relay_log_unreadable and not self.held:
                await self._receive_again(now.apply_error)
        elif now.delay_s:
            self._hinder(f"somebody set it to apply {now.delay_s} s late on purpose")
        elif now.receive_errno in self.backend.engine.gone_from_source and not now.receiving:
            self._hinder(f"the active refuses to be followed: {now.receive_error}")
        elif not now.receiving and not self.held:
            self._obstacle = f"nothing is received from {self.source.site}: {now.receive_error or 'not connected'}"
            await self._reconnect()
        elif now.receiving and not self.caught_up:
            await self._gain_evidence(seen)
        if now.applying and not self.held:
            await self._obey(now)
        if self.backend.parameters.asynchronous and not self.held:
            self.freshness.look(seen)
            await self._note_active()

    def _look_for_writes(self, seen: Observation) -> None:
        """Who is caught up has every write of its own that the active has: what comes now was written here."""
        count = self.backend.engine.own_writes(seen.logged, self.backend.parameters)
        if self.caught_up and count > self._own:
            self.written_here = (
                f"{count - self._own} transactions were written at this standby by a client that passes read_only: the "
                f"active lacks them. Take READ ONLY ADMIN and SUPER away from it; Resync with REBUILD makes the sites "
                f"equal again, a promotion of this site makes them the group's"
            )

    async def _gain_evidence(self, seen: Observation) -> None:
        run = self.backend.run
        if self._target is None:
            answer = await self._ask_source()
            if answer is None:
                self._obstacle = "the active's position could not be asked for"
                return
            read_only, logged = answer
            if read_only:
                self._obstacle = "the site that it follows is not active (yet)"
                return
            if run == self.backend.run:
                self._target, self._obstacle = logged, ""
        elif seen.applied.covers(self._target):
            if not self._parallel and self.backend.parameters.parallel_threads > 1:
                await self._go_parallel()
                return
            self._own = self.backend.engine.own_writes(seen.logged, self.backend.parameters)
            self.caught_up, self._obstacle = True, ""
            logs.event(log, "caught up", site=self.backend.site, position=str(seen.applied))
            self.backend.changed()
        else:
            behind = self._target.transactions_beyond(seen.applied)
            self._obstacle = f"catching up with the active: {behind} transactions to go"

    async def _go_parallel(self) -> None:
        """All other domains are applied: from here on only the active's own can come. Evidence is gained after it."""
        async with self._receiver:
            now = await replica(self.backend.control)
            if self.held or self.backend.mode is not Mode.STANDBY or now is None or not now.receiving:
                return
            self._target = None
            self._switching = True  # until it runs again: the session may break in between
            engine = self.backend.engine
            await self.backend.control.run(
                engine.stop_applier, engine.parallel(self.backend.parameters.parallel_threads), engine.start_applier
            )
            self._parallel, self._switching = True, False

    async def _start_what_was_stopped_here(self) -> None:
        """A switch that broke in its middle has left the applier stopped, and nobody else would start it."""
        async with self._receiver:
            if self.held or self.backend.mode is not Mode.STANDBY or not self._switching:
                return
            now = await replica(self.backend.control)
            if now is not None and not now.applying and not now.apply_error:
                await self._start_applier()

    async def _receive_again(self, error: str) -> None:
        """What was received cannot be read: it is discarded and received again, as at each restart of the server.

        Only while the active serves: then it has everything that was acknowledged from here. Else what is here might be
        the last copy of it, for people.
        """
        loop = asyncio.get_running_loop()
        if loop.time() - self._discarded_at < DISCARD_INTERVAL_S:
            return
        answer = await self._ask_source()
        if answer is None or answer[0]:
            return
        async with self._receiver:
            if self.held or self._finished or self.backend.mode is not Mode.STANDBY:
                return
            now = await replica(self.backend.control)
            if now is None or now.applying or now.apply_errno not in self.backend.engine.relay_log_unreadable:
                return
            self._discarded_at = loop.time()
            logs.event(log, "received again", logging.WARNING, site=self.backend.site, cause=error)
            if now.receiver != "No":
                await stop_receiving(self.backend, now)
            await self._begin_anew(f"its relay log could not be read and is received again: {error}", discard=True)

    async def _ask_source(self) -> tuple[bool, History] | None:
        if self.source is None:
            return None
        try:
            if self._remote is None or self._remote.broken:
                self._remote = await self.backend.remote_session(self.source)
            read_only, logged, _ = await positions(self._remote)
        except SqlError:
            self._drop_remote()
            return None
        return read_only, logged

    async def _reconnect(self) -> None:
        """MariaDB sleeps a second between attempts; the driver starts the receiver as soon as the source answers."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._kicked_at < KICK_INTERVAL_S:
            return
        self._kicked_at = loop.time()
        self._drop_remote()
        if await self._ask_source() is None:
            return
        async with self._receiver:
            if self.held or self.backend.mode is not Mode.STANDBY:
                return
            now = await replica(self.backend.control)
            # Only while the applier runs: a start with both threads stopped would discard the relay log.
            if now is not None and now.applying and not now.receiving:
                await stop_receiving(self.backend, now)
                await self.backend.control.run(self.backend.engine.start_receiver)

    async def _turn_to(self, source: Endpoint, now: Replica | None) -> None:
        control = self.backend.control
        single = await compare(self.backend, source)
        if now is not None:
            if now.receiver != "No":
                await stop_receiving(self.backend, now)
            await control.run(self.backend.engine.stop_following)
        self._drop_remote()
        self.drop_evidence("has not caught up with the active yet")
        self.written_here = ""
        self.freshness = Freshness()
        password = await self.backend.credentials.for_channel()
        _, _, everything = await positions(control)
        # The record first: from here on this data is a standby's.
        await self.backend.save(replace(await self.backend.record(), role=DataRole.STANDBY))
        self.backend.mode = Mode.STANDBY
        engine = self.backend.engine
        several = self.backend.parameters.several_standbys and not self.backend.parameters.asynchronous
        token = (await self._permit(source) or "") if several else ""
        self._parallel = engine.ordered or (single and self.backend.parameters.parallel_threads > 1)
        await control.run(
            *self._how_to_apply(),
            # A semi-synchronous source switched on here would make the applier wait for acknowledgements.
            engine.acknowledge(False),
            *self._silent(),
            *engine.follow(source, self.backend.parameters, password, everything),
            *(self._speaking(token) if token else ()),
            engine.start_following,
        )
        self._password, self._token = token or password, token

    async def use_newest_password(self) -> None:
        """Gives replication the file's password as soon as the active accepts it, and proves to it that it is in use.

        Receiving pauses for a reconnection. What was received is applied before, so that nothing is lost with the relay
        log, which MariaDB discards here, and the evidence stays true.

        Raises:
            SqlError: the active cannot be asked, or does not accept it yet: replication goes on as before.
        """
        credentials = self.backend.credentials
        if self.source is None or self.held or self._finished:
            credentials.hide()
            return
        newest = await credentials.newest()
        if newest != (credentials.accepted if self._token else self._password):
            (await self.backend.remote_session(self.source)).close()
            if credentials.accepted != newest:
                return
            change = self.backend.engine.change_password(newest)
            if not self._token and not await self._renew(newest, change, ""):
                return
        await credentials.show(self.source)

    async def _obey(self, now: Replica) -> None:
        """With more than one standby: acknowledges when the active lets this site, and only then. See ``acks.py``."""
        loop = asyncio.get_running_loop()
        several = self.backend.parameters.several_standbys and not self.backend.parameters.asynchronous
        if not several or loop.time() - self._asked_at < PERMIT_INTERVAL_S:
            return
        self._asked_at = loop.time()
        token = None if self.source is None else await self._permit(self.source)
        if token is None:
            return
        engine, control = self.backend.engine, self.backend.control
        giving = bool((await control.row(engine.read_giving))["e"])
        name = acks.user(self.backend.parameters.server_id) if token else REPLICATION_USER
        if (now.user, giving, self._token) == (name, bool(token), token):
            return
        password = token or await self.backend.credentials.for_channel()
        order = self._speaking(token) if token else (engine.give(False), engine.log_in(REPLICATION_USER, password))
        if not await self._renew(password, engine.change(*order), token):
            self._asked_at += APPLY_WAIT_S  # it is far behind: not to be held up by one try after the other
        else:
            logs.event(log, "acknowledging" if token else "not acknowledging", site=self.backend.site, account=name)

    async def _note_active(self) -> None:
        """In mode async: what the active has now, to tell what this site would lack without it."""
        loop = asyncio.get_running_loop()
        if self.source is None or loop.time() - self._asked_at < ACTIVE_ASKED_S:
            return
        self._asked_at = asked = loop.time()
        answer = await self._ask_source()
        if answer is not None and not answer[0]:
            self.freshness.asked(Seen(self.source.site, answer[1], asked))

    async def _permit(self, source: Endpoint) -> str | None:
        """What this site may log in with to acknowledge: "" without a permit, None when it cannot be asked for."""
        try:
            if self._remote is None or self._remote.broken:
                self._remote = await self.backend.remote_session(source)
            query = f"SELECT token AS t FROM {acks.TABLE} WHERE site = {quoted(self.backend.site)}"  # noqa: S608
            rows = await self._remote.rows(query, timeout_s=2.0)
        except SqlError as error:
            if error.code in _NO_TABLE:
                return ""
            self._drop_remote()
            return None
        return str(rows[0]["t"]) if rows else ""

    def steady(self, seen: Observation) -> Observation:
        """An observation in which the moment without an applier counts as what it is: a part of a new password.

        A promotion that is asked for in it waits for the end of it, and finds everything applied.
        """
        now = seen.replica
        fresh = self._renewing or asyncio.get_running_loop().time() - self._renewed_at < RENEWAL_SEEN_S
        if now is None or now.applying or now.apply_error or not fresh:
            return seen
        return replace(seen, replica=replace(now, applying=True))

    async def _renew(self, password: str, change: tuple[str, ...], token: str) -> bool:
        """Replication gets another account or password; everything received is applied before."""
        engine, control = self.backend.engine, self.backend.control
        async with self._receiver:
            now = await replica(control)
            if self.held or self._finished or self.backend.mode is not Mode.STANDBY or now is None or not now.applying:
                return False
            self._renewing = True
            try:
                if now.receiver != "No":
                    await stop_receiving(self.backend, now)
                now = await replica(control) or now
                if not engine.applies_while_changing and now.received:
                    wait = engine.wait_applied(now.received, APPLY_WAIT_S)
                    if int((await control.row(wait, timeout_s=APPLY_WAIT_S + 2))["r"]) != 0:
                        await control.run(engine.start_receiver)  # tried again: acknowledging goes before
                        return False
                    self._switching = True
                self._token = token
                await control.run(*change)
                self._password, self._switching = password, False
            finally:
                self._renewing = False
                self._renewed_at = asyncio.get_running_loop().time()
        logs.event(log, "replication has another password", site=self.backend.site)
        return True

    def _speaking(self, token: str) -> tuple[str, ...]:
        """It acknowledges only while it is let in by the account that the active can take away."""
        engine = self.backend.engine
        return (engine.log_in(acks.user(self.backend.parameters.server_id), token), engine.give(True))

    def _silent(self) -> tuple[str, ...]:
        """Before replication is given the account of everybody, where acknowledging needs one of its own."""
        self._token = ""
        parameters = self.backend.parameters
        silent = parameters.several_standbys or parameters.asynchronous
        return (self.backend.engine.give(False),) if silent else ()

    def _how_to_apply(self) -> tuple[str, ...]:
        """Before the applier is started: in parallel only where that keeps the order."""
        return (self.backend.engine.parallel(self.backend.parameters.parallel_threads if self._parallel else 0),)

    async def _explain_1236(self, source: Endpoint, now: Replica) -> None:
        self.drop_evidence(f"the active refuses to be followed: {now.receive_error}")
        await compare(self.backend, source)
        told = f"{source.site} refuses to be followed: {now.receive_error}"
        try:
            why = await left_behind(self.backend, source)
        except SqlError as error:
            raise PreconditionError(f"{told}; what its log still has could not be asked: {error}") from error
        if not why:
            raise PreconditionError(told)  # a rebuild would help only by chance
        raise NeedsResyncError(f"{told}; {why}: REBUILD archives what is here and copies the data")

    async def _received(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            now = await replica(self.backend.control)
            if now is not None and now.receiving:
                return True
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(0.005)

    def _drop_remote(self) -> None:
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def _died(self, how: str) -> None:
        self.drop_evidence(f"{how}: what was received and not yet applied is discarded; has not caught up since")
        self.source = None
        self.held = False
        self._finished = False
        self._parallel = self.backend.engine.ordered
        self._switching = False
        self._password = ""
        self._token = ""
        self._drop_remote()
