"""The active site's side of the wire: tells how far it is, gives manifests, and lets rsync read generations.

Only an ACTIVE component listens, and nothing can be written through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from graf_driver_sdk.logs import event
from graf_driver_sdk.processes import start

from graf_driver_pv import delta, small
from graf_driver_pv import tls as tls_
from graf_driver_pv.client import FRAME
from graf_driver_pv.durable import replace_file
from graf_driver_pv.layout import Layout
from graf_driver_pv.manifest import Manifest
from graf_driver_pv.outlet import Heard
from graf_driver_pv.parameters import Parameters
from graf_driver_pv.position import Position
from graf_driver_pv.store import MANIFEST

_LOG = logging.getLogger("graf_driver_pv.server")
_CHUNK = 1 << 18
_LONGEST_WAIT_S = 5.0
_AT_ONCE = 16  # small files in memory for one caller
_MISSING = (1 << 8 * FRAME) - 1


class Source(Protocol):
    """What the server asks of the component."""

    def newest(self) -> tuple[str, int]:
        """The newest generation, or "" with when it was begun."""

    def ancestry(self) -> dict[str, Any]:
        """Position and lineage of the live copy."""

    def behind_s(self, have: str, begun_wall_ms: int) -> float:
        """Age of the oldest change that is not in a generation; negative when unknown."""

    @property
    def epoch(self) -> int:
        """Of the role."""

    def generation(self, name: str) -> Manifest | None:
        """Manifest of a complete generation; None when it is gone. Blocking."""

    async def wait_newer(self, have: str, timeout_s: float) -> None:
        """Waits for a generation other than this one."""

    async def pending(self) -> bool:
        """Whether the live copy has changes, made before this call, that are in no generation yet."""


class Server:
    """Listens while the component is ACTIVE."""

    def __init__(self, parameters: Parameters, layout: Layout, source: Source, on_change: Callable[[], None]) -> None:
        self._parameters = parameters
        self._layout = layout
        self._source = source
        self._on_change = on_change
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[Any]] = set()
        self.allowed: Mapping[str, str] = {}
        self.heard: dict[str, Heard] = {}
        self.problem = ""
        self._pinned: dict[asyncio.StreamWriter, str] = {}

    @property
    def callers(self) -> list[str]:
        """Every site that may ask."""
        return list(self.allowed)

    @property
    def pinned(self) -> set[str]:
        """What is being read must not go away under the reader's hands."""
        return set(self._pinned.values())

    async def delivered(self, manifest: Manifest) -> None:
        """They can have it as soon as it is there."""

    def facts(self) -> dict[str, str]:
        """Nothing but what is heard."""
        return {}

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            TlsError: the identity cannot be used.
            OSError: the address cannot be used.
        """
        context = tls_.server_context(self._parameters.tls)
        config = self._layout.root / ".rsyncd.conf"
        replace_file(config, _rsync_config(self._layout).encode())
        self._server = await asyncio.start_server(
            self._session, self._parameters.listen_host, self._parameters.port, ssl=context, ssl_handshake_timeout=10
        )

    async def stop(self) -> None:
        """Stops listening and ends every session."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for session in list(self._sessions):
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        self.heard.clear()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._sessions.add(task)
        try:
            certificate = writer.get_extra_info("peercert")
            sites = [site for site, name in self.allowed.items() if tls_.is_allowed(certificate, [name])]
            if not sites:
                event(
                    _LOG,
                    "refused a caller that is none of the group's sites",
                    logging.WARNING,
                    names=sorted(tls_.names_of(certificate)),
                )
                return
            tls_object: ssl.SSLObject = writer.get_extra_info("ssl_object")
            if tls_object.selected_alpn_protocol() == tls_.RSYNC:
                await self._rsync(reader, writer)
            else:
                try:
                    await self._talk(sites[0], reader, writer)
                finally:
                    self._pinned.pop(writer, None)
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError, ValueError, KeyError, TypeError, TimeoutError):
            pass  # the caller went away or spoke nonsense: it comes again
        except asyncio.CancelledError:
            pass  # by `stop`, which waits for the end: Python 3.11 logs a cancelled session with a traceback
        finally:
            self._sessions.discard(task)
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                writer.transport.abort()

    async def _talk(self, site: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No limit while a generation is being read: it may take hours.
        while line := await reader.readline():
            request = json.loads(line)
            self._pinned.pop(writer, None)
            if request["op"] == "next":
                answer = await self._next(site, request)
                writer.write(json.dumps(answer).encode() + b"\n")
            elif request["op"] == "look":
                # Nothing may come between: what is pending is pending beside this newest generation.
                pending = await self._source.pending()
                writer.write(json.dumps(self._head() | {"pending": pending}).encode() + b"\n")
            elif request["op"] == "manifest":
                self._pinned[writer] = str(request["name"])
                name, since = str(request["name"]), str(request.get("since", ""))
                content, is_delta = await asyncio.to_thread(self._manifest, name, since)
                writer.write(json.dumps({"size": len(content), "delta": is_delta}).encode() + b"\n" + content)
            elif request["op"] == "files":
                self._pinned[writer] = str(request["name"])
                await self._files(str(request["name"]), [str(path) for path in request["paths"]], writer)
            await writer.drain()

    async def _files(self, name: str, paths: list[str], writer: asyncio.StreamWriter) -> None:
        for begin in range(0, len(paths), _AT_ONCE):
            contents = await asyncio.to_thread(self._read, name, paths[begin : begin + _AT_ONCE])
            for content in contents:
                length = _MISSING if content is None else len(content)
                writer.write(length.to_bytes(FRAME) + (content or b""))
            await writer.drain()

    def _read(self, name: str, paths: list[str]) -> list[bytes | None]:
        manifest = self._source.generation(name)
        if manifest is None:
            return [None] * len(paths)
        tree = os.fspath(self._layout.generation(name) / "tree")
        return [small.read(tree, manifest.entries, path) for path in paths]

    async def _next(self, site: str, request: dict[str, Any]) -> dict[str, Any]:
        have = str(request["have"])
        begun = time.monotonic_ns()
        await self._source.wait_newer(have, min(float(request["wait_s"]), _LONGEST_WAIT_S))
        behind_s = self._source.behind_s(have, int(request["begun_wall_ms"]))
        before = self.heard.get(site)
        self.heard[site] = Heard(have, time.monotonic_ns(), behind_s)
        if before is None or before.have != have:
            self._on_change()
        return self._head() | {"behind_s": behind_s, "waited_s": (time.monotonic_ns() - begun) / 1e9}

    def _head(self) -> dict[str, Any]:
        newest, begun_wall_ms = self._source.newest()
        return {
            "epoch": self._source.epoch,
            "newest": newest,
            "newest_begun_wall_ms": begun_wall_ms,
            "ancestry": self._source.ancestry(),
            "gives_files": True,
        }

    def _manifest(self, name: str, since: str) -> tuple[bytes, bool]:
        """A manifest's file, or, where the other one is here, what differs from that."""
        path = self._layout.generation(str(Position.parse(name))) / MANIFEST
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return b"", False
        base = self._source.generation(since) if since else None
        manifest = self._source.generation(name) if base is not None else None
        if base is None or manifest is None:
            return content, False
        return delta.encode(base, manifest, delta.checksum_of(content)), True

    async def _rsync(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        process = await start(
            *("rsync", "--server", "--daemon", f"--config={self._layout.root / '.rsyncd.conf'}", "."),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        to_rsync = asyncio.create_task(_pump(reader, process.stdin))
        try:
            await _pump(process.stdout, writer)
        finally:
            to_rsync.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.gather(to_rsync, return_exceptions=True)
            await process.wait()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()


def _rsync_config(layout: Layout) -> str:
    path: Path = layout.generations
    return "\n".join(
        [
            "use chroot = no",
            "munge symlinks = no",
            "reverse lookup = no",
            "numeric ids = yes",
            "uid = root",
            "gid = root",
            "[generations]",
            f"path = {path}",
            "read only = yes",
            "list = no",
            "",
        ]
    )
