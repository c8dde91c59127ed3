"""An empty site gets the active's data from the active's driver: as a backup or a dump, whole or not at all."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from graf_driver_sdk.types import ResyncStrategy, Role

pytestmark = pytest.mark.mariadb

_spec = importlib.util.spec_from_file_location("certificates", Path(__file__).with_name("certificates.py"))
certificates = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(certificates)


def write(site: Any, *numbers: int) -> None:
    with site.client() as connection, connection.cursor() as cursor:
        for number in numbers:
            cursor.execute(f"INSERT INTO t VALUES ({number})")


def secure(lab: Any, folder: Path) -> None:
    certificates.authority(folder / "group")
    for site in (lab.east, lab.west):
        site.parameters["tls"] = certificates.identity(folder / "group", site.name)


async def lone(lab: Any) -> None:
    """East is active alone with 1, 2, 3, and its log has lost its beginning."""
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.create_table()
    write(lab.east, 1, 2)
    lab.east.sql("CREATE USER reader@'%' IDENTIFIED BY 'of the reader'")
    lab.east.sql("GRANT SELECT ON app.* TO reader@'%'")
    lab.east.sql("CREATE VIEW app.v AS SELECT n FROM app.t")
    lab.east.sql("CREATE PROCEDURE app.p() SELECT 'of the routine'")
    write(lab.east, 3)
    lab.east.sql("FLUSH BINARY LOGS")
    name = lab.east.sql("SHOW BINARY LOGS")[-1][0]

    async def purged() -> bool:
        lab.east.sql(f"PURGE BINARY LOGS TO '{name}'")
        return len(lab.east.sql("SHOW BINARY LOGS")) == 1

    await lab.until("the log to be purged", purged)


async def serves(lab: Any, method: str) -> None:
    """West has all of east's data, by that method, and takes over without a loss; a copy has no beginning to follow."""
    facts = (await lab.west.status()).facts
    assert facts["bootstrap"].startswith(method)
    await lab.west.promotable()
    assert lab.west.numbers() == {1, 2, 3}
    assert lab.west.sql("SELECT COUNT(*) FROM app.v") == [(3,)]
    assert lab.west.sql("SHOW GRANTS FOR reader@'%'") == lab.east.sql("SHOW GRANTS FOR reader@'%'")
    assert lab.west.sql("CALL app.p()")[0][0] == "of the routine"
    assert not (lab.west.root / "data.clone").exists()
    await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
    write(lab.east, 4)
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    write(lab.west, 5)
    assert lab.west.numbers() == {1, 2, 3, 4, 5}


async def rebuilt(lab: Any, method: str) -> None:
    """East, rebuilt, gets a copy in turn, with transactions of its own from before; then it takes over again."""
    await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)
    told: list[str] = []

    async def done() -> bool:
        answer = await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.REBUILD, 2)
        told.append(answer.progress.message)
        return bool(answer.progress.completed)

    await lab.until("the rebuild", done, 30)
    assert (await lab.east.status()).facts["bootstrap"].startswith(method)
    assert lab.east.numbers() == {1, 2, 3, 4, 5}
    await lab.east.promotable()
    await lab.west.ensure(Role.ACTIVE, 2, "east", "west")
    write(lab.west, 6)
    await lab.west.crash()
    await lab.east.ensure(Role.ACTIVE, 3, "east")
    write(lab.east, 7)  # its own numbers go on where they were, or gtid_strict_mode refuses
    assert lab.east.numbers() == set(range(1, 8))


@pytest.mark.parametrize("tls", [False, True], ids=["in the clear", "TLS"])
async def test_a_purged_log_makes_mariadb_copy_by_backup(lab: Any, tmp_path: Path, tls: bool) -> None:
    if tls:
        secure(lab, tmp_path)
    await lone(lab)
    await lab.west.ensure(Role.STANDBY, 1)
    await serves(lab, "backup: the active's log has 0.0 MiB, without its beginning")
    await rebuilt(lab, "backup: ")


async def test_a_dump_is_taken_where_it_is_asked_for(lab: Any) -> None:
    for site in (lab.east, lab.west):
        site.parameters["bootstrap"] = "dump"
    await lone(lab)
    await lab.west.ensure(Role.STANDBY, 1)
    await serves(lab, "dump: asked for")
    await rebuilt(lab, "dump: asked for")
