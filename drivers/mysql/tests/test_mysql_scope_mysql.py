"""A part of a server with MySQL: the replication filters of one channel, on real servers."""

import asyncio
from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_sdk.types import ResyncStrategy, Role, Verdict

pytestmark = [pytest.mark.mariadb, pytest.mark.mysql_long]


def run(connection: Any, *statements: str) -> None:
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


async def filled(lab: Any) -> None:
    """Rows in scope, beside a listed table, and in a database that nobody listed."""
    await lab.up()
    run(
        lab.east.client(),
        "INSERT INTO t VALUES (1)",
        "CREATE TABLE shop.orders (n INT PRIMARY KEY)",
        "CREATE TABLE shop.carts (n INT PRIMARY KEY)",
        "USE shop",
        "INSERT INTO orders VALUES (1)",
        "INSERT INTO carts VALUES (1)",
        "INSERT INTO app.t VALUES (2)",
        "CREATE TABLE app.u (n INT PRIMARY KEY)",
    )
    for statement in ("CREATE DATABASE other", "CREATE TABLE other.x (n INT)", "INSERT INTO other.x VALUES (1)"):
        lab.east.sql(statement)
    position = lab.east.position()
    await lab.until("west to have applied it all", lambda: lab.west.position() == position)


def tables(site: Any) -> set[str]:
    query = "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables WHERE table_schema IN"
    return {row[0] for row in site.sql(f"{query} ('app', 'shop', 'other')")}


async def judged(lab: Any, site: Any, active: Any) -> Verdict:
    """The verdict on a site that comes back, once its server runs."""
    told = [Verdict.UNKNOWN]

    async def known() -> bool:
        await site.once(Role.INVALIDATED, 2, other=Role.ACTIVE)
        told.append((await site.driver.assess(site.spec, active.peer())).verdict)
        return told[-1] is not Verdict.UNKNOWN

    await lab.until(f"a verdict on {site.name}", known)
    return told[-1]


async def test_what_is_listed_is_replicated_and_the_rest_leaves_its_names_in_the_history(mysql_scoped_lab: Any) -> None:
    """The planted bug is a site without the filters: it has shop.carts and other.x too."""
    lab = mysql_scoped_lab
    await filled(lab)
    assert lab.west.numbers() == {1, 2}
    assert tables(lab.west) == {"app.t", "app.u", "shop.orders"}
    assert lab.west.sql("SELECT n FROM shop.orders") == [(1,)]
    status = await lab.west.status()
    assert (status.facts["scope"], status.promotable) == ("app.*, shop.orders", True)
    with pytest.raises(pymysql.MySQLError) as refused:
        run(lab.west.client(), "INSERT INTO t VALUES (9)")
    assert refused.value.args[0] == 1290
    # A failover, and the old active comes back: the same history, and what is its own is still there.
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    run(lab.west.client(), "INSERT INTO t VALUES (3)", "INSERT INTO shop.orders VALUES (3)")
    assert await judged(lab, lab.east, lab.west) is Verdict.BEHIND
    await lab.east.ensure(Role.STANDBY, 2)
    await lab.east.promotable()
    await lab.west.ensure(Role.ACTIVE, 2, "east", "west")
    await asyncio.to_thread(run, lab.west.client(), "INSERT INTO t VALUES (4)")
    await lab.until("the row at east", lambda: lab.east.numbers() == {1, 2, 3, 4})
    assert tables(lab.east) == {"app.t", "app.u", "shop.orders", "shop.carts", "other.x"}


async def test_a_diverged_site_is_rebuilt_from_a_history_with_filtered_parts(mysql_scoped_lab: Any) -> None:
    lab = mysql_scoped_lab
    await filled(lab)
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.west.once(Role.FENCED, 1)
    run(lab.east.client(), "INSERT INTO t VALUES (8)")
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    run(lab.west.client(), "INSERT INTO t VALUES (3)")
    await lab.east.fenced_and_running(2)
    assert (await lab.east.driver.assess(lab.east.spec, lab.west.peer())).verdict is Verdict.DIVERGED
    archives: list[str] = []

    async def rebuilt() -> bool:
        answer = await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.UNSPECIFIED, 2)
        archives.append(answer.archive)
        return bool(answer.progress.completed)

    await lab.until("east is rebuilt", rebuilt, 30)
    assert lab.east.numbers() == {1, 2, 3}
    assert tables(lab.east) == {"app.t", "app.u", "shop.orders"}
    kept = {path.name for path in await asyncio.to_thread(lambda: list(Path(archives[-1], "data").iterdir()))}
    assert "other" in kept, "what was out of scope is in the archive"
    assert (await lab.east.status()).promotable


async def test_each_site_changes_its_own_accounts_and_a_standby_is_shut_again(
    mysql_scoped_lab: Any, tmp_path: Path
) -> None:
    lab = mysql_scoped_lab
    for site in (lab.east, lab.west):
        mounted = tmp_path / f"secret-{site.name}"
        mounted.mkdir()
        for what in ("replication", "application"):
            (mounted / f"{what}-password").write_text(site.password)
        site.parameters["credentialsDir"] = str(mounted)
    await lab.up()
    before = lab.east.position()
    await lab.until("west to have applied it all", lambda: lab.west.position() == before)
    for site in (lab.east, lab.west):
        (tmp_path / f"secret-{site.name}" / "application-password").write_text("another")

    def let_in(site: Any) -> bool:
        try:
            pymysql.connect(unix_socket=str(site.socket), user="app", password="another", ssl_disabled=True).close()
        except pymysql.err.OperationalError as error:
            if error.args[0] != 1045:
                raise
            return False
        return True

    for site in (lab.east, lab.west):
        await lab.until(f"{site.name} to accept it", lambda site=site: let_in(site))
    await lab.until("west to be shut", lambda: lab.west.sql("SELECT @@global.super_read_only") == [(1,)])
    assert lab.west.position() == before, "no account is in the history"
