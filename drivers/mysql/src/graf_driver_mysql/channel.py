"""The connection by which a site gets data from the driver of the active one.

The one who asks proves who it is by SQL: it takes a named lock at the active as ``graf_repl``, with the password that
is in force there, and names it here. With ``tls`` the connection is TLS and both ends verify, as everywhere between the
sites. Data comes in frames and ends with a word of the sender that it is whole: a connection that breaks is no end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from graf_driver_mysql.backend import Backend
from graf_driver_mysql.parameters import Endpoint
from graf_driver_mysql.programs import BootstrapError
from graf_driver_mysql.tls import client_context

LINE_BYTES = 8192
FRAME_BYTES = 256 << 10
SILENCE_S = 60.0  # the sender says something at least this often, see KEEP_ALIVE_S
KEEP_ALIVE_S = 10.0
PATIENCE_S = 600.0  # for one frame: who loads a dump reads no faster than its disk and indexes let it
_CONNECT_S = 5.0
_LENGTH = 4
_ALIVE = b"\xff" * _LENGTH
_END = b"\0" * _LENGTH


class ChannelError(BootstrapError):
    """The driver at the active site does not answer, refuses, or could not finish."""


def lock_of(token: str) -> str:
    """The name of the lock whose holder may show this token."""
    return f"graf:copy:{hashlib.sha256(token.encode()).hexdigest()[:40]}"


def line(said: Mapping[str, Any]) -> bytes:
    """One line of the protocol."""
    return json.dumps(said).encode() + b"\n"


async def read_line(reader: asyncio.StreamReader, timeout_s: float) -> dict[str, Any]:
    """The other side's line; raises ChannelError."""
    try:
        async with asyncio.timeout(timeout_s):
            raw = await reader.readline()
        said = json.loads(raw)
    except TimeoutError:
        raise ChannelError(f"no answer within {timeout_s:g} s") from None
    except (OSError, ValueError) as error:
        raise ChannelError(f"the connection ended before an answer: {error}") from error
    if not isinstance(said, dict):
        raise ChannelError("the answer is no object")
    return said


class Incoming:
    """Data that comes."""

    def __init__(self, reader: asyncio.StreamReader, told: Mapping[str, Any]) -> None:
        self._reader = reader
        self.told = told

    async def into(self, target: asyncio.StreamWriter, seen: Callable[[int], None]) -> int:
        """Passes everything on and returns how many bytes it was; raises ChannelError where it did not end well."""
        total = 0
        try:
            while (frame := await self._frame()) is not None:
                target.write(frame)
                await target.drain()
                total += len(frame)
                seen(total)
            last = await read_line(self._reader, SILENCE_S)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ChannelError(f"the connection broke after {total} bytes: {error}") from error
        if last.get("whole") != total:
            raise ChannelError(str(last.get("error") or f"{total} bytes came of {last.get('whole')}"))
        return total

    async def _frame(self) -> bytes | None:
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    head = await self._reader.readexactly(_LENGTH)
                    if head == _ALIVE:
                        continue
                    if head == _END:
                        return None
                    size = int.from_bytes(head, "big")
                    if size > FRAME_BYTES:
                        raise ChannelError(f"a frame of {size} bytes")
                    return await self._reader.readexactly(size)
            except TimeoutError:
                raise ChannelError(f"nothing came for {SILENCE_S:g} s") from None


class Outgoing:
    """Data that goes."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.total = 0

    async def pass_on(self, source: asyncio.StreamReader) -> None:
        """Everything that comes from there, with a sign of life where nothing does. Raises OSError."""
        reading: asyncio.Task[bytes] | None = None
        try:
            while True:
                reading = reading or asyncio.create_task(source.read(FRAME_BYTES))
                await asyncio.wait({reading}, timeout=KEEP_ALIVE_S)
                if not reading.done():
                    await self._put(_ALIVE)
                    continue
                chunk, reading = reading.result(), None
                if not chunk:
                    return
                await self.send(chunk)
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def send(self, chunk: bytes) -> None:
        """One frame or several; raises OSError."""
        for start in range(0, len(chunk), FRAME_BYTES):
            part = chunk[start : start + FRAME_BYTES]
            await self._put(len(part).to_bytes(_LENGTH, "big") + part)
            self.total += len(part)

    async def end(self, error: str = "") -> None:
        """The last word: whole, or why not. Raises OSError."""
        await self._put(_END + line({"error": error} if error else {"whole": self.total}))

    async def _put(self, raw: bytes) -> None:
        self._writer.write(raw)
        async with asyncio.timeout(PATIENCE_S):  # TimeoutError is an OSError: somebody who reads nothing is gone
            await self._writer.drain()


@contextlib.asynccontextmanager
async def ask(backend: Backend, active: Endpoint, want: str) -> AsyncIterator[Incoming]:
    """Asks the driver of the active site for something.

    Raises:
        ChannelError: it does not answer or refuses. SqlError: its server does.
    """
    where = f"the driver of {active.site} at {active.host}:{active.copy_port}"
    token = secrets.token_hex(24)
    files = backend.parameters.tls
    session = await backend.remote_session(active)
    try:
        await session.row(f"SELECT GET_LOCK('{lock_of(token)}', 0) AS got")
        secured: dict[str, Any] = (
            {} if files is None else {"ssl": client_context(files), "server_hostname": active.host}
        )
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    active.host, active.copy_port, limit=4 * FRAME_BYTES, **secured
                )
        except OSError as error:
            raise ChannelError(
                f"{where} does not answer ({error or 'in time'}): let this site reach that port (copyPort)"
            ) from error
        try:
            writer.write(line({"want": want, "token": token, "site": backend.site}))
            try:
                told = await read_line(reader, SILENCE_S)
            except ChannelError as error:
                raise ChannelError(f"{where}: {error}") from error
            session.close()  # the lock has done its service
            if error_told := told.get("error"):
                raise ChannelError(f"{where} refuses: {error_told}")
            yield Incoming(reader, told)
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()
    finally:
        session.close()
