"""The replication password of this site: the mounted file as it is now, and the standby's part of a rotation.

A file may change at one site before it does at the other. So the newest password is tried first, and while the other
side refuses it the one that it accepted last goes on being used.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from graf_driver_mysql import sql
from graf_driver_mysql.parameters import Endpoint, Parameters
from graf_driver_mysql.sql import Session, SqlError
from graf_driver_mysql.text import LONGEST_PASSWORD, unusable

if TYPE_CHECKING:
    from graf_driver_mysql.engine import Engine


_REFUSED = 1045
_ROUNDS = 100_000


def read(path: Path, longest: int = 0) -> str:
    """The password in a file, "" while there is none that can be used: a Secret is replaced under our feet."""
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return "" if unusable(found, longest) else found


def mark(password: str) -> str:
    """What two sites compare to know that they mean the same password, and what tells nobody which."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), b"graf-replication-password", _ROUNDS).hex()[:32]


def lock_name(site: str, shown: str) -> str:
    """The name of the lock that a site holds at the active while it uses the password of that mark."""
    return f"graf:{hashlib.sha256(site.encode()).hexdigest()[:16]}:{shown}"


class Credentials:
    """Invariant: ``accepted`` is a password that another site's server accepted, "" before one did."""

    def __init__(self, site: str, engine: Engine, parameters: Parameters) -> None:
        self.site = site
        self.engine = engine
        self.parameters = parameters
        self.accepted = ""
        self.learned: list[Callable[[str], None]] = []  # told of each password before it is used
        self._known = ""
        self._shown: Session | None = None
        self._shown_for: tuple[Endpoint, str] | None = None

    async def newest(self) -> str:
        """The file's password; the last one that was read while there is none."""
        longest = LONGEST_PASSWORD[self.parameters.engine]
        found = await asyncio.to_thread(read, self.parameters.replication_password_file, longest)
        if found and found != self._known:
            for tell in self.learned:
                tell(found)
            self._known = found
        return self._known

    async def for_channel(self) -> str:
        """What a connection that must not be refused is given: the newest one unless only an older was accepted."""
        return self.accepted or await self.newest()

    async def session(self, peer: Endpoint, timeout_s: float) -> Session:
        """A session at another site, with the newest password that it accepts. Raises SqlError."""
        newest = await self.newest()
        try:
            session = await self._open(peer, newest, timeout_s)
        except SqlError as error:
            if error.code != _REFUSED or self.accepted in ("", newest):
                raise
            return await self._open(peer, self.accepted, timeout_s)
        self.accepted = newest
        return session

    async def show(self, active: Endpoint) -> None:
        """Proves to the active that this site uses the newest password, for as long as the session lasts.

        Raises:
            SqlError: it cannot be reached, or does not accept it.
        """
        newest = await self.newest()
        if self._shown is not None and not self._shown.broken and self._shown_for == (active, newest):
            await self._shown.row("SELECT 1 AS alive", timeout_s=2.0)
            return
        self.hide()
        name = lock_name(self.site, await asyncio.to_thread(mark, newest))
        self._shown = await self._open(active, newest, 1.0)
        await self._shown.row(f"SELECT GET_LOCK('{name}', 0) AS got")
        self._shown_for = (active, newest)

    def showing(self, password: str) -> bool:
        """Whether another site accepted this password, and is shown that it is in use."""
        return (
            self._shown is not None
            and not self._shown.broken
            and self._shown_for is not None
            and self._shown_for[1] == password
        )

    def hide(self) -> None:
        """Ends the proof."""
        if self._shown is not None:
            self._shown.close()
            self._shown = self._shown_for = None

    async def _open(self, peer: Endpoint, password: str, timeout_s: float) -> Session:
        return await sql.remote(self.engine, peer, password, timeout_s, self.parameters.tls)
