"""An empty site gets the active's data by the method that fits, and a half copy is nobody's data."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from graf_driver_mysql.engines import engine
from graf_driver_mysql.parameters import Endpoint
from graf_driver_mysql.programs import BootstrapError
from graf_driver_mysql.scope import Scope
from graf_driver_mysql.seed import Offer, Seed, choose, no_copy
from graf_driver_sdk.errors import PreconditionError
from graf_driver_sdk.types import ResyncStrategy, Role

pytestmark = pytest.mark.mariadb
MIB = 1 << 20

_spec = importlib.util.spec_from_file_location("certificates", Path(__file__).with_name("certificates.py"))
certificates = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(certificates)


@pytest.mark.parametrize(
    ("offer", "can_copy", "failed", "copies", "told"),
    [
        (Offer("9.7.0", 64 * MIB, True), "", "", False, "at most 64 MiB"),
        (Offer("9.7.0", 65 * MIB, True), "", "", True, "clone: the active's log has 65.0 MiB"),
        (Offer("9.7.0", MIB, False), "", "", True, "without its beginning"),
        (Offer("9.7.1", 65 * MIB, True), "", "", False, "which must be the same for a copy"),
        (Offer("9.7.0", 65 * MIB, True), "no program", "", False, "whole log: no program"),
        (Offer("9.7.0", 65 * MIB, True), "", "the copy failed: x", False, "whole log: the copy failed: x"),
    ],
)
def test_the_method_is_chosen_by_size_and_version(
    offer: Offer, can_copy: str, failed: str, copies: bool, told: str
) -> None:
    choice = choose(offer, "9.7.0", can_copy=can_copy, above_mib=64, failed=failed)
    assert choice.copy is copies
    assert told in choice.why


@pytest.mark.parametrize("known", ["mariadb", "mysql"])
async def test_a_part_of_a_server_is_never_copied(known: str) -> None:
    """Whatever the engine can: a copy takes the place of what belongs to the site."""
    scoped = SimpleNamespace(
        engine=engine(known), parameters=SimpleNamespace(scope=Scope(databases=("app",))), on_death=[]
    )
    why = no_copy(scoped)
    assert "a part is in scope" in why
    assert not choose(Offer("9.7.0", 65 * MIB, False), "9.7.0", can_copy=why, above_mib=64, failed="").copy
    with pytest.raises(BootstrapError, match="a part is in scope"):
        await Seed(scoped)._copy(Endpoint("west", "127.0.0.1", 1))


async def test_mariadb_tells_why_it_replays_the_whole_log(lab: Any) -> None:
    lab.west.parameters["copyAboveMiB"] = 0.0
    await lab.up()
    assert "whole log: a copy by mariadb-backup is not built" in (await lab.west.status()).facts["bootstrap"]


@pytest.mark.mysql_long
@pytest.mark.parametrize("tls", [False, True], ids=["in the clear", "TLS"])
async def test_mysql_is_cloned_where_the_log_has_no_beginning_and_an_interrupted_copy_is_nothing(
    mysql_lab: Any, tmp_path: Path, tls: bool
) -> None:
    lab = mysql_lab
    if tls:
        certificates.authority(tmp_path / "group")
        for site in (lab.east, lab.west):
            site.parameters["tls"] = certificates.identity(tmp_path / "group", site.name)
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.create_table()
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1), (2), (3)")
    lab.east.sql("FLUSH BINARY LOGS")
    name = lab.east.sql("SHOW BINARY LOGS")[-1][0]
    lab.east.sql(f"PURGE BINARY LOGS TO '{name}'")
    assert lab.east.sql("SELECT @@global.gtid_purged")[0][0] != ""

    # West dies with half a copy, and with the record that a whole one would have.
    copying: list[str] = []

    async def begun() -> bool:
        copying[:] = [(await lab.west.once(Role.STANDBY, 1)).message]
        return "is being copied" in copying[0] or (lab.west.root / "data.clone").exists()

    await lab.until("the copy to begin", begun, 30)
    await lab.west.restart_driver()
    half = lab.west.root / "data.clone"
    half.mkdir(exist_ok=True)
    (half / "ibdata1").write_bytes(b"half")
    await lab.west.fenced_and_running(1)
    assert not (await lab.west.status()).promotable
    with pytest.raises(PreconditionError, match=r"may lack acknowledged writes|is empty and east has data"):
        await lab.west.once(Role.ACTIVE, 2, "west")

    await lab.west.ensure(Role.STANDBY, 1)
    assert not half.exists()
    assert "clone: " in (await lab.west.status()).facts["bootstrap"]
    await lab.west.promotable()
    assert lab.west.numbers() == {1, 2, 3}
    assert lab.west.sql("SELECT @@server_uuid") != lab.east.sql("SELECT @@server_uuid")
    await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (4)")
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert lab.west.numbers() == {1, 2, 3, 4}

    # A rebuild does the same: the site that was copied has no log from the beginning either.
    await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)

    async def rebuilt() -> bool:
        answer = await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.REBUILD, 2)
        return bool(answer.progress.completed)

    await lab.until("the rebuild", rebuilt, 30)
    assert lab.east.numbers() == {1, 2, 3, 4}
    assert "clone: " in (await lab.east.status()).facts["bootstrap"]
