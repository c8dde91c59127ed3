"""Promotion, fencing, replication and the synchronous set, on real servers."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import threading
import time
from typing import Any

import pymysql
import pytest
from graf_driver_mysql.driver import MysqlDriver
from graf_driver_sdk.errors import NotActiveError, PreconditionError
from graf_driver_sdk.types import ComponentKey, EnsureRole, Health, ResyncStrategy, Role, Spec, Verdict

pytestmark = pytest.mark.mariadb


async def test_a_driver_that_was_just_started_runs_no_server_and_says_dead(lab: Any) -> None:
    status = await lab.east.status()
    assert (status.health, status.accepting, status.promotable) == (Health.DEAD, False, False)
    assert not lab.east.root.joinpath("data").exists()


async def test_the_first_active_accepts_writes_and_a_standby_does_not(lab: Any) -> None:
    await lab.up()
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")
    await lab.until("the row at west", lambda: lab.west.numbers() == {1})
    with lab.west.client() as connection, connection.cursor() as cursor, pytest.raises(pymysql.MySQLError) as refused:
        cursor.execute("INSERT INTO t VALUES (2)")
    assert refused.value.args[0] == 1290  # read-only
    east, west = await lab.east.status(), await lab.west.status()
    assert (east.role, east.accepting, east.synchronous_set) == (Role.ACTIVE, True, {"east", "west"})
    assert [(f.site, f.connected, f.acknowledging) for f in east.followers] == [("west", True, True)]
    assert (west.role, west.health, west.accepting, west.promotable) == (Role.STANDBY, Health.HEALTHY, False, True)
    assert west.position == east.position


async def test_a_caught_up_standby_is_promoted_in_one_short_call(lab: Any, measured: Any) -> None:
    await lab.up()
    with lab.east.client() as connection, connection.cursor() as cursor:
        for number in range(50):
            cursor.execute(f"INSERT INTO t VALUES ({number})")
    await lab.east.crash()
    start = time.monotonic()
    progress = await lab.west.once(Role.ACTIVE, 2, "west")
    took_ms = (time.monotonic() - start) * 1000
    measured(f"promotion {took_ms:.1f} ms")
    assert progress.completed
    assert lab.west.numbers() == set(range(50))


@pytest.mark.parametrize("after_ms", [1, 3, 5, 7, 9, 12])
async def test_a_promotion_that_was_cancelled_anywhere_is_continued(lab: Any, after_ms: int) -> None:
    await lab.up()
    await lab.east.crash()
    with contextlib.suppress(TimeoutError):  # or it was faster than that
        async with asyncio.timeout(after_ms / 1000):
            await lab.west.once(Role.ACTIVE, 2, "east", "west")
    await asyncio.wait({lab.west.driver._managed.watch._task}, timeout=0.15)  # looks go on meanwhile
    await lab.west.ensure(Role.ACTIVE, 2, "east", "west")
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert (await lab.west.status()).accepting


async def test_a_higher_epoch_while_active_disturbs_neither_clients_nor_the_standby(lab: Any) -> None:
    """A change of the voters goes on to another epoch without a break."""
    await lab.up()
    lab.load.start(lab.east.client)
    evidence = lab.west.sql("SHOW GLOBAL STATUS LIKE 'Slave_connections'"), lab.west.standby._target
    server = lab.east.component.backend.server._process.pid
    for epoch in (2, 3):
        progress = await lab.east.once(Role.ACTIVE, epoch, "east", "west")
        assert progress.completed
        progress = await lab.west.once(Role.STANDBY, epoch)
        assert progress.completed
        before = len(lab.load.acknowledged)
        await lab.until("writes go on", lambda before=before: len(lab.load.acknowledged) > before + 50)
    assert all(thread.is_alive() for thread in lab.load.threads), "no client was dropped"
    await lab.load.stop()
    assert lab.east.component.backend.server._process.pid == server
    assert (await lab.west.status()).promotable
    assert (lab.west.sql("SHOW GLOBAL STATUS LIKE 'Slave_connections'"), lab.west.standby._target) == evidence
    await lab.until("every write at west", lambda: lab.load.acknowledged <= lab.west.numbers())
    assert (await lab.east.component.backend.record()).epoch == 3, "what a restart of the server goes by"


async def test_death_of_the_server_is_seen_at_once(lab: Any, measured: Any) -> None:
    await lab.up()
    told = asyncio.Event()
    lab.east.component.backend.on_death.append(lambda how: told.set())
    with lab.east.driver.changed.subscribe(lab.east.spec.key) as subscription:
        await subscription.wait(0.01)
        start = time.monotonic()
        lab.east.kill()
        await asyncio.wait_for(told.wait(), 10)
        took_ms = (time.monotonic() - start) * 1000
        assert await subscription.wait(0.01)
    measured(f"death seen after {took_ms:.1f} ms")
    status = await lab.east.status()
    assert (status.health, status.accepting) == (Health.DEAD, False)
    assert "SIGKILL" in status.message


async def test_fencing_ends_commits_that_hang_for_a_lost_standby(lab: Any, measured: Any) -> None:
    await lab.up()
    await lab.west.crash()
    outcome: list[str] = []

    def write() -> None:
        try:
            with lab.east.client() as connection, connection.cursor() as cursor:
                cursor.execute("INSERT INTO t VALUES (1)")
                outcome.append("acknowledged")
        except pymysql.MySQLError as error:
            outcome.append(f"error {error.args[0]}")

    thread = threading.Thread(target=write)
    thread.start()

    async def stalled() -> bool:
        status = await lab.east.status()
        return any(f.stalled_ms > 0 for f in status.followers)

    await lab.until("a stalled acknowledgement in the status", stalled)
    start = time.monotonic()
    progress = await lab.east.once(Role.FENCED, 2)
    took_ms = (time.monotonic() - start) * 1000
    thread.join(10)
    measured(f"fenced {took_ms:.1f} ms")
    assert progress.completed
    assert outcome == ["error 2013"]
    status = await lab.east.status()
    assert (status.role, status.accepting, status.health) == (Role.FENCED, False, Health.DEAD)


async def test_loss_of_the_standby_holds_writes_until_the_set_is_shrunk(lab: Any, measured: Any) -> None:
    await lab.up()
    await lab.west.crash()
    lab.load.start(lab.east.client, writers=2)

    async def connected() -> bool:
        return any(f.connected for f in (await lab.east.status()).followers)

    async def gone() -> bool:
        return not await connected()

    waited = await lab.until("the standby's loss in the status", gone)
    held = len(lab.load.acknowledged)
    assert held == 0 or not (await lab.east.status()).accepting
    start = time.monotonic()
    assert (await lab.east.once(Role.ACTIVE, 1, "east")).completed
    took_ms = (time.monotonic() - start) * 1000
    await lab.until("writes go on", lambda: len(lab.load.acknowledged) > held + 20)
    await lab.load.stop()
    measured(f"loss seen after {waited * 1000:.0f} ms, shrunk in {took_ms:.1f} ms")
    status = await lab.east.status()
    assert (status.accepting, status.synchronous_set) == (True, {"east"})
    assert lab.load.acknowledged <= lab.east.numbers()


async def test_the_set_is_not_grown_and_nobody_hangs_while_no_standby_is_there(lab: Any) -> None:
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.create_table()
    progress = await lab.east.once(Role.ACTIVE, 1, "east", "west")
    assert not progress.completed
    assert "west" in progress.message
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")
    assert (await lab.east.status()).synchronous_set == {"east"}


async def test_growing_gives_up_and_lets_clients_go_when_the_standby_does_not_answer(lab: Any) -> None:
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.west.ensure(Role.STANDBY, 1)
    lab.east.create_table()
    await lab.west.promotable()
    os.kill(lab.west.component.backend.server.pid, signal.SIGSTOP)
    try:
        assert not (await lab.east.once(Role.ACTIVE, 1, "east", "west")).completed
        lab.load.start(lab.east.client, writers=1)

        async def given_up() -> bool:
            return "given up" in (await lab.east.once(Role.ACTIVE, 1, "east", "west")).message

        await lab.until("the growth is given up", given_up)
        seen = len(lab.load.acknowledged)
        await lab.until("writes go on with the smaller set", lambda: len(lab.load.acknowledged) > seen + 2)
    finally:
        os.kill(lab.west.component.backend.server.pid, signal.SIGCONT)
    await lab.load.stop()
    assert (await lab.east.status()).synchronous_set == {"east"}
    await lab.east.ensure(Role.ACTIVE, 1, "east", "west")


async def test_growth_under_load_counts_the_standby_only_when_it_has_everything(lab: Any) -> None:
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.create_table()
    lab.load.start(lab.east.client)
    await lab.until("some writes", lambda: len(lab.load.acknowledged) > 200)
    await lab.west.ensure(Role.STANDBY, 1)
    await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
    acknowledged = set(lab.load.acknowledged)
    await lab.west.promotable()
    lab.east.kill()
    await lab.load.ended()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert acknowledged <= lab.load.acknowledged <= lab.west.numbers()


async def test_a_frozen_source_does_not_delay_promotion(lab: Any, measured: Any) -> None:
    """The receiver thread waits 2 s in recv() or connect(): the driver cuts its socket."""
    await lab.up()
    pid = lab.east.component.backend.server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        await lab.west.ensure(Role.ACTIVE, 2, "west")
        took_ms = (time.monotonic() - start) * 1000
    finally:
        os.kill(pid, signal.SIGCONT)
    measured(f"promotion beside a frozen source {took_ms:.1f} ms")
    assert took_ms < 1900  # 2 s without the cut


async def test_quiesce_gives_a_position_that_the_standby_proves_and_takes_over_from(lab: Any, measured: Any) -> None:
    await lab.up()
    lab.load.start(lab.east.client)
    await lab.until("some writes", lambda: len(lab.load.acknowledged) > 100)
    start = time.monotonic()
    quiesced = await lab.east.driver.quiesce(lab.east.spec, 1)
    reached = await lab.west.driver.await_position(lab.west.spec, quiesced.position, 1000)
    assert reached.reached, reached
    status = await lab.east.status()
    assert (status.role, status.accepting) == (Role.ACTIVE, False)
    assert (await lab.west.once(Role.ACTIVE, 2, "west", "east")).completed
    assert (await lab.east.once(Role.STANDBY, 2)).completed
    took_ms = (time.monotonic() - start) * 1000
    measured(f"planned move in {took_ms:.1f} ms")
    await lab.load.ended()  # clients were sent away
    assert lab.load.acknowledged <= lab.west.numbers()
    with lab.west.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (-1)")
    await lab.east.promotable()
    await lab.until("the new row at east", lambda: -1 in lab.east.numbers())
    assert (await lab.west.status()).synchronous_set == {"east", "west"}


async def test_a_database_that_nobody_has_written_to_gives_a_position_too(lab: Any) -> None:
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.west.ensure(Role.STANDBY, 1)
    quiesced = await lab.east.driver.quiesce(lab.east.spec, 1)
    assert quiesced.position
    assert (await lab.east.driver.quiesce(lab.east.spec, 1)).position == quiesced.position
    reached = await lab.west.driver.await_position(lab.west.spec, quiesced.position, 5000)
    assert reached.reached, reached


async def test_unquiesce_goes_on_as_before_and_a_repeated_role_does_not_open(lab: Any) -> None:
    await lab.up()
    await lab.east.driver.quiesce(lab.east.spec, 1)
    assert (await lab.east.once(Role.ACTIVE, 1, "east", "west")).completed
    assert not (await lab.east.status()).accepting
    await lab.east.driver.unquiesce(lab.east.spec, 1)
    assert (await lab.east.status()).accepting
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")


async def test_quiesce_that_would_block_is_undone(lab: Any) -> None:
    await lab.up()
    await lab.west.crash()
    lab.load.start(lab.east.client, writers=1)
    await lab.until("a commit waits", lambda: lab.load.attempted > 0)

    async def waits() -> bool:
        return (await lab.east.status()).facts["semi_sync_waiting"] == "1"

    await lab.until("a commit waits for the standby", waits)
    with pytest.raises(PreconditionError, match="goes on serving"):
        await lab.east.driver.quiesce(lab.east.spec, 1)
    assert (await lab.east.status()).facts["read_only"] == "false"
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.until("writes go on", lambda: len(lab.load.acknowledged) > 10)
    await lab.load.stop()


async def test_a_quiesced_active_is_fenced_without_a_kill_assessed_and_follows(lab: Any) -> None:
    await lab.up()
    pid = lab.east.component.backend.server.pid
    await lab.east.driver.quiesce(lab.east.spec, 1)
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert (await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)).completed
    assert (await lab.east.status()).role is Role.INVALIDATED
    with pytest.raises(NotActiveError):
        await lab.east.driver.unquiesce(lab.east.spec, 2)
    assert (await lab.east.driver.assess(lab.east.spec, lab.west.peer())).verdict is Verdict.CLEAN
    await lab.east.ensure(Role.STANDBY, 2)
    await lab.east.promotable()
    assert lab.east.component.backend.server.pid == pid


async def test_only_an_active_can_be_quiesced(lab: Any) -> None:
    await lab.up()
    with pytest.raises(NotActiveError):
        await lab.west.driver.quiesce(lab.west.spec, 1)


async def test_a_set_of_three_sites_is_refused_with_the_reason(lab: Any) -> None:
    with pytest.raises(PreconditionError, match="one acknowledgement"):
        await lab.east.once(Role.ACTIVE, 1, "east", "west", "north")


async def test_a_second_driver_on_the_same_data_is_refused_and_touches_nothing(lab: Any) -> None:
    """The parameters of one group were copied to another one, with a DriverClass of its own and this `dataDir` left."""
    await lab.up()
    record = lab.east.root.joinpath("record.json").read_bytes()
    other = MysqlDriver()
    spec = Spec(ComponentKey("ims-db", "db", "east"), {**lab.east.parameters, "port": lab.east.port + 0.0})
    for role in (Role.FENCED, Role.ACTIVE):
        with pytest.raises(PreconditionError, match=r"dataDir: .* belongs to another driver that runs") as refused:
            await other.ensure_role(EnsureRole(spec, role, 9, (), frozenset({"east"})))
        assert refused.value.reason == "in-use"
    with pytest.raises(PreconditionError, match="belongs to another driver"):
        await other.resync(spec, lab.west.peer(), ResyncStrategy.REBUILD, 9)
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (77)")
    assert lab.east.root.joinpath("record.json").read_bytes() == record
    await lab.east.driver.close()
    await other.ensure_role(EnsureRole(spec, Role.FENCED, 9))
    await other.close()


async def test_a_second_component_is_refused(lab: Any) -> None:
    await lab.east.status()
    other = Spec(ComponentKey("vcu-db", "other", "east"), lab.east.parameters)
    with pytest.raises(PreconditionError, match="no other component"):
        await lab.east.driver.ensure_role(EnsureRole(other, Role.FENCED, 1))


async def test_a_second_group_with_another_part_of_the_server_is_refused_and_the_first_goes_on(lab: Any) -> None:
    await lab.up()
    parameters = {**lab.east.parameters, "scope": {"databases": ["billing"]}}
    other = Spec(ComponentKey("billing-db", "db", "east"), parameters)
    driver = lab.east.driver
    calls = (
        lambda: driver.ensure_role(EnsureRole(other, Role.ACTIVE, 9, (), frozenset({"east"}))),
        lambda: driver.ensure_role(EnsureRole(other, Role.FENCED, 9)),
        lambda: driver.status(other),
        lambda: driver.quiesce(other, 9),
    )
    for call in calls:
        with pytest.raises(
            PreconditionError, match=r"one server has one group: give .*billing-db.* a server of its own"
        ):
            await call()
    status = await lab.east.status()
    assert (status.role, status.accepting, status.synchronous_set) == (Role.ACTIVE, True, {"east", "west"})
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")


async def test_the_semi_synchronous_source_is_off_on_a_standby(lab: Any) -> None:
    await lab.up()
    assert lab.west.sql("SELECT @@global.rpl_semi_sync_master_enabled") == [(0,)]


async def test_an_acknowledgement_that_was_switched_off_is_switched_on_again_and_told(lab: Any) -> None:
    await lab.up()
    lab.east.sql("SET GLOBAL rpl_semi_sync_master_enabled = OFF")

    async def told() -> bool:
        return (await lab.east.status()).health is Health.UNHEALTHY

    await lab.until("unhealthy", told)
    await lab.until("on again", lambda: lab.east.sql("SELECT @@global.rpl_semi_sync_master_enabled") == [(1,)])


async def test_a_standby_that_applies_late_on_purpose_is_refused(lab: Any) -> None:
    await lab.up()
    for statement in ("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=3600", "START SLAVE"):
        lab.west.sql(statement)

    async def refused() -> bool:
        status = await lab.west.status()
        return not status.promotable and "3600 s late" in status.promotable_reason

    await lab.until("west is not promotable", refused)
    await lab.until("its evidence is gone", lambda: not lab.west.standby.caught_up)
    assert (await lab.west.status()).health is Health.UNHEALTHY
    await lab.east.crash()
    with pytest.raises(PreconditionError, match="may lack acknowledged writes"):
        await lab.west.once(Role.ACTIVE, 2, "west")


def enabled(site: Any) -> int:
    """Whether a commit waits for a standby there."""
    return int(site.sql("SELECT @@global.rpl_semi_sync_master_enabled")[0][0])


async def test_a_look_in_the_middle_of_a_smaller_set_makes_no_commit_wait_for_ever(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.up()
    active = lab.east.component.active
    keep, looks, seen_off = active._keep, active.mend, asyncio.Event()

    async def mend(seen: Any) -> str:
        trouble = str(await looks(seen))
        if not seen.semi_sync_enabled:
            seen_off.set()
        return trouble

    async def keep_and_be_seen(wanted: tuple[str, ...]) -> None:
        await keep(wanted)
        await seen_off.wait()  # switched off already, while the set in force is still the larger one

    monkeypatch.setattr(active, "mend", mend)
    monkeypatch.setattr(active, "_keep", keep_and_be_seen)
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    assert enabled(lab.east) == 0
    lab.west.kill()
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")


async def test_semi_sync_that_somebody_switched_on_beside_nobody_is_found_and_switched_off(lab: Any) -> None:
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.sql("SET GLOBAL rpl_semi_sync_master_enabled = ON")
    await lab.until("it is off again", lambda: enabled(lab.east) == 0)


async def test_a_record_whose_write_is_cancelled_is_read_from_the_disk(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    backend = lab.east.component.backend
    other = dataclasses.replace(await backend.record(), epoch=7)
    save, begun = backend._file.save, threading.Event()

    def slowly(record: Any) -> None:
        begun.set()
        time.sleep(0.3)
        save(record)

    monkeypatch.setattr(backend._file, "save", slowly)
    saving = asyncio.create_task(backend.save(other))
    await lab.until("it is written", begun.is_set)
    saving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await saving
    assert await backend.record() == other
