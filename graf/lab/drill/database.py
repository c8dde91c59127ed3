"""A site's database server: its administrator on the machine, by the unix socket which no gate guards, and its log."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pymysql

from graf.lab.drill.errors import DrillError

TIMEOUT_S = 5.0
_TAIL_BYTES = 1 << 18
_SOCKET = re.compile(r"^socket *= *(/\S+)$", re.MULTILINE)


def socket_of(server: Path) -> Path:
    """Where this machine finds the socket of a server, by its directory in /proc.

    The server's files are those of its container; they are looked into through the process itself.

    Raises:
        DrillError: It runs without a configuration file that names a socket.
    """
    arguments = (server / "cmdline").read_bytes().split(b"\0")
    option = next((a for a in arguments if a.startswith(b"--defaults-file=")), b"").decode().partition("=")[2]
    config = server / "root" / option.lstrip("/")
    found = _SOCKET.search(config.read_text()) if option else None
    if found is None:
        cause = f"its configuration {option} names none" if option else "it runs without a configuration file"
        raise DrillError(f"the socket of the database server {server.name} is unknown", cause)
    return server / "root" / found.group(1).lstrip("/")


def ends_with(data: Path, statement: str) -> bool:
    """Whether a statement is in the last part of the binary log of a data directory, where it is logged as text."""
    newest = max(data.glob("binlog.[0-9]*"), default=None)
    if newest is None:
        return False
    with newest.open("rb") as log:
        log.seek(max(0, newest.stat().st_size - _TAIL_BYTES))
        return statement.encode() in log.read()


class Administrator:
    """One connection as the server's root. What it locks is let go when it is closed, or when the server dies."""

    def __init__(self, location: str, pid: int, proc: Path = Path("/proc")) -> None:
        self._location = location
        # The socket is made here: PyMySQL leaves its own open when the connect fails.
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(TIMEOUT_S)
        try:
            raw.connect(str(socket_of(proc / str(pid))))
            self._connection = pymysql.connect(
                user="root",
                autocommit=True,
                read_timeout=TIMEOUT_S,
                write_timeout=TIMEOUT_S,
                ssl_disabled=True,
                defer_connect=True,
            )
            self._connection.connect(raw)
        except (pymysql.err.Error, OSError) as error:
            raw.close()
            raise DrillError(f"the database server of {location} cannot be administered", str(error)) from error
        except DrillError:
            raw.close()
            raise

    def run(self, statement: str) -> None:
        """Runs one statement."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement)
        except (pymysql.err.Error, OSError) as error:
            self.close()
            raise DrillError(f"the database server of {self._location} refused: {statement}", str(error)) from error

    def close(self) -> None:
        """Ends the connection; the server may be gone already."""
        self._connection._force_close()  # type: ignore[attr-defined]
