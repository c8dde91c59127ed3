"""Pulling generations from the active site: receive, verify, make durable, and only then give it its name."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.logs import event

from graf_driver_pv import delta, durable
from graf_driver_pv.client import Client, ClientError, Head
from graf_driver_pv.manifest import Entry, Manifest, apply_root, changed_in, wrong_in
from graf_driver_pv.parameters import Parameters
from graf_driver_pv.position import Position
from graf_driver_pv.small import is_small, lay, requests
from graf_driver_pv.store import Store, StoreError
from graf_driver_pv.tls import TlsError, rsync_connect_command

_LOG = logging.getLogger("graf_driver_pv.follow")
_WAIT_S = 0.5
_RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_MARK = "of"
_LIST = "files"  # what rsync was asked for
_WRITE_BYTES = 1 << 20
_FILE_COSTS = 1 << 12  # of one, however small it is
# rsync is three processes and the one that connects; none of them may go on writing, or keep the lock, when the driver
# is killed. Standard input is a pipe that only the driver holds open: at its end the whole process group is killed.
# SIGTERM is for rsync, which keeps what it has; the shell waits for it, and the watcher watches on. The shell is its
# parent and collects it: in a container nobody else would.
WITH_THE_DRIVER = """
trap : TERM
exec 3<&0 </dev/null
(trap '' TERM; read -r _ <&3; kill -KILL 0) & watch=$!
"$@" 3<&-
code=$?
kill -KILL "$watch" 2>/dev/null
wait "$watch" 2>/dev/null
exit "$code"
"""
# Standard streams, and the pipe at 3, come first in the shell: the lock must be none of them.
_FIRST_FREE_FD = 10


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be done for a generation.

    Attributes:
        lock: on `incoming`, to be closed.
        wanted: paths that must be copied.
        emptied: folders out of which something was taken away.
        fresh: `incoming` was begun anew; else an earlier try left what is there.
        syncs: to be closed.
    """

    lock: int
    wanted: set[str]
    emptied: set[str]
    fresh: bool
    syncs: durable.Syncs = field(default_factory=durable.Syncs)


class PullError(RuntimeError):
    """A generation could not be received; what came of it is kept for the next try."""


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
        peer: Parameters,
        epoch: int,
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._own = own
        self.peer_site = peer_site
        self._peer = peer
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
            except (ClientError, PullError, StoreError, TlsError, OSError) as error:
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
        client = await Client.connect(self._own, self._peer)
        try:
            while True:
                have = self.newest
                if have is not None and have.position not in await run_blocking(self._store.positions):
                    self.newest = None
                    raise PullError(f"{have.position} is gone from this site's volume: everything is copied again")
                head = await client.next(
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
                await self._tell("")
                if head.newest is not None and (have is None or head.newest != have.position):
                    await self._pull(client, head, head.newest)
        finally:
            client.close()

    async def _pull(self, client: Client, head: Head, position: Position) -> None:
        begun = time.monotonic()
        self.pulling = str(position)
        manifest, content = await manifest_of(client, position, self.newest)
        if manifest is None:
            return  # it was replaced by a newer one meanwhile
        if manifest.position != position:
            raise PullError(f"{self.peer_site} gave the manifest of {manifest.position} for {position}")
        if self.newest is not None and not manifest.descends_from(self.newest.position):
            self.diverged = True
            raise PullError(f"{position} of {self.peer_site} does not descend from {self.newest.position} here")
        work = await run_blocking(self._prepare, manifest)
        try:
            if head.gives_files and is_small(manifest.entries, work.wanted):
                await self._take(client, work, manifest)
            elif work.wanted:
                await self._copy(position, work, manifest)
            await run_blocking(self._finish, manifest, content, work)
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

    def _prepare(self, manifest: Manifest) -> _Work:
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
        # Folders before what is in them: below a link that is in the way lies what is not the volume's.
        for path in sorted(changed):
            _clear_way(tree / path, manifest.entries.get(path))
        wanted = {path for path in changed if path in manifest.entries}
        for name in ("partial", "tmp"):
            (incoming / name).mkdir(exist_ok=True)
        (incoming / _LIST).unlink(missing_ok=True)
        durable.replace_file(incoming / _MARK, str(manifest.position).encode())
        emptied = {os.path.dirname(os.path.join(tree, path)) for path in changed - wanted}
        emptied = {folder for folder in emptied if os.path.isdir(folder)}
        return _Work(lock, wanted, emptied, resumed is None)

    def _resumable(self, incoming: Path) -> int | None:
        """The lock of what an earlier try left; None when there is nothing, or a process still writes into it."""
        if not (incoming / _MARK).exists() or not (incoming / "tree").is_dir():
            return None
        try:
            lock = self._lock(incoming)
        except BlockingIOError:
            return None
        for leftover in (incoming / "tmp").glob("*"):
            leftover.unlink()
        return lock

    @staticmethod
    def _lock(incoming: Path) -> int:
        """Taken by this process and inherited by rsync: free only when nobody can write here any more."""
        opened = os.open(incoming / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
        os.close(opened)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    async def _take(self, client: Client, work: _Work, manifest: Manifest) -> None:
        """Receives what is small over the connection to the active site; syncs and receives at the same time."""
        entries, tree = manifest.entries, os.fspath(self._store.layout.incoming / "tree")
        files = [path for path in sorted(work.wanted) if entries[path].kind == "f"]
        others = [(path, b"") for path in sorted(work.wanted) if entries[path].kind != "f"]
        await run_blocking(_lay_all, tree, entries, others, work.syncs)  # folders come before what is in them
        begun, received, waiting = time.monotonic(), 0, 0
        here: list[tuple[str, bytes]] = []
        writing = asyncio.create_task(asyncio.sleep(0))
        try:
            for portion in requests(files):
                async for path, content in client.files(manifest.position, portion):
                    here.append((path, content))
                    received += len(content)
                    waiting += len(content) + _FILE_COSTS
                    if waiting >= _WRITE_BYTES:
                        await writing
                        writing = asyncio.create_task(run_blocking(_lay_all, tree, entries, here, work.syncs))
                        here, waiting = [], 0
                    if self._own.bandwidth_kib:
                        due = begun + received / (self._own.bandwidth_kib * 1024)
                        await asyncio.sleep(max(due - time.monotonic(), 0.0))
            await writing
            await run_blocking(_lay_all, tree, entries, here, work.syncs)
        finally:
            await asyncio.gather(writing, return_exceptions=True)  # nothing is written after this has ended

    async def _copy(self, position: Position, work: _Work, manifest: Manifest) -> None:
        incoming = self._store.layout.incoming
        listing = incoming / _LIST
        # Each path from the module's root, with `/./` before what is kept of it: rsync 3.5's daemon does not open files
        # of a list that is relative to a folder below its module.
        prefix = f"{position}/tree/./"
        listing.write_bytes(b"".join(os.fsencode(f"{prefix}{path}\0") for path in sorted(work.wanted)))
        command = [
            *("sh", "-c", WITH_THE_DRIVER, "copy"),
            *("rsync", "-lptgo", "--omit-dir-times", "--numeric-ids", "--quiet"),
            *("--from0", f"--files-from={listing}", f"--temp-dir={incoming / 'tmp'}"),
            *(f"--partial-dir={incoming / 'partial'}", "--timeout=30"),
        ]
        if self._own.bandwidth_kib:
            command.append(f"--bwlimit={self._own.bandwidth_kib}")
        if self.newest is not None:
            command.append(f"--copy-dest={self._store.layout.generation(str(self.newest.position)) / 'tree'}")
        command += [f"rsync://{self._peer.host}/generations/", f"{incoming / 'tree'}/"]
        connect = rsync_connect_command(self._own.tls, self._peer.host, self._peer.port, self._peer.tls.name)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "RSYNC_CONNECT_PROG": connect},
            start_new_session=True,
            pass_fds=(work.lock,),
        )
        assert process.stderr is not None
        try:
            told = await process.stderr.read()
            await process.wait()
        finally:
            if process.returncode is None:
                await _end(process)
        if process.returncode != 0:
            text = told.decode(errors="replace").strip()[-300:]
            raise PullError(f"rsync from {self.peer_site} ended with {process.returncode}: {text}")

    def _finish(self, manifest: Manifest, content: bytes, work: _Work) -> None:
        """Verified by checksum, durable, named: in this order."""
        incoming = self._store.layout.incoming
        tree = os.fspath(incoming / "tree")
        # What an earlier try left was not seen being made, nor synced: all of it is.
        suspects = work.wanted if work.fresh else set(manifest.entries)
        wrong = wrong_in(tree, manifest.entries, suspects)
        if not work.fresh:
            wrong += sorted(changed_in(tree, manifest.entries) - set(wrong))
        if wrong:
            for path in wrong:
                _clear_way(Path(tree, path), None)
            raise PullError(f"{len(wrong)} files did not arrive whole, e.g. {wrong[0]}; they are copied again")
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


async def manifest_of(client: Client, position: Position, have: Manifest | None) -> tuple[Manifest | None, bytes]:
    """A generation's manifest and its file, None when it is gone; only what differs is sent, where that will do.

    Raises:
        ClientError: it did not come.
        ValueError: what came is of no use.
    """
    content, is_delta = await client.manifest(position, have.position if have is not None else None)
    if is_delta and have is not None:
        try:
            return await run_blocking(delta.apply, content, have)
        except delta.OtherManifestError as error:
            event(_LOG, "the whole manifest is asked for", logging.WARNING, position=str(position), cause=str(error))
        content, _ = await client.manifest(position)
    return (await run_blocking(Manifest.decode, content) if content else None), content


def _lay_all(
    tree: str, entries: Mapping[str, Entry], contents: Iterable[tuple[str, bytes]], syncs: durable.Syncs
) -> None:
    for path, content in contents:
        lay(tree, path, entries[path], content)
        if entries[path].kind == "f":
            syncs.begin(os.path.join(tree, path))


def _clear_way(path: Path, wanted: Entry | None) -> None:
    """Removes what must not be written into: it is shared with an older generation, or of another kind."""
    try:
        seen = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(seen.st_mode):
        if wanted is None or wanted.kind != "d":
            shutil.rmtree(path)
    elif wanted is None or wanted.kind != "f" or not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
        path.unlink()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends rsync and what it started: it keeps what it has when it is asked to end, and is killed when it does not."""
    for number, patience_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(process.wait()), patience_s)
        if process.returncode is not None:
            return


def rsync_version() -> str:
    """First line of `rsync --version`; empty when it is not here."""
    try:
        done = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0]
