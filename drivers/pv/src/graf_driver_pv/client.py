"""The following site's side of the wire: asks the active one how far it is, and for manifests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

from graf_driver_pv import small
from graf_driver_pv import tls as tls_
from graf_driver_pv.manifest import is_ancestor
from graf_driver_pv.parameters import Parameters
from graf_driver_pv.position import Position

CONNECT_S = 3.0
ANSWER_S = 10.0
FILE_S = 30.0
FRAME = 8  # bytes of a file's length, before its content
_LONGEST_LINE = 1 << 20


class ClientError(RuntimeError):
    """The active site could not be asked."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the active site said.

    Attributes:
        asked_ns: a point in time here, not after the answer was true there.
        behind_s: age, at that time, of the oldest change that this site does not have; negative when unknown.
        base: position of what its live copy was made of, with `lineage`; None when it has none yet.
        pending: its live copy has changes that are in no generation yet; told by `look` only.
        gives_files: it answers `files`; an active site of the version before does not.
        stale: the answer is older than the question: what was written last may be missing in it.
        note: what people should know of it; empty for nothing.
    """

    epoch: int
    newest: Position | None
    newest_begun_wall_ms: int
    behind_s: float
    asked_ns: int
    base: Position | None
    lineage: dict[int, int]
    pending: bool = False
    gives_files: bool = False
    stale: bool = False
    note: str = ""

    def has(self, position: Position) -> bool:
        """Whether everything of a generation is in what the active site serves."""
        return self.base is not None and is_ancestor(position, self.base, self.lineage)


class Client:
    """One connection to the active site."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, own: Parameters, peer: Parameters) -> Self:
        """Connects.

        Raises:
            ClientError: nobody answers, or it is somebody else.
        """
        context = tls_.client_context(own.tls)
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    peer.host, peer.port, ssl=context, server_hostname=peer.tls.name, limit=_LONGEST_LINE
                )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            raise ClientError(f"{peer.host}:{peer.port} cannot be reached: {error or 'no answer'}") from error
        return cls(reader, writer)

    def close(self) -> None:
        """Ends the connection at once."""
        with contextlib.suppress(OSError, ssl.SSLError, AttributeError):
            self._writer.transport.abort()

    async def next(self, have: Position | None, begun_wall_ms: int, wait_s: float) -> Head:
        """How far the active site is; waits there for something newer.

        Raises:
            ClientError: no sensible answer.
        """
        sent_ns = time.monotonic_ns()
        request = {"op": "next", "have": str(have or ""), "begun_wall_ms": begun_wall_ms, "wait_s": wait_s}
        return self._head(await self._ask(request, wait_s + ANSWER_S), sent_ns)

    async def look(self) -> Head:
        """What the active site has now, for a verdict; it does not count as following.

        Raises:
            ClientError: no sensible answer.
        """
        sent_ns = time.monotonic_ns()
        return self._head(await self._ask({"op": "look"}, ANSWER_S), sent_ns)

    @staticmethod
    def _head(answer: dict[str, Any], sent_ns: int) -> Head:
        try:
            base = answer["ancestry"]
            return Head(
                epoch=int(answer["epoch"]),
                newest=Position.parse(answer["newest"]) if answer["newest"] else None,
                newest_begun_wall_ms=int(answer["newest_begun_wall_ms"]),
                behind_s=float(answer.get("behind_s", -1)),
                asked_ns=sent_ns + int(float(answer.get("waited_s", 0)) * 1e9),
                base=Position.parse(base["position"]) if base else None,
                lineage={int(epoch): int(number) for epoch, number in base["lineage"]} if base else {},
                pending=bool(answer.get("pending", False)),
                gives_files=answer.get("gives_files") is True,
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ClientError(f"the active site's answer makes no sense: {error!r}") from error

    async def manifest(self, position: Position, since: Position | None = None) -> tuple[bytes, bool]:
        """A generation's manifest as a file; empty when it is gone.

        Args:
            position: of the generation.
            since: another one, whose manifest is here.

        Returns:
            The file, and whether it is only what differs from that of `since`.

        Raises:
            ClientError: no answer.
        """
        request = {"op": "manifest", "name": str(position)} | ({"since": str(since)} if since is not None else {})
        answer = await self._ask(request, ANSWER_S)
        try:
            async with asyncio.timeout(120):
                return await self._reader.readexactly(int(answer["size"])), answer.get("delta") is True
        except (OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError, KeyError, ValueError) as error:
            raise ClientError(f"the manifest of {position} did not come: {error!r}") from error

    async def files(self, position: Position, paths: list[str]) -> AsyncIterator[tuple[str, bytes]]:
        """Small files of a generation, each whole, in the order of the paths (at most one portion of them).

        Raises:
            ClientError: one did not come; the connection is of no use any more.
        """
        await self._send({"op": "files", "name": str(position), "paths": paths})
        for path in paths:
            try:
                async with asyncio.timeout(FILE_S):
                    length = int.from_bytes(await self._reader.readexactly(FRAME))
                    if length > small.FILE_BYTES:
                        raise ClientError(f"{path} of {position} cannot be had")
                    content = await self._reader.readexactly(length)
            except (OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError) as error:
                raise ClientError(f"{path} of {position} did not come: {error!r}") from error
            yield path, content

    async def _send(self, request: dict[str, Any]) -> None:
        try:
            self._writer.write(json.dumps(request).encode() + b"\n")
            async with asyncio.timeout(ANSWER_S):
                await self._writer.drain()
        except (OSError, ssl.SSLError, TimeoutError) as error:
            raise ClientError(f"the active site did not answer: {error or 'time is over'}") from error

    async def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        await self._send(request)
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._reader.readline()
            if not line:
                raise ClientError("the active site ended the connection: it does not serve, or knows no such site")
            answer = json.loads(line)
        except (OSError, ssl.SSLError, TimeoutError, ValueError) as error:
            raise ClientError(f"the active site did not answer: {error or 'time is over'}") from error
        if not isinstance(answer, dict):
            raise ClientError("the active site's answer makes no sense")
        return answer
