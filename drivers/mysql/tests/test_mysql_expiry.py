"""The binary log is kept bounded, and never without what a site that follows still needs."""

import asyncio
import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graf_driver_mysql import binlog, purge, tail, tools
from graf_driver_mysql.driver import MysqlDriver
from graf_driver_mysql.engines import engine
from graf_driver_mysql.expiry import Limits, LogFile, Need, Plan, plan
from graf_driver_mysql.gtid import Position
from graf_driver_mysql.parameters import parse
from graf_driver_sdk.errors import InvalidParametersError, NeedsResyncError
from graf_driver_sdk.types import Assessment, ComponentKey, Peer, ResyncStrategy, Role, Spec, Verdict
from hypothesis import given
from hypothesis import strategies as st

_spec = importlib.util.spec_from_file_location("certificates", Path(__file__).with_name("certificates.py"))
certificates = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(certificates)

NOW_S = 1_000_000.0
HOUR_S = 3600.0
MIB = 1 << 20
NONE = Limits(0.0, 0)


def at(number: int) -> Position:
    return Position.parse(f"20-20-{number}" if number else "")


def log_of(*begins: int, hours: float = 1.0, size: int = 10) -> list[LogFile]:
    """Files that begin after these transactions; each ended so many hours before the next one."""
    count = len(begins)
    return [
        LogFile(f"binlog.{number:06}", size, at(begin), NOW_S - (count - 1 - number) * hours * HOUR_S)
        for number, begin in enumerate(begins)
    ]


def planned(files: list[LogFile], limits: Limits, *needs: Need, logged: int = 100) -> Plan:
    before = files[0].before
    assert before is not None
    return plan(files, before, at(logged), needs, NOW_S, limits)


FILES = log_of(0, 10, 20, 30, 40, 50)
TIGHT = Limits(0.0, 25)
HOURS = Limits(2.5 * HOUR_S, 0)
WEST, AWAY = Need("west", at(100), True), Need("north", at(15), False)


@pytest.mark.parametrize(
    ("limits", "needs", "first", "left"),
    [
        (NONE, [WEST], 0, ()),
        (TIGHT, [], 4, ()),
        (TIGHT, [WEST], 4, ()),
        (HOURS, [WEST], 3, ()),
        (Limits(1.0, 0), [WEST], 4, ()),  # two files with transactions stay whatever is asked for
        (HOURS, [WEST, AWAY], 1, ()),
        (TIGHT, [WEST, AWAY], 4, ("north",)),
        (Limits(2.5 * HOUR_S, 55), [WEST, AWAY], 1, ()),
        (TIGHT, [replace(AWAY, present=True)], 1, ()),
        (TIGHT, [Need("west", None, True)], 0, ()),
        (TIGHT, [Need("west", None, False)], 4, ("west",)),
        (HOURS, [Need("west", None, False)], 0, ()),
        (TIGHT, [Need("west", at(0), True, since="binlog.000002")], 2, ()),
        (TIGHT, [Need("west", at(0), True, since="binlog.000000")], 0, ()),
        (TIGHT, [Need("west", at(40), True)], 4, ()),
        (TIGHT, [Need("west", at(39), True)], 3, ()),
    ],
)
def test_what_goes_depends_on_age_and_size_and_who_needs_it(
    limits: Limits, needs: list[Need], first: int, left: tuple[str, ...]
) -> None:
    found = planned(FILES, limits, *needs)
    assert (found.first, found.left) == (first, left)


def test_who_lacks_what_is_gone_holds_nothing_up_and_is_named() -> None:
    found = planned(log_of(10, 20, 30, 40), TIGHT, Need("west", at(9), True), Need("north", at(10), True))
    assert (found.first, found.behind, found.kept) == (0, ("west",), ("north",))


def test_files_without_a_transaction_are_none_of_those_that_stay() -> None:
    """Starts that came to nothing: recovery would look for the newest file that has something."""
    assert planned(log_of(0, 10, 20, 30, 30, 30), TIGHT, logged=30).first == 1
    assert planned(log_of(0, 10, 20, 30, 30, 30), TIGHT, logged=31).first == 2
    assert planned(log_of(0, 0, 0), TIGHT, logged=0).first == 0
    unknown = [replace(file, before=None) if number == 4 else file for number, file in enumerate(FILES)]
    assert planned(unknown, TIGHT).first == 4


sizes = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 50), st.integers(0, 30)), min_size=1, max_size=12)
needs_of_sites = st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 250)), st.booleans()), max_size=4)


@given(sizes, needs_of_sites, st.integers(0, 300), st.integers(0, 200))
def test_a_present_site_never_loses_what_it_needs(
    drawn: list[tuple[int, int, int]], sites: list[tuple[int | None, bool]], most: int, hours: int
) -> None:
    """Against the words of the rule, not its code: a transaction that a site lacks is in a file that stays."""
    files, begin, ended_s = [], 0, NOW_S - sum(gap for _, _, gap in drawn) * HOUR_S
    for number, (transactions, size, gap) in enumerate(drawn):
        ended_s += gap * HOUR_S
        files.append(LogFile(f"binlog.{number:06}", size, at(begin), ended_s))
        begin += transactions
    needs = [Need(f"s{n}", None if has is None else at(min(has, begin)), here) for n, (has, here) in enumerate(sites)]
    found = planned(files, Limits(hours * HOUR_S, most), *needs, logged=begin)
    assert 0 <= found.first < len(files)
    stays = files[found.first].before
    for need in needs:
        lost = need.has is None or not need.has.covers(stays)
        assert not (lost and found.first and need.present)
        assert not lost or not found.first or need.site in found.left
    if found.first and not most:
        assert not found.left
    total = sum(file.size for file in files)
    if most == 0 and hours == 0:
        assert found.first == 0
    if found.left:
        assert total > most > 0


RAW: dict[str, Any] = {"replicationAddress": "127.0.0.1", "serverId": 1, "gtidDomainId": 1}
SCOPED = {"scope": {"databases": ["app"]}}


def raw(folder: Path, **more: Any) -> dict[str, Any]:
    folder.joinpath("replication-password").write_text("secret\n")
    return {**RAW, "credentialsDir": str(folder), **more}


def test_by_default_the_log_is_bounded_and_stays_whole_where_nothing_else_gives_the_data(tmp_path: Path) -> None:
    def limits(**more: Any) -> tuple[int, int]:
        made = parse(raw(tmp_path, **more))
        return made.binlog_keep_hours, made.binlog_max_mib

    assert limits() == (168, 10240)
    assert limits(binlogKeepHours=0, binlogMaxMiB=0) == (0, 0)
    assert limits(**SCOPED) == limits(bootstrap="log") == limits(binlogMaxMiB=0, binlogKeepHours=0, **SCOPED) == (0, 0)
    for more in (SCOPED, {"bootstrap": "log"}):
        with pytest.raises(InvalidParametersError) as refused:
            parse(raw(tmp_path, binlogKeepHours=24, binlogMaxMiB=100, **more))
        assert [p.field for p in refused.value.problems] == ["binlogKeepHours", "binlogMaxMiB"]
        assert all("bootstrapped by the log alone" in p.cause for p in refused.value.problems)


async def test_validation_refuses_expiry_where_a_site_could_not_be_copied_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ComponentKey("g", "db", "east")
    other = {"replicationAddress": "127.0.0.2", "serverId": 2, "gtidDomainId": 2}

    async def problems(peer: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
        spec, peers = Spec(key, raw(tmp_path, **more)), [Peer("west", parameters={**other, **peer})]
        found = await MysqlDriver().validate(spec, peers)
        return [(p.field, p.cause) for p in found if p.field.startswith("binlog")]

    assert await problems({}, binlogMaxMiB=100) == []
    assert await problems({"bootstrap": "log"}) == []  # nobody asked for it: it is off, and the fact says why
    ((field, cause),) = await problems({"bootstrap": "log"}, binlogMaxMiB=100)
    assert field == "binlogMaxMiB"
    assert "west is bootstrapped by the log alone" in cause
    monkeypatch.setattr(tools, "missing", lambda *_, **__: "mbstream is not installed")
    assert [field for field, _ in await problems({}, binlogKeepHours=24, binlogMaxMiB=100)] == [
        "binlogKeepHours",
        "binlogMaxMiB",
    ]
    assert await problems({}) == []


# Real servers. A log of 1 MiB at most has files of 128 KiB.


def limited(lab: Any, hours: int = 0, mib: int = 1) -> None:
    for site in (lab.east, lab.west):
        site.parameters.update(binlogKeepHours=float(hours), binlogMaxMiB=float(mib))


def fill(site: Any, first: int, mib: float) -> int:
    """Rows of 64 KiB; returns the next number."""
    count = int(mib * 16)
    with site.client() as connection, connection.cursor() as cursor:
        for number in range(first, first + count):
            cursor.execute("INSERT INTO big VALUES (%s, REPEAT('x', 65536))", (number,))
    return first + count


def rows(site: Any) -> set[int]:
    return {row[0] for row in site.sql("SELECT n FROM app.big")}


def names(site: Any) -> list[str]:
    return [row[0] for row in site.sql("SHOW BINARY LOGS")]


def log_mib(site: Any) -> float:
    return float(sum(row[1] for row in site.sql("SHOW BINARY LOGS"))) / MIB


async def look(site: Any) -> None:
    """As the driver does by itself; some files at a time."""
    await site.driver._managed.purge.look()
    for _ in range(30):
        before = names(site)
        await site.driver._managed.purge.look()
        if names(site) == before:
            return
    raise AssertionError(f"the log of {site.name} goes on being purged")


async def facts(site: Any) -> dict[str, str]:
    return dict((await site.status()).facts)


async def both(lab: Any) -> None:
    """East active with west in the set (asynchronously: beside it), and a table of large rows."""
    if lab.east.parameters.get("mode") == "async":
        await lab.east.ensure(Role.ACTIVE, 1, "east")
        await lab.west.ensure(Role.STANDBY, 1)
        lab.east.create_table()
        await lab.west.promotable()
    else:
        await lab.up()
    lab.east.sql("CREATE TABLE app.big (n INT PRIMARY KEY, c MEDIUMTEXT) ENGINE=InnoDB")


def forget_grace(site: Any) -> None:
    """Who was here until now has been away for longer than the grace."""
    for one in site.driver._managed.purge._sites.values():
        one.expected_until_s = 0.0


async def absent(lab: Any) -> None:
    """West is gone, for longer than it is expected back; east writes alone."""
    await look(lab.east)
    await lab.west.driver.close()
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.until("east to have no follower", lambda: not lab.east.component.backend.seen.followers)
    await look(lab.east)
    forget_grace(lab.east)


async def assessed(lab: Any) -> Assessment:
    """West's verdict, once its server runs."""
    found: list[Assessment] = []

    async def known() -> bool:
        found[:] = [await lab.west.driver.assess(lab.west.spec, lab.east.peer())]
        return found[0].verdict is not Verdict.UNKNOWN

    await lab.until("a verdict", known, 30)
    return found[0]


async def resynced(lab: Any, strategy: ResyncStrategy) -> Any:
    found: list[Any] = []

    async def done() -> bool:
        found[:] = [await lab.west.driver.resync(lab.west.spec, lab.east.peer(), strategy, 1)]
        return bool(found[0].progress.completed)

    try:
        await lab.until("the resync", done, 60)
    except AssertionError as error:
        raise AssertionError(f"{error}: {found}") from None
    return found[0]


def archived(answer: Any) -> Path:
    """Where the data was put aside."""
    return Path(answer.archive)


async def follower_keeps_its_log(lab: Any) -> None:
    """West follows and does not apply, so it needs everything, however much that is."""
    applier = ("STOP SLAVE SQL_THREAD", "START SLAVE SQL_THREAD")
    if lab.west.engine == "mysql":
        applier = ("STOP REPLICA SQL_THREAD", "START REPLICA SQL_THREAD")
    lab.west.sql(applier[0])
    fill(lab.east, 1000, 2)
    first = lab.west.position()
    await look(lab.east)
    forget_grace(lab.east)
    await look(lab.east)
    assert log_mib(lab.east) > 2
    told = await lab.east.status()
    assert told.facts["binlog_kept_for"].startswith("west: from binlog.00000")
    assert "more than binlogMaxMiB, and is kept for west" in told.message
    assert lab.west.position() == first
    # What it received is lost with its relay log, and has to be fetched again from the beginning.
    await lab.west.crash()
    await lab.west.ensure(Role.STANDBY, 1)
    await lab.west.promotable()
    await lab.until("the rows at west", lambda: rows(lab.west) == rows(lab.east))
    await look(lab.east)
    assert log_mib(lab.east) <= 1.2
    await look(lab.west)
    assert log_mib(lab.west) <= 1.2
    # What is younger than an hour stays below the limit of size; what is older goes, but for what recovery reads.
    young = names(lab.east)
    assert len(young) > 3
    for path in binlog.files(lab.east.root / "data"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 2 * HOUR_S))
    await look(lab.east)
    assert names(lab.east) in (young[-2:], young[-3:])  # the newest one may have no transaction yet


@pytest.mark.mariadb
async def test_nothing_goes_that_a_follower_needs_and_both_logs_are_bounded(lab: Any) -> None:
    limited(lab, hours=1)
    await both(lab)
    await follower_keeps_its_log(lab)


@pytest.mark.mariadb
async def test_a_purge_that_ignores_followers_is_found(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug."""
    monkeypatch.setattr(purge.Purge, "_needs", lambda *_: [])
    limited(lab)
    await both(lab)
    with pytest.raises(AssertionError):
        await follower_keeps_its_log(lab)


async def returns_behind(lab: Any, method: str) -> None:
    """West was away for more than the log may have; it is told, rebuilt by a copy, and has everything."""
    await both(lab)
    after = fill(lab.east, 1000, 0.4)
    await lab.until("the rows at west", lambda: rows(lab.west) == rows(lab.east))
    await absent(lab)
    after = fill(lab.east, after, 0.6)
    await look(lab.east)  # below the limit it is waited for
    told = await lab.east.status()
    assert "west, which is away: from binlog." in told.facts["binlog_kept_for"]
    assert "west is away, and needs" in told.message
    assert "binlog_left_behind" not in told.facts
    first = names(lab.east)[0]
    fill(lab.east, after, 1.5)
    await look(lab.east)
    assert names(lab.east)[0] > first
    assert log_mib(lab.east) <= 1.2
    told = await lab.east.status()
    assert told.facts["binlog_left_behind"] == "west"
    assert "west lacks what the binary log has no more: it is rebuilt by a copy" in told.message

    lab.west.driver = MysqlDriver()
    await lab.west.once(Role.INVALIDATED, 1, other=Role.ACTIVE)
    verdict = await assessed(lab)
    assert verdict.verdict is Verdict.BEHIND
    assert "has no more what is lacking here" in verdict.message
    # As a controller does: FOLLOW for who is behind, and REBUILD where that is refused.
    with pytest.raises(NeedsResyncError, match="it cannot follow; ask for REBUILD"):
        await resynced(lab, ResyncStrategy.FOLLOW)
    answer = await resynced(lab, ResyncStrategy.REBUILD)
    assert archived(answer).joinpath("data").is_dir()
    assert (await facts(lab.west))["bootstrap"].startswith(method)
    assert rows(lab.west) == rows(lab.east)
    await lab.west.promotable()
    if lab.east.parameters.get("mode") != "async":
        await lab.east.ensure(Role.ACTIVE, 1, "east", "west")
    lab.east.sql("INSERT INTO app.t VALUES (7)")
    await lab.until("the new row at west", lambda: lab.west.numbers() == {7})
    assert (await lab.west.driver.assess(lab.west.spec, lab.east.peer())).verdict is Verdict.CLEAN
    await look(lab.east)
    assert "binlog_left_behind" not in await facts(lab.east)


@pytest.mark.mariadb
async def test_a_site_that_was_away_too_long_is_told_so_and_rebuilt_by_backup(lab: Any) -> None:
    limited(lab)
    await returns_behind(lab, "backup: ")


@pytest.mark.mysql_long
async def test_the_same_asynchronously_and_with_tls(lab: Any, tmp_path: Path) -> None:
    certificates.authority(tmp_path / "group")
    for site in (lab.east, lab.west):
        site.parameters.update(tls=certificates.identity(tmp_path / "group", site.name), mode="async")
    limited(lab)
    await returns_behind(lab, "backup: ")


@pytest.mark.mysql_long
async def test_mysql_keeps_what_a_follower_needs_and_both_logs_are_bounded(mysql_lab: Any) -> None:
    limited(mysql_lab, hours=1)
    await both(mysql_lab)
    await follower_keeps_its_log(mysql_lab)


@pytest.mark.mysql_long
async def test_mysql_that_was_away_too_long_is_rebuilt_by_clone(mysql_lab: Any) -> None:
    limited(mysql_lab)
    await returns_behind(mysql_lab, "clone: ")


async def killed_while_it_purges(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver and its server die in a purge, again and again: it is gone on with, and nothing else is harmed."""
    original, delay_s, cuts = purge.Purge._purge, [0.0], []

    async def cut(self: purge.Purge, *arguments: Any) -> None:
        if self is not lab.east.driver._managed.purge or not delay_s:
            return await original(self, *arguments)
        cuts.append(asyncio.create_task(original(self, *arguments)))
        await asyncio.sleep(delay_s.pop())
        lab.east.kill()
        return await cuts[-1]

    monkeypatch.setattr(purge.Purge, "_purge", cut)
    limited(lab)
    await both(lab)
    following = 1000
    for epoch in range(2, 8):
        following = fill(lab.east, following, 1.6)
        await lab.until("the rows at west", lambda: rows(lab.west) == rows(lab.east))
        before = names(lab.east)
        delay_s[:] = [0.0005 * (epoch - 2)]  # from the moment at which it is sent
        await asyncio.gather(lab.east.driver._managed.purge.look(), return_exceptions=True)
        await lab.east.dead()
        await lab.east.restart_driver()
        await lab.east.ensure(Role.ACTIVE, epoch, "east", "west")
        await lab.west.ensure(Role.STANDBY, epoch)
        left = names(lab.east)
        files = {path.name for path in binlog.files(lab.east.root / "data")}
        assert files == set(left)  # what is no part of the log any more is no file any more
        assert before[-1] in left
        await lab.west.promotable()
        await look(lab.east)
        assert log_mib(lab.east) <= 1.3
    assert len(cuts) == 6
    # A failover: the new active has a log of its own, and bounds it likewise.
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 9, "west")
    fill(lab.west, following, 1.5)
    assert {*range(1000, following)} <= rows(lab.west)
    await lab.east.once(Role.INVALIDATED, 9, other=Role.ACTIVE)

    async def follows() -> bool:
        answer = await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.UNSPECIFIED, 9)
        return bool(answer.progress.completed)

    await lab.until("east follows", follows, 60)
    assert rows(lab.east) == rows(lab.west)
    for site in (lab.west, lab.east):
        await look(site)
        assert log_mib(site) <= 1.3
    verdict = (await lab.east.driver.assess(lab.east.spec, lab.west.peer())).verdict
    assert verdict is Verdict.CLEAN


@pytest.mark.mysql_long
async def test_a_kill_in_the_middle_of_a_purge_is_gone_on_from(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await killed_while_it_purges(lab, monkeypatch)


@pytest.mark.mysql_long
async def test_a_kill_of_mysql_in_the_middle_of_a_purge_is_gone_on_from(
    mysql_lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await killed_while_it_purges(mysql_lab, monkeypatch)


async def bootstrapped(lab: Any) -> None:
    """West is empty and gets the data, by what is not seen here: nothing goes that it may need, then or afterwards."""
    limited(lab)
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.create_table()
    lab.east.sql("CREATE TABLE app.big (n INT PRIMARY KEY, c MEDIUMTEXT) ENGINE=InnoDB")
    after = fill(lab.east, 1000, 1.5)
    await lab.west.fenced_and_running(1)
    whole = names(lab.east)
    await look(lab.east)
    forget_grace(lab.east)
    await look(lab.east)
    assert names(lab.east) == whole  # it may replay the log from its beginning
    site = lab.east.driver._managed.purge._sites["west"]
    site.empty_s -= purge.BOOTSTRAP_S
    await look(lab.east)
    assert log_mib(lab.east) <= 1.2  # for ever it is not waited for
    assert "binlog_left_behind" not in await facts(lab.east)

    # The log has no beginning any more, so it gets a copy, and needs the log from where that began.
    site.empty_s = None
    await look(lab.east)
    assert site.since == names(lab.east)[-1]
    first = names(lab.east)[-1]
    fill(lab.east, after, 2)
    forget_grace(lab.east)
    await look(lab.east)
    assert names(lab.east)[0] == first
    assert log_mib(lab.east) > 1.9
    await lab.west.ensure(Role.STANDBY, 1)
    await lab.until("the rows at west", lambda: rows(lab.west) == rows(lab.east))
    await look(lab.east)
    assert log_mib(lab.east) <= 1.2


@pytest.mark.mysql_long
async def test_a_site_that_gets_the_data_is_not_left_behind_meanwhile(lab: Any) -> None:
    await bootstrapped(lab)


@pytest.mark.mysql_long
async def test_a_site_that_gets_the_data_of_mysql_is_not_left_behind_meanwhile(mysql_lab: Any) -> None:
    await bootstrapped(mysql_lab)


@pytest.mark.mysql_long
async def test_a_tail_of_which_a_part_was_purged_says_so(lab: Any) -> None:
    """West is forced to take over, after it was left behind: what only east has is in its data and not in its log."""
    limited(lab)
    await both(lab)
    await lab.west.once(Role.FENCED, 1)
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await look(lab.east)
    forget_grace(lab.east)
    await lab.until("east to have no follower", lambda: not lab.east.component.backend.seen.followers)
    fill(lab.east, 1000, 2)
    await look(lab.east)
    assert (await facts(lab.east))["binlog_left_behind"] == "west"
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    await lab.east.once(Role.INVALIDATED, 2, other=Role.ACTIVE)
    found: list[Any] = []

    async def done() -> bool:
        found[:] = [await lab.east.driver.resync(lab.east.spec, lab.west.peer(), ResyncStrategy.UNSPECIFIED, 2)]
        return bool(found[0].progress.completed)

    await lab.until("the rebuild", done, 60)
    assert "(not in the log any more, and only in the data: 20-20-" in found[0].progress.message
    index = archived(found[0]).joinpath(tail.FOLDER, tail.INDEX).read_text()
    assert "# not here, as the log was purged before, and only in data/: 20-20-" in index
    assert rows(lab.east) == rows(lab.west) == set()


async def three(lab: Any) -> None:
    """North is far behind: nobody's log may lose what it needs. Away for too long, it is rebuilt."""
    for site in (lab.east, lab.west, lab.north):
        site.parameters.update(binlogKeepHours=0.0, binlogMaxMiB=1.0)
    await lab.up()
    lab.east.sql("CREATE TABLE app.big (n INT PRIMARY KEY, c MEDIUMTEXT) ENGINE=InnoDB")
    await lab.until("the table at north", lambda: lab.north.position() == lab.east.position())
    lab.north.sql(f"STOP {engine(lab.north.engine).replica_word} SQL_THREAD")
    after = fill(lab.east, 1000, 2)
    await lab.until("the rows at west", lambda: rows(lab.west) == rows(lab.east))
    for site in (lab.east, lab.west):
        await look(site)
        forget_grace(site)
        await look(site)
        assert log_mib(site) > 2
        assert "north: from binlog.0000" in (await facts(site))["binlog_kept_for"]
    # East fails; west takes over, and north, which is still behind, follows it from there.
    await lab.east.crash()
    await lab.west.ensure(Role.ACTIVE, 2, "west")
    await lab.follow(lab.north, lab.west, 2)
    await lab.until("the rows at north", lambda: rows(lab.north) == rows(lab.west), 30)
    await lab.north.driver.close()
    fill(lab.west, after, 2)
    await lab.until("west to have no follower", lambda: not lab.west.component.backend.seen.followers)
    await look(lab.west)
    forget_grace(lab.west)
    await look(lab.west)
    assert log_mib(lab.west) <= 1.2
    assert (await facts(lab.west))["binlog_left_behind"] == "east, north"
    lab.north.driver = MysqlDriver()
    found: list[str] = []

    async def refused() -> bool:
        try:
            found.append((await lab.north.once(Role.STANDBY, 3)).message)
        except NeedsResyncError as error:
            found.append(str(error))
            return True
        return False

    await lab.until("north to be refused", refused, 30)
    assert "REBUILD archives what is here and copies the data" in found[-1]

    async def done() -> bool:
        answer = await lab.north.driver.resync(lab.north.spec, lab.west.peer(), ResyncStrategy.UNSPECIFIED, 3)
        return bool(answer.progress.completed)

    await lab.until("the resync", done, 60)
    assert rows(lab.north) == rows(lab.west)
    await lab.north.promotable()


@pytest.mark.mysql_long
async def test_a_third_site_is_waited_for_by_the_active_and_the_standby(three_lab: Any) -> None:
    await three(three_lab)


@pytest.mark.mysql_long
async def test_a_third_site_of_mysql_is_waited_for_by_the_active_and_the_standby(mysql_three_lab: Any) -> None:
    await three(mysql_three_lab)


@pytest.mark.mysql_long
async def test_a_scope_whose_log_was_purged_by_hand_keeps_its_data_and_says_what_is_impossible(scoped_lab: Any) -> None:
    """Nothing but the log gives a scope: the driver purges nothing, and puts nothing aside that nothing can replace."""
    lab = scoped_lab
    await lab.up()
    await look(lab.east)
    assert (await facts(lab.east))["binlog_expiry"] == "off: a part of a server is bootstrapped by its log alone"
    await lab.west.driver.close()
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    await lab.until("east to have no follower", lambda: not lab.east.component.backend.seen.followers)
    lab.east.sql("INSERT INTO app.t VALUES (1)")
    lab.east.sql("FLUSH BINARY LOGS")
    newest = names(lab.east)[-1]

    async def purged() -> bool:
        lab.east.sql(f"PURGE BINARY LOGS TO '{newest}'")
        return names(lab.east) == [newest]

    await lab.until("the log to be purged", purged)
    lab.west.driver = MysqlDriver()
    await lab.west.once(Role.INVALIDATED, 1, other=Role.ACTIVE)
    assert (await assessed(lab)).verdict is Verdict.BEHIND
    for strategy in (ResyncStrategy.FOLLOW, ResyncStrategy.UNSPECIFIED):
        answer = await lab.west.driver.resync(lab.west.spec, lab.east.peer(), strategy, 1)
        assert not answer.progress.completed
        assert "has no more what is lacking here" in answer.progress.message
        assert "of which a part is in scope" in answer.progress.message
    assert not lab.west.root.joinpath("archive").exists()
    assert lab.west.numbers() == set()
