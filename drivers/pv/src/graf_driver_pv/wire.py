"""Generations over TLS from the active site itself: small ones over the connection, else by rsync."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Final

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.logs import event

from graf_driver_pv import copying, delta
from graf_driver_pv.client import Client, ClientError, Head
from graf_driver_pv.copying import PullError, Work, lay_all
from graf_driver_pv.manifest import Manifest
from graf_driver_pv.parameters import Parameters
from graf_driver_pv.position import Position
from graf_driver_pv.small import is_small, requests
from graf_driver_pv.store import Store
from graf_driver_pv.tls import rsync_connect_command

_LOG = logging.getLogger("graf_driver_pv.wire")
_LIST: Final = "files"  # what rsync was asked for
_WRITE_BYTES = 1 << 20
_FILE_COSTS = 1 << 12  # of one, however small it is


class Wire:
    """One active site, reached over TLS."""

    settle_s = 1.5

    def __init__(self, store: Store, own: Parameters, peer_site: str, peer: Parameters) -> None:
        self._store = store
        self._own = own
        self._peer_site = peer_site
        self._peer = peer
        self._connected: Client | None = None
        self._gives_files = False

    async def connect(self) -> None:
        """Connects anew."""
        await self.close()
        self._connected = await Client.connect(self._own, self._peer)

    async def close(self) -> None:
        """Ends the connection at once."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    @property
    def _client(self) -> Client:
        if self._connected is None:
            raise ClientError("not connected")
        return self._connected

    async def next(self, have: Position | None, begun_wall_ms: int, wait_s: float) -> Head:
        """As the active site says; it waits."""
        head = await self._client.next(have, begun_wall_ms, wait_s)
        self._gives_files = head.gives_files
        return head

    async def look(self, asked_wall_ms: int) -> Head:
        """As the active site says now."""
        return await self._client.look()

    async def manifest(self, position: Position, have: Manifest | None) -> tuple[Manifest | None, bytes]:
        """Only what differs is sent, where that will do."""
        return await manifest_of(self._client, position, have)

    def distrust(self, position: Position) -> None:
        """It is copied again: the active site may have read it wrongly, or the way damaged it."""

    async def bring(self, work: Work, manifest: Manifest, newest: Manifest | None) -> None:
        """Whatever is small comes over the connection."""
        (work.incoming / _LIST).unlink(missing_ok=True)
        # Folders, which come before what is in them, and links: rsync leaves a link's time that is of this second.
        others = [(path, b"") for path in sorted(work.wanted) if manifest.entries[path].kind != "f"]
        await run_blocking(lay_all, work.tree, manifest.entries, others, work.syncs)
        if self._gives_files and is_small(manifest.entries, work.wanted):
            await self._take(self._client, work, manifest)
        elif _files_of(work, manifest):
            await self._copy(work, manifest, newest)

    async def _take(self, client: Client, work: Work, manifest: Manifest) -> None:
        """Receives what is small over the connection to the active site; syncs and receives at the same time."""
        entries, tree = manifest.entries, work.tree
        files = _files_of(work, manifest)
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
                        writing = asyncio.create_task(run_blocking(lay_all, tree, entries, here, work.syncs))
                        here, waiting = [], 0
                    if self._own.bandwidth_kib:
                        due = begun + received / (self._own.bandwidth_kib * 1024)
                        await asyncio.sleep(max(due - time.monotonic(), 0.0))
            await writing
            await run_blocking(lay_all, tree, entries, here, work.syncs)
        finally:
            await asyncio.gather(writing, return_exceptions=True)  # nothing is written after this has ended

    async def _copy(self, work: Work, manifest: Manifest, newest: Manifest | None) -> None:
        incoming = work.incoming
        for name in ("partial", "tmp"):
            (incoming / name).mkdir(exist_ok=True)
        for leftover in (incoming / "tmp").glob("*"):
            leftover.unlink()
        listing = incoming / _LIST
        # Each path from the module's root, with `/./` before what is kept of it: rsync 3.5's daemon does not open files
        # of a list that is relative to a folder below its module.
        prefix = f"{manifest.position}/tree/./"
        listing.write_bytes(b"".join(os.fsencode(f"{prefix}{path}\0") for path in _files_of(work, manifest)))
        command = [
            *("rsync", "-lptgo", "--omit-dir-times", "--numeric-ids", "--quiet"),
            *("--from0", f"--files-from={listing}", f"--temp-dir={incoming / 'tmp'}"),
            *(f"--partial-dir={incoming / 'partial'}", "--timeout=30"),
        ]
        if self._own.bandwidth_kib:
            command.append(f"--bwlimit={self._own.bandwidth_kib}")
        if newest is not None:
            command.append(f"--copy-dest={self._store.layout.generation(str(newest.position)) / 'tree'}")
        command += [f"rsync://{self._peer.host}/generations/", f"{work.tree}/"]
        connect = rsync_connect_command(self._own.tls, self._peer.host, self._peer.port, self._peer.tls.name)
        environment = {**os.environ, "RSYNC_CONNECT_PROG": connect}
        code, _, told = await copying.run(command, environment, locks=[work.lock])
        if code != 0:
            text = told.decode(errors="replace").strip()[-300:]
            raise PullError(f"rsync from {self._peer_site} ended with {code}: {text}")


def _files_of(work: Work, manifest: Manifest) -> list[str]:
    return [path for path in sorted(work.wanted) if manifest.entries[path].kind == "f"]


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
