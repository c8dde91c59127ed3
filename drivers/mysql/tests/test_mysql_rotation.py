"""Passwords and certificates change in the mounted Secrets while the database replicates, and nobody is refused."""

import asyncio
import importlib.util
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_sdk.types import Role

pytestmark = pytest.mark.mariadb

_spec = importlib.util.spec_from_file_location("certificates", Path(__file__).with_name("certificates.py"))
certificates = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(certificates)

OLD_USERS = {"replication": "graf_repl", "application": "app"}


def own_secrets(lab: Any, folder: Path) -> Any:
    """Each site has a Secret of its own, as in two clusters, with equal content."""
    for site in (lab.east, lab.west):
        mounted = folder / f"secret-{site.name}"
        mounted.mkdir()
        for what in OLD_USERS:
            put(mounted, what, site.password)
        site.parameters["credentialsDir"] = str(mounted)
    return lab


def put(mounted: Path, what: str, password: str) -> None:
    """As kubelet does: the name points to something else from one moment to the next."""
    fresh = mounted / f".{what}.new"
    fresh.write_text(password + "\n")
    fresh.replace(mounted / f"{what}-password")


def secret(site: Any) -> Path:
    return Path(site.parameters["credentialsDir"])


@pytest.fixture(params=["lab", pytest.param("mysql_lab", marks=pytest.mark.mysql_long)])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """With MariaDB, and with MySQL."""
    return own_secrets(request.getfixturevalue(request.param), tmp_path)


def let_in(site: Any, user: str, password: str) -> bool:
    try:
        pymysql.connect(unix_socket=str(site.socket), user=user, password=password, ssl_disabled=True).close()
    except pymysql.err.OperationalError as error:
        if error.args[0] != 1045:
            raise
        return False
    return True


class Writer(threading.Thread):
    """Writes one number after the other, and notes what was acknowledged and the longest wait for it."""

    def __init__(self, connection: Any) -> None:
        super().__init__(daemon=True)
        self.connection = connection
        self.acknowledged: set[int] = set()
        self.longest_s = 0.0
        self.ending = threading.Event()
        self.error = ""
        self.start()

    def run(self) -> None:
        number, before = 0, time.monotonic()
        try:
            with self.connection.cursor() as cursor:
                while not self.ending.is_set():
                    cursor.execute(f"INSERT INTO t VALUES ({number})")
                    self.acknowledged.add(number)
                    now = time.monotonic()
                    self.longest_s, before, number = max(self.longest_s, now - before), now, number + 1
        except (pymysql.MySQLError, OSError) as error:
            self.error = str(error)

    async def end(self) -> None:
        self.ending.set()
        await asyncio.to_thread(self.join, 20)
        assert not self.is_alive()


async def test_passwords_change_under_writes_and_nobody_is_refused(both: Any, measured: Callable[[str], None]) -> None:
    lab = both
    for site in (lab.east, lab.west):
        site.parameters["applicationGraceS"] = 3.0
    await lab.up()
    writer = Writer(lab.east.client())
    old, new = lab.east.password, "another ' \\ password"

    # The standby's Secret first: it is refused with it, and goes on with the old one.
    put(secret(lab.west), "replication", new)
    await lab.until("west has tried it", lambda: lab.west.component.backend.credentials._known == new)
    seen = len(writer.acknowledged)
    await lab.until("writes go on", lambda: len(writer.acknowledged) > seen + 20 or writer.error)
    assert not let_in(lab.east, "graf_repl", new)
    assert lab.west.standby.caught_up

    put(secret(lab.east), "replication", new)
    promotable: list[bool] = []

    async def old_one_ended() -> bool:
        promotable.append((await lab.west.status()).promotable)
        return not let_in(lab.east, "graf_repl", old)

    await lab.until("the old replication password to end", old_one_ended, 30)
    assert all(promotable)
    assert let_in(lab.east, "graf_repl", new)
    assert lab.west.standby._password == new
    assert lab.east.component.active.in_force == ("east", "west")
    assert writer.error == ""
    measured(f"rotation under writes: longest wait for an acknowledgement {writer.longest_s * 1000:.0f} ms")

    # The application's: both are accepted for a time, then the new one alone; at the standby by replication.
    for site in (lab.east, lab.west):
        put(secret(site), "application", "app's new")
    await lab.until("the new one", lambda: let_in(lab.east, "app", "app's new"))
    assert let_in(lab.east, "app", old)

    async def told() -> bool:
        return "app: the old password is accepted for" in (await lab.east.status()).facts.get("rotation", "")

    await lab.until("it is told", told)
    await lab.until("the old application password to end", lambda: not let_in(lab.east, "app", old))
    assert let_in(lab.east, "app", "app's new")
    await lab.until("at west too", lambda: not let_in(lab.west, "app", old) and let_in(lab.west, "app", "app's new"))

    # Nothing acknowledged was lost, and the sites still find each other: a failover, and the way back.
    await writer.end()
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert writer.acknowledged <= lab.west.numbers()
    await lab.east.ensure(Role.STANDBY, 2)
    await lab.east.promotable()


@pytest.mark.mysql_long
async def test_a_site_that_becomes_active_in_the_middle_ends_the_rotation(both: Any) -> None:
    lab = both
    await lab.up()
    old, new = lab.east.password, "the next one"
    put(secret(lab.east), "replication", new)
    await lab.until("east accepts the new one", lambda: let_in(lab.east, "graf_repl", new))
    await lab.until("so does west, by replication", lambda: let_in(lab.west, "graf_repl", new))

    async def told() -> bool:
        return "until west has shown that it uses the new one" in (await lab.east.status()).facts.get("rotation", "")

    await lab.until("east tells whom it waits for", told)
    assert let_in(lab.east, "graf_repl", old)  # west uses it: its Secret is the old one
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    await lab.east.ensure(Role.STANDBY, 2)  # with the new one, at a site that has the old one only
    await lab.west.ensure(Role.ACTIVE, 2, "west", "east")
    assert let_in(lab.west, "graf_repl", old)
    put(secret(lab.west), "replication", new)
    await lab.until("the old one to end", lambda: not let_in(lab.west, "graf_repl", old))
    assert let_in(lab.west, "graf_repl", new)
    await lab.until("at east too", lambda: not let_in(lab.east, "graf_repl", old))
    await lab.east.promotable()


@pytest.mark.mysql_long
async def test_an_overtaken_rotation_does_not_lock_out_who_still_has_the_first(both: Any) -> None:
    lab = both
    await lab.up()
    old = lab.east.password
    for password in ("second", "third"):
        put(secret(lab.east), "replication", password)
        await lab.until(f"east accepts {password}", lambda password=password: let_in(lab.east, "graf_repl", password))
        assert let_in(lab.east, "graf_repl", old)
    await lab.west.component.backend.kill()  # and comes back with the first
    await lab.west.ensure(Role.STANDBY, 1)
    put(secret(lab.west), "replication", "third")
    await lab.until("only the third is left", lambda: not let_in(lab.east, "graf_repl", old))
    assert let_in(lab.east, "graf_repl", "third")
    assert not let_in(lab.east, "graf_repl", "second")


@pytest.mark.mysql_long
async def test_with_a_scope_each_site_changes_its_own_accounts_outside_the_log(scoped_lab: Any, tmp_path: Path) -> None:
    """The filters of a scope let no account through, and at a standby nothing else may be in the history."""
    lab = own_secrets(scoped_lab, tmp_path)
    for site in (lab.east, lab.west):
        put(secret(site), "local", site.password)
        site.parameters["applicationGraceS"] = 2.0
    await lab.up()
    old, new = lab.east.password, "the scope's next"
    await lab.until("all of it at west", lambda: lab.west.position() == lab.east.position())
    before = lab.east.position()

    put(secret(lab.west), "replication", new)
    await lab.until("west accepts the new one", lambda: let_in(lab.west, "graf_repl", new))
    assert not let_in(lab.east, "graf_repl", new)

    async def told() -> bool:
        return "until the other site has accepted the new one" in (await lab.west.status()).facts.get("rotation", "")

    await lab.until("west tells whom it waits for", told)
    assert let_in(lab.west, "graf_repl", old)  # east may have to follow it with that one
    put(secret(lab.east), "replication", new)
    for site in (lab.east, lab.west):
        await lab.until(f"the old one to end at {site.name}", lambda s=site: not let_in(s, "graf_repl", old))
        assert let_in(site, "graf_repl", new)

    for site in (lab.east, lab.west):
        for what in ("application", "local"):
            put(secret(site), what, f"{what}'s new")
        for user, what in (("app", "application"), ("sitelog", "local")):
            await lab.until(f"{user}'s new one", lambda s=site, u=user, w=what: let_in(s, u, f"{w}'s new"))
            await lab.until(f"the end of {user}'s old one", lambda s=site, u=user: not let_in(s, u, old))
    assert lab.east.position() == lab.west.position() == before

    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    await lab.east.ensure(Role.STANDBY, 2)
    await lab.east.promotable()


@pytest.mark.mysql_long
async def test_new_certificates_are_loaded_by_the_running_server(lab: Any, tmp_path: Path) -> None:
    own_secrets(lab, tmp_path)
    group = certificates.authority(tmp_path / "group")
    for site in (lab.east, lab.west):
        site.parameters["tls"] = certificates.identity(group, site.name)
    await lab.up()

    def serial() -> str:
        done = certificates.openssl_output(
            *("s_client", "-starttls", "mysql", "-connect", f"127.0.0.1:{lab.east.port}", "-showcerts")
        )
        return str(certificates.openssl_output("x509", "-noout", "-serial", given=done))

    await lab.until("the first to be loaded", lambda: "serial=" in serial())
    first = serial()
    password = "with TLS as well"
    for site in (lab.east, lab.west):
        put(secret(site), "replication", password)
    await lab.until("the password is new", lambda: lab.west.standby._password == password)
    certificates.identity(group, "east")  # the same files, another certificate
    await lab.until("another one is shown", lambda: serial() not in ("", first))

    async def told() -> bool:
        return "valid until" in (await lab.east.status()).facts.get("tls", "")

    await lab.until("and its end is told", told)
    certificates.identity(group, "east", expired=True)

    async def refused() -> bool:
        return "has expired" in (await lab.east.status()).facts["tls"]

    await lab.until("an expired one is not loaded", refused)
    assert lab.west.standby.caught_up
    await lab.west.component.backend.kill()
    await lab.west.ensure(Role.STANDBY, 1)
    row = lab.east.sql("SELECT JSON_VALUE(Priv, '$.ssl_type') FROM mysql.global_priv WHERE User = 'graf_repl'")
    assert row == [("2",)]
