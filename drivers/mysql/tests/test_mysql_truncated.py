"""Which tables of a dead server may have been truncated without the log: by files alone."""

import os
import time
from pathlib import Path

import pytest
from graf_driver_mysql import binlog, truncated
from graf_driver_mysql.binlog import Log, Transaction
from graf_driver_mysql.scope import Scope
from graf_driver_mysql.truncated import LAST_S, Table, suspects

D = Table("app", "d")


class Data:
    """A data directory whose binary log was written last just now."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.logged = [self.transaction(0, "INSERT INTO d VALUES (1)", "app.d")]
        self.log = root / "binlog.000001"
        self.log.touch()
        self.empty: set[str] = set()
        monkeypatch.setattr(truncated.binlog, "read", self.read)

    def read(self, path: Path) -> Log:
        return Log(path, b"", "", () if path.name in self.empty else tuple(self.logged))

    def transaction(self, age_s: float, statement: str, *tables: str) -> Transaction:
        return Transaction("20-20-1", int(time.time() - age_s), 0, 1, tables, (statement,))

    def table(self, name: str = "app/d", part: str = "", defined_s: float = 60.0) -> None:
        """A table whose file is made now, and that was defined some time ago."""
        file = self.root / f"{name}{part}.ibd"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        definition = self.root / f"{name}.frm"
        definition.touch()
        then = time.time() - defined_s
        os.utime(definition, (then, then))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    return Data(tmp_path, monkeypatch)


def test_a_file_that_is_younger_than_its_table_and_that_no_statement_explains(data: Data) -> None:
    data.table()
    assert suspects(data.root, None) == (D,), "rows that were written into it explain nothing"


def test_a_statement_of_that_time_explains_it_and_an_earlier_one_does_not(data: Data) -> None:
    data.table()
    data.logged.append(data.transaction(5, "truncate table D"))
    assert suspects(data.root, None) == (D,)
    data.logged.append(data.transaction(0, "TRUNCATE TABLE other_d"))
    assert suspects(data.root, None) == (D,), "another table's"
    data.logged.append(data.transaction(0, "truncate table `app`.`D`"))
    assert suspects(data.root, None) == ()


def test_a_table_that_was_just_made_is_none(data: Data) -> None:
    data.table(defined_s=0)
    assert suspects(data.root, None) == ()


def test_a_file_from_before_the_last_writes_is_none(data: Data) -> None:
    data.table()
    later = time.time() + LAST_S + 5
    os.utime(data.log, (later, later))
    assert suspects(data.root, None) == ()


def test_a_start_that_came_to_nothing_does_not_count_as_the_last_write(data: Data) -> None:
    data.table()
    later = time.time() + LAST_S + 5
    (data.root / "binlog.000002").touch()
    os.utime(data.root / "binlog.000002", (later, later))
    data.empty.add("binlog.000002")
    assert suspects(data.root, None) == (D,)


def test_without_a_history_there_is_nothing_to_hide_from_it(data: Data) -> None:
    data.table()
    data.empty.add(data.log.name)
    assert suspects(data.root, None) == ()


def test_only_what_is_replicated_counts(data: Data) -> None:
    for name in ("app/d", "shop/orders", "shop/cache", "sitelog/seen", "mysql/innodb_table_stats", "graf/probe"):
        data.table(name)
    assert suspects(data.root, Scope(("app",), (("shop", "orders"),))) == (D, Table("shop", "orders"))
    assert {table.database for table in suspects(data.root, None)} == {"app", "shop", "sitelog"}


def test_names_are_read_from_those_of_files(data: Data) -> None:
    data.table("app/d@0060x", "#P#p0")
    data.table("app/#sql-1")
    assert suspects(data.root, None) == (Table("app", "d`x"),)
    assert str(Table("app", "d`x")) == "`app`.`d``x`"


def test_the_log_is_read_as_it_is(tmp_path: Path) -> None:
    assert suspects(tmp_path, None) == ()
    (tmp_path / "binlog.000001").write_bytes(b"torn")
    with pytest.raises(binlog.BinlogError):
        suspects(tmp_path, None)
