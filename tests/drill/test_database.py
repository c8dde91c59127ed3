"""The administrator of a site's database server: found through its process, and what it locks ends with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pymysql
import pytest

from graf.lab.drill.database import Administrator, ends_with, socket_of
from graf.lab.drill.errors import DrillError


def process(folder: Path, arguments: list[str], config: str = "") -> Path:
    """What /proc shows of a server: its arguments, and the files of its container."""
    made = folder / "7"
    (made / "root" / "etc").mkdir(parents=True)
    (made / "cmdline").write_bytes("\0".join(arguments).encode() + b"\0")
    (made / "root" / "etc" / "server.cnf").write_text(config)
    return made


def test_the_socket_is_looked_up_in_the_servers_own_files(tmp_path: Path) -> None:
    server = process(
        tmp_path, ["mariadbd", "--defaults-file=/etc/server.cnf", "--x"], "[mariadbd]\nsocket = /run/db/s.sock\n"
    )
    assert socket_of(server) == server / "root" / "run" / "db" / "s.sock"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["mariadbd"], "without a configuration file"), (["mariadbd", "--defaults-file=/etc/server.cnf"], "names none")],
)
def test_a_server_without_a_known_socket_is_told(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(DrillError) as caught:
        socket_of(process(tmp_path, arguments))
    assert words in str(caught.value.why)


@pytest.mark.mariadb
def test_a_lock_holds_writers_until_the_administrator_leaves(mariadb: Any, tmp_path: Path) -> None:
    mariadb.admin("CREATE TABLE appdb.t (id INT PRIMARY KEY)")
    server = process(tmp_path, ["mariadbd", "--defaults-file=/etc/server.cnf"], "socket = /s\n")
    (server / "root" / "s").symlink_to(mariadb.folder / "s")
    administrator = Administrator("east", 7, tmp_path)
    administrator.run("FLUSH TABLES WITH READ LOCK")
    with pytest.raises(pymysql.err.OperationalError, match="Lock wait timeout"):
        mariadb.admin("SET SESSION lock_wait_timeout = 1", "INSERT INTO appdb.t VALUES (1)")
    administrator.close()
    mariadb.admin("SET SESSION lock_wait_timeout = 10", "INSERT INTO appdb.t VALUES (1)")
    with pytest.raises(DrillError, match="refused: SELECT nonsense"):
        Administrator("east", 7, tmp_path).run("SELECT nonsense")


@pytest.mark.mariadb
def test_a_server_that_is_gone_is_told(tmp_path: Path) -> None:
    server = process(tmp_path, ["mariadbd", "--defaults-file=/etc/server.cnf"], "socket = /s\n")
    with pytest.raises(DrillError, match="database server of east cannot be administered"):
        Administrator("east", int(server.name), tmp_path)


def test_a_statement_is_looked_for_at_the_end_of_the_newest_binary_log(tmp_path: Path) -> None:
    assert not ends_with(tmp_path, "CREATE TABLE a"), "there is no log"
    (tmp_path / "binlog.index").write_text("CREATE TABLE c")
    (tmp_path / "binlog.000001").write_bytes(b"CREATE TABLE a")
    (tmp_path / "binlog.000002").write_bytes(b"CREATE TABLE early" + bytes(1 << 18) + b"CREATE TABLE b (n INT)\0")
    assert ends_with(tmp_path, "CREATE TABLE b (n INT)")
    assert not [name for name in ("a", "c", "early") if ends_with(tmp_path, f"CREATE TABLE {name}")]
