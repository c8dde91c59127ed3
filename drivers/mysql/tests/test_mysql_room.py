"""A full disk: MariaDB waits with every write and tells nobody. The driver tells, and gives roles all the same."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_mysql.room import Left, judged
from graf_driver_sdk.testing import small_disk
from graf_driver_sdk.types import Health, Role, Status


@pytest.fixture(name="small_disk")
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 260) as where:
        yield where


def move(site: Any, disk: Path) -> None:
    shutil.move(site.root, disk / site.name)
    site.root = disk / site.name
    site.parameters["dataDir"] = str(site.root)


def fill(disk: Path, left: int) -> None:
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(disk).free > left:
            file.write(b"f" * 65536)


def write_large(site: Any) -> threading.Thread:
    """Until the server ends."""

    def write() -> None:
        with contextlib.suppress(pymysql.MySQLError, OSError), site.client() as client, client.cursor() as cursor:
            for _ in range(20):
                cursor.execute("INSERT INTO large (b) VALUES (REPEAT('x', 1000000))")

    thread = threading.Thread(target=write)
    thread.start()
    return thread


async def says(lab: Any, site: Any, what: str) -> Status:
    found: list[Status] = []

    async def told() -> bool:
        found[:] = [await site.status()]
        return what in found[0].message

    await lab.until(f"{site.name} says {what!r}", told, 20)
    return found[0]


async def large(lab: Any) -> None:
    await lab.up()
    with lab.east.client() as client, client.cursor() as cursor:
        cursor.execute("CREATE TABLE large (n BIGINT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB)")


async def test_an_active_whose_disk_is_full_tells_it_and_is_fenced(lab: Any, small_disk: Path) -> None:
    move(lab.east, small_disk)
    await large(lab)
    assert (await lab.east.status()).message == ""
    fill(small_disk, 8 << 20)
    assert (await says(lab, lab.east, "MiB are left on the disk of")).health is Health.HEALTHY
    writer = write_large(lab.east)
    status = await says(lab, lab.east, "is full: the server waits with every write")
    assert (status.role, status.health, status.accepting) == (Role.ACTIVE, Health.UNHEALTHY, True)
    fill(small_disk, 0)
    await lab.east.ensure(Role.FENCED, 2)
    writer.join(20)
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    await says(lab, lab.east, "is full")
    (small_disk / "filler").unlink()

    async def back() -> bool:
        await lab.east.once(Role.FENCED, 2, other=Role.ACTIVE)
        return (await lab.east.status()).health is Health.HEALTHY

    await lab.until("east runs again", back, 30)
    await lab.east.ensure(Role.STANDBY, 2)


async def test_a_standby_whose_disk_is_full_tells_it_and_holds_up_nobody_for_ever(lab: Any, small_disk: Path) -> None:
    move(lab.west, small_disk)
    await large(lab)
    fill(small_disk, 8 << 20)
    writer = write_large(lab.east)
    await says(lab, lab.west, "is full")
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    writer.join(20)
    assert lab.east.sql("SELECT COUNT(*) FROM app.large") == [(20,)]
    await lab.west.ensure(Role.FENCED, 1)
    (small_disk / "filler").unlink()
    await lab.west.ensure(Role.STANDBY, 1)
    await lab.west.promotable()
    await lab.until("west has all of it", lambda: lab.west.sql("SELECT COUNT(*) FROM app.large") == [(20,)])


def test_what_is_left_is_told_when_it_is_little() -> None:
    assert judged(64, Path("/d")) == Left()
    assert judged(63.4, Path("/d")).text.startswith("only 63 MiB are left on the disk of /d")
    assert judged(0.9, Path("/d")).full
