"""Mode async: nothing waits for another site, and what that may cost is told before, during and after."""

from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_mysql.parameters import parse, peer_conflicts
from graf_driver_sdk.errors import InvalidParametersError, PreconditionError
from graf_driver_sdk.types import Role, Verdict

pytestmark = pytest.mark.mariadb


def write(site: Any, *numbers: int) -> None:
    with site.client() as connection, connection.cursor() as cursor:
        for number in numbers:
            cursor.execute(f"INSERT INTO t VALUES ({number})")


async def up(lab: Any) -> None:
    for site in (lab.east, lab.west):
        site.parameters["mode"] = "async"
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.create_table()
    await lab.west.ensure(Role.STANDBY, 1)
    await lab.west.promotable()


async def nothing() -> None:
    """In the place of what connects a standby again."""


def cut(site: Any) -> None:
    """Nothing is received any more, while the active can still be asked."""
    site.standby._reconnect = nothing
    site.sql("STOP SLAVE IO_THREAD")


async def test_nobody_acknowledges_and_no_set_has_another_site(lab: Any) -> None:
    await up(lab)
    with pytest.raises(PreconditionError, match="mode is async"):
        await lab.east.once(Role.ACTIVE, 1, "east", "west")
    status = await lab.east.status()
    assert (status.accepting, status.synchronous_set, status.followers) == (True, {"east"}, ())
    assert status.facts["asynchronous"] == "west"
    assert status.facts["semi_sync_clients"] == "0"
    cut(lab.west)
    write(lab.east, 1)
    assert lab.west.numbers() == set()


async def test_a_standby_tells_what_it_would_lack_and_a_promotion_what_it_went_without(lab: Any) -> None:
    await up(lab)
    write(lab.east, 1)

    async def has_all() -> bool:
        status = await lab.west.status()
        told = status.lag_transactions == 0 and "at least 0 transactions" in status.facts["may_lack"]
        return told and lab.west.numbers() == {1}  # what it was told last may be older than the row

    await lab.until("west to lack nothing that it knows of", has_all)
    cut(lab.west)
    write(lab.east, *range(2, 7))

    async def lacks_five() -> bool:
        status = await lab.west.status()
        return status.lag_transactions == 5 and "at least 5 transactions" in status.message

    await lab.until("west to tell that it lacks five", lacks_five)
    await lab.east.crash()

    async def unknown() -> bool:
        return (await lab.west.status()).lag_transactions == -1

    await lab.until("the lag to be unknown", unknown)
    status = await lab.west.status()
    assert "at least 5 transactions, of what east had" in status.facts["may_lack"]
    assert "since is unknown" in status.facts["may_lack"]
    assert status.promotable, "its own evidence is whole: what it received, it has"
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert lab.west.numbers() == {1}
    told = (await lab.west.status()).facts["lost_at_promotion"]
    assert told.startswith("promoted in epoch 2 without at least 5 transactions")
    # What was lost is found again at the site that comes back.
    write(lab.west, 100)
    await lab.east.fenced_and_running(2)
    assessment = await lab.east.driver.assess(lab.east.spec, lab.west.peer())
    assert (assessment.verdict, assessment.divergent) == (Verdict.DIVERGED, "20-20-3..7")


async def test_a_standby_whose_copy_may_be_older_than_declared_says_so_and_the_age_is_known_at_all_times(
    lab: Any,
) -> None:
    """What the controllers keep it from taking over by: the age grows also when nobody can be asked any more."""
    for site in (lab.east, lab.west):
        site.parameters["rpoSeconds"] = 2.0
    await up(lab)
    write(lab.east, 1)
    await lab.until("the row is at west", lambda: lab.west.position() == lab.east.position())

    async def fresh() -> bool:
        status = await lab.west.status()
        return status.promotable and 0 <= status.lag_seconds < 1

    await lab.until("west has what east had a moment ago", fresh)
    cut(lab.west)
    write(lab.east, 2)
    ages: list[float] = []

    async def too_old() -> bool:
        status = await lab.west.status()
        ages.append(status.lag_seconds)
        if status.promotable:
            assert status.lag_seconds <= 2
            return False
        assert "rpoSeconds is 2" in status.promotable_reason
        return True

    await lab.until("the copy to be too old", too_old)
    assert ages == sorted(ages), "nothing came that made it newer"
    await lab.east.crash()
    before = (await lab.west.status()).lag_seconds

    async def older() -> bool:
        return (await lab.west.status()).lag_seconds > before

    await lab.until("the age to grow without east", older)
    await lab.west.ensure(Role.ACTIVE, 2, "west")  # who may take over is the controllers' affair, and people's
    assert lab.west.numbers() == {1}


async def test_a_planned_move_loses_nothing_in_mode_async_too(lab: Any) -> None:
    await up(lab)
    write(lab.east, *range(50))
    quiesced = await lab.east.driver.quiesce(lab.east.spec, 1)
    assert (await lab.west.driver.await_position(lab.west.spec, quiesced.position, 2000)).reached
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert lab.west.numbers() == set(range(50))
    await lab.east.ensure(Role.STANDBY, 2)
    await lab.east.promotable()
    with lab.east.client() as connection, connection.cursor() as cursor, pytest.raises(pymysql.MySQLError):
        cursor.execute("INSERT INTO t VALUES (-1)")


def test_sites_must_agree_on_the_mode(template: tuple[Path, Path]) -> None:
    raw = {
        "replicationAddress": "127.0.0.1", "serverId": 1, "gtidDomainId": 1, "credentialsDir": str(template[1]),
    }  # fmt: skip
    own = parse({**raw, "mode": "async"})
    problems = peer_conflicts(own, {"west": {**raw, "serverId": 2, "gtidDomainId": 2}})
    assert [(p.field, p.cause) for p in problems] == [("mode", "site west has 'lossless'")]
    with pytest.raises(InvalidParametersError, match="is for mode async"):
        parse({**raw, "rpoSeconds": 5})
    with pytest.raises(InvalidParametersError, match="set 1 to"):
        parse({**raw, "mode": "async", "rpoSeconds": 0.5})
    with pytest.raises(InvalidParametersError, match="not one of lossless, async"):
        parse({**raw, "mode": "fast"})
