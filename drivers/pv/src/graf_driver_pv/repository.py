"""Generations out of a restic repository: what a site that follows reads there. It writes nothing into it."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from graf_driver_sdk.blocking import run_blocking

from graf_driver_pv import catalog
from graf_driver_pv.catalog import Entry
from graf_driver_pv.client import ClientError, Head
from graf_driver_pv.copying import PullError, Work, lay_all
from graf_driver_pv.manifest import Entry as File
from graf_driver_pv.manifest import Manifest, checksum
from graf_driver_pv.position import Position
from graf_driver_pv.restic import Restic
from graf_driver_pv.store import MANIFEST

_RESTORED: Final = "restored"
_PATTERNS: Final = 200  # restic compares each file of the snapshot with every one; more than this, and it takes all
_PATTERN_BYTES: Final = 64 << 10
_CLOCKS_S: Final = 2.0  # by which the sites' clocks may differ before it is told
_TRIES: Final = 2
_DISTRUST_S: Final = (30.0, 60.0, 120.0, 300.0, 600.0)


class FromRepository:
    """What the site of the highest epoch put into a repository."""

    settle_s = 2.5  # the controller gives up an Assess after 5 s

    def __init__(self, restic: Restic, component: str, peer_site: str) -> None:
        self._restic = restic
        self._component = component
        self._peer_site = peer_site
        self._entries: list[Entry] = []
        self._chosen: Entry | None = None  # the newest generation when it was looked last
        self._looked_s = float("-inf")
        self._failed: dict[str, tuple[int, float]] = {}  # by snapshot: how often it did not come, and when last

    async def connect(self) -> None:
        """Nothing is kept open."""

    async def close(self) -> None:
        """Nothing is kept open."""

    async def next(self, have: Position | None, begun_wall_ms: int, wait_s: float) -> Head:
        """Looks as often as `pollSeconds` says."""
        await asyncio.sleep(self._looked_s + self._restic.repository.poll_s - time.monotonic())
        return await self._head(have, begun_wall_ms, 0)

    async def look(self, asked_wall_ms: int) -> Head:
        """Looks now."""
        return await self._head(None, 0, asked_wall_ms)

    async def _head(self, have: Position | None, begun_wall_ms: int, asked_wall_ms: int) -> Head:
        self._looked_s = time.monotonic()
        asked_ns, now_ms = time.monotonic_ns(), time.time_ns() // 1_000_000
        listing = await self._restic.snapshots(catalog.wanted_tags(self._component))
        self._entries = catalog.read(listing)
        head = catalog.head_of(self._entries)
        if head is None:
            raise ClientError(f"{self._peer_site} has put nothing into {self._restic.location} yet")
        if head.site != self._peer_site:
            # Not even of the data alone is anything proved: what this site has may be in what it said itself.
            raise ClientError(
                f"{self._peer_site} has not said in {self._restic.location} that it is active: the last that did was "
                f"{head.site}, in epoch {head.epoch}"
            )
        bad = {entry.snapshot for entry in self._entries if not self._is_trusted(entry)}
        newest = catalog.newest_generation(self._entries, head, bad)
        behind_s, note = self._behind_s(head, have, begun_wall_ms, now_ms)
        if bad and (newest is None or newest.position != head.position):
            note = note or f"a newer generation in {self._restic.location} cannot be restored; it is tried again"
        if have is not None and newest is not None and newest.position <= have:
            newest = None  # what this site has already, or an ancestor of it
        self._chosen = newest
        return Head(
            epoch=head.epoch,
            newest=newest.position if newest is not None else None,
            newest_begun_wall_ms=newest.begun_wall_ms if newest is not None else 0,
            behind_s=behind_s,
            asked_ns=asked_ns,
            base=head.position,
            lineage=dict(head.lineage),
            stale=head.until_wall_ms < asked_wall_ms,
            note=note,
        )

    def _behind_s(self, head: Entry, have: Position | None, begun_wall_ms: int, now_ms: int) -> tuple[float, str]:
        """Age of the oldest change that a generation may lack, by the clocks of both sites."""
        ahead_s = (head.until_wall_ms - now_ms) / 1e3
        if ahead_s > _CLOCKS_S:
            return -1.0, f"the clock of {head.site} is {ahead_s:.1f} s ahead of this site's: what is missing is unknown"
        if have is None:
            return -1.0, ""
        until_ms = max(catalog.until_of(self._entries, have), begun_wall_ms)
        return max((now_ms - until_ms) / 1e3, 0.0), ""

    async def manifest(self, position: Position, have: Manifest | None) -> tuple[Manifest | None, bytes]:
        """The file beside the generation's tree."""
        entry = self._chosen
        if entry is None or entry.position != position:
            return None, b""
        try:
            content = await self._restic.dump(entry.snapshot, f"/{MANIFEST}")
            if catalog.digest_of(content) != entry.digest:
                raise ClientError(f"{position} in {self._restic.location} has another manifest than its tags say")
            return await run_blocking(Manifest.decode, content), content
        except (ClientError, ValueError):
            self._count(entry)
            raise

    def _is_trusted(self, entry: Entry) -> bool:
        """What did not come is left out for a time: an older one that comes is better than none."""
        times, last_s = self._failed.get(entry.snapshot, (0, 0.0))
        left_out_s = _DISTRUST_S[min(max(times - _TRIES, 0), len(_DISTRUST_S) - 1)]
        return times < _TRIES or time.monotonic() > last_s + left_out_s

    def distrust(self, position: Position) -> None:
        """It may have been the fault of what an earlier try left, so it gets another try."""
        if self._chosen is not None and self._chosen.position == position:
            self._count(self._chosen)

    def _count(self, entry: Entry) -> None:
        self._failed[entry.snapshot] = (self._failed.get(entry.snapshot, (0, 0.0))[0] + 1, time.monotonic())

    async def bring(self, work: Work, manifest: Manifest, newest: Manifest | None) -> None:
        """Restores beside the tree and moves what is wanted into it: a file there may be shared with an older one."""
        entries = manifest.entries
        files = [path for path in sorted(work.wanted) if entries[path].kind == "f"]
        others = [(path, b"") for path in sorted(work.wanted) if entries[path].kind != "f"]
        await run_blocking(lay_all, work.tree, entries, others, work.syncs)
        restored = work.incoming / _RESTORED
        # What a restore that was killed left whole is not restored again.
        missing = await run_blocking(_move, restored, work, entries, files, check=True)
        if not missing:
            return
        entry = self._chosen
        if entry is None or entry.position != manifest.position:
            raise ClientError(f"{manifest.position} was not looked for in {self._restic.location}")
        paths = [f"/tree/{path}" for path in missing]
        if len(paths) > _PATTERNS or sum(map(len, paths)) > _PATTERN_BYTES:
            paths = []
        try:
            await self._restic.restore(entry.snapshot, restored, paths, [work.lock])
        except PullError:
            self._count(entry)
            raise
        await run_blocking(_move, restored, work, entries, missing, check=False)


def _move(restored: Path, work: Work, entries: Mapping[str, File], paths: Iterable[str], *, check: bool) -> list[str]:
    """Moves files to where they belong, as the manifest says; gives those that are not there."""
    missing = []
    for path in paths:
        source, target, wanted = os.path.join(restored, "tree", path), os.path.join(work.tree, path), entries[path]
        if not _is_file(source) or (check and not _is_whole(source, wanted)):
            missing.append(path)
            continue
        os.chown(source, wanted.uid, wanted.gid)
        os.chmod(source, wanted.mode)
        os.utime(source, ns=(wanted.mtime_ns, wanted.mtime_ns))
        os.rename(source, target)
        work.syncs.begin(target)
    return missing


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_whole(path: str, wanted: File) -> bool:
    return os.lstat(path).st_size == wanted.size and checksum(path) == wanted.content
