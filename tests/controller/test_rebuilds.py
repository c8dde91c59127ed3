"""A rebuild that takes hours, or outlives its controller: it is in the record while it lasts and when it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from graf_driver_sdk.v1 import driver_pb2 as pb

sys.path.insert(0, str(Path(__file__).parent))
from world import GROUP, MemoryDriver, World, answer_with, until

from graf.api.values import Reason
from graf.controller import rebuilds as rebuilding
from graf.controller import returning
from graf.controller.rebuilds import Rebuilds
from graf.controller.records import Records

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from graf.shell.proto import manager_pb2

WHY = Reason("Diverged", "db had 7")


class Copying:
    """What west's driver does: it archives, and then copies until all is there."""

    def __init__(self) -> None:
        self.strategies: list[int] = []
        self.whole = False
        self.told = 0

    @property
    def begun(self) -> bool:
        return pb.RESYNC_STRATEGY_REBUILD in self.strategies

    async def assess(self, driver: MemoryDriver, _request: pb.AssessRequest, _context: Any) -> pb.AssessResponse:
        if driver.backend.site != "west" or self.whole:
            return pb.AssessResponse(verdict=pb.VERDICT_CLEAN)
        if self.begun:
            return pb.AssessResponse(verdict=pb.VERDICT_EMPTY)
        return pb.AssessResponse(verdict=pb.VERDICT_DIVERGED, divergent="7")

    async def resync(self, _driver: MemoryDriver, request: pb.ResyncRequest, _context: Any) -> pb.ResyncResponse:
        self.strategies.append(request.strategy)
        self.told += 1
        if self.whole:
            return pb.ResyncResponse(progress=pb.Progress(completed=True))
        progress = pb.Progress(message=f"copied {self.told} of 500 GB", retry_after_ms=50)
        return pb.ResyncResponse(progress=progress, archive="/archive/1")


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> Copying:
    copying = Copying()
    answer_with(monkeypatch, copying.assess, copying.resync)
    monkeypatch.setattr(rebuilding, "FIRST_TOLD_S", 0.4)
    monkeypatch.setattr(rebuilding, "TOLD_AGAIN_S", 0.3)
    monkeypatch.setattr(returning, "RESYNC_ANSWER_S", 0.3)
    return copying


@pytest.fixture
async def world(tmp_path: Path, copying: Copying) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.start()
    await until("west is rebuilt", lambda: copying.begun)
    yield world
    await world.close()


def told(world: World) -> list[manager_pb2.Record]:
    keeper = world.sites["west"].keeper
    assert keeper is not None
    return [record for record in keeper.records.pending if record.type == "Resync"]


async def until_west_follows(world: World) -> None:
    await until("west follows", lambda: world.sites["west"].agent.role.value == "Standby")


async def test_a_long_rebuild_is_in_the_record_while_it_lasts_and_when_it_ends(world: World, copying: Copying) -> None:
    await until("it is told twice that it is under way", lambda: len(told(world)) >= 2)
    assert "db at west had diverged: being rebuilt for " in told(world)[0].message
    assert told(world)[0].message.endswith(" of 500 GB")
    assert told(world)[0].reasons[0] == "Diverged: db had 7; archived at /archive/1"
    west = world.sites["west"].agent
    assert west.components["db"].last_error.startswith("copied "), "graf status tells how far it is"
    copying.whole = True
    await until_west_follows(world)
    assert set(copying.strategies) == {pb.RESYNC_STRATEGY_REBUILD}, "it was gone on with, not begun anew"
    assert "db at west had diverged: archived and rebuilt from east in " in told(world)[-1].message
    assert told(world)[-1].reasons[0] == "Diverged: db had 7; archived at /archive/1"
    assert not list(world.path.glob("data-west/records/*.rebuild"))


async def test_a_rebuild_that_outlives_its_controller_is_told_at_its_end(world: World, copying: Copying) -> None:
    west = world.sites["west"]
    await west.stop()
    await west.start()
    world.assign("west")
    await until("the rebuild is gone on with", lambda: copying.strategies[-1] == pb.RESYNC_STRATEGY_FOLLOW)
    copying.whole = True
    await until_west_follows(world)
    assert "db at west had diverged: archived and rebuilt from east in " in told(world)[-1].message
    assert told(world)[-1].reasons[0] == "Diverged: db had 7; archived at /archive/1"


async def test_a_rebuild_that_ended_while_no_controller_ran_is_told(world: World, copying: Copying) -> None:
    west = world.sites["west"]
    await until("the archive is known", lambda: copying.told > 1)
    await west.stop()
    copying.whole = True
    await west.start()
    world.assign("west")
    await until_west_follows(world)
    assert "db at west had diverged: it has all that east has, " in told(world)[-1].message
    assert told(world)[-1].reasons[0] == "Diverged: db had 7; archived at /archive/1"


# -- what is kept ----------------------------------------------------------------------------------------------------


def records(path: Path) -> Records:
    return Records(path, "west", lambda write: write())


def messages(of: Records) -> list[str]:
    return [record.message for record in of.pending]


def kept(of: Records) -> Rebuilds:
    return of.rebuilds


def test_a_short_rebuild_is_told_once(tmp_path: Path) -> None:
    of = records(tmp_path)
    kept(of).begin(GROUP, "db", WHY, "had diverged")
    kept(of).under_way(GROUP, "db", 3, "copying", "/archive/1")
    kept(of).ended(GROUP, "db", 3, "east", "/archive/1")
    kept(of).ended(GROUP, "db", 3, "east", "/archive/1")
    assert messages(of) == ["db at west had diverged: archived and rebuilt from east in 0 s"]


def test_where_nothing_was_archived_no_archive_is_told(tmp_path: Path) -> None:
    of = records(tmp_path)
    kept(of).begin(GROUP, "db", WHY, "had diverged")
    kept(of).ended(GROUP, "db", 3, "east", "")
    assert messages(of) == ["db at west had diverged: it has all that east has, 0 s after its rebuild began"]


def test_what_is_under_way_goes_on_with_its_reason(tmp_path: Path) -> None:
    kept(records(tmp_path)).begin(GROUP, "db", WHY, "had diverged")
    of = records(tmp_path)
    kept(of).begin(GROUP, "db", Reason("CannotFollow", "the log is gone"), "could not follow any more")
    kept(of).ended(GROUP, "db", 3, "east", "")
    assert of.pending[0].reasons == ["Diverged: db had 7"]


def test_a_rebuild_is_told_of_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(rebuilding.time, "time", lambda: now[0])
    of = records(tmp_path)
    kept(of).begin(GROUP, "db", WHY, "had diverged")
    for now[0] in (1059.0, 1060.0, 1061.0, 4659.0, 4660.0, 9000.0):
        kept(of).under_way(GROUP, "db", 3, f"at {now[0]:.0f}")
    assert [message.rsplit(" ", 1)[-1] for message in messages(of)] == ["1060", "4660", "9000"]
    now[0] = 500.0  # the clock was set back
    kept(of).under_way(GROUP, "db", 3, "earlier")
    kept(of).under_way(GROUP, "db", 3, "earlier")
    now[0] = 505.0
    kept(of).under_way(GROUP, "db", 3, "a moment later")
    assert len(messages(of)) == 4, "once, not with every answer"
    assert messages(of)[-1].endswith("being rebuilt for 0 s: earlier")
    now[0] = 4100.0
    kept(of).under_way(GROUP, "db", 3, "an hour later")
    assert messages(of)[-1].endswith("being rebuilt for 3600 s: an hour later")


def test_of_no_rebuild_nothing_is_told(tmp_path: Path) -> None:
    of = records(tmp_path)
    kept(of).under_way(GROUP, "db", 3, "what")
    kept(of).ended(GROUP, "db", 3, "east", None)
    kept(of).moot(GROUP, 3)
    assert of.pending == ()


def test_a_site_that_serves_says_that_its_rebuild_was_broken_off(tmp_path: Path) -> None:
    of = records(tmp_path)
    kept(of).begin(GROUP, "db", WHY, "had diverged")
    kept(of).begin("another", "db", WHY, "had diverged")
    kept(of).moot(GROUP, 4)
    assert messages(of) == ["db at west had diverged: not rebuilt to the end, as west is active"]
    assert kept(records(tmp_path)).get(GROUP, "db") is None
    assert kept(records(tmp_path)).get("another", "db") is not None


def test_a_file_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    kept(records(tmp_path)).begin(GROUP, "db", WHY, "had diverged")
    (path,) = tmp_path.glob("*.rebuild")
    path.write_text(json.dumps({"group": GROUP}), encoding="utf-8")
    assert kept(records(tmp_path)).get(GROUP, "db") is None
    assert [p.suffix for p in tmp_path.iterdir()] == [".damaged"]
