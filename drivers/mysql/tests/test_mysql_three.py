"""More than one standby: only who is in the synchronous set acknowledges, and all follow whoever is active."""

import asyncio
import os
import signal
import threading
from typing import Any

import pymysql
import pytest
from graf_driver_mysql.engine import Engine
from graf_driver_mysql.parameters import parse, standby_problems
from graf_driver_sdk.errors import InvalidParametersError, NeedsResyncError, PreconditionError
from graf_driver_sdk.types import Health, ResyncStrategy, Role, Verdict

pytestmark = pytest.mark.mariadb


def write(site: Any, *numbers: int) -> None:
    with site.client() as connection, connection.cursor() as cursor:
        for number in numbers:
            cursor.execute(f"INSERT INTO t VALUES ({number})")


class Attempt:
    """One write in a thread of its own: acknowledged, refused, or still waiting."""

    def __init__(self, site: Any, number: int) -> None:
        self.outcome = ""
        self._site, self._number = site, number
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            write(self._site, self._number)
            self.outcome = "acknowledged"
        except pymysql.MySQLError as error:
            self.outcome = f"error {error.args[0]}"

    async def ended(self) -> str:
        await asyncio.to_thread(self._thread.join, 20)
        assert self.outcome, "the write still hangs after 20 s"
        return self.outcome


def accounts(site: Any) -> set[str]:
    return {row[0] for row in site.sql("SELECT User FROM mysql.user WHERE User LIKE 'graf\\_ack\\_%'")}


def receiving_as(site: Any) -> list[str]:
    """By which accounts others receive from a site."""
    return sorted(row[1] for row in site.sql("SHOW PROCESSLIST") if str(row[4]).startswith("Binlog Dump"))


def freeze(site: Any) -> None:
    os.kill(site.component.backend.server.pid, signal.SIGSTOP)


def thaw(site: Any) -> None:
    os.kill(site.component.backend.server.pid, signal.SIGCONT)


async def waits(site: Any) -> bool:
    return (await site.status()).facts["semi_sync_waiting"] != "0"


async def followers(site: Any) -> dict[str, tuple[bool, bool]]:
    return {f.site: (f.connected, f.acknowledging) for f in (await site.status()).followers}


async def test_only_the_standby_in_the_set_acknowledges(three_lab: Any) -> None:
    """The planted bug is north acknowledging too: its word would let go of a write that west has not."""
    lab = three_lab
    await lab.up()
    write(lab.east, 1)
    await lab.until("the row at both", lambda: lab.west.numbers() == lab.north.numbers() == {1})
    assert receiving_as(lab.east) == ["graf_ack_30", "graf_repl"]
    assert await followers(lab.east) == {"west": (True, True)}
    assert (await lab.east.status()).facts["asynchronous"] == "north"
    freeze(lab.west)
    try:
        attempt = Attempt(lab.east, 2)
        await lab.until("the write to wait", lambda: waits(lab.east))
        await lab.until("north to have it", lambda: 2 in lab.north.numbers())
        assert attempt.outcome == ""
        status = await lab.east.status()
        assert [f.site for f in status.followers if f.stalled_ms] == ["west"]
        await lab.east.ensure(Role.ACTIVE, 1, "east")
        assert await attempt.ended() == "acknowledged"
    finally:
        thaw(lab.west)


async def test_planted_bug_a_standby_that_acknowledges_without_a_permit_loses_a_write(
    three_lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every standby acknowledging, as with one: north's word lets go of what west, which takes over, has not."""
    always = "SET GLOBAL rpl_semi_sync_slave_enabled = ON"
    monkeypatch.setattr(Engine, "give", lambda *_: always)
    lab = three_lab
    await lab.up()
    await lab.west.driver._managed.watch.stop()
    lab.west.sql("STOP SLAVE IO_THREAD")
    assert await Attempt(lab.east, 7).ended() == "acknowledged"

    async def told() -> bool:
        status = await lab.east.status()
        return status.health is Health.UNHEALTHY and "without severalStandbys" in status.message

    await lab.until("east to tell that a stranger acknowledges", told)
    await lab.east.crash()
    lab.west.driver._managed.watch.start()
    lab.turn(lab.west, lab.east)
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert lab.west.numbers() == set(), "acknowledged, and lost"


async def test_a_set_with_two_standbys_is_refused_where_one_acknowledgement_is_all_there_is(three_lab: Any) -> None:
    lab = three_lab
    await lab.up()
    with pytest.raises(PreconditionError, match="one acknowledgement, whoever gives it"):
        await lab.east.once(Role.ACTIVE, 1, "east", "west", "north")
    status = await lab.east.status()
    assert (status.accepting, status.synchronous_set) == (True, {"east", "west"})
    write(lab.east, 1)


async def test_after_a_failover_who_is_behind_goes_on_and_who_is_ahead_is_rebuilt(three_lab: Any) -> None:
    """North received a write that west did not and that nobody was told about: with west active it is too much."""
    lab = three_lab
    await lab.up()
    write(lab.east, *range(20))
    await lab.west.driver._managed.watch.stop()
    lab.west.sql("STOP SLAVE IO_THREAD")
    attempt = Attempt(lab.east, 100)
    await lab.until("north to have it", lambda: 100 in lab.north.numbers())
    lab.east.kill()
    assert (await attempt.ended()).startswith("error")
    lab.west.driver._managed.watch.start()
    lab.turn(lab.west, lab.east)
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert lab.west.numbers() == set(range(20))
    lab.turn(lab.north, lab.west)
    with pytest.raises(NeedsResyncError, match="does not have"):
        await lab.north.once(Role.STANDBY, 2)
    assert (await lab.north.driver.assess(lab.north.spec, lab.west.peer())).verdict is Verdict.DIVERGED

    async def rebuilt() -> bool:
        answer = await lab.north.driver.resync(lab.north.spec, lab.west.peer(), ResyncStrategy.UNSPECIFIED, 2)
        return bool(answer.progress.completed)

    await lab.until("north is rebuilt", rebuilt)
    assert lab.north.numbers() == set(range(20))
    await lab.west.ensure(Role.ACTIVE, 2, "west", "north")
    write(lab.west, 200)
    await lab.until("the row at north", lambda: 200 in lab.north.numbers())


async def test_a_third_site_that_is_behind_follows_the_new_active_by_its_position(three_lab: Any) -> None:
    lab = three_lab
    await lab.up()
    await lab.north.once(Role.FENCED, 1)
    write(lab.east, *range(20))
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert lab.north.numbers() == set()
    await lab.follow(lab.north, lab.west, 2)
    await lab.north.promotable()
    assert lab.north.numbers() == set(range(20))
    await lab.west.ensure(Role.ACTIVE, 2, "north", "west")
    assert receiving_as(lab.west) == ["graf_ack_40"]
    write(lab.west, 100)
    await lab.until("the row at north", lambda: 100 in lab.north.numbers())
    # And on: west is lost, north takes over with everything.
    await lab.west.crash()
    lab.turn(lab.north, lab.west)
    await lab.north.ensure(Role.ACTIVE, 3, "north")
    assert lab.north.numbers() == {*range(20), 100}


@pytest.mark.parametrize("order", [("west", "north"), ("north", "west")])
async def test_both_standbys_are_lost_and_return_in_either_order(three_lab: Any, order: tuple[str, str]) -> None:
    lab = three_lab
    await lab.up()
    first, second = (getattr(lab, name) for name in order)
    await lab.west.crash()
    await lab.north.crash()
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    write(lab.east, 1)
    await lab.follow(first, lab.east, 1)
    await lab.east.ensure(Role.ACTIVE, 1, "east", first.name)
    await lab.follow(second, lab.east, 1)
    write(lab.east, 2)
    await lab.until("the rows at both", lambda: lab.west.numbers() == lab.north.numbers() == {1, 2})
    assert receiving_as(lab.east) == sorted([f"graf_ack_{first.component.parameters.server_id}", "graf_repl"])
    await first.promotable()
    await lab.east.crash()
    lab.turn(first, lab.east)
    await first.ensure(Role.ACTIVE, 2, first.name)
    assert first.numbers() == {1, 2}


async def test_the_set_changes_from_one_standby_to_the_other_and_the_first_one_is_let_acknowledge_no_more(
    three_lab: Any, measured: Any
) -> None:
    lab = three_lab
    await lab.up()
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    took = await lab.east.ensure(Role.ACTIVE, 1, "east", "north")
    measured(f"another standby acknowledges and is in the set after {took * 1000:.0f} ms")
    assert accounts(lab.east) == {"graf_ack_40"}

    async def beside() -> bool:
        return receiving_as(lab.east) == ["graf_ack_40", "graf_repl"]

    await lab.until("west follows beside the set", beside)
    await lab.west.promotable()
    # Asked for at once, as after a change of mind: west goes, then north comes.
    await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
    assert accounts(lab.east) == {"graf_ack_30"}
    assert (await lab.east.status()).synchronous_set == {"east", "west"}


async def test_a_standby_that_was_out_of_reach_when_its_permit_ended_cannot_acknowledge(three_lab: Any) -> None:
    """Its server was frozen with acknowledging on, and its driver does not look any more."""
    lab = three_lab
    await lab.up()
    await lab.north.driver._managed.watch.stop()
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.west.driver._managed.watch.stop()  # west keeps acknowledging on, and its account
    freeze(lab.west)
    try:
        lab.north.driver._managed.watch.start()
        await lab.east.ensure(Role.ACTIVE, 1, "east", "north")
    finally:
        thaw(lab.west)

    def refused() -> bool:
        row = lab.west.sql("SHOW SLAVE STATUS")[0]
        return any("Access denied" in str(value) for value in row)

    await lab.until("west is refused", refused)
    assert lab.west.sql("SELECT @@global.rpl_semi_sync_slave_enabled") == [(1,)]
    assert receiving_as(lab.east) == ["graf_ack_40"]
    freeze(lab.north)
    try:
        attempt = Attempt(lab.east, 1)
        await lab.until("the write to wait", lambda: waits(lab.east))
        assert attempt.outcome == ""
        await lab.east.ensure(Role.ACTIVE, 1, "east")
        assert await attempt.ended() == "acknowledged"
    finally:
        thaw(lab.north)
    lab.west.driver._managed.watch.start()
    await lab.until("west follows without acknowledging", lambda: "graf_repl" in receiving_as(lab.east))


async def test_a_planned_move_to_the_standby_in_the_set_and_back(three_lab: Any) -> None:
    lab = three_lab
    await lab.up()
    write(lab.east, 1)
    for epoch, (old, new) in ((2, (lab.east, lab.west)), (3, (lab.west, lab.east))):
        quiesced = await old.driver.quiesce(old.spec, epoch - 1)
        assert (await new.driver.await_position(new.spec, quiesced.position, 2000)).reached
        lab.turn(new, old)
        await new.ensure(Role.ACTIVE, epoch, "east", "west")
        await lab.follow(old, new, epoch)
        await lab.follow(lab.north, new, epoch)
        assert await Attempt(new, epoch).ended() == "acknowledged"  # it waits for who was active before
        await old.promotable()
        await lab.until("the row at north", lambda epoch=epoch: epoch in lab.north.numbers())
        assert receiving_as(new) == sorted([f"graf_ack_{old.component.parameters.server_id}", "graf_repl"])


async def test_a_write_that_the_standby_received_before_it_might_acknowledge_is_let_go_of(three_lab: Any) -> None:
    """The server asks for an acknowledgement when it sends; what was sent before is covered by one more write."""
    lab = three_lab
    await lab.up()
    quiesced = await lab.east.driver.quiesce(lab.east.spec, 1)
    assert (await lab.west.driver.await_position(lab.west.spec, quiesced.position, 2000)).reached
    lab.turn(lab.west, lab.east)
    await lab.west.ensure(Role.ACTIVE, 2, "east", "west")
    permit = lab.east.standby._permit

    async def none_yet(source: Any) -> str:
        return ""

    lab.east.standby._permit = none_yet
    await lab.follow(lab.east, lab.west, 2)
    attempt = Attempt(lab.west, 1)
    await lab.until("the row at east", lambda: 1 in lab.east.numbers())
    assert attempt.outcome == ""
    lab.east.standby._permit = permit
    assert await attempt.ended() == "acknowledged"


async def test_a_third_site_without_the_parameter_is_refused_at_each_of_them(lab: Any) -> None:
    other = type(lab.west)("north", 40, 1, lab.west.root, lab.west.root, lab.west.root)
    lab.east.third = lab.west.third = (other,)
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    for call in (lab.east.once(Role.ACTIVE, 1, "east", "west"), lab.west.once(Role.STANDBY, 1)):
        with pytest.raises(InvalidParametersError, match="severalStandbys"):
            await call
    assert (await lab.east.once(Role.FENCED, 1)).completed


def test_sites_must_agree_on_how_acknowledgements_are_told_apart(template: Any, tmp_path: Any) -> None:
    raw = {
        "replicationAddress": "127.0.0.1", "serverId": 1, "gtidDomainId": 1, "credentialsDir": str(template[1]),
    }  # fmt: skip
    own = parse({**raw, "severalStandbys": True})
    assert standby_problems(own, {"west": {"severalStandbys": True}, "north": {"severalStandbys": True}}) == ()
    assert "north does not have it" in standby_problems(own, {"north": {}})[0].cause
    assert "2 other sites" in standby_problems(parse(raw), {"west": {}, "north": {}})[0].cause
    with pytest.raises(InvalidParametersError, match="not true or false"):
        parse({**raw, "severalStandbys": 1})


@pytest.mark.mysql_long
async def test_with_mysql_a_set_of_three_waits_for_both_standbys_and_either_takes_over(mysql_three_lab: Any) -> None:
    lab = mysql_three_lab
    await lab.up()
    assert receiving_as(lab.east) == ["graf_ack_30", "graf_repl"]
    assert await followers(lab.east) == {"west": (True, True), "north": (True, False)}
    await lab.east.ensure(Role.ACTIVE, 1, "east", "north", "west")
    assert (await lab.east.status()).synchronous_set == {"east", "west", "north"}
    assert await Attempt(lab.east, 1).ended() == "acknowledged"
    freeze(lab.north)
    try:
        attempt = Attempt(lab.east, 2)
        await lab.until("the write to wait", lambda: waits(lab.east))
        await lab.until("west to have it", lambda: 2 in lab.west.numbers())
        assert attempt.outcome == ""
        await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
        assert await attempt.ended() == "acknowledged"
        assert accounts(lab.east) == {"graf_ack_30"}
    finally:
        thaw(lab.north)
    await lab.until("north follows beside the set", lambda: "graf_repl" in receiving_as(lab.east))
    await lab.north.promotable()
    await lab.east.ensure(Role.ACTIVE, 1, "east", "north", "west")
    assert await Attempt(lab.east, 3).ended() == "acknowledged"
    await lab.east.crash()
    lab.turn(lab.north, lab.east)
    await lab.north.ensure(Role.ACTIVE, 2, "north")
    assert lab.north.numbers() == {1, 2, 3}
    await lab.follow(lab.west, lab.north, 2)
    await lab.west.promotable()
    await lab.north.ensure(Role.ACTIVE, 2, "north", "west")
    assert await Attempt(lab.north, 4).ended() == "acknowledged"


@pytest.mark.mysql_long
async def test_with_mysql_a_third_site_that_does_not_acknowledge_is_given_up_and_writes_go_on(
    mysql_three_lab: Any,
) -> None:
    lab = mysql_three_lab
    await lab.up()
    freeze(lab.north)
    try:
        said: list[str] = []

        async def given_up() -> bool:
            said.append((await lab.east.once(Role.ACTIVE, 1, "east", "north", "west")).message)
            return "given up" in said[-1]

        await lab.until("the growth is given up", given_up)
        assert await Attempt(lab.east, 1).ended() == "acknowledged"
        assert (await lab.east.status()).synchronous_set == {"east", "west"}
    finally:
        thaw(lab.north)
    await lab.east.ensure(Role.ACTIVE, 1, "east", "north", "west")
    assert await Attempt(lab.east, 2).ended() == "acknowledged"
