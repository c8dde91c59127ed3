"""Statements to the server by PyMySQL, each connection in a thread of its own: the event loop never waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pymysql
from pymysql.cursors import DictCursor

from graf_driver_mysql.engine import Engine
from graf_driver_mysql.parameters import REPLICATION_USER, Endpoint, Parameters
from graf_driver_mysql.text import quoted, without_quoted
from graf_driver_mysql.tls import TlsFiles, Verified, client_context

__all__ = ["Row", "Session", "SqlError", "local", "own", "quoted", "remote"]

Row = dict[str, Any]
T = TypeVar("T")


class SqlError(RuntimeError):
    """A statement failed; ``code`` is the server's number, 0 when there was no answer in time."""

    def __init__(self, message: str, code: int) -> None:
        self.code = code
        super().__init__(message)


class Session:
    """One connection with one thread. A statement that is not answered in time breaks the session for good."""

    def __init__(self, engine: Engine, connect: Callable[[], pymysql.Connection[DictCursor]], name: str) -> None:
        self.engine = engine
        self._connect = connect
        self._name = name
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sql-{name}")
        self._connection: pymysql.Connection[DictCursor] | None = None
        self._turn = asyncio.Lock()
        self.broken = False

    async def open(self, timeout_s: float) -> Session:
        """Connects; raises SqlError."""
        self._connection = await self._call(self._connect, "connect", timeout_s)
        return self

    async def rows(self, statement: str, timeout_s: float = 5.0) -> list[Row]:
        """Runs one statement and returns its rows; raises SqlError."""
        return await self._call(lambda: self._run(statement), statement, timeout_s)

    async def batch(self, *statements: str, timeout_s: float = 5.0) -> list[list[Row]]:
        """The rows of each statement, run in one turn of the thread; raises SqlError."""
        return await self._call(
            lambda: [self._run(statement) for statement in statements], "; ".join(map(_shown, statements)), timeout_s
        )

    async def row(self, statement: str, timeout_s: float = 5.0) -> Row:
        """The first row; raises SqlError where there is none."""
        rows = await self.rows(statement, timeout_s)
        if not rows:
            raise SqlError(f"{self._name}: no rows from {_shown(statement)}", 0)
        return rows[0]

    async def run(self, *statements: str, timeout_s: float = 5.0) -> None:
        """Runs statements one after the other in one turn of the thread; raises SqlError."""

        def all_of_them() -> None:
            for statement in statements:
                self._run(statement)

        await self._call(all_of_them, "; ".join(_shown(s) for s in statements), timeout_s)

    def close(self) -> None:
        """Drops the connection without waiting; what becomes of a statement under way is the server's affair."""
        if self.broken:
            return
        self.broken = True
        if self._connection is not None:
            # A socket that is shut down wakes the thread that reads from it. Closing it from here would wait for the
            # reader's lock, and with it the event loop: the session's own thread closes.
            with contextlib.suppress(OSError, AttributeError):
                self._connection._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
            self._executor.submit(self._connection._force_close)  # type: ignore[attr-defined]
        self._executor.shutdown(wait=False)

    def _run(self, statement: str) -> list[Row]:
        if self._connection is None:
            raise pymysql.err.InterfaceError(0, "not connected")
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    async def _call(self, work: Callable[[], T], what: str, timeout_s: float) -> T:
        if self.broken:
            raise SqlError(f"{self._name}: the session is closed", 0)
        # The time-out is for the server's answer. To wait for another statement of this session is no silence of it.
        async with self._turn:
            return await self._in_thread(work, what, timeout_s)

    async def _in_thread(self, work: Callable[[], T], what: str, timeout_s: float) -> T:
        loop = asyncio.get_running_loop()
        try:
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets the result.
            async with asyncio.timeout(timeout_s):
                return await loop.run_in_executor(self._executor, work)
        except TimeoutError:
            self.close()
            raise SqlError(f"{self._name}: no answer within {timeout_s:g} s to {_shown(what)}", 0) from None
        except pymysql.MySQLError as error:
            code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
            text = error.args[1] if len(error.args) > 1 else str(error)
            if isinstance(error, pymysql.err.InterfaceError) or code in (2006, 2013):
                self.close()
            if _is_hidden(what):
                text = without_quoted(str(text))
            raise SqlError(f"{self._name}: {text} (error {code}) from {_shown(what)}", code) from error
        except (OSError, AttributeError, ValueError) as error:
            # A connection closed under a running statement shows itself as any of these.
            self.close()
            raise SqlError(f"{self._name}: connection lost ({error}) in {_shown(what)}", 0) from error
        except RuntimeError as error:
            # By a statement that was not answered in time: it waited for this one's turn, or this one for it.
            raise SqlError(f"{self._name}: the server did not answer in time, its session is closed", 0) from error


def _is_hidden(statement: str) -> bool:
    return "PASSWORD" in statement.upper() or "IDENTIFIED" in statement.upper() or "hidden: it has" in statement


def _shown(statement: str) -> str:
    """A statement for people: short, and never with a password."""
    text = " ".join(statement.split())
    if _is_hidden(text):
        return text.split(" ", 2)[0] + " ... (hidden: it has a password)"
    return text if len(text) <= 120 else text[:117] + "..."


async def local(engine: Engine, path: Path, name: str, timeout_s: float = 2.0) -> Session:
    """A session as the server's administrator through its unix socket; raises SqlError."""

    def connect() -> pymysql.Connection[DictCursor]:
        return pymysql.connect(
            unix_socket=str(path),
            user="root",
            autocommit=True,
            connect_timeout=2,
            cursorclass=DictCursor,
            charset="utf8mb4",
            ssl_disabled=True,  # else PyMySQL loads the system's CA file for each connection: 25 ms
        )

    return await _opened(Session(engine, connect, name), timeout_s)


async def remote(engine: Engine, endpoint: Endpoint, password: str, timeout_s: float, tls: TlsFiles | None) -> Session:
    """A session at another site as the replication user, over TLS where there are files; raises SqlError."""

    def connect() -> pymysql.Connection[DictCursor]:
        # The files are read for each connection: it is never older than they are.
        secured: dict[str, Any] = {"ssl_disabled": True} if tls is None else {"ssl": client_context(tls)}
        return (pymysql.Connection if tls is None else Verified)(
            host=endpoint.host,
            port=endpoint.port,
            user=REPLICATION_USER,
            password=password,
            autocommit=True,
            connect_timeout=max(1, round(timeout_s)),
            read_timeout=max(1, round(timeout_s)),
            cursorclass=DictCursor,
            charset="utf8mb4",
            **secured,  # never neither: PyMySQL would load the system's CA file for each connection, 25 ms
        )

    name = f"{endpoint.site} ({endpoint.host}:{endpoint.port})"
    return await _opened(Session(engine, connect, name), timeout_s)


async def own(engine: Engine, parameters: Parameters, user: str, password: str, *, tls: TlsFiles | None) -> Session:
    """A session at this site's own server as one of its users: to know whether the password is accepted."""

    def connect() -> pymysql.Connection[DictCursor]:
        options: dict[str, Any] = {"unix_socket": str(parameters.socket), "ssl_disabled": True}
        if tls is not None:  # an account that must show a certificate is not let in by the socket
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parameters.bind_address, parameters.bind_address)  # noqa: S104
            options = {"host": host, "port": parameters.port, "ssl": client_context(tls, check_name=False)}
        return pymysql.connect(user=user, password=password, connect_timeout=2, cursorclass=DictCursor, **options)

    return await _opened(Session(engine, connect, f"own server as {user}"), 3.0)


async def _opened(session: Session, timeout_s: float) -> Session:
    try:
        return await session.open(timeout_s)
    except BaseException:
        session.close()
        raise
