"""A relay log that cannot be read: received again while the active serves, and kept when it does not."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from graf_driver_sdk.errors import PreconditionError
from graf_driver_sdk.types import Role

pytestmark = pytest.mark.mariadb

ROWS = set(range(1, 21))


async def received_and_not_applied(lab: Any) -> None:
    """Rows that west has acknowledged wait in its relay log, in files that nobody has open; its applier is stopped."""
    lab.west.sql(lab.west.component.backend.engine.stop_applier)
    with lab.east.client() as connection, connection.cursor() as cursor:
        for number in ROWS:
            cursor.execute(f"INSERT INTO t VALUES ({number})")
    lab.west.sql("FLUSH RELAY LOGS")


def apply(lab: Any) -> None:
    lab.west.sql(lab.west.component.backend.engine.start_applier)


def damage(data: Path) -> None:
    """The end of all that was received is not what the active sent."""
    for path in sorted(data.glob("relay.0*"))[:-1]:
        content = bytearray(path.read_bytes())
        content[-300:] = b"\xff" * min(300, len(content) - 260)
        path.write_bytes(content)


async def gone_wrong(lab: Any) -> str:
    """What the standby's status says once its applier has stopped."""

    async def stands_still() -> str:
        status = await lab.west.status()
        return status.promotable_reason if "applier stands still" in status.promotable_reason else ""

    said: list[str] = []

    async def seen() -> bool:
        said[:] = [await stands_still()]
        return bool(said[0])

    await lab.until("the applier to stop at what it cannot read", seen)
    return said[0]


async def heals(lab: Any) -> None:
    await lab.up()
    await received_and_not_applied(lab)
    damage(lab.west.root / "data")
    apply(lab)
    await lab.until("every row at west", lambda: lab.west.numbers() == ROWS)
    await lab.west.promotable()
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (99)")
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert lab.west.numbers() == ROWS | {99}


async def test_a_relay_log_that_cannot_be_read_is_received_again_from_the_active(lab: Any) -> None:
    await heals(lab)


@pytest.mark.mysql_long
async def test_mysql_receives_it_again_too(mysql_lab: Any) -> None:
    await heals(mysql_lab)


async def test_without_an_active_what_was_received_stays_and_is_not_promoted(lab: Any) -> None:
    """It may be the last copy of an acknowledged write: people read it, no driver throws it away."""
    await lab.up()
    await received_and_not_applied(lab)
    await lab.east.crash()
    damage(lab.west.root / "data")
    kept = {path.name: path.read_bytes() for path in (lab.west.root / "data").glob("relay.0*")}
    apply(lab)
    assert "relay" in (await gone_wrong(lab)).lower()
    for _ in range(20):
        with contextlib.suppress(PreconditionError):
            await lab.west.once(Role.STANDBY, 1)
        assert not (await lab.west.status()).promotable
    with pytest.raises(PreconditionError, match="applier stands still"):
        await lab.west.once(Role.ACTIVE, 2, "west")
    assert {name: (lab.west.root / "data" / name).read_bytes() for name in kept} == kept
