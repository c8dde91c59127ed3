"""What was only at a returning site is told to people: as a binary log of its own, as a dump, and in an index."""

import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from graf_driver_mysql import binlog, tail
from graf_driver_mysql.engines import engine
from graf_driver_mysql.programs import MissingProgramError, program
from graf_driver_sdk.types import ResyncStrategy, Role, Verdict

pytestmark = pytest.mark.mariadb


def write(site: Any, *numbers: int) -> None:
    with site.client() as connection, connection.cursor() as cursor:
        for number in numbers:
            cursor.execute(f"INSERT INTO t VALUES ({number})")


async def diverged(lab: Any) -> str:
    """After the common 0, east wrote 1 and 2 alone, in two files of its log, and west 3. Returns the verdict's list."""
    await lab.up()
    write(lab.east, 0)
    await lab.until("the common row at west", lambda: lab.west.numbers() == {0})
    lab.east.sql("FLUSH BINARY LOGS")
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.west.once(Role.FENCED, 1)
    write(lab.east, 1)
    lab.east.sql("FLUSH BINARY LOGS")
    write(lab.east, 2)
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")  # as people force it
    write(lab.west, 3)
    await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)
    found: list[Any] = []

    async def known() -> bool:
        found[:] = [await lab.east.driver.assess(lab.east.spec, lab.west.peer())]
        return found[0].verdict is not Verdict.UNKNOWN

    await lab.until("a verdict", known)
    assert found[0].verdict is Verdict.DIVERGED
    assert "2 transactions are only here" in found[0].message
    assert f"{lab.east.root}/archive/" in found[0].message
    return str(found[0].divergent)


async def resynced(lab: Any) -> Any:
    last: list[Any] = []

    async def done() -> bool:
        last[:] = [await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.UNSPECIFIED, 2)]
        return bool(last[0].progress.completed)

    await lab.until("the rebuild", done)
    return last[0]


def output(command: list[str], given: bytes = b"") -> bytes:
    return subprocess.run(command, input=given, check=True, capture_output=True, timeout=60).stdout


def whole(path: Path) -> int:
    """Every event of the file is sound by its own checksum; returns how many."""
    raw, position, number = path.read_bytes(), len(binlog.MAGIC), 0
    assert raw.startswith(binlog.MAGIC)
    while position < len(raw):
        size = binlog.HEADER.unpack_from(raw, position)[3]
        event = raw[position : position + size]
        assert zlib.crc32(event[:-4]) == int.from_bytes(event[-4:], "little")
        position, number = position + size, number + 1
    return number


def names(listed: str) -> set[str]:
    """Of ``20-20-4..5`` or ``uuid:4-5``, each transaction."""
    head, _, last = listed.replace("..", "~").rpartition("~") if ".." in listed else listed.rpartition("-")
    cut = max(head.rfind("-"), head.rfind(":")) + 1
    return {f"{head[:cut]}{number}" for number in range(int(head[cut:]), int(last) + 1)}


async def check(lab: Any, told: Any, listed: str) -> tuple[Path, str]:
    folder = Path(told.archive) / tail.FOLDER
    assert f"2 transactions that were only here: {folder}/" in told.progress.message
    kept = binlog.read(folder / tail.BINARY)
    assert {one.gtid for one in kept.transactions} == names(listed)
    assert {one.tables for one in kept.transactions} == {("app.t",)}
    assert whole(folder / tail.BINARY) >= 8
    index = (folder / tail.INDEX).read_text()
    for name in names(listed):
        assert f"\n{name}\t20" in index
    assert "app.t" in index
    after = await lab.east.driver.assess(lab.east.spec, lab.west.peer())
    assert after.verdict in (Verdict.CLEAN, Verdict.BEHIND)
    assert str(folder) in after.message  # it is told for as long as the driver lives
    return folder, index


async def test_the_tail_of_mariadb_is_archived_with_an_index_and_a_dump_or_why_there_is_none(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = await diverged(lab)
    told = await resynced(lab)
    folder, index = await check(lab, told, listed)
    assert "INSERT INTO t VALUES (1)" in index  # MariaDB logs the statement beside the rows
    assert "INSERT INTO t VALUES (0)" not in index
    assert f"{folder}/{tail.DUMP} (readable)" in told.progress.message
    dump = (folder / tail.DUMP).read_text()
    for name in names(listed):
        assert f"GTID {name} " in dump
    assert dump.count("### INSERT INTO `app`.`t`") == 2
    assert "###   @1=1" in dump
    assert "###   @1=2" in dump
    assert "###   @1=0" not in dump
    assert dump.rstrip().endswith("/*!50530 SET @@SESSION.PSEUDO_SLAVE_MODE=0*/;")  # it was written to its end

    # A driver that was killed between the archive and the tail: the next one makes up for it, in an image without the
    # program as far as it can.
    def without(name: str, package: str) -> str:
        raise MissingProgramError(f"{name} is not installed: install Debian's {package} in the driver's image")

    monkeypatch.setattr(tail, "program", without)
    shutil.rmtree(folder)
    (Path(told.archive) / "tail.new").mkdir()
    await lab.east.restart_driver()
    await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)
    again = await resynced(lab)
    assert str(folder) in again.progress.message
    assert {one.gtid for one in binlog.read(folder / tail.BINARY).transactions} == names(listed)
    assert not (Path(told.archive) / "tail.new").exists()
    assert not (folder / tail.DUMP).exists()
    for told_there in (again.progress.message, (folder / tail.INDEX).read_text()):
        assert "mariadb-binlog is not installed: install Debian's mariadb-client" in told_there


@pytest.mark.mysql_long
async def test_what_a_foreign_key_deleted_is_in_no_log_and_a_flashback_does_not_bring_it_back(lab: Any) -> None:
    """Why a diverged site is rebuilt and not rewound: docs/adr/0021."""
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.sql("CREATE TABLE app.p (n INT PRIMARY KEY) ENGINE=InnoDB")
    reference = "FOREIGN KEY (p) REFERENCES app.p (n) ON DELETE CASCADE"
    lab.east.sql(f"CREATE TABLE app.c (n INT PRIMARY KEY, p INT, {reference}) ENGINE=InnoDB")
    lab.east.sql("INSERT INTO app.p VALUES (1)")
    lab.east.sql("INSERT INTO app.c VALUES (10, 1)")
    lab.east.sql("FLUSH BINARY LOGS")
    lab.east.sql("DELETE FROM app.p WHERE n = 1")
    assert lab.east.sql("SELECT * FROM app.c") == []
    newest = lab.east.root / "data" / lab.east.sql("SHOW BINARY LOGS")[-1][0]
    reader = [program(*engine("mariadb").reader), "--no-defaults", "--flashback", str(newest)]
    undo = output(reader)
    client = [program("mariadb", "mariadb-client-core"), "--no-defaults", f"--socket={lab.east.socket}", "-uroot"]
    output(client, undo)
    assert lab.east.sql("SELECT * FROM app.p") == [(1,)]
    assert lab.east.sql("SELECT * FROM app.c") == []


@pytest.mark.mysql_long
async def test_the_tail_of_mysql_is_archived_with_an_index_and_a_dump_that_shows_the_rows(mysql_lab: Any) -> None:
    listed = await diverged(mysql_lab)
    told = await resynced(mysql_lab)
    folder, _ = await check(mysql_lab, told, listed)
    dump = (folder / tail.DUMP).read_text()
    assert "### INSERT INTO `app`.`t`" in dump
    assert "###   @1=1" in dump
    assert "###   @1=2" in dump
    assert "###   @1=0" not in dump
    for name in names(listed):
        assert name in dump

    # Only files that may have something divergent are read; a last event that a crash cut short is none.
    archive = Path(told.archive)
    shutil.rmtree(folder)
    first, *_, last = binlog.files(archive / "data")
    first.write_bytes(b"not a binary log")
    last.write_bytes(last.read_bytes() + b"\0" * 10)
    active = engine("mysql").history(tail.active_position(archive))
    assert tail.write(engine("mysql"), archive, active).transactions == 2
    first, *_, last = binlog.files(archive / "data")
    last.write_bytes(b"not a binary log")
    shutil.rmtree(folder)
    with pytest.raises(binlog.BinlogError, match="is no binary log"):
        tail.write(engine("mysql"), archive, active)
    assert not folder.exists()


def test_an_archive_without_its_data_is_not_told(tmp_path: Path) -> None:
    """A site that dies while its data is put aside does it anew; the first folder has nothing to tell of."""
    for name in ("20260101T000000Z-epoch2", "20260101T000001Z-epoch2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / tail.ASSESSMENT).write_text("put aside\nverdict: DIVERGED\nactive: 1-1-1\n")
    whole = tmp_path / "20260101T000001Z-epoch2"
    (whole / "data").mkdir()
    assert tail.unfinished(tmp_path) == (whole,)
    assert tail.newest_of(tmp_path, 2) == str(whole)


def test_a_driver_that_was_killed_during_a_rebuild_knows_where_it_had_put_what_was_only_here(tmp_path: Path) -> None:
    """What it puts aside afterwards, of a copy that was not whole, is in an archive too and holds nothing of that."""
    verdicts = {
        "0001-epoch2": "DIVERGED",
        "0002-epoch2-2": "EMPTY",
        "0003-epoch21": "DIVERGED",
        "0004-epoch12": "DIVERGED",
    }
    for name, verdict in verdicts.items():
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / tail.ASSESSMENT).write_text(f"put aside\nverdict: {verdict}\nactive: 1-1-1\n")
    assert tail.newest_of(tmp_path, 2) == str(tmp_path / "0001-epoch2")
    assert tail.newest_of(tmp_path, 1) == ""
