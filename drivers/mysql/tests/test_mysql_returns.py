"""The standby's evidence, the verdict on a returning site, and the way back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_sdk.errors import NeedsResyncError, PreconditionError
from graf_driver_sdk.types import Assessment, Health, ResyncStrategy, Role, Verdict

pytestmark = pytest.mark.mariadb


@contextlib.contextmanager
def applying_held(site: Any) -> Iterator[None]:
    """The standby receives and acknowledges, and cannot apply."""
    connection = pymysql.connect(unix_socket=str(site.socket), user="root", autocommit=True, ssl_disabled=True)
    try:
        with connection.cursor() as cursor:
            cursor.execute("FLUSH TABLES WITH READ LOCK")
        yield
    finally:
        with contextlib.suppress(pymysql.MySQLError):
            connection.close()


def write(site: Any, *numbers: int) -> None:
    with site.client() as connection, connection.cursor() as cursor:
        for number in numbers:
            cursor.execute(f"INSERT INTO t VALUES ({number})")


async def test_a_discarded_relay_log_makes_the_standby_unpromotable_until_it_caught_up_again(lab: Any) -> None:
    await lab.up()
    with applying_held(lab.west):
        write(lab.east, *range(20))  # acknowledged: received at west, not applied
        assert (await lab.west.status()).promotable
        await lab.west.crash()
    assert not (await lab.west.status()).promotable
    await lab.east.crash()

    async def follows() -> bool:
        await lab.west.once(
            Role.STANDBY, 1
        )  # as a controller does, until it is there: a server takes its time to start
        return bool(lab.west.component.backend.mode.name == "STANDBY")

    await lab.until("west's server runs and follows", follows)
    assert lab.west.numbers() == set()  # they are gone here, and were acknowledged

    async def tells_why() -> bool:
        status = await lab.west.status()
        assert not status.promotable
        return "discarded" in status.promotable_reason  # whatever it waits for by now is told after it

    await lab.until("west says why, once its applier has started", tells_why)
    with pytest.raises(PreconditionError, match="may lack acknowledged writes"):
        await lab.west.once(Role.ACTIVE, 2, "west")
    await lab.east.ensure(Role.ACTIVE, 3, "east", "west")
    await lab.west.ensure(Role.STANDBY, 3)
    await lab.west.promotable()
    assert lab.west.numbers() == set(range(20))


async def test_a_stopped_replication_that_starts_again_drops_the_evidence(lab: Any) -> None:
    await lab.up()
    lab.west.sql("STOP SLAVE")
    await lab.until("west says so", lambda: not lab.west.standby.caught_up)
    await lab.west.ensure(Role.STANDBY, 1)
    await lab.west.promotable()


async def test_a_standby_killed_between_the_log_and_the_position_of_a_change_of_a_table_goes_on(lab: Any) -> None:
    """The state that such a kill leaves (met): the binary log has the change, the slave's position has not."""
    await lab.up()
    last = lab.east.position()
    await lab.until("the table at west", lambda: lab.west.position() == last)
    lab.west.sql("STOP SLAVE")
    domain, server, number = last.split(",")[0].split("-")
    connection = pymysql.connect(unix_socket=str(lab.west.socket), user="root", autocommit=True, ssl_disabled=True)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL gtid_strict_mode = OFF")
        cursor.execute(f"SET GLOBAL gtid_slave_pos = '{domain}-{server}-{int(number) - 1}'")
        cursor.execute("SET GLOBAL gtid_strict_mode = ON")
    await lab.west.ensure(Role.STANDBY, 1)
    write(lab.east, 1)
    await lab.until("the row at west", lambda: lab.west.numbers() == {1})
    await lab.west.promotable()


async def test_an_applier_that_was_stopped_alone_is_started_again(lab: Any) -> None:
    await lab.up()
    lab.west.sql("STOP SLAVE SQL_THREAD")
    await lab.until("west says so", lambda: not lab.west.standby.caught_up)
    await lab.west.ensure(Role.STANDBY, 1)
    await lab.west.promotable()


async def test_a_session_that_broke_on_a_living_server_is_opened_anew(lab: Any) -> None:
    await lab.up()
    for site in (lab.east, lab.west):
        site.component.backend.control.close()
        backend = site.component.backend
        await lab.until(f"another session at {site.name}", lambda backend=backend: not backend.control.broken)
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.west.ensure(Role.STANDBY, 1)
    await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
    write(lab.east, 1)
    await lab.until("the row at west", lambda: lab.west.numbers() == {1})


async def test_a_switch_of_the_applier_that_broke_in_its_middle_is_mended(lab: Any) -> None:
    await lab.up()
    control = lab.west.component.backend.control
    run = control.run

    async def breaks(*statements: str, **options: Any) -> None:
        if statements[0] == "STOP SLAVE SQL_THREAD":
            await run(statements[0])
            control.close()
        await run(*statements, **options)

    control.run = breaks
    lab.west.standby._parallel = False
    lab.west.standby.drop_evidence("to be gained anew, by the applier in parallel")
    await lab.until("the session to break", lambda: control.broken)
    await lab.west.promotable()
    write(lab.east, 1)
    await lab.until("the row at west", lambda: lab.west.numbers() == {1})


async def test_what_was_received_is_applied_before_promotion(lab: Any) -> None:
    await lab.up()
    with applying_held(lab.west):
        write(lab.east, *range(20))
        await lab.east.crash()
        assert (await lab.west.status()).promotable
        progress = await lab.west.once(Role.ACTIVE, 2, "west")
        assert not progress.completed
        assert not (await lab.west.status()).accepting
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert lab.west.numbers() == set(range(20))


async def test_a_fenced_standby_keeps_its_evidence_and_acknowledges_nothing(lab: Any) -> None:
    await lab.up()
    assert (await lab.west.once(Role.FENCED, 1)).completed
    status = await lab.west.status()
    assert (status.role, status.promotable) == (Role.FENCED, True)

    async def unacknowledged() -> bool:
        return not any(f.connected for f in (await lab.east.status()).followers)

    await lab.until("east has no follower", unacknowledged)
    await lab.west.ensure(Role.STANDBY, 1)
    write(lab.east, 1)
    assert (await lab.west.status()).promotable


async def test_a_standby_whose_applier_fails_is_not_promotable(lab: Any) -> None:
    await lab.up()
    connection = pymysql.connect(unix_socket=str(lab.west.socket), user="root", autocommit=True, ssl_disabled=True)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET sql_log_bin = 0")
        cursor.execute("INSERT INTO app.t VALUES (5)")
    write(lab.east, 5)

    async def failed() -> bool:
        status = await lab.west.status()
        return not status.promotable and status.health is Health.UNHEALTHY

    await lab.until("west is unhealthy", failed)
    assert "applier" in (await lab.west.status()).promotable_reason
    await lab.east.crash()
    with pytest.raises(PreconditionError):
        await lab.west.once(Role.ACTIVE, 2, "west")


async def test_a_resync_is_complete_when_what_was_written_meanwhile_is_here(lab: Any) -> None:
    """A fenced standby keeps its evidence, which says nothing of what it was not there to receive."""
    await lab.up()
    await lab.west.ensure(Role.FENCED, 1)
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    write(lab.east, *range(5))

    async def resync() -> Any:
        return (await lab.west.driver.resync(lab.west.spec, lab.east.peer(), ResyncStrategy.UNSPECIFIED, 1)).progress

    with applying_held(lab.west):
        await resync()
        held = await resync()
        assert not held.completed
        assert "to go" in held.message
        assert lab.west.numbers() == set()

    async def completed() -> bool:
        return bool((await resync()).completed)

    await lab.until("the resync to be complete", completed)
    assert lab.west.numbers() == set(range(5))
    verdict = (await lab.west.driver.assess(lab.west.spec, lab.east.peer())).verdict
    assert verdict is Verdict.CLEAN


async def test_verdicts_of_a_returning_site(lab: Any) -> None:
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.create_table()
    await lab.west.once(Role.INVALIDATED, 1, other=Role.ACTIVE)

    async def verdict() -> Verdict:
        return (await lab.west.driver.assess(lab.west.spec, lab.east.peer())).verdict

    async def known() -> Verdict:
        """The first that is one: it is Unknown as long as a server starts, and that holds."""
        told = [Verdict.UNKNOWN]

        async def is_known() -> bool:
            told.append(await verdict())
            return told[-1] is not Verdict.UNKNOWN

        await lab.until("a verdict", is_known)
        return told[-1]

    assert await known() is Verdict.EMPTY

    async def resynced() -> bool:
        answer = await lab.west.driver.resync(lab.west.spec, lab.east.peer(), ResyncStrategy.UNSPECIFIED, 1)
        assert answer.archive == ""
        return bool(answer.progress.completed)

    await lab.until("west has what east has", resynced, 30)
    await lab.west.promotable()
    assert await known() is Verdict.CLEAN
    await lab.west.once(Role.INVALIDATED, 1, other=Role.ACTIVE)
    write(lab.east, 1)
    assert await known() is Verdict.BEHIND
    await lab.east.driver.quiesce(lab.east.spec, 1)
    assert await verdict() is Verdict.UNKNOWN
    await lab.east.crash()
    assert await verdict() is Verdict.UNKNOWN


async def test_divergent_data_is_archived_and_the_site_rebuilt(lab: Any) -> None:
    await lab.up()
    await lab.east.ensure(Role.ACTIVE, 1, "east")  # shrunk: west has no part in what follows
    await lab.west.once(Role.FENCED, 1)
    write(lab.east, 1, 2)
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")  # as people force it
    write(lab.west, 3)
    assert (await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)).completed

    async def verdict() -> Assessment | None:
        told = await lab.east.driver.assess(lab.east.spec, lab.west.peer())
        return None if told.verdict is Verdict.UNKNOWN else told  # unknown while the server starts

    await lab.until("east's server runs and can be judged", verdict)
    assessment = await lab.east.driver.assess(lab.east.spec, lab.west.peer())
    assert assessment.verdict is Verdict.DIVERGED
    assert assessment.divergent.startswith("20-20-")
    with pytest.raises(NeedsResyncError):
        await lab.east.once(Role.STANDBY, 2)
    with pytest.raises(NeedsResyncError, match="REBUILD"):
        await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.FOLLOW, 2)
    archives: list[str] = []

    async def resynced() -> bool:
        answer = await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.UNSPECIFIED, 2)
        archives.append(answer.archive)
        return bool(answer.progress.completed)

    await lab.until("the rebuild", resynced)
    archive = Path(archives[-1])
    assert len({a for a in archives if a}) == 1
    assert assessment.divergent in archive.joinpath("graf-assessment.txt").read_text()
    assert list(archive.joinpath("data").glob("binlog.0*"))
    assert lab.east.numbers() == {3}
    assert (await lab.east.status()).promotable
    await lab.west.ensure(Role.ACTIVE, 2, "east", "west")
    write(lab.west, 4)
    await lab.until("the new row at east", lambda: lab.east.numbers() == {3, 4})


async def test_a_history_of_several_domains_is_applied_in_order_and_in_parallel_afterwards(lab: Any) -> None:
    """The planted bug is a parallel applier from the start: east's table and west's row race at the rebuilt site."""
    await lab.up()
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    for number in range(30):
        with lab.west.client() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE x{number} (n INT PRIMARY KEY)")
            cursor.execute(f"INSERT INTO x{number} VALUES (1)")
    write(lab.west, 1)
    await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)

    async def rebuilt() -> bool:
        answer = await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.REBUILD, 2)
        return bool(answer.progress.completed)

    await lab.until("the rebuild", rebuilt)
    assert lab.east.numbers() == {1}
    assert lab.east.sql("SELECT @@global.slave_parallel_threads") == [(4,)]
    assert (await lab.east.status()).promotable


async def test_an_empty_site_is_not_promoted_beside_one_that_has_data(lab: Any) -> None:
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.create_table()
    with pytest.raises(PreconditionError, match="is empty and east has data"):
        await lab.west.once(Role.ACTIVE, 2, "west")


async def test_both_sites_start_with_equal_empty_histories_and_bound_application_users(lab: Any) -> None:
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    assert lab.east.position() == ""
    grants = " ".join(row[0] for row in lab.east.sql("SHOW GRANTS FOR app@'%'"))
    assert "SUPER" not in grants
    assert "READ_ONLY" not in grants
    assert "READ ONLY" not in grants
    assert "ON `app`.*" in grants
