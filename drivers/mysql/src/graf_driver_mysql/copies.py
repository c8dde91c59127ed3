"""The active's side of a bootstrap: a port at which the driver of another site gets the data of this one.

It serves only what holds the lock that channel.py asks for, and only while this site is active: a role that is taken
away ends what is under way, as the copy's locks would be in the way of a quiesce.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from graf_driver_sdk import logs
from graf_driver_sdk.blocking import run_blocking

from graf_driver_mysql import channel, tools
from graf_driver_mysql.backend import Backend, Mode
from graf_driver_mysql.channel import Outgoing
from graf_driver_mysql.children import child, finished
from graf_driver_mysql.logins import logins
from graf_driver_mysql.methods import Method
from graf_driver_mysql.parameters import REPLICATION_USER
from graf_driver_mysql.programs import BootstrapError, MissingProgramError
from graf_driver_mysql.sql import SqlError
from graf_driver_mysql.tls import server_context

log = logging.getLogger("graf.driver.mysql")

INTERVAL_S = 1.0
ASK_TIMEOUT_S = 5.0
PROGRAM_END_S = 60.0
OFFER = "offer"
_HEX = frozenset("0123456789abcdef")
_OWN = frozenset({"information_schema", "performance_schema", "sys", "mysql"})


class Copies:
    """Invariant: one copy is under way at most, and none while this site is not active."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.facts: dict[str, str] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._loaded = ""  # what the port serves with: the digest of the certificate's files
        self._answering: set[asyncio.Task[None]] = set()
        self._copy: asyncio.Task[None] | None = None
        self._to = ""  # the site that gets it
        backend.on_death.append(self._died)

    @property
    def to(self) -> str:
        """The site that is getting a copy now, "" when none is."""
        return self._to

    def start(self) -> None:
        """Begins to serve."""
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Ends everything."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._close()
        for task in tuple(self._answering):
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def give_way(self, why: str) -> None:
        """Ends a copy under way; the site that gets it begins anew elsewhere or later."""
        task = self._copy
        if task is not None and not task.done():
            logs.event(log, "copy ended", logging.WARNING, site=self.backend.site, why=why)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        """Level-based: the port is open with the certificate that is in the files now."""
        while True:
            try:
                await self._open_anew()
            except (OSError, ValueError) as error:
                state = "not open" if self._server is None else "open with the certificate from before"
                self.facts["copy_port"] = f"{state}: {error}"
            await asyncio.sleep(INTERVAL_S)

    async def _open_anew(self) -> None:
        parameters = self.backend.parameters
        digest, context = "clear", None
        if parameters.tls is not None:
            digest = hashlib.sha256(b"\0".join(await asyncio.to_thread(parameters.tls.content))).hexdigest()
        if self._server is not None and digest == self._loaded:
            self.facts.pop("copy_port", None)  # e.g. a Secret that was taken back
            return
        if parameters.tls is not None:
            # While a Secret is replaced its files may not fit together: then the port goes on with what it has.
            context = await asyncio.to_thread(server_context, parameters.tls)
        await self._close()
        self._server = await asyncio.start_server(
            self._accepted, parameters.bind_address, parameters.copy_port, ssl=context, limit=channel.LINE_BYTES
        )
        self._loaded = digest
        self.facts.pop("copy_port", None)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:  # asyncio calls it in a task
            return
        self._answering.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, SqlError, BootstrapError) as error:
            logs.event(log, "copy not served", logging.WARNING, site=self.backend.site, cause=str(error))
        finally:
            self._answering.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await channel.read_line(reader, ASK_TIMEOUT_S)
        want, site = str(asked.get("want")), str(asked.get("site"))
        refused = await self._refused(str(asked.get("token", "")))
        if not refused and want != OFFER:
            if site == self._to:
                await self.give_way(f"{site} asks anew")  # it does not receive the other one any more
            refused = self._cannot(want)
        if refused:
            writer.write(channel.line({"error": refused}))
            await writer.drain()
        elif want == OFFER:
            writer.write(channel.line(await self._offer()))
            await writer.drain()
        else:
            self._to = site
            self._copy = asyncio.create_task(self._send(Method(want), site, writer))
            await self._watch(reader, self._copy)

    async def _watch(self, reader: asyncio.StreamReader, copy: asyncio.Task[None]) -> None:
        """A copy ends with the connection: who receives says nothing more, and is gone when something comes."""
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({gone, copy}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            copy.cancel()
            _, (ended,) = await asyncio.gather(
                asyncio.gather(gone, return_exceptions=True), asyncio.gather(copy, return_exceptions=True)
            )
            if self._copy is copy:
                self._copy, self._to = None, ""
        if isinstance(ended, Exception):
            raise ended

    async def _refused(self, token: str) -> str:
        """Why the one who shows this token gets nothing, "" when it is a driver of the group."""
        if self.backend.mode is not Mode.ACTIVE:
            return f"{self.backend.site} is not active"
        if not token or not set(token) <= _HEX:
            return "no token"
        session = await self.backend.side_session("copy-login")
        try:
            held = await session.row(f"SELECT IS_USED_LOCK('{channel.lock_of(token)}') AS i")
            if held["i"] is not None:
                for row in await session.rows("SHOW PROCESSLIST"):
                    if int(row["Id"]) == int(held["i"]) and row["User"] == REPLICATION_USER:
                        return ""
        finally:
            session.close()
        return f"the token belongs to no session of {REPLICATION_USER}"

    def _cannot(self, want: str) -> str:
        if want not in (Method.BACKUP, Method.DUMP):
            return f"{want!r} is not known here"
        if self._copy is not None:
            return "another copy is under way"
        return self._refuses(Method(want))

    def _refuses(self, method: Method) -> str:
        parameters = self.backend.parameters
        if parameters.scope is not None:
            return "a part of the server is in scope"
        if why := tools.missing(parameters.engine, method, serving=True):
            return f"at {self.backend.site} {why}"
        return ""

    async def _offer(self) -> dict[str, Any]:
        return {
            "data_bytes": await run_blocking(_size, self.backend.server.layout.data),
            "refuses": {str(m): self._refuses(m) for m in (Method.BACKUP, Method.DUMP)},
        }

    async def _send(self, method: Method, site: str, writer: asyncio.StreamWriter) -> None:
        backend = self.backend
        going = Outgoing(writer)
        logs.event(log, "copy begins", site=backend.site, method=str(method), to=site)
        self.facts["copying_to"] = f"{site} by {method}"
        root = backend.server.layout.root
        scratch, said = root / "copy.tmp", root / "copy.log"
        try:
            await run_blocking(_emptied, scratch, said)
            size = await run_blocking(_size, backend.server.layout.data)
            writer.write(channel.line({"about_bytes": size}))
            await (self._backup if method is Method.BACKUP else self._dump)(going, scratch, said)
        except (BootstrapError, MissingProgramError, SqlError) as error:
            logs.event(log, "copy failed", logging.WARNING, site=backend.site, to=site, cause=str(error))
            await going.end(f"at {backend.site}: {error}")
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await going.end(f"{backend.site} ended it: its role changes")
            raise
        else:
            await going.end()
            logs.event(log, "copy sent", site=backend.site, to=site, bytes=going.total)
        finally:
            self.facts.pop("copying_to", None)
            await run_blocking(shutil.rmtree, scratch, ignore_errors=True)

    async def _backup(self, going: Outgoing, scratch: Path, said: Path) -> None:
        command = tools.backup(self.backend.parameters, self.backend.server.layout.data, scratch)
        await self._program(command, going, said)
        if b"completed OK!" not in (await run_blocking(said.read_bytes))[-200:]:
            raise BootstrapError(f"{tools.BACKUP[0]} did not say that its copy is complete; see {said}")

    async def _dump(self, going: Outgoing, scratch: Path, said: Path) -> None:
        """The accounts are no part of the transaction: they must be the same before and after it began."""
        engine = self.backend.engine
        session = await self.backend.side_session("copy-dump")
        try:
            names = [str(next(iter(row.values()))) for row in await session.rows("SHOW DATABASES")]
            before = await logins(session, engine.name)
            await going.send("".join(f"{statement};\n" for statement in before).encode())
            databases = sorted(set(names) - _OWN)
            await self._program(tools.dump(self.backend.parameters, databases), going, said)
            if await logins(session, engine.name) != before:
                raise BootstrapError("accounts were changed while the dump was made; it is begun anew")
        finally:
            session.close()

    async def _program(self, command: list[str], going: Outgoing, said: Path) -> None:
        name = Path(command[0]).name
        async with child(command, said, stdout=asyncio.subprocess.PIPE) as process:
            if process.stdout is None:  # a pipe was asked for
                raise BootstrapError(f"{name} has no output")
            await going.pass_on(process.stdout)
            await finished(process, name, said, PROGRAM_END_S)

    def _died(self, how: str) -> None:
        if self._copy is not None:
            self._copy.cancel()


def _size(data: Path) -> int:
    """About what a copy has: everything but the logs of replication."""
    total = 0
    for folder, _, names in os.walk(data):
        for name in names:
            if not name.startswith(("binlog.", "relay.", "ib_logfile")) and not name.startswith("#innodb_redo"):
                with contextlib.suppress(OSError):
                    total += Path(folder, name).lstat().st_size
    return total


def _emptied(scratch: Path, said: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    said.unlink(missing_ok=True)
