"""One server and what is known about it: process, durable record, sessions, last observation.

Roles are given by ``active.py`` and ``standby.py`` through this object; nothing here decides about a role.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import Enum, auto

from graf_driver_sdk import logs
from graf_driver_sdk.blocking import run_blocking

from graf_driver_mysql import bootstrap, sql
from graf_driver_mysql.binlog import BinlogError
from graf_driver_mysql.credentials import Credentials
from graf_driver_mysql.observe import Observation, observe
from graf_driver_mysql.parameters import Endpoint, Parameters
from graf_driver_mysql.record import DataRole, Record, RecordFile
from graf_driver_mysql.recovery import continues
from graf_driver_mysql.server import Server, StartFailedError
from graf_driver_mysql.sql import Session, SqlError
from graf_driver_mysql.truncated import Table, suspects, there

log = logging.getLogger("graf.driver.mysql")


class Mode(Enum):
    """What the driver last did with the running server. Set before the act, so that doubt means more, not less."""

    DOWN = auto()
    STARTING = auto()
    IDLE = auto()  # running, read-only, follows nobody
    ACTIVE = auto()  # may accept writes
    QUIESCED = auto()  # was active, read-only, nothing in flight
    STANDBY = auto()  # read-only, replication configured


class Backend:
    """The one server of this driver. Invariant: ``mode`` is DOWN exactly while no process can be alive."""

    def __init__(self, site: str, parameters: Parameters, changed: Callable[[], None]) -> None:
        self.site = site
        self.parameters = parameters
        self.server = Server(site, parameters, self._died)
        self.engine = self.server.engine
        self.credentials = Credentials(site, self.engine, parameters)
        self.mode = Mode.DOWN
        self.run = 0  # counts starts of the server: evidence of one run means nothing in the next
        self.seen: Observation | None = None
        self.message = "the server was not started yet"
        self.on_death: list[Callable[[str], None]] = []
        self.before_idle: Callable[[], Awaitable[None]] | None = None  # what a start is not complete without
        self._changed = changed
        self._file = RecordFile(self.server.layout.record)
        self._record: Record | None = None
        self._control: Session | None = None
        self._monitor: Session | None = None

    @property
    def control(self) -> Session:
        """The session of role changes; raises SqlError when there is none."""
        if self._control is None:
            raise SqlError("the server is not running", 0)
        return self._control

    def changed(self) -> None:
        """Tells the watchers that something is to be observed anew."""
        self._changed()

    async def record(self) -> Record:
        """The durable record; raises RecordUnreadableError."""
        if self._record is None:
            self._record = await asyncio.to_thread(self._file.load)
        return self._record

    async def save(self, record: Record) -> None:
        """Makes the record durable before it returns."""
        if record != await self.record():
            try:
                await run_blocking(self._file.save, record)
            except BaseException:
                self._record = None  # a call that was cancelled has written it all the same, one that failed perhaps
                raise
            self._record = record

    async def side_session(self, name: str) -> Session:
        """A session for a statement that may hang; the caller closes it. Raises SqlError."""
        return await sql.local(self.engine, self.parameters.socket, name)

    async def remote_session(self, peer: Endpoint, timeout_s: float = 1.0) -> Session:
        """A session at another site; the caller closes it. Raises SqlError."""
        return await self.credentials.session(peer, timeout_s)

    async def start(self, *, truncate: bool) -> None:
        """Starts the server without a role: read-only, following nobody.

        Raises:
            StartFailedError, BootstrapError, MissingProgramError, RecordUnreadableError, SqlError.
        """
        record = await self.record()
        self.mode = Mode.STARTING
        self.message = "the server is starting" + (", its unacknowledged tail is cut off" if truncate else "")
        self._changed()
        try:
            if await run_blocking(bootstrap.ensure_data, self.parameters, self.server.layout):
                record = Record(epoch=record.epoch)
                await self.save(record)
                truncate = False
            await self._start_process(record, truncate)
            self._control = await self.side_session("control")
            self._monitor = await self.side_session("monitor")
            if self.before_idle is not None:
                await self.before_idle()
        except BaseException as error:
            await self.server.kill()
            self.mode = Mode.DOWN
            self.message = f"the server could not be started: {error}"
            self._changed()
            raise
        self.run += 1
        self.mode = Mode.IDLE
        self.message = ""
        self._changed()

    async def kill(self) -> None:
        """Ends the server at once; returns when it is proved dead."""
        await self.server.kill()

    async def look(self) -> Observation | None:
        """Observes the server; None where it is down. Raises SqlError when it does not answer.

        A session that broke on a server that lives (a statement was not answered in time, as on a starved machine) is
        opened anew here: without one no role could be changed any more.
        """
        monitor = self._monitor
        if monitor is None or self.mode in (Mode.DOWN, Mode.STARTING):
            return None
        run = self.run
        if monitor.broken:
            monitor = await self.side_session("monitor")
            if not self._take(monitor, run):
                return self.seen
            self._monitor = monitor
        if self._control is not None and self._control.broken:
            control = await self.side_session("control")
            if not self._take(control, run):
                return self.seen
            self._control = control
        seen = await observe(monitor, permits=self.parameters.several_standbys)
        if run == self.run and self.server.alive:
            self.seen = seen
        return self.seen

    def _take(self, session: Session, run: int) -> bool:
        """Whether a session that was just opened is one of the server that runs now; another one is closed."""
        if run == self.run and self.server.alive:
            return True
        session.close()
        return False

    async def _start_process(self, record: Record, truncate: bool) -> None:
        truncate = truncate and self.engine.can_truncate
        continued = continues(record, truncated=truncate)
        tables = await self._perhaps_truncated(record)
        try:
            await self.server.start(truncate=truncate, continues=continued)
        except StartFailedError as error:
            if not truncate:
                raise
            # E.g. a non-transactional event in the tail. With the tail kept the site may have diverged, which
            # its assessment says: nothing is lost but time.
            logs.event(
                log, "truncation failed, starting with the tail", logging.WARNING, site=self.site, cause=str(error)
            )
            truncate = False  # how far the attempt came is not known: what recovery logs is still not to be trusted
            await self.server.start(truncate=False, continues=continued)
        await self._after_recovery(tables, continued)
        if truncate:
            await self.save(replace(record, role=DataRole.TRUNCATED))

    async def _perhaps_truncated(self, record: Record) -> tuple[Table, ...]:
        """A standby's TRUNCATE is fetched again; only an active's would be gone from the history."""
        if record.role is not DataRole.ACTIVE or self.engine.recovers_truncate:
            return ()
        try:
            return await run_blocking(suspects, self.server.layout.data, self.parameters.scope)
        except (OSError, subprocess.SubprocessError, BinlogError) as error:
            # MariaDB itself would not look either: a server that is whole must not stay down for this.
            logs.event(log, "not looked for a TRUNCATE", logging.ERROR, site=self.site, cause=str(error))
            return ()

    async def _after_recovery(self, tables: tuple[Table, ...], continued: bool) -> None:
        """Logs what recovery did not, where recovery logs; then the site's history is continued."""
        statements = () if continued else self.engine.after_recovery(self.parameters)
        if not tables and not statements:
            return
        side = await self.side_session("after-recovery")
        try:
            for table in tables:
                if await side.rows(there(table)) and not await side.rows(f"SELECT 1 FROM {table} LIMIT 1"):  # noqa: S608
                    logs.event(log, "truncated without the log", logging.WARNING, site=self.site, table=str(table))
                    await side.run("SET SESSION foreign_key_checks = 0", f"TRUNCATE TABLE {table}")
            await side.run(*statements)
        finally:
            side.close()

    def _died(self, how: str) -> None:
        self.mode = Mode.DOWN
        self.seen = None
        self.message = how
        for session in (self._control, self._monitor):
            if session is not None:
                session.close()
        self._control = self._monitor = None
        logs.event(log, "server died", logging.WARNING, site=self.site, how=how)
        for call in self.on_death:
            call(how)
        self._changed()
