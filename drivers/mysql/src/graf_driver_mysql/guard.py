"""Keeps the accounts of a scoped server to their side: makes the site's own, locks who could reach both.

Whole servers have no guard: there ``read_only`` binds everybody but the administrator. Nor has a scope with MySQL,
where nobody passes it and a site has no accounts of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from graf_driver_sdk import logs

from graf_driver_mysql.accounts import (
    PASSES_READ_ONLY,
    READ_ACCOUNTS,
    READ_GRANTS,
    READ_PROXIES,
    READ_ROLES,
    Account,
    Accounts,
    wrong,
)
from graf_driver_mysql.backend import Backend, Mode
from graf_driver_mysql.observe import Observation, positions
from graf_driver_mysql.scope import Scope, escaped
from graf_driver_mysql.sql import Session, SqlError, quoted

log = logging.getLogger("graf.driver.mysql")

INTERVAL_S = 2.0
UNLOGGED = "SET SESSION sql_log_bin = 0"  # what follows belongs to this server alone
# The host has no "@" in it, a user's name may.
_USER = "LEFT(USER(), CHAR_LENGTH(USER()) - LOCATE('@', REVERSE(USER())))"


class Guard:
    """Invariant: from the server's start on, no account both passes ``read_only`` or the log and reaches the scope.

    A grant that somebody makes later stands for at most ``INTERVAL_S`` and one look: then its account is locked.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.locked: dict[Account, str] = {}
        self.trouble = ""  # of the last look: what was found undone and was put right
        self._checked_at_s = 0.0
        backend.before_idle = self.prepare

    async def prepare(self) -> None:
        """Before anybody is given a role; raises SqlError."""
        scope = self.backend.parameters.scope
        if scope is None or not self.backend.engine.keeps_the_rest:
            return
        side = await self.backend.side_session("guard")
        try:
            await side.run(UNLOGGED, *_entrance(scope), *await self._own_accounts(scope))
            await self._lock(side, scope)
        finally:
            side.close()

    async def tend(self, seen: Observation) -> None:
        """After each observation; raises SqlError."""
        scope = self.backend.parameters.scope
        if scope is None or self.backend.mode in (Mode.DOWN, Mode.STARTING):
            return
        self.trouble = await self._shut(seen)
        now_s = asyncio.get_running_loop().time()
        if now_s - self._checked_at_s < INTERVAL_S or not self.backend.engine.keeps_the_rest:
            return
        self._checked_at_s = now_s
        side = await self.backend.side_session("guard")
        try:
            await side.run(UNLOGGED)
            await self._lock(side, scope)
        finally:
            side.close()

    async def _shut(self, seen: Observation) -> str:
        """Who passes ``read_only`` may also switch it off: it is switched on again wherever writes are not to be."""
        if seen.read_only or self.backend.mode not in (Mode.IDLE, Mode.STANDBY, Mode.QUIESCED):
            return ""
        control = self.backend.control
        read_only, _, _ = await positions(control)
        if read_only or self.backend.mode not in (Mode.IDLE, Mode.STANDBY, Mode.QUIESCED):
            return ""
        try:
            await control.run(self.backend.engine.shut_writes, timeout_s=2.0)
        except SqlError as error:
            logs.event(log, "fenced by kill", logging.ERROR, site=self.backend.site, cause=str(error))
            await self.backend.kill()
            return ""
        logs.event(log, "read_only was off", logging.ERROR, site=self.backend.site, mode=self.backend.mode.name)
        return "read_only was found off although this site is not active; switched on again"

    async def _own_accounts(self, scope: Scope) -> tuple[str, ...]:
        if not scope.local:
            return ()
        path = self.backend.parameters.local_password_file
        password = quoted((await asyncio.to_thread(path.read_text, encoding="utf-8")).strip())
        found = []
        for one in scope.local:
            found += [
                f"CREATE DATABASE IF NOT EXISTS `{one.database}`",
                f"CREATE USER IF NOT EXISTS {quoted(one.user)}@'%' IDENTIFIED BY {password}",
                f"GRANT ALL PRIVILEGES ON `{escaped(one.database)}`.* TO {quoted(one.user)}@'%'",
                f"GRANT {PASSES_READ_ONLY.replace('_', ' ')} ON *.* TO {quoted(one.user)}@'%'",
            ]
        return tuple(found)

    async def _lock(self, side: Session, scope: Scope) -> None:
        rows = await side.batch(READ_ACCOUNTS, READ_GRANTS, READ_ROLES, READ_PROXIES)
        accounts = Accounts.of(*rows)
        found = wrong(scope, accounts)
        for account, why in found.items():
            user, host = account
            if not accounts.locked[account]:
                await side.run(f"ALTER USER {quoted(user)}@{quoted(host)} ACCOUNT LOCK")
                logs.event(
                    log, "account locked", logging.ERROR, site=self.backend.site, account=f"{user}@{host}", why=why
                )
            for row in await side.rows("SHOW PROCESSLIST"):
                if row["User"] == user:
                    with contextlib.suppress(SqlError):  # gone meanwhile
                        await side.run(f"KILL CONNECTION {row['Id']}")
        self.locked = found


def _entrance(scope: Scope) -> tuple[str, ...]:
    """The procedure that a session begins with: it takes the site's own accounts out of the binary log.

    A client that cannot run it is sent away by the server: nobody gets in while it is missing.
    """
    names = ", ".join(quoted(name) for name in sorted(scope.local_users)) or "''"
    return (
        "CREATE OR REPLACE PROCEDURE graf.enter() SQL SECURITY DEFINER"
        f" IF {_USER} IN ({names}) THEN SET SESSION sql_log_bin = 0; END IF",
        "GRANT EXECUTE ON PROCEDURE graf.enter TO PUBLIC",
    )
