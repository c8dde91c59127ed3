"""Makes a data directory of what another site sends: unpacked and prepared, or loaded into a server of its own.

Nothing here is served: the caller gives a folder beside the data, and takes it when it is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from graf_driver_sdk.blocking import run_blocking

from graf_driver_mysql import bootstrap, channel, sql, tools
from graf_driver_mysql.backend import Backend
from graf_driver_mysql.channel import ChannelError, Incoming
from graf_driver_mysql.children import child, finished, last_words
from graf_driver_mysql.gtid import Position
from graf_driver_mysql.methods import MIB, Method
from graf_driver_mysql.parameters import Endpoint
from graf_driver_mysql.programs import BootstrapError
from graf_driver_mysql.sql import Session

PROGRAM_TIMEOUT_S = 12 * 3600.0
_NOTICE_S = 0.5
_LOADER_START_S = 60.0
_STATE = "binlog.state"  # MariaDB begins its binary log where this says, when there is none yet
_BACKUP_POSITIONS = ("mariadb_backup_binlog_info", "xtrabackup_binlog_info")
Tell = Callable[[str], None]


async def restore(backend: Backend, active: Endpoint, method: Method, target: Path, tell: Tell) -> None:
    """Fills ``target`` with the active's data, ready to be started.

    Raises:
        BootstrapError: it is not whole, and must not be used. SqlError, OSError.
    """
    layout = backend.server.layout
    said = layout.root / "restore.log"
    said.unlink(missing_ok=True)
    async with channel.ask(backend, active, str(method)) as incoming:
        if method is Method.BACKUP:
            await _unpack(incoming, target, said, tell)
        else:
            await _load(backend, incoming, target, said, tell)
    if method is Method.BACKUP:
        tell("what was copied is being prepared")
        async with child(tools.prepare(target, backend.parameters.buffer_pool_mib), said) as process:
            await finished(process, tools.BACKUP[0], said, PROGRAM_TIMEOUT_S)
        await run_blocking(_begin_log, target, await run_blocking(backup_position, target))


async def _unpack(incoming: Incoming, target: Path, said: Path, tell: Tell) -> None:
    await run_blocking(target.mkdir, 0o700)
    async with child(tools.unpack(target), said, stdin=asyncio.subprocess.PIPE) as process:
        await _receive(incoming, process, tools.UNPACK[0], said, tell)


async def _receive(incoming: Incoming, process: asyncio.subprocess.Process, name: str, said: Path, tell: Tell) -> None:
    """Everything goes into the program; whole when both ends say so."""
    about = int(incoming.told.get("about_bytes", 0)) / MIB
    if process.stdin is None:  # a pipe was asked for
        raise BootstrapError(f"{name} has no input")
    try:
        total = await incoming.into(
            process.stdin, lambda now: tell(f"{now / MIB:.1f} MiB received, of data of about {about:.1f} MiB")
        )
    except ChannelError:
        with contextlib.suppress(TimeoutError):  # it may be this program that ended, and the connection is well
            async with asyncio.timeout(_NOTICE_S):
                await process.wait()
        if process.returncode not in (None, 0):
            raise BootstrapError(f"{name} failed: {last_words(said)}") from None
        raise
    process.stdin.close()
    tell(f"{total / MIB:.1f} MiB received")
    await finished(process, name, said, PROGRAM_TIMEOUT_S)


def backup_position(target: Path) -> Position:
    """The position that a backup is of, as the program wrote it; raises BootstrapError."""
    for name in _BACKUP_POSITIONS:
        with contextlib.suppress(FileNotFoundError):
            words = (target / name).read_text(encoding="utf-8").replace("\n", "").split("\t")
            if len(words) > 2 and (found := _parsed(words[2])):
                return found
            raise BootstrapError(f"the copy names no GTID position: {name} says {' '.join(words)!r}")
    raise BootstrapError(f"the copy has no {_BACKUP_POSITIONS[0]}: its position is unknown")


def _parsed(text: str) -> Position:
    try:
        return Position.parse(text)
    except ValueError as error:
        raise BootstrapError(f"the copy's position cannot be understood: {error}") from error


def _begin_log(target: Path, position: Position) -> None:
    """The server's own log begins after the position, so that whoever has less is refused and not given half of it."""
    (target / _STATE).write_text("".join(f"{gtid}\n" for gtid in position), encoding="ascii")


async def _load(backend: Backend, incoming: Incoming, target: Path, said: Path, tell: Tell) -> None:
    """The template, and the dump in it."""
    parameters, layout = backend.parameters, backend.server.layout
    await run_blocking(bootstrap.copy_template, parameters, layout, target)
    scratch = layout.root / "restore.tmp"
    socket = parameters.socket_dir / "load.sock"
    await run_blocking(_emptied, scratch, socket)
    product = parameters.engine
    async with child(tools.loader(parameters, target, socket, scratch), said) as server:
        session = await _loader_session(backend, server, socket, said)
        try:
            async with child(tools.client(product, socket), said, stdin=asyncio.subprocess.PIPE) as client:
                await _receive(incoming, client, tools.CLIENTS[product][0], said, tell)
            if product == "mariadb":
                position = _parsed(str((await session.row("SELECT @@global.gtid_slave_pos AS p"))["p"]))
                if not position:
                    raise BootstrapError("the dump names no GTID position")
                await session.run(backend.engine.forget_source)  # the dump has a CHANGE MASTER for the position
                await run_blocking(_begin_log, target, position)
            elif not (await session.row("SELECT @@global.gtid_executed AS p"))["p"]:
                raise BootstrapError("the dump names no GTID position")
        finally:
            session.close()
        tell("what was loaded is being made durable")
        server.send_signal(signal.SIGTERM)
        await finished(server, "the server that was loaded", said, PROGRAM_TIMEOUT_S)
    await run_blocking(shutil.rmtree, scratch, ignore_errors=True)


def _emptied(scratch: Path, socket: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    socket.unlink(missing_ok=True)
    Path(f"{socket}.lock").unlink(missing_ok=True)


async def _loader_session(backend: Backend, server: asyncio.subprocess.Process, socket: Path, said: Path) -> Session:
    loop = asyncio.get_running_loop()
    ends = loop.time() + _LOADER_START_S
    while server.returncode is None and loop.time() < ends:
        try:
            _, writer = await asyncio.open_unix_connection(socket)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return await sql.local(backend.engine, socket, "load")
    raise BootstrapError(f"the server to load into does not run: {last_words(said)}")
