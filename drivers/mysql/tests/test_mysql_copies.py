"""An empty site gets the active's data from the active's driver: as a backup or a dump, whole or not at all."""

import asyncio
import importlib.util
import json
import os
import secrets
import shlex
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from graf_driver_mysql import channel, tools
from graf_driver_mysql.parameters import parse
from graf_driver_mysql.programs import BootstrapError, MissingProgramError, program
from graf_driver_mysql.restore import backup_position
from graf_driver_sdk.errors import InvalidParametersError, PreconditionError
from graf_driver_sdk.types import ResyncStrategy, Role

pytestmark = pytest.mark.mariadb
MYSQL_BIN = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graf" / "mysql-server" / "bin"

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
    lab.east.sql("CREATE ROLE sees")
    lab.east.sql("GRANT SELECT ON app.* TO sees")
    lab.east.sql("GRANT sees TO reader@'%'")
    lab.east.sql(f"SET DEFAULT ROLE sees {'FOR' if lab.east.engine == 'mariadb' else 'TO'} reader@'%'")
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
    for query in ("SHOW GRANTS FOR reader@'%'", "SHOW CREATE USER reader@'%'", "SHOW GRANTS FOR sees"):
        assert lab.west.sql(query) == lab.east.sql(query)
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

    await lab.until("the rebuild", done, 60)
    assert (await lab.east.status()).facts["bootstrap"].startswith(method)
    if method.startswith("backup"):  # which takes a second at least
        assert any("the data of west is being copied (backup: " in message for message in told)
    assert lab.east.numbers() == {1, 2, 3, 4, 5}
    await lab.east.promotable()
    await lab.west.ensure(Role.ACTIVE, 2, "east", "west")
    write(lab.west, 6)
    await lab.west.crash()
    await lab.east.ensure(Role.ACTIVE, 3, "east")
    write(lab.east, 7)  # its own numbers go on where they were, or gtid_strict_mode refuses
    assert lab.east.numbers() == set(range(1, 8))


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=pytest.mark.mysql_long)], ids=["in the clear", "TLS"])
async def test_a_purged_log_makes_mariadb_copy_by_backup(lab: Any, tmp_path: Path, tls: bool) -> None:
    if tls:
        secure(lab, tmp_path)
    await lone(lab)
    await lab.west.ensure(Role.STANDBY, 1)
    await serves(lab, "backup: the active's log has 0.0 MiB, without its beginning")
    await rebuilt(lab, "backup: ")


@pytest.mark.mysql_long
async def test_a_dump_is_taken_where_it_is_asked_for(lab: Any) -> None:
    for site in (lab.east, lab.west):
        site.parameters["bootstrap"] = "dump"
    await lone(lab)
    await lab.west.ensure(Role.STANDBY, 1)
    await serves(lab, "dump: asked for")
    await rebuilt(lab, "dump: asked for")


def cut(monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    """Of each backup and dump only the beginning comes, ``then`` what the shell is told to do."""
    for name in ("backup", "dump"):
        whole: Callable[..., list[str]] = getattr(tools, name)

        def some(*args: Any, whole: Callable[..., list[str]] = whole) -> list[str]:
            return ["/bin/sh", "-c", f"{shlex.join(whole(*args))} | head -c 3000; {then}"]

        monkeypatch.setattr(tools, name, some)


async def copying(lab: Any, words: str) -> str:
    """West is told to follow until it says these words."""
    told: list[str] = []

    async def said() -> bool:
        told[:] = [(await lab.west.once(Role.STANDBY, 1)).message]
        return words in told[0]

    try:
        await lab.until(f"west to say {words!r}", said)
    except AssertionError as error:
        raise AssertionError(f"{error}: {told}") from None
    return told[0]


async def followed(lab: Any) -> None:
    """West has its copy and follows: on a busy machine that takes longer than a change of role."""

    async def follows() -> bool:
        return bool((await lab.west.once(Role.STANDBY, 1)).completed)

    await lab.until("the copy", follows, 60)


async def nothing_is_served(lab: Any) -> None:
    status = await lab.west.status()
    assert not status.promotable
    with pytest.raises(PreconditionError, match=r"may lack acknowledged writes|is empty and east has data"):
        await lab.west.once(Role.ACTIVE, 2, "west")


@pytest.mark.mysql_long
@pytest.mark.parametrize("method", ["backup", "dump"])
async def test_a_copy_that_is_cut_short_is_nobodys_data_and_is_made_anew(
    lab: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    for site in (lab.east, lab.west):
        site.parameters["bootstrap"] = method
    await lone(lab)
    # The sender hangs in the middle, and the driver that receives is killed and comes back.
    with monkeypatch.context() as patch:
        cut(patch, "sleep 600")
        told = await copying(lab, "MiB received, of data of about ")
        assert f"({method}: asked for (bootstrap: {method}))" in told
        half = lab.west.root / "data.clone"
        assert half.exists()
        assert (await lab.east.status()).facts["copying_to"] == f"west by {method}"
        await nothing_is_served(lab)
        await copying(lab, "MiB received, of data of about ")
        await lab.west.restart_driver()
        await lab.west.fenced_and_running(1)
        assert half.exists()  # what a killed driver leaves behind
        await nothing_is_served(lab)
        await lab.until("east to see that nobody receives", lambda: "copying_to" not in facts(lab.east))
    # The sender's program ends early.
    with monkeypatch.context() as patch:
        cut(patch, "false")
        told = await copying(lab, "the copy failed: ")
        assert "at east: sh failed (status 1)" in told
        await nothing_is_served(lab)
        assert lab.west.sql("SELECT @@global.gtid_binlog_pos, @@global.gtid_slave_pos") == [("", "")]
    # The active one loses its role in the middle.
    with monkeypatch.context() as patch:
        cut(patch, "sleep 600")
        await copying(lab, "MiB received, of data of about ")
        quiesced = await lab.east.driver.quiesce(lab.east.spec, 1)
        assert quiesced.position
        await copying(lab, "east ended it: its role changes")
        await lab.east.driver.unquiesce(lab.east.spec, 1)
    await lab.west.ensure(Role.STANDBY, 1)
    await serves(lab, method)


@pytest.mark.mysql_long
@pytest.mark.parametrize("method", ["backup", "dump"])
async def test_a_copy_of_an_active_that_is_written_to_lacks_and_repeats_nothing(
    lab: Any, method: str, measured: Callable[[str], None]
) -> None:
    for site in (lab.east, lab.west):
        site.parameters["bootstrap"] = method
    await lone(lab)
    lab.east.sql("DELETE FROM app.t")
    lab.load.start(lab.east.client)
    await lab.until("a thousand writes", lambda: len(lab.load.acknowledged) > 1000, 60)
    before, loop = len(lab.load.acknowledged), asyncio.get_running_loop()
    began = loop.time()

    await followed(lab)
    took_s, meanwhile = loop.time() - began, len(lab.load.acknowledged) - before
    assert meanwhile > 0
    await lab.load.stop()  # before a lone active's writes are acknowledged by two, it must let the other one catch up

    async def caught_up() -> bool:
        return bool((await lab.west.status()).promotable)

    await lab.until("west to apply what was written meanwhile", caught_up, 60)
    await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert lab.load.acknowledged == lab.west.numbers()
    assert (await lab.west.status()).facts["bootstrap"].startswith(method)
    measured(f"{method} of a small active under load: followed after {took_s:.1f} s, {meanwhile} writes meanwhile")


def facts(site: Any) -> Any:
    return site.driver._managed.copies.facts


@pytest.mark.mysql_long
async def test_a_program_that_is_missing_is_told_and_nothing_else_is_taken_instead(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(name: str, package: str) -> str:
        if name == "mbstream":
            raise MissingProgramError(f"{name} is not installed: install Debian's {package} in the driver's image")
        return program(name, package)

    for site in (lab.east, lab.west):
        site.parameters["bootstrap"] = "backup"
    assert not await lab.west.driver.validate(lab.west.spec, [])
    await lone(lab)
    with monkeypatch.context() as patch:
        patch.setattr(tools, "program", without)
        problem, *more = await lab.west.driver.validate(lab.west.spec, [])
        assert not more
        assert problem.field == "bootstrap"
        assert "install Debian's mariadb-backup" in problem.cause
        told = await copying(lab, "backup is asked for (bootstrap: backup) and impossible: mbstream is not installed")
        assert told == (await lab.west.status()).facts["bootstrap"]
        await nothing_is_served(lab)
    await copying(lab, "is being copied")
    await lab.west.ensure(Role.STANDBY, 1)
    await serves(lab, "backup: asked for")


async def shown(port: int, context: ssl.SSLContext) -> Any:
    """The certificate of the port."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        return writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()


async def ask(port: int, token: str, files: ssl.SSLContext | None = None) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=files)
    try:
        writer.write(channel.line({"want": "backup", "token": token}))
        return dict(json.loads(await reader.readline()))  # nothing at all is no JSON
    finally:
        writer.close()


@pytest.mark.parametrize("tls", [pytest.param(False, marks=pytest.mark.mysql_long), True], ids=["in the clear", "TLS"])
async def test_a_copy_is_given_to_nobody_but_a_driver_of_the_group(lab: Any, tmp_path: Path, tls: bool) -> None:
    context = None
    if tls:
        secure(lab, tmp_path)
        context = ssl.create_default_context(cafile=str(tmp_path / "group" / "ca.crt"))
    await lone(lab)
    await lab.west.fenced_and_running(1)
    port = int(lab.east.parameters["copyPort"])
    if tls:  # without a certificate, and in the clear
        for files in (context, None):
            with pytest.raises((OSError, ValueError)):
                assert await ask(port, "00", files) == "never an answer"
        own = lab.west.parameters["tls"]
        context = ssl.create_default_context(cafile=own["ca"])
        context.load_cert_chain(own["cert"], own["key"])
    for token in ("", "'; SHUTDOWN; '", "00"):
        assert "token" in (await ask(port, token, context))["error"]
    token = secrets.token_hex(24)
    with lab.east.client() as connection, connection.cursor() as cursor:  # the application can take locks too
        cursor.execute(f"SELECT GET_LOCK('{channel.lock_of(token)}', 0)")
        assert cursor.fetchall() == ((1,),)
        assert "belongs to no session of graf_repl" in (await ask(port, token, context))["error"]
    assert "is not active" in (await ask(int(lab.west.parameters["copyPort"]), "00", context))["error"]
    if context is not None:  # a renewed certificate is shown without a restart
        before = await shown(port, context)
        certificates.identity(tmp_path / "group", "east")

        async def renewed() -> bool:
            try:
                return await shown(port, context) != before
            except OSError:  # closed for the moment in which it is opened anew
                return False

        await lab.until("the port to show the new certificate", renewed, 30)


def test_where_a_copy_comes_from_is_a_parameter_of_its_own(template: tuple[Path, Path], tmp_path: Path) -> None:
    raw = {
        "replicationAddress": "127.0.0.1", "serverId": 1, "gtidDomainId": 1, "credentialsDir": str(template[1]),
    }  # fmt: skip
    assert parse(raw).copy_port == 13306
    assert parse({**raw, "port": 60000}).copy_port == 50000
    assert parse({**raw, "copyPort": 4000}).copy_port == 4000
    scope = {"databases": ["app"]}
    for wrong, field in (
        ({"copyPort": 3306}, "copyPort"),
        ({"bootstrap": "clone"}, "bootstrap"),
        ({"bootstrap": "backup", "engine": "mysql"}, "bootstrap"),
        ({"bootstrap": "rsync"}, "bootstrap"),
        ({"bootstrap": "dump", "scope": scope}, "bootstrap"),
    ):
        with pytest.raises(InvalidParametersError) as caught:
            parse({**raw, **wrong})
        assert [problem.field for problem in caught.value.problems] == [field]


@pytest.mark.parametrize(
    ("name", "said", "position"),
    [
        ("xtrabackup_binlog_info", "binlog.000002\t1234\t20-20-7,30-30-2\n", "20-20-7,30-30-2"),
        ("mariadb_backup_binlog_info", "binlog.000002\t1234\t20-20-7,\n30-30-2\n", "20-20-7,30-30-2"),
        ("xtrabackup_binlog_info", "binlog.000002\t1234\n", None),
        ("xtrabackup_binlog_info", "binlog.000002\t1234\tuuid:1-7\n", None),
        ("another", "binlog.000002\t1234\t20-20-7\n", None),
    ],
)
def test_a_backup_without_a_position_is_no_copy(tmp_path: Path, name: str, said: str, position: str | None) -> None:
    (tmp_path / name).write_text(said)
    if position is not None:
        assert str(backup_position(tmp_path)) == position
        return
    with pytest.raises(BootstrapError, match="position"):
        backup_position(tmp_path)


@pytest.mark.mysql_long
async def test_mysql_gets_a_dump_of_an_active_of_another_version(
    mysql_lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """East runs 8.4 and west 9, as in the middle of an upgrade."""
    lab = mysql_lab
    newer, older = MYSQL_BIN, MYSQL_BIN.parent.with_name("mysql-server-8.4") / "bin"
    if not (older / "mysqld").is_file():
        pytest.fail(f"{older}/mysqld is missing: run `tools/mysql_server.sh 8.4`, or `make mysql-long`")
    shutil.rmtree(lab.east.root)  # its template is one of 9
    with monkeypatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"].replace(str(newer), str(older)))
        await lone(lab)
    await followed(lab)
    assert lab.west.sql("SELECT VERSION()") > lab.east.sql("SELECT VERSION()")
    assert lab.west.sql("SELECT @@server_uuid") != lab.east.sql("SELECT @@server_uuid")
    why = (await lab.west.status()).facts["bootstrap"]
    assert why.startswith("dump: no clone: the active runs 8.4.")
    assert "which must be the same for a clone" in why
    assert "without its beginning" in why
    await serves(lab, "dump: ")
