"""kill -9 under load, and what the data says afterwards: nothing acknowledged is lost."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_mysql import backend as backend_module
from graf_driver_mysql import component as component_module
from graf_driver_mysql import tail, truncated
from graf_driver_mysql.record import DataRole, Record
from graf_driver_mysql.recovery import Start, choose, continues
from graf_driver_sdk.errors import PreconditionError
from graf_driver_sdk.types import Health, ResyncStrategy, Role, Verdict

pytestmark = pytest.mark.mariadb


async def _write_until_hung(lab: Any, number: int) -> threading.Thread:
    """One write at east that waits for an acknowledgement which does not come."""

    def write() -> None:
        try:
            with lab.east.client() as connection, connection.cursor() as cursor:
                cursor.execute(f"INSERT INTO t VALUES ({number})")
                lab.load.acknowledged.add(number)
        except pymysql.MySQLError:
            return

    thread = threading.Thread(target=write)
    thread.start()

    async def waits() -> bool:
        return (await lab.east.status()).facts["semi_sync_waiting"] != "0"

    await lab.until("a commit waits for the standby", waits)
    return thread


async def _crash_alone(lab: Any, rounds: int, *, stop_at_loss: bool = False) -> int:
    """kill -9 of a lone active under load, restart as fenced, count acknowledged writes that are gone."""
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.create_table()
    lost = 0
    for number in range(rounds):
        before = len(lab.load.acknowledged)
        lab.load.start(lab.east.client)
        await lab.until("some writes", lambda n=before: len(lab.load.acknowledged) > n + 150)
        lab.east.kill()
        await lab.load.ended()
        await lab.east.dead()
        await lab.east.fenced_and_running(2 + number)
        lost += len(lab.load.acknowledged - lab.east.numbers())
        if lost and stop_at_loss:
            break
        await lab.east.ensure(Role.ACTIVE, 2 + number, "east")
    return lost


async def test_a_lone_active_keeps_every_acknowledged_write_over_kill_9(lab: Any) -> None:
    assert await _crash_alone(lab, rounds=4) == 0
    assert len(lab.load.acknowledged) > 500


async def test_planted_bug_truncating_a_lone_active_loses_acknowledged_writes(
    lab: Any, monkeypatch: pytest.MonkeyPatch, measured: Any
) -> None:
    """The rule of recovery.py taken out: the loss shows, so the test above would see it."""

    async def let_pass(*_: Any) -> None:
        return

    monkeypatch.setattr(component_module, "choose", lambda *_, **__: Start.TRUNCATE)
    monkeypatch.setattr(component_module.Component, "_refuse_unproven", let_pass)
    lost = await _crash_alone(lab, rounds=15, stop_at_loss=True)
    measured(f"acknowledged writes lost with the planted bug: {lost} of {len(lab.load.acknowledged)}")
    assert lost > 0


async def test_no_acknowledged_write_is_lost_over_repeated_failovers_under_load(lab: Any, measured: Any) -> None:
    await lab.up()
    active, standby = lab.east, lab.west
    gaps = []
    for epoch in range(2, 6):
        before = len(lab.load.acknowledged)
        lab.load.start(active.client)
        await lab.until("some writes", lambda n=before: len(lab.load.acknowledged) > n + 150)
        active.kill()
        await lab.load.ended()
        gaps.append(await standby.ensure(Role.ACTIVE, epoch, standby.name) * 1000)
        assert lab.load.acknowledged <= standby.numbers()
        await active.ensure(Role.STANDBY, epoch)
        await standby.ensure(Role.ACTIVE, epoch, "east", "west")
        await active.promotable()
        assert lab.load.acknowledged <= active.numbers()
        active, standby = standby, active
    measured(f"{len(lab.load.acknowledged)} acknowledged, 0 lost; promotions in {[round(g) for g in gaps]} ms")


async def test_the_unacknowledged_tail_of_a_deposed_active_is_cut_off(lab: Any) -> None:
    await lab.up()
    await lab.west.standby.hold()
    hung = await _write_until_hung(lab, 7)
    await lab.east.crash()
    await asyncio.to_thread(hung.join, 10)
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert (await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)).completed
    assessment = None

    async def assessed() -> bool:
        nonlocal assessment
        assessment = await lab.east.driver.assess(lab.east.spec, lab.west.peer())
        return assessment.verdict.name == "CLEAN"

    await lab.until("the verdict Clean", assessed)
    assert lab.east.numbers() == set()
    status = await lab.east.status()
    assert not status.promotable
    assert status.facts["data_role"] == "truncated"
    with pytest.raises(PreconditionError, match="may lack acknowledged writes"):
        await lab.east.once(Role.ACTIVE, 3, "east")
    await lab.east.ensure(Role.STANDBY, 3)
    await lab.east.promotable()


async def _behind_a_hung_commit(lab: Any, statement: str) -> tuple[threading.Thread, ...]:
    """A change of the table ``doomed`` at east that is done and not logged, behind writes that west has.

    The first write waits for its acknowledgement; the second is in the log, waits for the first and keeps the log to
    itself meanwhile; the change has done its work and waits for the log.
    """
    lab.west.sql("SET GLOBAL rpl_semi_sync_slave_enabled = OFF")
    lab.west.sql("STOP SLAVE IO_THREAD")
    lab.west.sql("START SLAVE IO_THREAD")
    table = lab.east.root / "data" / "app" / "doomed.ibd"
    before, file = lab.east.position(), table.stat().st_ino
    threads = [await _write_until_hung(lab, 7)]
    await lab.until("west has the write", lambda: lab.west.numbers() == {7})

    def run(text: str) -> threading.Thread:
        def work() -> None:
            with contextlib.suppress(pymysql.MySQLError), lab.east.client() as one, one.cursor() as cursor:
                cursor.execute(text)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    threads.append(run("INSERT INTO t VALUES (8)"))
    await lab.until("the second write is logged", lambda: _sequence(lab.east.position()) == _sequence(before) + 2)
    threads.append(run(statement))
    await lab.until("the table's file is gone", lambda: not table.exists() or table.stat().st_ino != file)
    assert _sequence(lab.east.position()) == _sequence(before) + 2, "and that is not logged"
    return tuple(threads)


def _sequence(position: str) -> int:
    return int(position.rpartition("-")[2])


async def _killed_in(lab: Any, statement: str) -> None:
    """East is killed in it, when it is done and not logged; ``doomed`` had one row."""
    await lab.up()
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE doomed (n INT)")
        cursor.execute("INSERT INTO doomed VALUES (1)")
    await lab.until("the definition is older than the change", _older(lab.east.root / "data" / "app" / "doomed.frm"))
    await lab.west.promotable()
    threads = await _behind_a_hung_commit(lab, statement)
    await lab.east.crash()
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)


def _older(path: Path) -> Callable[[], bool]:
    return lambda: time.time() > path.stat().st_mtime + 2 * truncated.APART_S


async def _return(lab: Any) -> Any:
    """West takes over; the verdict on east when its server runs again."""
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert lab.west.sql("SELECT n FROM app.doomed") == [(1,)]
    assert (await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)).completed
    await lab.east.fenced_and_running(2)
    return await lab.east.driver.assess(lab.east.spec, lab.west.peer())


@pytest.mark.parametrize("statement", ["DROP TABLE doomed", "TRUNCATE TABLE doomed"])
async def test_a_change_of_a_table_that_was_done_and_not_logged_makes_the_site_diverged(
    lab: Any, statement: str
) -> None:
    """Behind a tail that is cut off. Recovery finishes the DROP; of the TRUNCATE it knows nothing."""
    await _killed_in(lab, statement)
    finding = await _return(lab)
    assert (finding.verdict, finding.divergent) == (Verdict.DIVERGED, "0-20-1")
    archives: list[str] = []

    async def rebuilt() -> bool:
        answer = await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.UNSPECIFIED, 2)
        archives.append(answer.archive)
        return bool(answer.progress.completed)

    await lab.until("the rebuild", rebuilt, 20)
    index = Path(archives[-1]).joinpath(tail.FOLDER, tail.INDEX).read_text()
    assert f"{statement.split()[0]} TABLE" in index, "what was only here is told"
    assert lab.east.sql("SELECT n FROM app.doomed") == [(1,)]
    assert lab.east.sql("SELECT @@global.gtid_domain_id") == [(20,)]


async def test_a_truncate_that_was_done_and_not_logged_is_logged_by_a_local_restart(lab: Any) -> None:
    await _killed_in(lab, "TRUNCATE TABLE doomed")
    assert lab.west.sql("SELECT n FROM app.doomed") == [(1,)]
    await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
    assert lab.east.sql("SELECT n FROM app.doomed") == []
    await lab.until("the same at west", lambda: lab.west.sql("SELECT n FROM app.doomed") == [])


async def test_a_suspect_that_has_rows_or_that_recovery_removed_is_left_alone(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.up()
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")
    await lab.east.crash()
    wrong = (truncated.Table("app", "never_was"), truncated.Table("app", "t"))
    monkeypatch.setattr(backend_module, "suspects", lambda *_: wrong)
    before = lab.west.position()
    await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
    assert (lab.east.numbers(), lab.east.position()) == ({1}, before)


@pytest.mark.mysql_long
async def test_planted_bug_a_recovery_that_continues_a_history_that_was_cut_off_hides_the_drop(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "continues", lambda *_, **__: True)
    await _killed_in(lab, "DROP TABLE doomed")
    assert (await _return(lab)).verdict is Verdict.BEHIND
    assert lab.east.sql("SHOW TABLES FROM app") != lab.west.sql("SHOW TABLES FROM app")


@pytest.mark.mysql_long
async def test_planted_bug_without_a_look_for_it_a_truncate_is_hidden(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "suspects", lambda *_: ())
    await _killed_in(lab, "TRUNCATE TABLE doomed")
    assert (await _return(lab)).verdict is Verdict.BEHIND
    assert lab.east.sql("SELECT n FROM app.doomed") == []


async def test_a_deposed_active_stays_down_until_the_other_was_seen_to_be_promoted(lab: Any) -> None:
    """Both sites lose power. Were the old active truncated on the word of a controller, a write that the standby had
    received and not applied would be gone from both."""
    await lab.up()
    lab.load.start(lab.east.client)
    await lab.until("some writes", lambda: len(lab.load.acknowledged) > 150)
    lab.west.kill()
    lab.east.kill()
    await lab.load.ended()
    await lab.east.restart_driver()
    await lab.west.restart_driver()
    assert (await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)).completed
    await lab.west.once(Role.FENCED, 2)

    async def says_why() -> bool:
        return "seen to be promoted" in (await lab.east.status()).message

    await lab.until("east says why it is down", says_why)
    status = await lab.east.status()
    assert (status.health, status.accepting, status.promotable) == (Health.DEAD, False, True)
    west = await lab.west.status()
    assert not west.promotable
    await lab.until("west's server runs", lambda: lab.west.component.backend.mode.name == "IDLE")
    with pytest.raises(PreconditionError, match="may lack acknowledged writes"):
        await lab.west.once(Role.ACTIVE, 3, "west")
    await lab.east.ensure(Role.ACTIVE, 3, "east")
    assert lab.load.acknowledged <= lab.east.numbers()


async def test_a_local_restart_serves_again_with_everything(lab: Any, measured: Any) -> None:
    await lab.up()
    lab.load.start(lab.east.client)
    await lab.until("some writes", lambda: len(lab.load.acknowledged) > 150)
    lab.east.kill()
    await lab.load.ended()
    await lab.east.dead()
    took = await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
    measured(f"local restart {took * 1000:.0f} ms")
    assert lab.load.acknowledged <= lab.east.numbers()
    lab.load.start(lab.east.client, writers=1)
    seen = len(lab.load.acknowledged)
    waited = await lab.until("an acknowledgement by the standby", lambda: len(lab.load.acknowledged) > seen + 5)
    measured(f"standby back {waited * 1000:.0f} ms after its source's restart")
    await lab.load.stop()
    assert waited < 1.0
    assert (await lab.west.status()).promotable


async def test_an_unreadable_record_holds_the_server_down(lab: Any) -> None:
    await lab.up()
    await lab.east.restart_driver()
    lab.east.root.joinpath("record.json").write_text("{")
    with pytest.raises(PreconditionError, match="cannot be understood"):
        await lab.east.once(Role.ACTIVE, 2, "east")
    assert (await lab.east.status()).health is Health.UNKNOWN
    assert (await lab.east.once(Role.FENCED, 2)).completed


@pytest.mark.parametrize(
    ("role", "sites", "wanted_active", "seen", "expected"),
    [
        (DataRole.ACTIVE, ("east", "west"), False, True, Start.TRUNCATE),
        (DataRole.ACTIVE, ("east", "west"), False, False, Start.WAIT),
        (DataRole.ACTIVE, ("east", "west"), True, True, Start.KEEP),
        (DataRole.ACTIVE, ("east",), False, True, Start.KEEP),
        (DataRole.ACTIVE, (), False, True, Start.KEEP),
        (DataRole.STANDBY, ("east", "west"), False, True, Start.KEEP),
        (DataRole.TRUNCATED, ("east", "west"), False, True, Start.KEEP),
        (DataRole.NONE, (), False, True, Start.KEEP),
    ],
)
def test_the_recovery_rule(
    role: DataRole, sites: tuple[str, ...], wanted_active: bool, seen: bool, expected: Start
) -> None:
    record = Record(role, sites, 3)
    assert choose(record, wanted_active=wanted_active, other_active_seen=seen) is expected


@pytest.mark.parametrize(
    ("role", "truncated", "expected"),
    [
        (DataRole.ACTIVE, False, True),
        (DataRole.ACTIVE, True, False),
        (DataRole.STANDBY, False, False),
        (DataRole.TRUNCATED, False, False),
        (DataRole.REBUILDING, False, False),
        (DataRole.NONE, False, False),
    ],
)
def test_what_recovery_logs_continues_only_a_whole_history_of_the_sites_own(
    role: DataRole, truncated: bool, expected: bool
) -> None:
    assert continues(Record(role, ("east", "west"), 3), truncated=truncated) is expected
