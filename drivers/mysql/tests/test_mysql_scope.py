"""A part of a server is the group's and the rest is the site's: on real servers."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_mysql import resync as resync_module
from graf_driver_mysql import tail
from graf_driver_mysql.guard import INTERVAL_S
from graf_driver_sdk.errors import DriverError, NeedsResyncError, PreconditionError
from graf_driver_sdk.types import Health, ResyncStrategy, Role, Verdict

pytestmark = pytest.mark.mariadb


def run(connection: Any, *statements: str) -> None:
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def note(site: Any, *numbers: int) -> None:
    """The site's own account writes into its own database."""
    run(
        site.local(),
        "CREATE TABLE IF NOT EXISTS seen (n INT PRIMARY KEY)",
        *[f"INSERT INTO seen VALUES ({n})" for n in numbers],
    )


def noted(site: Any) -> set[int]:
    return {row[0] for row in site.sql("SELECT n FROM sitelog.seen")}


def insert(site: Any, *numbers: int) -> None:
    run(site.client(), *[f"INSERT INTO app.t VALUES ({n})" for n in numbers])


def _applied(site: Any) -> str:
    return str(site.sql("SELECT @@global.gtid_slave_pos")[0][0])


async def test_a_site_writes_what_is_its_own_in_every_role_and_it_is_in_no_history(scoped_lab: Any) -> None:
    lab = scoped_lab
    await lab.up()
    insert(lab.east, 1)
    await lab.until("the row is at west", lambda: lab.west.position() == lab.east.position())
    before = (lab.east.position(), lab.west.position())
    note(lab.east, 1)
    note(lab.west, 2)
    # Without a selected database too: the binary log's own filters go by that one.
    for site in (lab.east, lab.west):
        run(site.local(None), "CREATE TABLE sitelog.more (n INT PRIMARY KEY)", "INSERT INTO sitelog.more VALUES (1)")
    assert (lab.east.position(), lab.west.position()) == before
    assert (noted(lab.east), noted(lab.west)) == ({1}, {2})
    with pytest.raises(pymysql.MySQLError) as refused:
        insert(lab.west, 9)
    assert refused.value.args[0] == 1290  # read-only binds the application
    with pytest.raises(pymysql.MySQLError) as refused:
        run(lab.west.local(), "INSERT INTO app.t VALUES (9)")
    assert refused.value.args[0] == 1142  # no privilege there
    status = await lab.west.status()
    assert status.facts["scope"] == "app.*, shop.orders"
    assert status.facts["locked_accounts"] == ""


async def test_everything_in_scope_is_replicated_whichever_database_is_selected(scoped_lab: Any) -> None:
    """The planted bug is binlog_do_db: it drops a CREATE TABLE of a session that has selected no database."""
    lab = scoped_lab
    await lab.up()
    nowhere = pymysql.connect(
        host="127.0.0.1", port=lab.east.port, user="app", password=lab.east.password, autocommit=True, ssl_disabled=True
    )
    run(nowhere, "CREATE TABLE app.u (n INT PRIMARY KEY)", "INSERT INTO app.u VALUES (1)")
    run(
        lab.east.client(),
        "USE information_schema",
        "ALTER TABLE app.u ADD COLUMN m INT",
        "CREATE TABLE shop.orders (n INT PRIMARY KEY)",
        "INSERT INTO shop.orders VALUES (5)",
        "CREATE TABLE shop.cache (n INT PRIMARY KEY)",
        "INSERT INTO shop.cache VALUES (6)",
    )
    await lab.until("all of it at west", lambda: _applied(lab.west) == lab.east.position())
    assert lab.west.sql("SELECT n FROM shop.orders") == [(5,)]
    assert lab.west.sql("SELECT n, m FROM app.u") == [(1, None)]
    assert lab.west.sql("SHOW TABLES FROM shop") == [("orders",)], "the other table is not in scope"


@pytest.mark.mysql_long
async def test_what_an_administrator_does_to_other_databases_stays_at_its_site(scoped_lab: Any) -> None:
    lab = scoped_lab
    await lab.up()
    note(lab.west, 2)
    lab.east.sql("DROP DATABASE sitelog")
    lab.east.sql("CREATE DATABASE another")
    insert(lab.east, 1)
    await lab.until("the row at west", lambda: lab.west.numbers() == {1})
    assert noted(lab.west) == {2}
    assert ("another",) not in lab.west.sql("SHOW DATABASES")


@pytest.mark.mysql_long
async def test_the_sites_own_writes_wait_for_no_standby(scoped_lab: Any) -> None:
    lab = scoped_lab
    await lab.up()
    await lab.west.crash()
    hung = threading.Thread(target=lambda: _until_error(lambda: insert(lab.east, 1)))
    hung.start()

    async def waits() -> bool:
        return (await lab.east.status()).facts["semi_sync_waiting"] == "1"

    await lab.until("a commit of the application waits", waits)
    await asyncio.wait_for(asyncio.to_thread(note, lab.east, 7), 5)
    assert noted(lab.east) == {7}
    assert (await lab.east.status()).facts["semi_sync_waiting"] == "1", "the application's still waits"
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await asyncio.to_thread(hung.join, 10)


def _until_error(call: Any) -> None:
    try:
        call()
    except pymysql.MySQLError:
        return


@pytest.mark.mysql_long
async def test_a_failover_under_load_and_a_return_touch_nothing_of_the_sites_own(
    scoped_lab: Any, measured: Any
) -> None:
    lab = scoped_lab
    await lab.up()
    note(lab.east, 1)
    note(lab.west, 2)
    lab.load.start(lab.east.client)
    await lab.until("some writes", lambda: len(lab.load.acknowledged) > 150)
    await lab.east.crash()
    await lab.load.ended()
    took = await lab.west.ensure(Role.ACTIVE, 2, "west")
    measured(f"promotion of a scoped standby {took * 1000:.0f} ms")
    assert lab.load.acknowledged <= lab.west.numbers()
    note(lab.west, 3)
    await lab.east.ensure(Role.STANDBY, 2)
    note(lab.east, 4)
    await lab.west.ensure(Role.ACTIVE, 2, "east", "west")
    await lab.east.promotable()
    assert lab.load.acknowledged <= lab.east.numbers()
    assert (noted(lab.east), noted(lab.west)) == ({1, 4}, {2, 3})
    assert not lab.east.root.joinpath("archive").exists(), "nothing had to be rebuilt"


async def _diverge(lab: Any) -> None:
    """East has a transaction that west, which was forced to be active, has not."""
    await lab.up()
    insert(lab.east, 1)
    run(lab.east.client(), "CREATE TABLE shop.orders (n INT PRIMARY KEY)", "INSERT INTO shop.orders VALUES (1)")
    await lab.until("both at west", lambda: lab.west.position() == lab.east.position())
    note(lab.east, 1)
    note(lab.west, 2)
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.west.once(Role.FENCED, 1)
    insert(lab.east, 2)
    run(lab.east.client(), "CREATE PROCEDURE shop.p() SELECT 1", "INSERT INTO shop.orders VALUES (2)")
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    insert(lab.west, 3)
    run(lab.west.client(), "CREATE PROCEDURE shop.p() SELECT 2", "INSERT INTO shop.orders VALUES (3)")
    assert (await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)).completed
    await lab.east.fenced_and_running(2)


async def _resynced(lab: Any) -> str:
    archives: list[str] = []

    async def done() -> bool:
        answer = await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.UNSPECIFIED, 2)
        archives.append(answer.archive)
        return bool(answer.progress.completed)

    await lab.until("the rebuild", done, 20)
    return archives[-1]


async def test_a_rebuild_replaces_what_is_in_scope_and_keeps_the_rest(scoped_lab: Any) -> None:
    lab = scoped_lab
    await _diverge(lab)
    note(lab.east, 4)
    assessment = await lab.east.driver.assess(lab.east.spec, lab.west.peer())
    assert assessment.verdict is Verdict.DIVERGED
    assert assessment.divergent.startswith("20-20-"), "and nothing of the site's own accounts"
    archive = Path(await _resynced(lab))
    assert assessment.divergent in archive.joinpath("graf-assessment.txt").read_text()
    assert list(archive.joinpath("data").glob("binlog.0*"))
    assert archive.joinpath("data", "app", "t.ibd").is_file()
    index = archive.joinpath(tail.FOLDER, tail.INDEX).read_text()
    assert "app.t" in index
    assert "INSERT INTO app.t VALUES (2)" in index, "what was only here is told"
    assert "sitelog" not in index, "and nothing of the site's own"
    assert lab.east.numbers() == {1, 3}
    assert lab.east.sql("SELECT n FROM shop.orders") == [(1,), (3,)]
    assert (noted(lab.east), noted(lab.west)) == ({1, 4}, {2})
    assert (await lab.east.status()).promotable
    await lab.west.ensure(Role.ACTIVE, 2, "east", "west")
    insert(lab.west, 5)
    await lab.until("the new row at east", lambda: lab.east.numbers() == {1, 3, 5})


@pytest.mark.mysql_long
async def test_a_tail_that_cannot_be_cut_off_is_put_aside_and_the_sites_own_stays(scoped_lab: Any) -> None:
    """A statement that changes a table cannot be rolled back at recovery: the failed active comes back diverged."""
    lab = scoped_lab
    await lab.up()
    insert(lab.east, 1)
    note(lab.east, 1)
    await lab.until("the row at west", lambda: lab.west.position() == lab.east.position())
    await lab.west.standby.hold()
    hung = threading.Thread(target=lambda: _until_error(lambda: run(lab.east.client(), "CREATE TABLE tail (n INT)")))
    hung.start()

    async def waits() -> bool:
        return (await lab.east.status()).facts["semi_sync_waiting"] == "1"

    await lab.until("it waits for the standby", waits)
    await lab.east.crash()
    await asyncio.to_thread(hung.join, 10)
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert (await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)).completed
    await lab.east.fenced_and_running(2)
    assessment = await lab.east.driver.assess(lab.east.spec, lab.west.peer())
    assert assessment.verdict is Verdict.DIVERGED, assessment
    await _resynced(lab)
    assert lab.east.sql("SHOW TABLES FROM app") == [("t",)]
    assert (lab.east.numbers(), noted(lab.east)) == ({1}, {1})


@pytest.mark.mysql_long
async def test_a_rebuild_that_was_broken_off_serves_nothing_and_is_gone_on_with(
    scoped_lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = scoped_lab
    await _diverge(lab)
    emptied = resync_module.empty

    async def half(backend: Any, scope: Any) -> None:
        side = await backend.side_session("half")
        await side.run("SET sql_log_bin = 0", "DROP DATABASE app")
        side.close()
        raise DriverError("the driver dies here", reason="planted")

    monkeypatch.setattr(resync_module, "empty", half)
    with pytest.raises(DriverError, match="dies here"):
        await _resynced(lab)
    monkeypatch.setattr(resync_module, "empty", emptied)
    await lab.east.restart_driver()
    await lab.east.fenced_and_running(2)
    status = await lab.east.status()
    assert (status.promotable, "being rebuilt" in status.promotable_reason) == (False, True)
    with pytest.raises(NeedsResyncError, match="being rebuilt"):
        await lab.east.once(Role.STANDBY, 2)
    with pytest.raises(PreconditionError, match="may lack acknowledged writes"):
        await lab.east.once(Role.ACTIVE, 3, "east")
    archive = await _resynced(lab)
    assert archive in [str(path) for path in lab.east.root.joinpath("archive").iterdir()]
    assert len(list(lab.east.root.joinpath("archive").iterdir())) == 1
    assert lab.east.root.joinpath("archive", archive, tail.FOLDER, tail.INDEX).is_file(), (
        "told by the driver that went on with it"
    )
    assert lab.east.numbers() == {1, 3}
    assert noted(lab.east) == {1}


@pytest.mark.mysql_long
async def test_what_a_filter_left_out_last_does_not_hold_up_who_is_rebuilt(scoped_lab: Any) -> None:
    lab = scoped_lab
    await lab.up()
    run(lab.east.client(), "CREATE TABLE shop.cache (n INT PRIMARY KEY)", "INSERT INTO shop.cache VALUES (6)")
    last = lab.east.position()
    assert lab.west.position() != last, "west's log lacks what its filter left out"
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert last in lab.west.position()
    insert(lab.west, 1)
    assert (await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)).completed

    async def rebuilt() -> bool:
        answer = await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.REBUILD, 2)
        return bool(answer.progress.completed)

    await lab.until("the rebuild", rebuilt, 20)
    assert lab.east.numbers() == {1}
    assert lab.east.sql("SHOW TABLES FROM shop") == [("cache",)], "a table beside the listed one stays"


@pytest.mark.mysql_long
async def test_an_account_that_could_reach_both_is_locked(scoped_lab: Any) -> None:
    lab = scoped_lab
    await lab.up()
    await lab.until("a standby that tends", lambda: lab.west.component.guard._checked_at_s > 0)
    session = lab.west.local()
    lab.west.sql("SET STATEMENT sql_log_bin = 0 FOR GRANT INSERT ON app.* TO sitelog@'%'")

    async def told() -> bool:
        return "sitelog@%" in (await lab.west.status()).facts["locked_accounts"]

    await lab.until("the account to be locked", told, INTERVAL_S + 5)
    with pytest.raises(pymysql.MySQLError):
        run(session, "INSERT INTO app.t VALUES (9)")
    with pytest.raises(pymysql.MySQLError) as refused:
        lab.west.local()
    assert refused.value.args[0] == 4151  # the account is locked
    status = await lab.west.status()
    assert (status.health, status.promotable) == (Health.HEALTHY, True), "it is contained"


@pytest.mark.mysql_long
async def test_read_only_is_switched_on_again_by_the_driver(scoped_lab: Any) -> None:
    """The privilege by which the site's own account passes read_only can switch it off as well."""
    lab = scoped_lab
    await lab.up()
    run(lab.west.local(), "SET GLOBAL read_only = OFF")
    await lab.until("read_only is on again", lambda: lab.west.sql("SELECT @@read_only") == [(1,)], 5)


@pytest.mark.mysql_long
async def test_a_planned_move_sends_the_application_away_and_leaves_the_sites_own_sessions(scoped_lab: Any) -> None:
    lab = scoped_lab
    await lab.up()
    mine, theirs = lab.east.local(), lab.east.client()
    await lab.east.driver.quiesce(lab.east.spec, 1)
    run(mine, "CREATE TABLE kept (n INT PRIMARY KEY)")
    with pytest.raises(pymysql.MySQLError):
        run(theirs, "SELECT 1")
    await lab.east.driver.unquiesce(lab.east.spec, 1)
    insert(lab.east, 1)


@pytest.mark.mysql_long
async def test_planted_bug_a_promotion_that_logs_no_skipped_names_leaves_a_rebuild_without_end(
    scoped_lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = scoped_lab
    await lab.up()
    run(lab.east.client(), "CREATE TABLE shop.cache (n INT PRIMARY KEY)")
    last = lab.east.position()
    await lab.until("west knows of it", lambda: _applied(lab.west) == last)
    monkeypatch.setattr(type(lab.west.component.backend.engine), "log_skipped", lambda *_: ())
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert last not in lab.west.position()


async def test_data_of_another_scope_is_not_started(scoped_lab: Any) -> None:
    lab = scoped_lab
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.east.restart_driver()
    lab.east.spec.parameters["scope"] = {**lab.east.parameters["scope"], "databases": ["app", "billing"]}
    with pytest.raises(DriverError, match="made for the scope"):
        await lab.east.once(Role.ACTIVE, 1, "east")
    del lab.east.spec.parameters["scope"]
    await lab.east.restart_driver()
    with pytest.raises(DriverError, match="made for the scope"):
        await lab.east.once(Role.ACTIVE, 1, "east")
