"""How an empty site gets the active's data: by replaying the active's whole log, or by a copy of the data first.

A copy is made beside the data directory and takes its place when it is whole. Until this site has followed the active
from there on, the record says that it may lack acknowledged writes: nothing promotes a half or an old copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from graf_driver_sdk import logs
from graf_driver_sdk.blocking import run_blocking

from graf_driver_mysql import channel, methods, tools
from graf_driver_mysql.backend import Backend, Mode
from graf_driver_mysql.bootstrap import sync_tree
from graf_driver_mysql.channel import ChannelError
from graf_driver_mysql.methods import Choice, Method, Offer
from graf_driver_mysql.observe import positions
from graf_driver_mysql.parameters import Endpoint
from graf_driver_mysql.programs import BootstrapError, MissingProgramError
from graf_driver_mysql.record import DataRole
from graf_driver_mysql.restore import restore
from graf_driver_mysql.sql import Session, SqlError

log = logging.getLogger("graf.driver.mysql")

_COPY_TIMEOUT_S = 12 * 3600.0
_WAIT_S = 0.5  # how long one call waits for a copy
_OFFER_TIMEOUT_S = 10.0
_PATIENCE = 3  # after so many failures another method is taken, where none was asked for
_PAUSE_S = 2.0  # between two tries
_COPIES = (Method.CLONE, Method.BACKUP, Method.DUMP)


@dataclass(frozen=True, slots=True)
class _Failed:
    times: int
    why: str


def unusable(backend: Backend) -> dict[Method, str]:
    """Why a method cannot be used at this site, for each that cannot."""
    if backend.parameters.scope is not None:
        return dict.fromkeys(_COPIES, "a copy replaces the whole server, of which a part is in scope")
    found = {method: tools.missing(backend.engine.name, method, serving=False) for method in _COPIES}
    return {method: why for method, why in found.items() if why}


class Seed:
    """Invariant: ``data`` is an empty database, or data whose record says that it must follow before it is promoted."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.facts: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._method = Method.LOG
        self._failed: dict[Method, _Failed] = {}
        self._not_before = 0.0
        self._doing = ""  # what the copy under way has come to
        self.swapping = False  # the copy takes its place: no server may be started

    @property
    def _fresh(self) -> Path:
        return self.backend.server.layout.root / "data.clone"

    async def pending(self, active: Endpoint) -> str:
        """Begins or continues; what is going on, "" when this site can follow. Raises SqlError."""
        backend = self.backend
        if self._task is None:
            if backend.mode is not Mode.IDLE or (await positions(backend.control))[2]:
                return ""
            if asyncio.get_running_loop().time() < self._not_before:
                return self._last_failure()
            try:
                choice = await self._choice(active)
            except SqlError:
                return ""  # following it will tell why it does not answer
            if self.facts.get("bootstrap") != choice.why:
                logs.event(log, "bootstrap", site=backend.site, method=choice.why)
            self.facts["bootstrap"] = choice.why
            if choice.method is None:
                self._failed.clear()  # what was given up is tried again
                self._pause()
                return choice.why
            if choice.method is Method.LOG:
                await run_blocking(shutil.rmtree, self._fresh, ignore_errors=True)  # of a copy that was interrupted
                return ""
            self._method = choice.method
            self._doing = "it begins"
            self._task = asyncio.create_task(self._copy(active, choice.method))
        await asyncio.wait({self._task}, timeout=_WAIT_S)
        if not self._task.done():
            return f"the data of {active.site} is being copied ({self.facts['bootstrap']}): {self._doing}"
        task, self._task = self._task, None
        try:
            task.result()
        except (SqlError, OSError, BootstrapError, MissingProgramError) as error:
            before = self._failed.get(self._method)
            self._failed[self._method] = _Failed(1 if before is None else before.times + 1, str(error))
            self._pause()
            logs.event(log, "copy failed", logging.WARNING, site=backend.site, cause=str(error))
            return self._last_failure()
        self._failed.clear()
        return f"the copy of {active.site}'s data is being started"

    async def impossible(self, active: Endpoint) -> str:
        """Why the data could not be got if this site were empty, "" when it could. Raises SqlError."""
        choice = await self._choice(active)
        return choice.why if choice.method is None else ""

    async def abandon(self) -> None:
        """Ends a copy under way; the empty database stays."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    def _pause(self) -> None:
        self._not_before = asyncio.get_running_loop().time() + _PAUSE_S

    def _last_failure(self) -> str:
        failed = self._failed.get(self._method)
        return self.facts["bootstrap"] if failed is None else f"the copy failed: {failed.why}; it is made anew"

    async def _choice(self, active: Endpoint) -> Choice:
        backend = self.backend
        parameters = backend.parameters
        own = str((await backend.control.row("SELECT VERSION() AS v"))["v"])
        session = await backend.remote_session(active)
        try:
            offer = await self._asked_by_sql(session)
        finally:
            session.close()
        cannot = await run_blocking(unusable, backend)
        if parameters.bootstrap == methods.AUTO:
            for method, failed in self._failed.items():
                if failed.times >= _PATIENCE:
                    cannot[method] = f"it failed {failed.times} times: {failed.why}"
        if parameters.scope is None and methods.needs_offer(offer, parameters.bootstrap, parameters.copy_above_mib):
            offer = await self._asked_of_the_driver(active, offer)
        return methods.choose(
            offer,
            own,
            product=backend.engine.name,
            asked=parameters.bootstrap,
            cannot=cannot,
            above_mib=parameters.copy_above_mib,
        )

    async def _asked_by_sql(self, session: Session) -> Offer:
        version = str((await session.row("SELECT VERSION() AS v"))["v"])
        _, _, applied = await positions(session)
        files = await session.rows("SHOW BINARY LOGS")
        complete = await self.backend.engine.log_complete(session)
        return Offer(version, sum(int(one["File_size"]) for one in files), complete, written=bool(applied))

    async def _asked_of_the_driver(self, active: Endpoint, offer: Offer) -> Offer:
        """What can be served there; where its driver does not answer, nothing of what it would serve."""
        try:
            async with asyncio.timeout(_OFFER_TIMEOUT_S), channel.ask(self.backend, active, "offer") as incoming:
                told = incoming.told
            return replace(
                offer,
                data_bytes=int(told["data_bytes"]),
                refuses={Method(method): str(why) for method, why in told["refuses"].items() if why},
            )
        except (ChannelError, TimeoutError) as error:
            why = str(error) or f"the driver of {active.site} did not answer in time"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"the answer of {active.site}'s driver cannot be understood: {error}"
        return replace(offer, refuses={Method.BACKUP: why, Method.DUMP: why})

    async def _copy(self, active: Endpoint, method: Method) -> None:
        backend = self.backend
        if refused := (await run_blocking(unusable, backend)).get(method):
            raise BootstrapError(refused)
        await run_blocking(shutil.rmtree, self._fresh, ignore_errors=True)
        if method is Method.CLONE:
            await self._clone(active)
        else:
            await restore(backend, active, method, self._fresh, self._tell)
        self._doing = "it is being made durable"
        await run_blocking(sync_tree, self._fresh)
        # The record first: from here on this is data of the group, and it is behind.
        await backend.save(replace(await backend.record(), role=DataRole.TRUNCATED))
        self.swapping = True
        try:
            await backend.kill()
            backend.message = f"the copy of {active.site}'s data takes the place of the empty database"
            await run_blocking(_take, self._fresh, backend.server.layout.data)
        finally:
            self.swapping = False
        logs.event(log, "copied", site=backend.site, source=active.site, method=str(method))

    def _tell(self, doing: str) -> None:
        self._doing = doing

    async def _clone(self, active: Endpoint) -> None:
        backend = self.backend
        password = await backend.credentials.for_channel()
        session = await backend.side_session("copy")
        number = int((await session.row("SELECT CONNECTION_ID() AS i"))["i"])
        try:
            statements = backend.engine.copy_from(active, password, backend.parameters.tls, self._fresh)
            await session.run(*statements, timeout_s=_COPY_TIMEOUT_S)
        except BaseException:
            with contextlib.suppress(SqlError):
                await backend.control.run(f"KILL CONNECTION {number}")
            raise
        finally:
            session.close()


def _take(fresh: Path, data: Path) -> None:
    """Between the two renames there is no data: a start then makes an empty database, and the copy is made anew."""
    unused = data.with_name("data.unused")
    shutil.rmtree(unused, ignore_errors=True)
    data.rename(unused)
    fresh.rename(data)
    sync_tree(data.parent)
    shutil.rmtree(unused, ignore_errors=True)
