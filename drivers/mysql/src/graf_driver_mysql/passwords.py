"""The accounts of the database follow the passwords in the mounted Secret, without a moment in which one is refused.

Only the active writes accounts; its standby gets them by replication. First the new password is accepted beside the old
one. The old one ends when nobody needs it any more: for replication when every other site has proved, by a session that
it opened with the new one, that it uses it (``credentials.py``); for the application when a time is over.

With a scope the accounts are each site's own: they are not replicated, so every site changes its own, outside the
binary log. A standby ends its old replication password when the one other site has accepted the new one from it: that
site's files have it, so it will use it when it follows. With more sites it waits until it is active itself.

Nothing is remembered: what to do follows from the files and from what the server accepts now, so a driver that takes
over in the middle of a rotation, or a site that becomes active in it, goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graf_driver_sdk import logs

from graf_driver_mysql import credentials, sql
from graf_driver_mysql.backend import Backend, Mode
from graf_driver_mysql.guard import UNLOGGED
from graf_driver_mysql.observe import semi_sync
from graf_driver_mysql.parameters import REPLICATION_USER
from graf_driver_mysql.sql import Session, SqlError
from graf_driver_mysql.text import LONGEST_PASSWORD

log = logging.getLogger("graf.driver.mysql")

_REFUSED = frozenset({1045, 1698, 3118})
_WRITE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Settled:
    """Everything that an account's state was found right for."""

    run: int
    epoch: int
    password: str


class Passwords:
    """The part of who writes accounts. Invariant: a password that another site may still use is not ended."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.waiting: dict[str, str] = {}  # account: why its old password is still accepted
        self._settled: dict[str, _Settled] = {}
        self._grace_from: dict[str, float] = {}

    async def tend(self, peers: Sequence[str], in_force: Sequence[str]) -> None:
        """Goes as far as it can now; raises SqlError, OSError."""
        backend = self.backend
        if not self._writes_accounts():
            self.waiting.clear()
            self._grace_from.clear()
            return
        epoch = (await backend.record()).epoch
        for user, path in self._wanted():
            longest = LONGEST_PASSWORD[backend.parameters.engine] if user == REPLICATION_USER else 0
            password = await asyncio.to_thread(credentials.read, path, longest)
            if not password:
                self.waiting[user] = f"{path} has no password that can be used: the one before stays (see Validate)"
                continue
            state = _Settled(backend.run, epoch, password)
            if self._settled.get(user) == state:
                self.waiting.pop(user, None)  # the file could not be read meanwhile, and says what it said before
                continue
            logged = backend.parameters.scope is None
            if logged and len(in_force) > 1 and (await semi_sync(backend.control)).clients < 1:
                return  # a write would wait for the standby, and with it whoever logs in
            session = await backend.side_session("accounts")
            try:
                if not logged:
                    await session.run(UNLOGGED, *self._let_in())
                if await self._settle(session, user, password, peers):
                    self._settled[user] = state
            finally:
                session.close()
                if not logged:
                    await self._shut_again()

    def _let_in(self) -> tuple[str, ...]:
        """At a standby of MySQL not even the administrator may change an account; ``read_only`` stays on for others."""
        return () if self.backend.mode is Mode.ACTIVE else self.backend.engine.open_to_administrator

    async def _shut_again(self) -> None:
        backend = self.backend
        if backend.engine.open_to_administrator and backend.mode in (Mode.IDLE, Mode.STANDBY, Mode.QUIESCED):
            await backend.control.run(backend.engine.shut_writes)

    def _writes_accounts(self) -> bool:
        if self.backend.parameters.scope is None:
            return self.backend.mode is Mode.ACTIVE
        return self.backend.mode not in (Mode.DOWN, Mode.STARTING)

    def _wanted(self) -> tuple[tuple[str, Path], ...]:
        parameters = self.backend.parameters
        found = [(REPLICATION_USER, parameters.replication_password_file)]
        if parameters.application_user is not None:
            found.append((parameters.application_user, parameters.application_password_file))
        if parameters.scope is not None:
            found += [(user, parameters.local_password_file) for user in sorted(parameters.scope.local_users)]
        return tuple(found)

    async def _settle(self, session: Session, user: str, password: str, peers: Sequence[str]) -> bool:
        engine = self.backend.engine
        tls = user == REPLICATION_USER and self.backend.parameters.tls is not None
        held = engine.account(await session.row(engine.read_account(user)))
        if user == REPLICATION_USER and held.x509 is not tls:
            await session.run(engine.account_requires(user, tls=tls), timeout_s=_WRITE_TIMEOUT_S)
            logs.event(log, "account changed", site=self.backend.site, account=user, certificate=tls)
        if not await self._accepted(user, password, tls=tls):
            await session.run(*engine.accept_too(user, password, held), timeout_s=_WRITE_TIMEOUT_S)
            logs.event(log, "new password accepted", site=self.backend.site, account=user)
            held = engine.account(await session.row(engine.read_account(user)))
        if not held.several:
            self.waiting.pop(user, None)
            return True
        why = await self._needed_by(session, user, password, peers)
        if why:
            self.waiting[user] = why
            return False
        await session.run(*engine.accept_only(user, password), timeout_s=_WRITE_TIMEOUT_S)
        logs.event(log, "old password ended", site=self.backend.site, account=user)
        self.waiting.pop(user, None)
        self._grace_from.pop(user, None)
        return True

    async def _accepted(self, user: str, password: str, *, tls: bool) -> bool:
        parameters = self.backend.parameters
        try:
            session = await sql.own(
                self.backend.engine, parameters, user, password, tls=parameters.tls if tls else None
            )
        except SqlError as error:
            if error.code in _REFUSED:
                return False
            raise
        session.close()
        return True

    async def _needed_by(self, session: Session, user: str, password: str, peers: Sequence[str]) -> str:
        """Who may still use the old password; "" when nobody does."""
        if user != REPLICATION_USER:
            now = asyncio.get_running_loop().time()
            left = self._grace_from.setdefault(user, now) + self.backend.parameters.application_grace_s - now
            return f"the old password is accepted for {left:.0f} s more" if left > 0 else ""
        if self.backend.mode is not Mode.ACTIVE:
            if len(peers) == 1 and self.backend.credentials.showing(password):
                return ""
            return "the old password is accepted until the other site has accepted the new one from this one"
        mark = await asyncio.to_thread(credentials.mark, password)
        for site in sorted(peers):
            name = credentials.lock_name(site, mark)
            if (await session.row(f"SELECT IS_USED_LOCK('{name}') AS holder"))["holder"] is None:
                return f"the old password is accepted until {site} has shown that it uses the new one"
        return ""
