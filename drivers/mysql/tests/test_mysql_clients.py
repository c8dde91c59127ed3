"""What clients do to a server that a role is given to: locks, long statements, too many connections, XA, events."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_mysql.driver import MysqlDriver
from graf_driver_mysql.parameters import parse
from graf_driver_mysql.sql import SqlError
from graf_driver_mysql.text import unusable, without_quoted
from graf_driver_sdk.errors import InvalidParametersError, PreconditionError
from graf_driver_sdk.types import ComponentKey, Health, Role, Spec


def every_connection(site: Any) -> list[Any]:
    """As many as one account gets."""
    held: list[Any] = []
    with pytest.raises(pymysql.MySQLError, match="max_user_connections"):
        held.extend(iter(site.client, None))
    return held


async def test_clients_that_take_every_connection_keep_nobody_out(lab: Any) -> None:
    await lab.up()
    held = every_connection(lab.east)
    await lab.west.crash()
    with contextlib.suppress(pymysql.MySQLError):
        held.append(lab.east.client())
    await lab.west.ensure(Role.STANDBY, 1)
    await lab.west.promotable()
    assert (await lab.east.driver.quiesce(lab.east.spec, 1)).progress.completed
    await lab.east.driver.unquiesce(lab.east.spec, 1)
    held += every_connection(lab.east)
    await lab.east.ensure(Role.FENCED, 2)
    assert not lab.east.component.backend.server.alive


async def test_a_quiesce_that_waits_says_for_whom(lab: Any) -> None:
    await lab.up()
    east = lab.east
    with east.client() as client, client.cursor() as cursor:
        cursor.execute("LOCK TABLES t WRITE")
        with pytest.raises(PreconditionError, match="holds LOCK TABLES"):
            await east.driver.quiesce(east.spec, 1)
        cursor.execute("INSERT INTO t VALUES (1)")  # it goes on serving
        cursor.execute("UNLOCK TABLES")
        number = client.thread_id()
        long = threading.Thread(target=cursor.execute, args=("INSERT INTO t SELECT 100 + SLEEP(6)",))
        long.start()
        shown = lambda: any("SLEEP" in str(row[7]) for row in east.sql("SHOW PROCESSLIST"))  # noqa: E731
        await lab.until("the statement runs", shown)
        with pytest.raises(PreconditionError, match=rf"run a statement: {number} of app at 127\.0\.0\.1"):
            await east.driver.quiesce(east.spec, 1)
        long.join(20)
    assert (await east.status()).accepting
    assert {1, 100} <= east.numbers()


async def test_a_transaction_that_is_open_at_quiesce_is_rolled_back(lab: Any) -> None:
    await lab.up()
    with lab.east.client() as client, client.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (7)")
        await lab.east.driver.quiesce(lab.east.spec, 1)
        with pytest.raises(pymysql.MySQLError):
            cursor.execute("COMMIT")
    assert lab.east.numbers() == set()


async def test_an_xa_transaction_that_was_prepared_is_finished_at_the_new_active(lab: Any) -> None:
    await lab.up()
    with lab.east.client() as client, client.cursor() as cursor:
        for statement in ("XA START 'x'", "INSERT INTO t VALUES (1)", "XA END 'x'", "XA PREPARE 'x'"):
            cursor.execute(statement)
        last = lab.east.position()
        await lab.until("it is at the standby", lambda: lab.west.position() == last)
        await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert len(lab.west.sql("XA RECOVER")) == 1
    with lab.west.client() as client, client.cursor() as cursor:
        cursor.execute("XA COMMIT 'x'")
    assert lab.west.numbers() == {1}
    back = lab.east

    async def fenced() -> bool:
        await back.once(Role.FENCED, 2, other=Role.ACTIVE)
        return (await back.status()).health is Health.HEALTHY

    await lab.until("east runs again", fenced)
    await back.ensure(Role.STANDBY, 2)
    await lab.until("east has it", lambda: back.numbers() == {1})
    await lab.until("and nothing prepared", lambda: back.sql("XA RECOVER") == [])


async def test_an_event_fires_at_no_standby_and_not_by_itself_after_a_promotion(lab: Any) -> None:
    await lab.up()
    for site in (lab.east, lab.west):
        assert site.sql("SELECT @@global.event_scheduler") == [("OFF",)]
        site.sql("SET GLOBAL event_scheduler = ON")
    with lab.east.client() as client, client.cursor() as cursor:
        cursor.execute("CREATE TABLE fired (site VARCHAR(63))")
        cursor.execute("CREATE EVENT tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO fired VALUES (@@report_host)")
    await lab.until("it fires", lambda: len(lab.west.sql("SELECT * FROM app.fired")) >= 2)
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    assert set(lab.west.sql("SELECT * FROM app.fired")) == {("east",)}
    status = "SELECT STATUS FROM information_schema.EVENTS WHERE EVENT_NAME = 'tick'"
    assert lab.west.sql(status) == [("SLAVESIDE_DISABLED",)]
    lab.west.sql("ALTER EVENT app.tick ENABLE")
    await lab.until("it fires here", lambda: ("west",) in lab.west.sql("SELECT * FROM app.fired"))


async def test_an_application_makes_its_own_triggers(lab: Any) -> None:
    await lab.up()
    with lab.east.client() as client, client.cursor() as cursor:
        cursor.execute("CREATE TABLE seen (n BIGINT)")
        cursor.execute("CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW INSERT INTO seen VALUES (NEW.n)")
        cursor.execute("INSERT INTO t VALUES (5)")
    await lab.until("the row of the trigger, once", lambda: lab.west.sql("SELECT n FROM app.seen") == [(5,)])


async def test_what_is_written_at_a_standby_is_told(lab: Any) -> None:
    """MariaDB's read_only lets an administrator through."""
    await lab.up()
    with lab.east.client() as client, client.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")
    await lab.until("the row at the standby", lambda: lab.west.numbers() == {1})
    assert (await lab.west.status()).message == ""
    lab.west.sql("INSERT INTO app.t VALUES (2)")

    async def told() -> bool:
        return (await lab.west.status()).message.startswith("1 transactions were written at this standby")

    await lab.until("the standby tells it", told)
    assert "written_here" in (await lab.west.status()).facts


async def test_a_standby_that_was_active_tells_of_no_write(lab: Any) -> None:
    """What it wrote as the active comes back to it when it was rebuilt, and was then not written at a standby."""
    await lab.up()
    await lab.east.driver.quiesce(lab.east.spec, 1)
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    await lab.east.ensure(Role.FENCED, 2)
    await lab.east.ensure(Role.STANDBY, 2)
    await lab.east.promotable()
    with lab.west.client() as client, client.cursor() as cursor:
        for number in range(5):
            cursor.execute(f"INSERT INTO t VALUES ({number})")
    await lab.until("the rows at the standby", lambda: lab.east.numbers() == set(range(5)))
    assert "written_here" not in (await lab.east.status()).facts


PASSWORDS = [
    ("mariadb", "x" * 96, ""),
    ("mariadb", "x" * 97, "97 characters, and replication takes 96"),
    ("mysql", "x" * 32, ""),
    ("mysql", "x" * 33, "33 characters, and replication takes 32"),
    ("mariadb", "a'b\"c`d\\e#; -- x", ""),
    ("mariadb", "žluť", "character 1 is not a printable ASCII"),
    ("mariadb", "abc;\ndef", "character 5 is not a printable ASCII"),
]


@pytest.mark.parametrize(("engine", "password", "cause"), PASSWORDS)
async def test_a_password_that_would_not_work_everywhere_is_refused_without_telling_it(
    tmp_path: Path, engine: str, password: str, cause: str
) -> None:
    (tmp_path / "replication-password").write_text(f"{password}\n")
    parameters = {
        "replicationAddress": "127.0.0.1",
        "serverId": 1.0,
        "gtidDomainId": 1.0,
        "credentialsDir": str(tmp_path),
        "engine": engine,
    }
    problems = await MysqlDriver().validate(Spec(ComponentKey("g", "db", "east"), parameters), [])
    told = [problem.cause for problem in problems if problem.field == "credentialsDir"]
    if not cause:
        assert told == []
    else:
        assert cause in told[0]
        assert password not in told[0]
    assert parse(parameters), "who serves with it is still fenced"


def test_a_secret_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "replication-password").write_bytes(b"\xff\xfe\x00")
    raw = {"replicationAddress": "127.0.0.1", "serverId": 1.0, "gtidDomainId": 1.0, "credentialsDir": str(tmp_path)}
    with pytest.raises(InvalidParametersError, match="is not text"):
        parse(raw)


def test_what_a_server_quotes_of_a_password_is_left_out() -> None:
    assert without_quoted("String 'secret...' is too long for 'x'") == "String '...'"
    assert unusable("a b~") == ""


async def test_an_error_about_a_password_does_not_have_it(lab: Any) -> None:
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    with pytest.raises(SqlError, match="1470") as caught:
        await lab.east.component.backend.control.run(f"CHANGE MASTER TO MASTER_PASSWORD='{'geheim' * 20}'")
    assert "geheim" not in str(caught.value)


async def test_a_new_password_that_cannot_be_used_leaves_the_one_before(lab: Any, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name in ("replication-password", "application-password"):
        (mounted / name).write_text(lab.east.password)
    for site in (lab.east, lab.west):
        site.parameters["credentialsDir"] = str(mounted)
    await lab.up()
    (mounted / "replication-password").write_bytes(b"geheim" * 20)

    async def told() -> bool:
        return "no password that can be used" in (await lab.east.status()).facts.get("rotation", "")

    await lab.until("the active says so", told)
    await lab.west.crash()
    await lab.west.ensure(Role.STANDBY, 1)
    await lab.west.promotable()
    assert "geheim" not in str(await lab.east.status()) + str(await lab.west.status())
