"""The verdict on this site's data, and the way back: follow, or archive and rebuild."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from graf_driver_sdk import logs
from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.errors import DriverError, NeedsResyncError, PreconditionError
from graf_driver_sdk.types import Assessment, Progress, Resynced, ResyncStrategy, Role, Verdict

from graf_driver_mysql import tail
from graf_driver_mysql.backend import Mode
from graf_driver_mysql.binlog import BinlogError
from graf_driver_mysql.bootstrap import sync_tree
from graf_driver_mysql.component import Component
from graf_driver_mysql.history import History
from graf_driver_mysql.layout import Layout
from graf_driver_mysql.observe import kept, positions
from graf_driver_mysql.parameters import Endpoint
from graf_driver_mysql.record import DataRole, Record
from graf_driver_mysql.scoped import empty
from graf_driver_mysql.source import left_behind
from graf_driver_mysql.sql import SqlError
from graf_driver_mysql.standby import APPLY_WAIT_S

log = logging.getLogger("graf.driver.mysql")


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    epoch: int
    archive: str


@dataclass(frozen=True, slots=True)
class _Goal:
    of: tuple[Endpoint, int]
    history: History


def verdict(local: History, active: History) -> Verdict:
    """Compares two histories. Pure."""
    if local.beyond(active):
        return Verdict.DIVERGED
    if not active.beyond(local):
        return Verdict.CLEAN
    return Verdict.BEHIND if local else Verdict.EMPTY


class Resync:
    """Never deletes data: what has to go is moved into the archive."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self._rebuilt: _Rebuilt | None = None
        self._goal: _Goal | None = None
        self._telling: asyncio.Task[None] | None = None
        self._told = ""

    async def close(self) -> None:
        """Leaves nothing running; what is unfinished is begun anew by the next resync."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)

    async def assess(self, active: Endpoint) -> Assessment:
        """The verdict against the active site; UNKNOWN where one of the two could not be asked."""
        backend = self.component.backend
        if backend.mode in (Mode.ACTIVE, Mode.QUIESCED):
            raise PreconditionError("the active site itself is not assessed")
        if backend.mode is Mode.DOWN and not await asyncio.to_thread(backend.server.layout.data.exists):
            # Known without a server, which takes its time to make an empty database.
            return await self._against(active, backend.engine.history(""))
        return await self._assess(active)

    async def _assess(self, active: Endpoint) -> Assessment:
        """The same with this site's server started, if need be."""
        mine = await self._own(active)
        return mine if isinstance(mine, Assessment) else await self._against(active, mine)

    async def _against(self, active: Endpoint, mine: History) -> Assessment:
        backend = self.component.backend
        try:
            read_only, theirs = await self._ask(active)
        except SqlError as error:
            return Assessment(Verdict.UNKNOWN, str(mine), message=f"the active site cannot be asked: {error}")
        if read_only:
            return Assessment(Verdict.UNKNOWN, str(mine), str(theirs), message=f"{active.site} is not active (yet)")
        divergent = ", ".join(mine.beyond(theirs))
        message = self._told
        if divergent:
            number = mine.transactions_beyond(theirs)
            message = (
                f"{number} transactions are only here; REBUILD puts them aside below {backend.server.layout.archive}/, "
                "as binary log and readable. To undo them in place cannot be proved complete: REBUILD is the way"
            )
        found = verdict(mine, theirs)
        if found is Verdict.BEHIND and (why := await self._left_behind(active)):
            message = f"{why}: it cannot follow; where a copy can be made, it is archived and rebuilt by that"
        return Assessment(found, str(mine), str(theirs), divergent, message)

    async def _own(self, active: Endpoint) -> History | Assessment:
        """What this site has, or why that is not known (or not worth knowing). The active's can only grow meanwhile."""
        backend = self.component.backend
        if not await self.component.running(active):
            return Assessment(Verdict.UNKNOWN, message=backend.message or "the server is starting")
        if (await backend.record()).role is DataRole.REBUILDING:
            return Assessment(Verdict.DIVERGED, message="its scope is being rebuilt and is not whole")
        try:
            _, _, mine = await positions(backend.control)
        except SqlError as error:  # e.g. it died just now
            return Assessment(Verdict.UNKNOWN, message=f"this site's server cannot be asked: {error}")
        return mine

    async def _ask(self, active: Endpoint) -> tuple[bool, History]:
        """Whether the active site is read-only (not active yet), and what it has."""
        session = await self.component.backend.remote_session(active)
        try:
            return await kept(session)
        finally:
            session.close()

    async def resync(self, active: Endpoint, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Begins or continues; completed when this site follows and has caught up."""
        if self.component.backend.mode is Mode.ACTIVE:
            raise PreconditionError("the server may accept writes: fence it first")
        self.component.wanted = Role.STANDBY
        # Where a rebuild was begun before, what has to go is in the archive already: it is gone on with below.
        begun = (await self.component.backend.record()).role is DataRole.REBUILDING
        if not begun and (self._rebuilt is None or self._rebuilt.epoch != epoch or await self._left_behind(active)):
            finding = await self._assess(active)
            if finding.verdict is Verdict.UNKNOWN:
                return Resynced(Progress.pending(finding.message, 100))
            if finding.verdict is Verdict.BEHIND and (why := await self._left_behind(active)):
                # What is here is put aside only where something can take its place.
                if impossible := await self.component.seed.impossible(active):
                    return Resynced(Progress.pending(f"{why}, and {impossible}", 1000))
                if strategy is ResyncStrategy.FOLLOW:
                    raise NeedsResyncError(f"{why}: it cannot follow; ask for REBUILD, which archives what is here")
                strategy = ResyncStrategy.REBUILD
            if strategy is ResyncStrategy.FOLLOW and finding.verdict is Verdict.DIVERGED:
                raise NeedsResyncError(
                    f"this site has what {active.site} does not have ({finding.divergent}): "
                    "it cannot simply follow; ask for REBUILD, which archives it"
                )
            if strategy is ResyncStrategy.REBUILD or finding.verdict is Verdict.DIVERGED:
                await self._rebuild(finding, epoch)
        if (pending := await self._empty(active, epoch)) is not None:
            return Resynced(pending)
        archive = await self._archive(epoch)
        await self._begin_telling()
        progress = await self._catch_up(active, epoch)
        if progress.completed and self._telling is not None:
            await asyncio.wait({self._telling}, timeout=APPLY_WAIT_S)
            if not self._telling.done():
                return Resynced(
                    Progress.pending("what was only here is being written in a readable form", 200), archive
                )
        if progress.completed and self._told:
            progress = Progress.done(self._told)
        return Resynced(progress, archive)

    async def _archive(self, epoch: int) -> str:
        """Where what was only here went in this epoch. Who was killed since has put aside more, and none of that."""
        of_this_run = self._rebuilt.archive if self._rebuilt is not None and self._rebuilt.epoch == epoch else ""
        return await run_blocking(tail.newest_of, self.component.backend.server.layout.archive, epoch) or of_this_run

    async def _left_behind(self, active: Endpoint) -> str:
        """What this site lacks and can get by a copy only; "" where it can follow, or where that is not known."""
        if self.component.backend.mode in (Mode.DOWN, Mode.STARTING):
            return ""
        try:
            return await left_behind(self.component.backend, active)
        except SqlError:
            return ""

    async def _begin_telling(self) -> None:
        """Beside the catching up, which it does not delay: a lone active may have written a lot."""
        if self._telling is None:
            archives = await asyncio.to_thread(tail.unfinished, self.component.backend.server.layout.archive)
            self._telling = asyncio.create_task(self._tell(archives))

    async def _tell(self, archives: tuple[Path, ...]) -> None:
        backend = self.component.backend
        for archive in archives:
            try:
                active = backend.engine.history(await asyncio.to_thread(tail.active_position, archive))
                told = await run_blocking(tail.write, backend.engine, archive, active)
            except (OSError, BinlogError, ValueError) as error:
                # The data itself is safe in the archive; a copy that cannot be made must not keep the site away.
                self._told = f"what was only here is in {archive}/data; a copy of that alone failed: {error}"
                logs.event(log, "tail not written", logging.ERROR, site=backend.site, archive=archive, cause=str(error))
                continue
            self._told = str(told)
            logs.event(log, "tail written", logging.WARNING, site=backend.site, told=str(told))

    async def _catch_up(self, active: Endpoint, epoch: int) -> Progress:
        component = self.component
        if not await component.running(active):
            return Progress.pending(component.backend.message or "the server is starting", 50)
        if copying := await component.seed.pending(active):
            return Progress.pending(copying, 100)
        if not await component.standby.follow(active):
            return Progress.pending(await component.standby.not_received(active), 100)
        if not component.standby.caught_up:
            return Progress.pending(component.standby.reason, 50)
        return await self._reach(active, epoch)

    async def _reach(self, active: Endpoint, epoch: int) -> Progress:
        """Evidence is about what was acknowledged; what the active wrote while nothing was received comes on top.

        The goal is where the active was when this was first asked: under load it would run away from who follows it.
        """
        backend = self.component.backend
        if self._goal is None or self._goal.of != (active, epoch):
            try:
                read_only, theirs = await self._ask(active)
            except SqlError as error:
                return Progress.pending(f"the active site cannot be asked: {error}", 100)
            if read_only:
                return Progress.pending(f"{active.site} is not active (yet)", 100)
            self._goal = _Goal((active, epoch), theirs)
        ends = time.monotonic() + APPLY_WAIT_S
        while True:
            _, _, mine = await positions(backend.control)
            missing = self._goal.history.beyond(mine)
            if not missing:
                self._goal = None
                return Progress.done()
            if time.monotonic() >= ends:
                return Progress.pending(f"catching up with the active: {', '.join(missing)} to go", 50)
            await asyncio.sleep(0.02)

    async def _rebuild(self, finding: Assessment, epoch: int) -> None:
        backend = self.component.backend
        whole = backend.parameters.scope is None or not backend.engine.keeps_the_rest
        await self.component.seed.abandon()
        await backend.kill()
        layout = backend.server.layout
        try:
            archive = await run_blocking(_put_aside, layout, finding, epoch, whole)
        except OSError as error:
            raise DriverError(f"the data could not be put aside: {error}", reason="archive-failed") from error
        await backend.save(Record(DataRole.NONE if whole else DataRole.REBUILDING, epoch=epoch))
        self._rebuilt = _Rebuilt(epoch, str(archive))
        await self.close()
        self._telling = None
        logs.event(log, "archived", logging.WARNING, site=backend.site, archive=archive, divergent=finding.divergent)
        await asyncio.sleep(0)

    async def _empty(self, active: Endpoint, epoch: int) -> Progress | None:
        """With a scope: the rest of the server stays where it is, so what is in scope is emptied in place."""
        backend, scope = self.component.backend, self.component.backend.parameters.scope
        if scope is None or (await backend.record()).role is not DataRole.REBUILDING:
            return None
        if not await self.component.running(active):
            return Progress.pending(backend.message or "the server is starting", 50)
        await empty(backend, scope)
        if self._rebuilt is None or self._rebuilt.epoch != epoch:
            self._rebuilt = _Rebuilt(epoch, await run_blocking(_newest, backend.server.layout))
        await backend.save(Record(epoch=epoch))
        return None


def _copy(data: Path, target: Path) -> None:
    """The rest of the server stays: what is put aside is a copy, whole before it has its name."""
    part = target / "data.part"
    try:
        shutil.copytree(data, part)
        sync_tree(part)
    except OSError:
        shutil.rmtree(target, ignore_errors=True)  # what it was copied from is still there
        raise
    part.rename(target / "data")


def _newest(layout: Layout) -> str:
    """The archive of a rebuild that another run of the driver began."""
    return max((str(path) for path in layout.archive.glob("*-epoch*")), default="")


def _put_aside(layout: Layout, finding: Assessment, epoch: int, whole: bool) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = layout.archive / f"{stamp}-epoch{epoch}"
    number = 1
    while target.exists():
        number += 1
        target = layout.archive / f"{stamp}-epoch{epoch}-{number}"
    target.mkdir(parents=True)
    (target / tail.ASSESSMENT).write_text(
        f"put aside at {stamp}, epoch {epoch}\nverdict: {finding.verdict.name}\nlocal: {finding.local_position}\n"
        f"active: {finding.active_position}\nonly here: {finding.divergent}\n"
        f"what was only here: {tail.FOLDER}/ (binary log of it, readable dump, index), once it is written\n",
        encoding="utf-8",
    )
    if whole:
        layout.data.rename(target / "data")
    else:
        _copy(layout.data, target)
    for directory in (target, layout.archive, layout.root):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return target
