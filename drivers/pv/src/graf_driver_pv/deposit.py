"""The active side of a repository: puts generations into it, says that nothing is missing, and keeps it tidy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.logs import event

from graf_driver_pv import catalog
from graf_driver_pv.catalog import Entry
from graf_driver_pv.client import ClientError
from graf_driver_pv.copying import PullError
from graf_driver_pv.layout import Layout
from graf_driver_pv.manifest import Manifest
from graf_driver_pv.outlet import Heard
from graf_driver_pv.restic import IncompleteError, LockedError, NoRepositoryError, Restic
from graf_driver_pv.store import MANIFEST

_LOG = logging.getLogger("graf_driver_pv.deposit")
_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_SOONEST_S: Final = 0.05
_LOOK_S: Final = 1.0
_LOOK_UP_S: Final = 5.0  # shortest time between two looks for another site's epoch
_FORGET_AT: Final = 20  # snapshots at once: each time the repository is locked for a moment
_TIDY_RETRY_S: Final = 60.0


class DeposedError(ClientError):
    """The repository knows a higher epoch: another site is active."""


class Served(Protocol):
    """What is asked of the active side."""

    @property
    def epoch(self) -> int:
        """Of the role."""

    @property
    def manifest(self) -> Manifest | None:
        """The newest generation."""

    @property
    def base(self) -> Manifest | None:
        """What the live copy descends from; also before there is a generation of it."""

    async def complete_until(self) -> int:
        """A time on the wall clock, ms: whatever was written before it is in the newest generation."""

    async def wait_newer(self, have: str, timeout_s: float) -> None:
        """Waits for a generation other than this one."""


class Deposit:
    """Runs while the component is ACTIVE. Level-based: whatever the repository lacks is put there, whoever left it so.

    Invariant: nothing is written once the repository is seen to know a higher epoch.
    """

    def __init__(
        self, restic: Restic, layout: Layout, component: str, site: str, source: Served, on_change: Callable[[], None]
    ) -> None:
        self._restic = restic
        self._layout = layout
        self._component = component
        self._site = site
        self._source = source
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None
        self._delivered = asyncio.Condition()
        self._entries: list[Entry] = []  # of the repository, as far as it is known here
        self._is_known = False  # else it is to be looked up
        self._parent: tuple[str, str] | None = None  # generation and snapshot that were put there last, by this process
        self._known: tuple[Manifest, str] | None = None
        self._uploading = ""
        self._said_s = self._looked_s = float("-inf")
        self._tidy_s = float("-inf")
        self._host = socket.gethostname()
        self.problem = ""
        self.uploads = 0
        self.last_upload_s = 0.0
        self.allowed: Mapping[str, str] = {}
        self.heard: Mapping[str, Heard] = {}

    @property
    def callers(self) -> list[str]:
        """Nobody calls."""
        return []

    @property
    def pinned(self) -> set[str]:
        """Generations that must stay: one is being read; restic knows the files of the other by their inodes."""
        return {name for name in (self._uploading, self._parent[0] if self._parent else "") if name}

    async def start(self) -> None:
        """Begins."""
        await run_blocking(self._restic.former_hosts, self._host)
        self._task = asyncio.create_task(self._run(), name="pv-deposit")

    async def stop(self) -> None:
        """Ends it; what was being put there has no name there yet."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def delivered(self, manifest: Manifest) -> None:
        """Waits until a generation is in the repository."""
        async with self._delivered:
            await self._delivered.wait_for(lambda: self._has(manifest))

    def facts(self) -> dict[str, str]:
        """For the status."""
        facts = {
            "repository": self._restic.location,
            "uploads": str(self.uploads),
            "last_upload_seconds": f"{self.last_upload_s:.3f}",
        }
        if self._uploading:
            facts["uploading"] = self._uploading
        head = catalog.head_of(self._entries)
        if head is not None and head.epoch == self._source.epoch:
            # On this site's own clock alone.
            facts["rpo_seconds_repository"] = f"{max(time.time() - head.until_wall_ms / 1e3, 0.0):.2f}"
            stray = catalog.divergent(self._entries, head)
            if stray:
                facts["divergent_in_repository"] = ",".join(str(position) for position in stray[:20])
        return facts

    async def _run(self) -> None:
        failures = 0
        while True:
            have = self._source.manifest
            try:
                await self._step()
                failures = 0
                await self._tell("")
                async with self._delivered:
                    self._delivered.notify_all()
            except NoRepositoryError as error:
                await self._tell(str(error))
                failures += 1
            except (ClientError, PullError, OSError) as error:
                await self._tell(f"nothing can be put into the repository: {error}")
                failures += 1
            except Exception as error:
                _LOG.exception("putting a generation into the repository failed")
                await self._tell(f"nothing can be put into the repository: {type(error).__name__}")
                failures += 1
            if failures:
                # Nor is it known whether the last snapshot is still there: another repository may be in its place.
                self._is_known, self._parent = False, None
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S)) - 1])
            else:
                # Looked at again soon, whatever happens: the role may have a newer epoch by then.
                due_s = self._said_s + self._restic.repository.confirm_s - time.monotonic()
                wait_s = min(max(due_s, _SOONEST_S), _LOOK_S)
                await self._source.wait_newer(str(have.position) if have else "", wait_s)

    async def _step(self) -> None:
        if not self._is_known:
            await self._look_up()
        epoch, newest = self._source.epoch, self._source.manifest
        head = catalog.head_of(self._entries)
        if (head is None or head.epoch < epoch) and self._source.base is not None:
            # At once, also when there is nothing new: it tells everybody that older epochs are over.
            await self._say(self._source.base, 0)
        if newest is None:
            return
        if not self._has(newest):
            await self._upload(newest)
        elif time.monotonic() >= self._said_s + self._restic.repository.confirm_s:
            if time.monotonic() >= self._looked_s + _LOOK_UP_S:
                await self._look_up()
            if self._has(newest):
                await self._say(newest, await self._complete_until(newest))
        await self._tidy()

    async def _look_up(self) -> None:
        """What is there; and whether another site is active by now.

        Raises:
            DeposedError: one is.
        """
        try:
            listing = await self._restic.snapshots(catalog.wanted_tags(self._component))
        except NoRepositoryError:
            if not self._restic.repository.create:
                raise
            event(_LOG, "makes the repository", location=self._restic.location)
            await self._restic.create()
            listing = []
        self._entries, self._is_known, self._looked_s = catalog.read(listing), True, time.monotonic()
        head = catalog.head_of(self._entries)
        if head is not None and head.epoch > self._source.epoch:
            raise DeposedError(
                f"{head.site} is active in epoch {head.epoch} there, and this site in epoch {self._source.epoch}"
            )

    def _has(self, manifest: Manifest) -> bool:
        digest = self._digest(manifest)
        return catalog.generation_of(self._entries, manifest.position, digest) is not None

    def _digest(self, manifest: Manifest) -> str:
        known = self._known
        if known is None or known[0] is not manifest:
            known = self._known = (manifest, catalog.digest_of(manifest.encode()))
        return known[1]

    async def _complete_until(self, manifest: Manifest) -> int:
        until_ms = await self._source.complete_until()
        # Only if it is of the same generation; a newer one may have been made meanwhile.
        return until_ms if self._source.manifest is manifest else manifest.begun_wall_ms

    def _entry(self, kind: str, manifest: Manifest, until_ms: int) -> Entry:
        return Entry(
            "",
            kind,
            self._site,
            self._source.epoch,
            manifest.position,
            manifest.lineage,
            manifest.begun_wall_ms,
            max(until_ms, manifest.begun_wall_ms),
            self._digest(manifest),
        )

    async def _say(self, manifest: Manifest, until_ms: int) -> None:
        entry = self._entry(catalog.MARK, manifest, until_ms)
        begun_s = time.monotonic()
        snapshot = await self._writing(self._restic.mark, entry.tags(self._component), self._site)
        self._note(entry, snapshot)
        self._said_s = begun_s

    async def _upload(self, manifest: Manifest) -> None:
        begun_s, name = time.monotonic(), str(manifest.position)
        entry = self._entry(catalog.GENERATION, manifest, await self._complete_until(manifest))
        folder = self._layout.generation(name)
        self._uploading = name
        try:
            if not await run_blocking(folder.is_dir):
                return  # a newer one has taken its place
            before, known = self._parent or ("", "")
            is_here: bool = await run_blocking(self._layout.generation(before).is_dir)
            parent = known if is_here else ""
            snapshot = await self._writing(
                self._restic.backup, folder, ["tree", MANIFEST], entry.tags(self._component), self._site, parent
            )
        except IncompleteError as error:
            with contextlib.suppress(ClientError):
                await self._restic.forget([error.snapshot])
            raise
        finally:
            self._uploading = ""
        self._parent = (name, snapshot)
        self._note(entry, snapshot)
        self._said_s = begun_s
        self.uploads += 1
        self.last_upload_s = time.monotonic() - begun_s
        self._on_change()

    def _note(self, entry: Entry, snapshot: str) -> None:
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._entries = [*self._entries, replace(entry, snapshot=snapshot, written=written)]

    # -- keeping it tidy -------------------------------------------------------------------------------------------

    async def _writing(self, call: Callable[..., object], *arguments: object) -> str:
        """A write, once more when only locks of processes that have ended were in its way."""
        try:
            return str(await call(*arguments))  # type: ignore[misc]
        except LockedError:
            if not await self._unlock():
                raise
        return str(await call(*arguments))  # type: ignore[misc]

    async def _unlock(self) -> bool:
        """Takes away what this site's own dead processes left, and what nobody has renewed for 30 minutes."""
        locks = await self._restic.locks()
        former = await run_blocking(self._restic.former_hosts, self._host)
        alive = {lock.pid: await run_blocking(_runs_restic, lock.pid) for lock in locks if lock.host == self._host}
        everything = catalog.all_dead(locks, self._host, former, alive)
        if locks:
            event(_LOG, "the repository is locked", logging.WARNING, held=catalog.who_holds(locks), own_dead=everything)
        await self._restic.unlock(everything)
        return everything or not await self._restic.locks()

    async def _tidy(self) -> None:
        """Forgets and prunes now and then. A lock in the way is for the next time: nothing depends on it."""
        if time.monotonic() < self._tidy_s:
            return
        doomed = catalog.forgettable(self._entries, self._source.epoch, self._restic.repository.keep)
        prune = await run_blocking(self._is_prune_due)
        if len(doomed) < _FORGET_AT and not prune:
            return
        try:
            await self._look_up()
            doomed = catalog.forgettable(self._entries, self._source.epoch, self._restic.repository.keep)
            if doomed:
                await self._writing(self._restic.forget, doomed)
                self._entries = [entry for entry in self._entries if entry.snapshot not in doomed]
            if prune:
                await self._writing(self._restic.prune)
                await run_blocking(self._pruned)
        except LockedError as error:
            self._tidy_s = time.monotonic() + _TIDY_RETRY_S
            event(_LOG, "old generations stay in the repository", logging.WARNING, cause=str(error))

    def _is_prune_due(self) -> bool:
        hours, done = self._restic.repository.prune_h, self._restic.folder / "pruned"
        if not hours:
            return False
        try:
            return time.time() > done.stat().st_mtime + hours * 3600
        except FileNotFoundError:
            self._pruned()  # it counts from now
            return False

    def _pruned(self) -> None:
        done: Path = self._restic.folder / "pruned"
        done.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        done.touch()

    async def _tell(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            if problem:
                event(_LOG, "the repository lacks generations", logging.WARNING, cause=problem)
            self._on_change()


def _runs_restic(pid: int) -> bool:
    """Whether a process is there and is restic. Another one may have its number by now; and one that has ended stays
    there, with its name, until its parent has collected it.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            _, _, told = file.read().partition("(")
    except (FileNotFoundError, ProcessLookupError):
        return False
    name, _, rest = told.rpartition(")")
    return name == "restic" and rest.split()[0] not in ("Z", "X")
