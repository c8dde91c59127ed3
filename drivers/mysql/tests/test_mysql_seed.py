"""An empty site gets the active's data by the method that fits, and a half copy is nobody's data."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from graf_driver_mysql.engines import engine
from graf_driver_mysql.methods import Method, Offer, choose
from graf_driver_mysql.parameters import Endpoint
from graf_driver_mysql.programs import BootstrapError
from graf_driver_mysql.scope import Scope
from graf_driver_mysql.seed import Seed, unusable
from graf_driver_sdk.errors import PreconditionError
from graf_driver_sdk.types import ResyncStrategy, Role

pytestmark = pytest.mark.mariadb
MIB = 1 << 20

_spec = importlib.util.spec_from_file_location("certificates", Path(__file__).with_name("certificates.py"))
certificates = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(certificates)


BACKUP, CLONE, DUMP, LOG = Method.BACKUP, Method.CLONE, Method.DUMP, Method.LOG
MARIADB = "10.11.19-MariaDB-log"
GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("product", "asked", "offer", "cannot", "method", "told"),
    [
        ("mysql", "auto", Offer("9.7.0", 64 * MIB, True), {}, LOG, "at most 64 MiB"),
        ("mysql", "auto", Offer("9.7.0", 65 * MIB, True), {}, CLONE, "clone: the active's log has 65.0 MiB"),
        ("mysql", "auto", Offer("9.7.0", MIB, False), {}, CLONE, "without its beginning"),
        ("mysql", "auto", Offer("9.7.1", 65 * MIB, True, GIB * 9), {}, DUMP, "which must be the same for a clone"),
        ("mysql", "auto", Offer("9.7.1", 65 * MIB, True), {DUMP: "no program"}, LOG, "no dump: no program"),
        ("mysql", "auto", Offer("9.7.1", MIB, False), {DUMP: "no program"}, None, "no whole log: the active's log is"),
        ("mysql", "backup", Offer("9.7.0", MIB, True), {}, None, "backup is not mysql's"),
        ("mariadb", "auto", Offer(MARIADB, MIB, True), {}, LOG, "at most 64 MiB"),
        ("mariadb", "auto", Offer(MARIADB, 65 * MIB, True), {}, BACKUP, "backup: the active's log has 65.0 MiB"),
        ("mariadb", "auto", Offer("10.11.4-MariaDB", 65 * MIB, True), {}, BACKUP, "backup: "),
        ("mariadb", "auto", Offer("11.8.2-MariaDB", MIB, False, GIB * 9), {}, DUMP, "first two numbers equal"),
        ("mariadb", "auto", Offer(MARIADB, MIB, False, GIB), {BACKUP: "mbstream is not"}, DUMP, "no backup: mbstream"),
        ("mariadb", "auto", Offer(MARIADB, MIB, False, GIB + 1), {BACKUP: "x"}, None, "set bootstrap: dump"),
        ("mariadb", "auto", Offer(MARIADB, GIB, True, GIB + 1), {BACKUP: "x"}, LOG, "whole log: no backup: x"),
        ("mariadb", "auto", Offer(MARIADB, GIB, True, GIB, refuses={BACKUP: "y"}), {}, DUMP, "no backup: y"),
        ("mariadb", "dump", Offer(MARIADB, GIB, True, 9 * GIB), {}, DUMP, "asked for"),
        ("mariadb", "log", Offer(MARIADB, GIB, True), {}, LOG, "asked for"),
        ("mariadb", "log", Offer(MARIADB, 1, False), {}, None, "impossible: the active's log is without its beginning"),
        ("mariadb", "backup", Offer(MARIADB, 1, True), {}, BACKUP, "asked for"),
        (
            "mariadb",
            "backup",
            Offer(MARIADB, 1, True),
            {BACKUP: "mbstream is not"},
            None,
            "impossible: mbstream",
        ),
        ("mariadb", "backup", Offer(MARIADB, 1, True, refuses={BACKUP: "east"}), {}, None, "impossible: east"),
        ("mariadb", "backup", Offer(MARIADB, 1, True, written=False), {}, LOG, "nothing was written"),
    ],
)
def test_the_method_is_chosen_by_size_and_version(
    product: str, asked: str, offer: Offer, cannot: dict[Method, str], method: Method | None, told: str
) -> None:
    own = "9.7.0" if product == "mysql" else MARIADB
    choice = choose(offer, own, product=product, asked=asked, cannot=cannot, above_mib=64)
    assert choice.method is method
    assert told in choice.why


@pytest.mark.parametrize("known", ["mariadb", "mysql"])
async def test_a_part_of_a_server_is_never_copied(known: str) -> None:
    """Whatever the engine can: a copy takes the place of what belongs to the site."""
    scoped = SimpleNamespace(
        engine=engine(known), parameters=SimpleNamespace(scope=Scope(databases=("app",))), on_death=[]
    )
    cannot = unusable(scoped)
    for method in (BACKUP, CLONE, DUMP):
        assert "a part is in scope" in cannot[method]
        with pytest.raises(BootstrapError, match="a part is in scope"):
            await Seed(scoped)._copy(Endpoint("west", "127.0.0.1", 1), method)
    offer = Offer("9.7.0", 65 * MIB, False)
    assert choose(offer, "9.7.0", product=known, asked="auto", cannot=cannot, above_mib=64).method is None


@pytest.mark.mysql_long
@pytest.mark.parametrize("tls", [False, True], ids=["in the clear", "TLS"])
async def test_mysql_is_cloned_where_the_log_has_no_beginning_and_an_interrupted_copy_is_nothing(
    mysql_lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
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
        return "is being copied" in copying[0]

    with monkeypatch.context() as patch:
        patch.setattr("graf_driver_mysql.seed._WAIT_S", 0.0)  # a small copy takes less than one call waits for it
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
