"""Pure parts: positions, parameters, verdicts."""

import contextlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, Mock

import pytest
from graf_driver_mysql.backend import Backend, Mode
from graf_driver_mysql.driver import MysqlDriver
from graf_driver_mysql.gtid import Gtid, Position
from graf_driver_mysql.parameters import REPLICATION_USER, parse, peer_endpoint
from graf_driver_mysql.passwords import Passwords
from graf_driver_mysql.record import DataRole, Record, RecordFile, RecordUnreadableError
from graf_driver_mysql.resync import verdict
from graf_driver_mysql.sql import quoted
from graf_driver_sdk.errors import InvalidParametersError
from graf_driver_sdk.testing import small_disk
from graf_driver_sdk.types import ComponentKey, Peer, Spec, Verdict
from hypothesis import given
from hypothesis import strategies as st

gtids = st.builds(Gtid, st.integers(1, 4), st.integers(1, 3), st.integers(1, 50))
positions = st.lists(gtids, max_size=6).map(lambda found: Position.parse(",".join(map(str, found))))


@given(positions)
def test_a_position_reads_what_it_writes(position: Position) -> None:
    assert Position.parse(str(position)) == position
    assert position.covers(position)
    assert position.transactions_beyond(position) == 0


@given(positions, positions)
def test_a_merged_position_has_every_sequence_of_both(one: Position, other: Position) -> None:
    both = one.merged(other)
    assert both.transactions_beyond(one) >= 0
    assert one.transactions_beyond(both) == other.transactions_beyond(both) == 0


@given(positions, positions)
def test_covering_is_having_nothing_beyond(one: Position, other: Position) -> None:
    assert one.covers(other) == (not other.beyond(one))
    assert one.covers(other) == (not other.domains_beyond(one))


def test_what_is_beyond_is_told_as_ranges() -> None:
    mine, theirs = Position.parse("20-20-107,30-30-4,40-40-1"), Position.parse("20-20-103,30-30-9")
    assert mine.beyond(theirs) == ("20-20-104..107", "40-40-1")
    assert mine.transactions_beyond(theirs) == 5


def test_one_number_from_two_servers_is_a_fork() -> None:
    assert Position.parse("20-20-7").beyond(Position.parse("20-30-7")) == ("20-20-7",)


@pytest.mark.parametrize("text", ["1-2", "a-b-c", "1-2-3-4", "1-2-x", "-1-2-3"])
def test_a_bad_gtid_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="not a GTID"):
        Position.parse(text)


@pytest.mark.parametrize(
    ("local", "active", "expected"),
    [
        ("", "", Verdict.CLEAN),
        ("", "20-20-1", Verdict.EMPTY),
        ("20-20-1", "20-20-1", Verdict.CLEAN),
        ("20-20-1", "20-20-2,30-30-1", Verdict.BEHIND),
        ("20-20-3", "20-20-2,30-30-1", Verdict.DIVERGED),
    ],
)
def test_verdicts(local: str, active: str, expected: Verdict) -> None:
    assert verdict(Position.parse(local), Position.parse(active)) is expected


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    tmp_path.joinpath("replication-password").write_text("secret\n")
    return {
        "replicationAddress": "198.18.0.20",
        "serverId": 20.0,
        "gtidDomainId": 20.0,
        "credentialsDir": str(tmp_path),
    }


def test_numbers_of_a_protobuf_struct_are_whole_numbers(good: dict[str, Any]) -> None:
    parameters = parse(good)
    assert (parameters.server_id, parameters.port, parameters.buffer_pool_mib) == (20, 3306, 32)


@pytest.mark.parametrize(
    ("change", "field", "cause"),
    [
        ({"replicationAddress": "east"}, "replicationAddress", "not an IP address"),
        ({"serverId": 0.0}, "serverId", "out of range"),
        ({"serverId": 1.5}, "serverId", "not a whole number"),
        ({"serverId": True}, "serverId", "not a whole number"),
        ({"serverId": float("inf")}, "serverId", "not a whole number"),
        ({"serverId": float("nan")}, "serverId", "not a whole number"),
        ({"gtidDomainId": None}, "gtidDomainId", "missing"),
        ({"port": 70000.0}, "port", "out of range"),
        ({"dataDir": "relative"}, "dataDir", "not an absolute path"),
        ({"socketDir": "/" + "x" * 120}, "socketDir", "too long"),
        ({"credentialsDir": "/nonexistent"}, "credentialsDir", "cannot read"),
        ({"initSql": "/nonexistent.sql"}, "initSql", "not a file"),
        ({"application": {"database": "app"}}, "application", "not {database, user}"),
        ({"application": {"database": "a`b", "user": "u"}}, "application.database", "not a plain name"),
        ({"colour": "red"}, "colour", "not a parameter"),
    ],
)
def test_a_bad_parameter_is_reported_with_field_and_cause(
    good: dict[str, Any], change: dict[str, Any], field: str, cause: str
) -> None:
    with pytest.raises(InvalidParametersError) as refused:
        parse({**good, **change})
    assert [(p.field, cause in p.cause) for p in refused.value.problems] == [(field, True)]
    assert all(p.fix for p in refused.value.problems)


async def test_validation_reports_every_problem_at_once_and_equal_identities(good: dict[str, Any]) -> None:
    driver = MysqlDriver()
    key = ComponentKey("g", "db", "east")
    bad = await driver.validate(Spec(key, {**good, "serverId": "x", "port": 0.0}), [Peer("west", parameters={})])
    assert {p.field for p in bad} == {"serverId", "port", "peers[west].replicationAddress"}
    west = {**good, "replicationAddress": "198.18.0.30"}
    assert {p.field for p in await driver.validate(Spec(key, good), [Peer("west", parameters=west)])} == {
        "serverId",
        "gtidDomainId",
    }


def test_a_peers_address_is_read_from_its_parameters() -> None:
    endpoint = peer_endpoint("west", {"replicationAddress": "198.18.0.30", "port": 3307.0, "serverId": 30.0})
    assert (endpoint.site, endpoint.host, endpoint.port) == ("west", "198.18.0.30", 3307)


def test_the_record_survives_and_an_unreadable_one_is_never_taken_for_none(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "state" / "record.json")
    assert file.load() == Record()
    record = Record(DataRole.ACTIVE, ("east", "west"), 7)
    file.save(record)
    assert file.load() == record
    file.path.write_text('{"role": "active"}')
    with pytest.raises(RecordUnreadableError, match="not started"):
        file.load()


def test_a_record_of_the_version_before_is_replaced_on_a_disk_that_is_full_by_then(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        path = disk / "record.json"
        RecordFile(path).save(Record(DataRole.ACTIVE, ("east", "west"), 7))
        for spare in disk.glob(".*"):
            spare.unlink()
        file = RecordFile(path)
        file.load()
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            for _ in range(1000):
                filler.write(b"f" * 4096)
        assert shutil.disk_usage(disk).free == 0
        file.save(Record(DataRole.ACTIVE, ("east",), 8))
        assert RecordFile(path).load().epoch == 8


async def test_a_password_that_could_not_be_read_for_one_look_is_not_waited_for_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "password"
    path.write_text("secret")
    backend = SimpleNamespace(run=1, mode=Mode.ACTIVE, site="east", record=AsyncMock(return_value=Record(epoch=3)))
    backend.parameters = SimpleNamespace(
        scope=None, engine="mariadb", replication_password_file=path, application_user=None
    )
    backend.side_session = AsyncMock(return_value=Mock())
    passwords = Passwords(cast(Backend, backend))
    settle = AsyncMock(return_value=True)
    monkeypatch.setattr(passwords, "_settle", settle)
    await passwords.tend([], [])
    path.write_text("")
    await passwords.tend([], [])
    assert "no password that can be used" in passwords.waiting[REPLICATION_USER]
    path.write_text("secret")
    await passwords.tend([], [])
    assert not passwords.waiting
    assert settle.await_count == 1


def test_a_literal_cannot_end_its_own_quotes() -> None:
    assert quoted("it's \\ ") == "'it''s \\\\ '"
