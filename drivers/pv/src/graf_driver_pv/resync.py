"""The way back: what this site's data is worth against the active's, and how it catches up."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.errors import NeedsResyncError, NotActiveError
from graf_driver_sdk.types import Assessment, Peer, Progress, Resynced, ResyncStrategy, Role, Verdict

from graf_driver_pv import durable
from graf_driver_pv.client import ClientError, Head
from graf_driver_pv.component import Component, LocalData
from graf_driver_pv.parameters import Mode
from graf_driver_pv.position import Position
from graf_driver_pv.upstream import Upstream

_TOLD = 20
_CALL_S = 2.0
_SEAL_S = 10.0  # how long a resync waits for the active to make a generation of what it has


@dataclass
class _Task:
    """One resync: with whom, up to where, and what was archived for it."""

    site: str
    epoch: int
    target: Position | None = None
    before: Position | None = None  # the active's newest when the resync began, if that was not everything
    begun_s: float = field(default_factory=time.monotonic)
    begun_wall_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    archive: str = ""
    archived: bool = False


class Returning:
    """Assess and Resync of one component."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._task: _Task | None = None

    async def assess(self, active: Peer) -> Assessment:
        """The verdict; changes nothing."""
        component = self._component
        local = await run_blocking(component.look)
        here = str(local.newest.position) if local.newest else ""
        try:
            head = await self._settled_head(active)
        except ClientError as error:
            return Assessment(Verdict.UNKNOWN, here, message=str(error))
        there = str(head.newest or head.base or "")
        if head.epoch < component.record.epoch:
            message = f"{active.site} serves epoch {head.epoch}, this site knows epoch {component.record.epoch}"
            return Assessment(Verdict.UNKNOWN, here, there, message=message)
        if head.base is None:
            return Assessment(Verdict.UNKNOWN, here, message=f"{active.site} has not made its first generation yet")
        divergent = _divergence(local, head)
        if divergent:
            return Assessment(Verdict.DIVERGED, here, there, divergent)
        if local.newest is None:
            return Assessment(Verdict.EMPTY, here, there)
        clean = local.newest.position == head.base and head.newest in (None, head.base)
        clean = clean and not head.pending and not head.stale
        return Assessment(Verdict.CLEAN if clean else Verdict.BEHIND, here, there)

    async def resync(self, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Archives what diverged, then pulls until what the active had at the beginning is here."""
        component = self._component
        if component.active is not None or component.record.role is Role.ACTIVE:
            raise NotActiveError(f"{component.key} is the active and has nothing to resync from; fence it first")
        task = self._task
        if task is None or (task.site, task.epoch) != (active.site, epoch):
            task = self._task = _Task(active.site, epoch)
        try:
            head = await self._head(self._component.upstream(active), task.begun_wall_ms)
        except ClientError as error:
            return Resynced(Progress.pending(f"waiting for {active.site}: {error}", 500), task.archive)
        if head.epoch < max(epoch, component.record.epoch):
            return Resynced(Progress.pending(f"{active.site} still serves epoch {head.epoch}", 300), task.archive)
        if head.newest is None:
            return Resynced(Progress.pending(f"{active.site} has no complete generation yet", 300), task.archive)
        if task.target is None:
            # What was written before this call must come, too: else the site would be behind when it is done.
            task.before = task.before or head.newest
            waited_s = time.monotonic() - task.begun_s
            missing = head.stale or (head.pending and head.newest == task.before)
            # Through a repository the active's word comes when it comes, and done is done with all that was written
            # before. In mode Scheduled only generations count, and the next one may be hours away.
            unconfirmed = head.stale and component.parameters.mode is Mode.CONTINUOUS
            if unconfirmed or (missing and waited_s < _SEAL_S):
                message = f"{active.site} is making a generation of what was written last"
                if waited_s >= _SEAL_S:
                    message = f"waiting for {waited_s:.0f} s until {active.site} confirms what it has"
                return Resynced(Progress.pending(message, 50), task.archive)
            task.target = head.newest
        if component.follower is None or not task.archived:
            await self._make_room(task, strategy, head)
        await component.follow(active, epoch)
        follower, target = component.follower, task.target
        assert follower is not None
        there = await follower.wait_for(
            lambda: follower.newest is not None and follower.newest.descends_from(target), _CALL_S
        )
        if not there:
            what = follower.problem or f"receiving {follower.pulling or target}"
            return Resynced(Progress.pending(what, 100), task.archive)
        await component.shut(component.record.role, max(epoch, component.record.epoch))
        self._task = None
        return Resynced(Progress.done(f"has {target}"), task.archive)

    async def _make_room(self, task: _Task, strategy: ResyncStrategy, head: Head) -> None:
        component = self._component
        await component.follow(None, task.epoch)
        local = await run_blocking(component.look)
        divergent = _divergence(local, head)
        if divergent and strategy is ResyncStrategy.FOLLOW:
            raise NeedsResyncError(
                f"{component.key} has what {task.site} lacks ({divergent}); call Resync with REBUILD, which archives it"
            )
        if divergent or (strategy is ResyncStrategy.REBUILD and not task.archived):
            archive = await run_blocking(_archive, component, local, head, divergent, not divergent)
            task.archive = str(archive) if archive is not None else task.archive
        else:
            await run_blocking(component.lay_down, local)
        task.archived = True
        await component.save(replace(component.record, followed=True))

    async def _settled_head(self, active: Peer) -> Head:
        """As `_head`, but a site that became active just now gets the time to begin to serve."""
        upstream, asked_wall_ms = self._component.upstream(active), time.time_ns() // 1_000_000
        ends = time.monotonic() + upstream.settle_s
        while True:
            last = time.monotonic() >= ends
            try:
                head = await self._head(upstream, asked_wall_ms)
                settled = head.base is not None and head.epoch >= self._component.record.epoch and not head.stale
                if last or settled:
                    return head
            except ClientError:
                if last:
                    raise
            await asyncio.sleep(0.05)

    async def _head(self, upstream: Upstream, asked_wall_ms: int) -> Head:
        try:
            await upstream.connect()
            return await upstream.look(asked_wall_ms)
        finally:
            await upstream.close()


def _divergence(local: LocalData, head: Head) -> str:
    """What only this site has, for people; empty for nothing."""
    told = []
    if local.newest is not None and not head.has(local.newest.position):
        told.append(f"generation {local.newest.position}")
    told += local.changes[:_TOLD]
    if len(local.changes) > _TOLD:
        told.append(f"and {len(local.changes) - _TOLD} more")
    return ", ".join(told)


def _archive(component: Component, local: LocalData, head: Head, divergent: str, everything: bool) -> Path | None:
    """Puts aside what the active does not have, with a list of it. What it has stays: it spares copying."""
    layout, store = component.layout, component.store
    here = str(local.newest.position) if local.newest else "none"
    folder = layout.archive / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.monotonic_ns()}-{here}"
    doomed = [position for position in store.positions() if everything or not head.has(position)]
    if not doomed and not local.has_live:
        return None
    folder.mkdir(parents=True)
    listing = "\n".join([f"# only at {component.key.site}: {divergent}", *local.changes, ""])
    durable.replace_file(folder / "divergent.txt", os.fsencode(listing))
    if local.has_live:
        durable.move(layout.live, folder / "live")
    for position in doomed:
        durable.move(layout.generation(str(position)), folder / str(position))
    for shared in (layout.clone, layout.incoming):
        durable.discard(shared, layout.trash)
    return folder
