"""Pulling generations from the active site: receive, verify, make durable, and only then give it its name."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.logs import event

from graf_driver_pv import durable
from graf_driver_pv.client import ClientError, Head
from graf_driver_pv.copying import PullError, UnsoundError, Work, clear_way
from graf_driver_pv.manifest import Manifest, apply_root, changed_in, wrong_in
from graf_driver_pv.parameters import Parameters
from graf_driver_pv.position import Position
from graf_driver_pv.problems import FULL, told
from graf_driver_pv.store import Store, StoreError
from graf_driver_pv.tls import TlsError
from graf_driver_pv.upstream import Upstream

_LOG = logging.getLogger("graf_driver_pv.follow")
_WAIT_S = 0.5
_RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_FULL_S = 60.0  # all of it is copied again then: somebody may have made room
_MARK = "of"
# Standard streams, and the pipe at 3, come first in a copier's shell: the lock must be none of them.
_FIRST_FREE_FD = 10


@dataclass(frozen=True, slots=True)
class _Full:
    """A generation for which there was no room; it is not copied anew before `until_s`, and another one is at once."""

    position: Position
    why: str
    until_s: float


class Follower:
    """Follows one active site until it is stopped.

    Invariants: nothing but `Store.commit` makes a generation; a site of an epoch below this site's own is not believed;
    what does not descend from the newest generation here is not taken.
    """

    def __init__(
        self,
        store: Store,
        own: Parameters,
        peer_site: str,
        upstream: Upstream,
        epoch: int,
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._own = own
        self.peer_site = peer_site
        self._upstream = upstream
        self.epoch = epoch
        self._on_change = on_change
        self.newest: Manifest | None = None
        self.head: Head | None = None
        self.diverged = False
        self.confirmed = False  # the active has said that what is here went into what it serves
        self.problem = "not connected yet"
        self.pulling = ""
        self.pulls = 0
        self.last_pull_s = 0.0
        self._full: _Full | None = None
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._run(), name="pv-follow")

    async def stop(self) -> None:
        """Ends it; what was being received stays without a name."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def lag_s(self) -> float:
        """Upper bound of what a promotion now could lose, in seconds; negative when unknown."""
        head = self.head
        if head is None or self.newest is None or head.behind_s < 0:
            return -1.0
        return head.behind_s + (time.monotonic_ns() - head.asked_ns) / 1e9

    async def wait_for(self, check: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until something holds that changes with a generation or an answer."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(check)
        except TimeoutError:
            return check()
        return True

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._follow()
            except OSError as error:
                await self._tell(told(error, self._store.layout.root))
            except (ClientError, PullError, StoreError, TlsError) as error:
                await self._tell(str(error))
            except ValueError as error:
                await self._tell(f"{self.peer_site} gave what cannot be used: {error}")
            except Exception as error:
                _LOG.exception("following failed")
                await self._tell(f"following {self.peer_site} failed: {type(error).__name__}")
            await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
            failures = 0 if not self.problem else failures + 1

    async def _tell(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            if problem:
                event(_LOG, "not following", logging.WARNING, active=self.peer_site, cause=problem)
            self._on_change()
        async with self._changed:
            self._changed.notify_all()

    async def _follow(self) -> None:
        self.newest = await run_blocking(self._store.newest)
        self.confirmed |= self.newest is None  # who has nothing lacks no common history
        await self._upstream.connect()
        try:
            while True:
                have = self.newest
                if have is not None and have.position not in await run_blocking(self._store.positions):
                    self.newest = None
                    raise PullError(f"{have.position} is gone from this site's volume: everything is copied again")
                head = await self._upstream.next(
                    have.position if have else None, have.begun_wall_ms if have else 0, _WAIT_S if have else 0.1
                )
                # Of the data alone: also a site that has not been told of the newest epoch yet can say it.
                self.confirmed |= have is not None and head.has(have.position)
                if head.epoch < self.epoch:
                    raise ClientError(
                        f"{self.peer_site} serves epoch {head.epoch}, and this site knows epoch {self.epoch}: "
                        f"it is deposed, nothing is taken from it"
                    )
                if have is not None and head.base is not None and not head.has(have.position):
                    self.diverged = True
                    raise PullError(f"{have.position} here is no part of what {self.peer_site} serves: Resync is due")
                self.head, self.diverged = head, False
                full = self._full
                if full is not None and head.newest == full.position and time.monotonic() < full.until_s:
                    raise PullError(full.why)
                await self._tell(head.note)
                if head.newest is not None and (have is None or head.newest != have.position):
                    try:
                        await self._pull(head.newest)
                    except (OSError, PullError) as error:
                        if _is_full(error):
                            why = told(error, self._store.layout.root) if isinstance(error, OSError) else str(error)
                            self._full = _Full(head.newest, why, time.monotonic() + _FULL_S)
                            # Also what is left of files that the next generation may not have: else it stays full.
                            await run_blocking(self._store.abandon)
                        raise
        finally:
            await self._upstream.close()

    async def _pull(self, position: Position) -> None:
        begun = time.monotonic()
        self.pulling = str(position)
        manifest, content = await self._upstream.manifest(position, self.newest)
        if manifest is None:
            return  # it was replaced by a newer one meanwhile
        if manifest.position != position:
            raise PullError(f"{self.peer_site} gave the manifest of {manifest.position} for {position}")
        if self.newest is not None and not manifest.descends_from(self.newest.position):
            self.diverged = True
            raise PullError(f"{position} of {self.peer_site} does not descend from {self.newest.position} here")
        work = await run_blocking(self._prepare, manifest)
        try:
            await self._upstream.bring(work, manifest, self.newest)
            await run_blocking(self._finish, manifest, content, work)
        except UnsoundError:
            self._upstream.distrust(position)
            raise
        finally:
            self.pulling = ""
            os.close(work.lock)
            await run_blocking(work.syncs.close)
        self.newest = manifest
        self.pulls += 1
        self.last_pull_s = time.monotonic() - begun
        self._on_change()
        async with self._changed:
            self._changed.notify_all()
        await run_blocking(self._after, manifest)

    def _prepare(self, manifest: Manifest) -> Work:
        """Brings `incoming` as close to the manifest as this site can; says what must be copied."""
        incoming = self._store.layout.incoming
        resumed = self._resumable(incoming)
        if resumed is not None:
            tree = incoming / "tree"
            changed = changed_in(os.fspath(tree), manifest.entries)
            lock = resumed
        else:
            base = self.newest
            tree = self._store.begin(base)
            known = base.entries if base is not None else {}
            changed = {path for path, entry in manifest.entries.items() if known.get(path) != entry}
            changed |= set(known) - set(manifest.entries)
            lock = self._lock(incoming)
        try:
            # Folders before what is in them: below a link that is in the way lies what is not the volume's.
            for path in sorted(changed):
                clear_way(tree / path, manifest.entries.get(path))
            durable.replace_file(incoming / _MARK, str(manifest.position).encode())
        except OSError:
            os.close(lock)
            raise
        wanted = {path for path in changed if path in manifest.entries}
        emptied = {os.path.dirname(os.path.join(tree, path)) for path in changed - wanted}
        emptied = {folder for folder in emptied if os.path.isdir(folder)}
        return Work(incoming, lock, wanted, emptied, resumed is None)

    def _resumable(self, incoming: Path) -> int | None:
        """The lock of what an earlier try left; None when there is nothing, or a process still writes into it."""
        if not (incoming / _MARK).exists() or not (incoming / "tree").is_dir():
            return None
        try:
            return self._lock(incoming)
        except BlockingIOError:
            return None

    @staticmethod
    def _lock(incoming: Path) -> int:
        """Taken by this process and inherited by the copier: free only when nobody can write here any more."""
        opened = os.open(incoming / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
        os.close(opened)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _finish(self, manifest: Manifest, content: bytes, work: Work) -> None:
        """Verified by checksum, durable, named: in this order."""
        tree = work.tree
        # What an earlier try left was not seen being made, nor synced: all of it is.
        suspects = work.wanted if work.fresh else set(manifest.entries)
        wrong = wrong_in(tree, manifest.entries, suspects)
        if not work.fresh:
            wrong += sorted(changed_in(tree, manifest.entries) - set(wrong))
        if wrong:
            for path in wrong:
                clear_way(Path(tree, path), None)
            raise UnsoundError(f"{len(wrong)} files did not arrive whole, e.g. {wrong[0]}; they are copied again")
        apply_root(tree, manifest.root)
        folders = {os.path.dirname(os.path.join(tree, path)) for path in suspects} | {tree} | work.emptied
        for path in suspects:
            full, kind = os.path.join(tree, path), manifest.entries[path].kind
            if kind == "d":
                folders.add(full)
            elif kind == "f":
                work.syncs.begin(full, again=False)
        work.syncs.finish(folders)
        self._store.commit(manifest, content)

    def _after(self, manifest: Manifest) -> None:
        self._store.prune(self._own.keep)
        self._store.prepare(manifest)


def _is_full(error: OSError | PullError) -> bool:
    """Whether this site's disk has no room; of a copier's errors only the words are known."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(os.strerror(number) in str(error) for number in FULL)
