"""The active's side of more than one standby: which of them may acknowledge. See ``acks.py``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping

from graf_driver_sdk import logs

from graf_driver_mysql import acks
from graf_driver_mysql.backend import Backend
from graf_driver_mysql.guard import UNLOGGED
from graf_driver_mysql.parameters import REPLICATION_USER
from graf_driver_mysql.sql import Session, SqlError, quoted

log = logging.getLogger("graf.driver.mysql")

LEAVE_WAIT_S = 0.5  # how long one call waits for a connection's end
_UNKNOWN_USER = "unauthenticated user"  # a log-in under way, whose password may have been looked at already


class Permits:
    """Invariant: when ``only`` has said True, nobody but the named can acknowledge at this server, now or later."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._given: dict[str, int] = {}  # by this run of the driver: their accounts and tokens fit each other
        backend.on_death.append(lambda _how: self._given.clear())

    async def only(self, standbys: Mapping[str, int]) -> bool:
        """Lets these sites acknowledge, by their ``serverId``, and nobody else. Who had a permit keeps it.

        Returns:
            False while somebody whose permit ended is still connected: nobody new was let in, call again.

        Raises:
            SqlError: It failed: who may acknowledge is not sure.
        """
        side = await self.backend.side_session("permits")
        try:
            await side.run(UNLOGGED)
            if not await self._revoke(side, standbys):
                return False
            await self._give(side, standbys)
            return True
        finally:
            side.close()

    async def connected(self) -> frozenset[int]:
        """The servers that acknowledge now; raises SqlError."""
        return acks.connected(await self.backend.control.rows("SHOW PROCESSLIST"))

    async def _revoke(self, side: Session, standbys: Mapping[str, int]) -> bool:
        keep = {acks.user(number) for site, number in standbys.items() if self._given.get(site) == number}
        found = await side.rows(f"SELECT User AS u FROM mysql.user WHERE User LIKE '{acks.PREFIX}%'")  # noqa: S608
        for name in sorted({row["u"] for row in found if acks.is_one(row["u"])} - keep):
            await side.run(f"DROP USER IF EXISTS {quoted(name)}@'%'")
            logs.event(log, "acknowledging ended", site=self.backend.site, account=name)
        self._given = {site: number for site, number in self._given.items() if acks.user(number) in keep}
        return await self._end_sessions(side, keep)

    async def _end_sessions(self, side: Session, keep: set[str]) -> bool:
        """The account is gone, so no session comes after those that are here and those that are logging in."""
        entering: set[int] | None = None
        loop = asyncio.get_running_loop()
        ends = loop.time() + LEAVE_WAIT_S
        while loop.time() < ends:
            rows = await side.rows("SHOW PROCESSLIST")
            unknown = {int(row["Id"]) for row in rows if row["User"] in (None, _UNKNOWN_USER)}
            entering = unknown if entering is None else entering & unknown
            leaving = [row["Id"] for row in rows if acks.is_one(row["User"]) and row["User"] not in keep]
            if not leaving and not entering:
                return True
            for number in leaving:
                with contextlib.suppress(SqlError):  # gone meanwhile
                    await side.run(f"KILL CONNECTION {number}")
            await asyncio.sleep(0.005)
        return False

    async def _give(self, side: Session, standbys: Mapping[str, int]) -> None:
        new = {site: number for site, number in standbys.items() if site not in self._given}
        await side.run(
            f"CREATE TABLE IF NOT EXISTS {acks.TABLE}"
            " (site VARCHAR(63) PRIMARY KEY, token VARCHAR(64) NOT NULL) ENGINE=InnoDB",
            f"GRANT SELECT ON {acks.TABLE} TO {REPLICATION_USER}@'%'",
        )
        held = ", ".join(quoted(site) for site in sorted(self._given)) or "''"
        await side.run(f"DELETE FROM {acks.TABLE} WHERE site NOT IN ({held})")  # noqa: S608 - a checked label
        for site, number in sorted(new.items()):
            token = secrets.token_hex(16)  # 32 characters: MySQL takes no longer password for replication
            name = f"{quoted(acks.user(number))}@'%'"
            must = "" if self.backend.parameters.tls is None else " REQUIRE X509"
            await side.run(
                f"CREATE USER {name} IDENTIFIED BY {quoted(token)}{must}",
                f"GRANT REPLICATION SLAVE ON *.* TO {name}",
                # What follows hides the password from a log of the driver: see sql.py.
                f"/* PASSWORD */ INSERT INTO {acks.TABLE} VALUES ({quoted(site)}, {quoted(token)})",  # noqa: S608
            )
            self._given[site] = number
            logs.event(log, "acknowledging permitted", site=self.backend.site, standby=site, server_id=number)
