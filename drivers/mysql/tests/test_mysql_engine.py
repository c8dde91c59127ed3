"""The same rules on Oracle's MySQL: roles, crashes and returns, on real servers."""

import threading
import time
from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_mysql.gtidset import GtidSet
from graf_driver_mysql.rate import ApplyRate
from graf_driver_mysql.status import activation_ms
from graf_driver_mysql.values import Observation, Replica, SemiSync
from graf_driver_sdk.errors import InvalidParametersError, NeedsResyncError, PreconditionError
from graf_driver_sdk.types import Health, ResyncStrategy, Role, Verdict

pytestmark = pytest.mark.mariadb
EAST, WEST = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"


def write(site: Any, *numbers: int) -> None:
    with site.client() as connection, connection.cursor() as cursor:
        for number in numbers:
            cursor.execute(f"INSERT INTO t VALUES ({number})")


@pytest.mark.parametrize(
    ("mine", "theirs", "extra"),
    [
        (f"{EAST}:1-5", f"{EAST}:1-5", ()),
        (f"{EAST}:1-5", f"{EAST}:1-3", (f"{EAST}:4-5",)),
        (f"{EAST}:1-9", f"{EAST}:1-3:5-7", (f"{EAST}:4", f"{EAST}:8-9")),
        (f"{EAST}:1-3,\n{WEST}:1", f"{EAST}:1-4", (f"{WEST}:1",)),
        ("", f"{EAST}:1-4", ()),
        (f"{EAST}:tag:1-2", f"{EAST}:1-2", (f"{EAST}:tag:1-2",)),
    ],
)
def test_what_is_beyond_another_set_is_told_in_ranges(mine: str, theirs: str, extra: tuple[str, ...]) -> None:
    assert GtidSet.parse(mine).beyond(GtidSet.parse(theirs)) == extra
    assert GtidSet.parse(theirs).covers(GtidSet.parse(mine)) is (extra == ())


def test_the_transactions_of_two_servers_that_sessions_own_are_told_apart() -> None:
    """As MySQL writes it, with no comma between the servers (met at a standby that applied both)."""
    first, second = "92b1e3e8-ec39-11f1-bf74-02fc00000001", "93b77edc-ec39-11f1-aba4-02fc00000001"
    for owners in ("47", "4", "493"):
        owned = GtidSet.parse(f"{first}:3#{owners}:4#12{second}:1#{owners}")
        assert owned == GtidSet.parse(f"{first}:3-4,{second}:1")
        assert owned == GtidSet.parse(f"{first}:3#{owners}:4#12,\n{second}:1#{owners}")
        assert owned == GtidSet.parse(f"{second}:1#{owners}{first}:3#1:4#{owners}")


def test_sets_join_and_count_and_read_what_sessions_own() -> None:
    owned = GtidSet.parse(f"{EAST}:6#12:7#13, {WEST}:1#4")
    whole = GtidSet.parse(f"{EAST.upper()}:1-5").merged(owned)
    assert str(whole) == f"{EAST}:1-7,{WEST}:1"
    assert whole.transactions_beyond(GtidSet.parse(f"{EAST}:2-3")) == 6
    assert GtidSet.parse(str(whole)) == whole


@pytest.mark.parametrize("text", ["20-20-7", EAST, f"{EAST}:5-", f"{EAST}:0", "no:1"])
def test_what_is_no_set_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="not a GTID set"):
        GtidSet.parse(text)


def test_the_apply_rate_is_of_a_window_with_work_and_predicts_a_promotion() -> None:
    def seen(last: int) -> Observation:
        applied = GtidSet.parse(f"{EAST}:1-{last}")
        replica = Replica("198.18.0.1", 3306, True, "Yes", True, applied, 0.0, "", 0, "")
        return Observation(True, applied, applied, False, SemiSync(False, 0, 0, 0), replica, ())

    rate = ApplyRate()
    assert (rate.per_second, rate.promotion_s(0), rate.promotion_s(5), rate.promotion_s(-1)) == (None, 0.05, None, None)
    rate.see(seen(1), 0.0)
    rate.see(seen(501), 5.0)
    assert rate.per_second == 100
    rate.see(seen(501), 10.0)  # idle
    assert rate.promotion_s(200) == pytest.approx(2.05)


def test_what_the_contract_is_told_of_a_promotion_is_what_is_received_and_not_applied() -> None:
    def seen(*, applying: bool = True, replica: bool = True) -> Observation:
        received, applied = GtidSet.parse(f"{EAST}:1-700"), GtidSet.parse(f"{EAST}:1-501")
        behind = Replica("198.18.0.1", 3306, True, "Yes", applying, received, 0.0, "", 0, "")
        return Observation(True, applied, applied, False, SemiSync(False, 0, 0, 0), behind if replica else None, ())

    rate = ApplyRate()
    assert activation_ms(seen(), rate) == -1, "no rate is known yet"
    rate.per_second = 100
    assert activation_ms(seen(), rate) == 2040
    assert activation_ms(seen(applying=False), rate) == -1
    assert activation_ms(seen(replica=False), rate) == 0


async def test_roles_the_set_and_a_planned_move(mysql_lab: Any) -> None:
    lab = mysql_lab
    await lab.up()
    write(lab.east, 1)
    await lab.until("the row at west", lambda: lab.west.numbers() == {1})
    with pytest.raises(pymysql.MySQLError) as refused:
        write(lab.west, 2)
    assert refused.value.args[0] == 1290  # read-only
    east, west = await lab.east.status(), await lab.west.status()
    assert (east.role, east.accepting, east.synchronous_set) == (Role.ACTIVE, True, {"east", "west"})
    assert [(f.site, f.connected, f.acknowledging) for f in east.followers] == [("west", True, True)]
    assert (west.role, west.health, west.accepting, west.promotable) == (Role.STANDBY, Health.HEALTHY, False, True)
    position = (await lab.east.driver.quiesce(lab.east.spec, 1)).position
    reached = await lab.west.driver.await_position(lab.west.spec, position, 5000)
    assert reached.reached
    await lab.east.once(Role.FENCED, 2)
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    await lab.east.ensure(Role.STANDBY, 2)
    await lab.west.ensure(Role.ACTIVE, 2, "east", "west")
    write(lab.west, 3)
    await lab.until("the row at east", lambda: lab.east.numbers() == {1, 3})
    await lab.east.promotable()


async def test_semi_sync_that_somebody_switched_off_is_found_and_switched_on(mysql_lab: Any) -> None:
    lab = mysql_lab
    await lab.up()
    lab.east.sql("SET GLOBAL rpl_semi_sync_source_enabled = OFF")
    await lab.until(
        "it is on again", lambda: lab.east.sql("SELECT @@global.rpl_semi_sync_source_enabled") == [(1,)], 10
    )
    # A replica that acknowledges nothing: the commit hangs, and shrinking the set lets it go.
    lab.west.kill()
    await lab.west.dead()
    thread = threading.Thread(target=write, args=(lab.east, 1))
    thread.start()

    async def waits() -> bool:
        status = await lab.east.status()
        return status.facts["semi_sync_waiting"] != "0" and not status.accepting

    await lab.until("a commit waits for the standby", waits, 20)
    with pytest.raises(PreconditionError, match="writes did not end"):
        await lab.east.driver.quiesce(lab.east.spec, 1)
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    thread.join(20)
    assert not thread.is_alive()
    assert lab.east.numbers() == {1}


async def test_no_acknowledged_write_is_lost_over_failovers_and_returns_under_load(
    mysql_lab: Any, measured: Any
) -> None:
    lab = mysql_lab
    await lab.up()
    active, standby = lab.east, lab.west
    for epoch in (2, 3):
        before = len(lab.load.acknowledged)
        lab.load.start(active.client)
        await lab.until("some writes", lambda n=before: len(lab.load.acknowledged) > n + 100, 30)
        active.kill()
        await lab.load.ended()
        start = time.monotonic()
        await standby.ensure(Role.ACTIVE, epoch, standby.name)
        measured(f"MySQL: promotion under load {(time.monotonic() - start) * 1000:.0f} ms")
        assert lab.load.acknowledged <= standby.numbers()
        await active.once(Role.INVALIDATED, epoch, other=Role.ACTIVE)

        async def returned(back: Any = active, epoch: int = epoch) -> bool:
            answer = await back.driver.resync(back.spec, back.other.peer(), ResyncStrategy.UNSPECIFIED, epoch)
            return bool(answer.progress.completed)

        await lab.until("the deposed site is back", returned, 60)
        await standby.ensure(Role.ACTIVE, epoch, "east", "west")
        await active.promotable()
        active, standby = standby, active
    measured(f"MySQL: lost 0 of {len(lab.load.acknowledged)} acknowledged writes over two failovers")


async def test_divergent_data_is_archived_and_the_site_rebuilt(mysql_lab: Any) -> None:
    lab = mysql_lab
    await lab.up()
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.west.once(Role.FENCED, 1)
    write(lab.east, 1, 2)
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")  # as people force it
    write(lab.west, 3)
    await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)

    async def known() -> bool:
        return (await lab.east.driver.assess(lab.east.spec, lab.west.peer())).verdict is Verdict.DIVERGED

    await lab.until("the verdict", known, 30)
    with pytest.raises(NeedsResyncError):
        await lab.east.once(Role.STANDBY, 2)
    archives: list[str] = []

    async def resynced() -> bool:
        answer = await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.UNSPECIFIED, 2)
        archives.append(answer.archive)
        return bool(answer.progress.completed)

    await lab.until("the rebuild", resynced, 60)
    assert lab.east.numbers() == {3}
    assert list(Path(archives[-1]).joinpath("data").glob("binlog.0*"))
    await lab.west.ensure(Role.ACTIVE, 2, "east", "west")
    write(lab.west, 4)
    await lab.until("the new row at east", lambda: lab.east.numbers() == {3, 4})


async def test_one_product_at_all_sites(mysql_lab: Any) -> None:
    lab = mysql_lab
    other = {**lab.west.parameters, "engine": "mariadb"}
    peer = type(lab.west.peer())("west", Role.STANDBY, other)
    problems = await lab.east.driver.validate(lab.east.spec, (peer,))
    assert [problem.field for problem in problems] == ["engine"]
    with pytest.raises(InvalidParametersError, match="engine"):
        await lab.east.driver.status(type(lab.east.spec)(lab.east.spec.key, {**lab.east.parameters, "engine": "x"}))
