"""How an empty site gets the active's data: by replaying the active's whole log, or by a physical copy of it first.

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

from graf_driver_mysql.backend import Backend, Mode
from graf_driver_mysql.bootstrap import sync_tree
from graf_driver_mysql.observe import positions
from graf_driver_mysql.parameters import Endpoint
from graf_driver_mysql.programs import BootstrapError
from graf_driver_mysql.record import DataRole
from graf_driver_mysql.sql import SqlError

log = logging.getLogger("graf.driver.mysql")

_COPY_TIMEOUT_S = 12 * 3600.0
_WAIT_S = 0.5  # how long one call waits for a copy


@dataclass(frozen=True, slots=True)
class Offer:
    """What the active has, and what it runs."""

    version: str
    log_bytes: int
    log_complete: bool  # from the first transaction on


@dataclass(frozen=True, slots=True)
class Choice:
    """The method and why."""

    copy: bool
    why: str


def choose(offer: Offer, own_version: str, *, can_copy: str, above_mib: int, failed: str) -> Choice:
    """The rule. ``can_copy`` is why this engine cannot copy, "" when it can; ``failed`` is why a copy just failed."""
    size = f"the active's log has {offer.log_bytes / (1 << 20):.1f} MiB"
    small = offer.log_bytes <= above_mib << 20
    if offer.log_complete and small:
        return Choice(False, f"whole log: {size}, at most {above_mib} MiB")
    reason = can_copy or failed
    if not reason and offer.version != own_version:
        reason = f"the active runs {offer.version} and this site {own_version}, which must be the same for a copy"
    if reason:
        return Choice(False, f"whole log: {reason}; {size}")
    return Choice(True, f"clone: {size}" + ("" if offer.log_complete else ", without its beginning"))


def no_copy(backend: Backend) -> str:
    """Why no copy can be made here, "" when one can."""
    if backend.parameters.scope is not None:
        return "a copy replaces the whole server, of which a part is in scope"
    return backend.engine.no_copy


class Seed:
    """Invariant: ``data`` is an empty database, or data whose record says that it must follow before it is promoted."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.facts: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._failed = ""
        self.swapping = False  # the copy takes its place: no server may be started
        backend.on_death.append(self._died)

    @property
    def _fresh(self) -> Path:
        return self.backend.server.layout.root / "data.clone"

    async def pending(self, active: Endpoint) -> str:
        """Begins or continues; what is going on, "" when this site can follow. Raises SqlError."""
        backend = self.backend
        if self._task is None:
            if backend.mode is not Mode.IDLE or (await positions(backend.control))[2]:
                return ""
            try:
                choice = await self._choice(active)
            except SqlError:
                return ""  # following it will tell why it does not answer
            if self.facts.get("bootstrap") != choice.why:
                logs.event(log, "bootstrap", site=backend.site, method=choice.why)
            self.facts["bootstrap"] = choice.why
            if not choice.copy:
                return ""
            self._task = asyncio.create_task(self._copy(active))
        await asyncio.wait({self._task}, timeout=_WAIT_S)
        if not self._task.done():
            return f"the data of {active.site} is being copied ({self.facts['bootstrap']})"
        task, self._task = self._task, None
        try:
            task.result()
        except (SqlError, OSError, BootstrapError) as error:
            self._failed = f"the copy failed: {error}"
            logs.event(log, "copy failed", logging.WARNING, site=backend.site, cause=str(error))
            return self._failed
        return f"the copy of {active.site}'s data is being started"

    async def abandon(self) -> None:
        """Ends a copy under way; the empty database stays."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    async def _choice(self, active: Endpoint) -> Choice:
        backend = self.backend
        own = str((await backend.control.row("SELECT VERSION() AS v"))["v"])
        session = await backend.remote_session(active)
        try:
            version = str((await session.row("SELECT VERSION() AS v"))["v"])
            files = await session.rows("SHOW BINARY LOGS")
            complete = await backend.engine.log_complete(session)
        finally:
            session.close()
        offer = Offer(version, sum(int(one["File_size"]) for one in files), complete)
        above = backend.parameters.copy_above_mib
        return choose(offer, own, can_copy=no_copy(backend), above_mib=above, failed=self._failed)

    async def _copy(self, active: Endpoint) -> None:
        backend = self.backend
        if refused := no_copy(backend):
            raise BootstrapError(refused)
        await run_blocking(shutil.rmtree, self._fresh, ignore_errors=True)
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
        await run_blocking(sync_tree, self._fresh)
        # The record first: from here on this is data of the group, and it is behind.
        await backend.save(replace(await backend.record(), role=DataRole.TRUNCATED))
        self.swapping = True
        try:
            await backend.kill()
            await run_blocking(_take, self._fresh, backend.server.layout.data)
        finally:
            self.swapping = False
        logs.event(log, "copied", site=backend.site, source=active.site)

    def _died(self, how: str) -> None:
        self._failed = ""


def _take(fresh: Path, data: Path) -> None:
    """Between the two renames there is no data: a start then makes an empty database, and the copy is made anew."""
    unused = data.with_name("data.unused")
    shutil.rmtree(unused, ignore_errors=True)
    data.rename(unused)
    fresh.rename(data)
    sync_tree(data.parent)
    shutil.rmtree(unused, ignore_errors=True)
