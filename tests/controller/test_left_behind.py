"""A returning site that is behind and cannot follow any more: the driver refuses FOLLOW, and it is rebuilt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from graf_driver_sdk.v1 import driver_pb2 as pb

sys.path.insert(0, str(Path(__file__).parent))
from world import MemoryDriver, World, answer_with, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FOLLOW, REBUILD = pb.RESYNC_STRATEGY_FOLLOW, pb.RESYNC_STRATEGY_REBUILD


class Asked:
    """What west's data is worth, what it is asked to do about it, and with which word it refuses to follow."""

    def __init__(self) -> None:
        self.reason = "needs-resync"
        self.strategies: list[int] = []

    async def assess(self, driver: MemoryDriver, _request: pb.AssessRequest, _context: Any) -> pb.AssessResponse:
        behind = driver.backend.site == "west" and REBUILD not in self.strategies
        return pb.AssessResponse(verdict=pb.VERDICT_BEHIND if behind else pb.VERDICT_CLEAN)

    async def resync(self, _driver: MemoryDriver, request: pb.ResyncRequest, context: Any) -> pb.ResyncResponse:
        self.strategies.append(request.strategy)
        if request.strategy == FOLLOW:
            context.set_trailing_metadata((("graf-reason", self.reason),))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the log has no more what is lacking here")
        return pb.ResyncResponse(progress=pb.Progress(completed=True), archive="/archive/1")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    answer_with(monkeypatch, asked.assess, asked.resync)
    return asked


@pytest.fixture
async def world(tmp_path: Path, asked: Asked) -> AsyncIterator[World]:
    world = World(tmp_path)
    try:
        yield world
    finally:
        await world.close()


async def test_a_site_that_cannot_follow_is_rebuilt_and_the_record_says_why(world: World, asked: Asked) -> None:
    await world.start()
    west = world.sites["west"]
    await until("west follows", lambda: west.agent.role.value == "Standby")
    assert asked.strategies == [FOLLOW, REBUILD]
    assert west.keeper is not None
    told = [record for record in west.keeper.records.pending if record.type == "Resync"]
    assert [len(told), "log has no more what is lacking here" in told[0].reasons[0]] == [1, True]
    assert told[0].reasons[0].startswith("CannotFollow: ")
    assert told[0].reasons[0].endswith("archived at /archive/1")
    assert "could not follow any more: archived and rebuilt from east" in told[0].message


async def test_what_a_driver_refuses_for_another_reason_is_asked_again_and_never_a_rebuild(
    world: World, asked: Asked
) -> None:
    asked.reason = "log-unreadable"
    await world.start()
    await until("west is asked a second time", lambda: len(asked.strategies) > 1)
    assert set(asked.strategies) == {FOLLOW}
