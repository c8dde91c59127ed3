"""kill -9 under load, and what the data says afterwards: nothing acknowledged is lost."""

import asyncio
import threading
from typing import Any

import pymysql
import pytest
from graf_driver_mysql import component as component_module
from graf_driver_mysql.record import DataRole, Record
from graf_driver_mysql.recovery import Start, choose
from graf_driver_sdk.errors import PreconditionError
from graf_driver_sdk.types import Health, Role

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
