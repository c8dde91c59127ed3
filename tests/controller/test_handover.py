"""Hand-overs of real controllers whose parts fail in the middle."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from graf.api.values import Reason
from graf.core.handover_rules import Order

sys.path.insert(0, str(Path(__file__).parent))
from world import World, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from graf.shell.proto import manager_pb2

ORDER = Order("op", "Switchover", "west", "test")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.start()
    await ready(world)
    yield world
    await world.close()


async def ready(world: World) -> None:
    await until("east serves", lambda: world.served_by() == ["east"])
    await until(
        "west is in the synchronous set",
        lambda: {"east", "west"} <= world.sites["east"].agent.protocol.held.current.members,
    )
    await until("west can take over", lambda: world.sites["west"].agent.status().promotable)
    await until("no voter keeps restart silence", world.voters_speak)


def updates_of(world: World) -> list[manager_pb2.OperationUpdate]:
    updates: list[manager_pb2.OperationUpdate] = []
    world.sites["east"].agent.switchover.on_update = updates.append
    return updates


async def test_a_gate_that_cannot_be_proved_shut_rolls_the_switchover_back(world: World) -> None:
    updates = updates_of(world)
    east = world.sites["east"]
    east.gate.hang = True
    east.agent.switchover.start(ORDER)
    await until("the data rests", lambda: east.db.quiesced)
    await until("rolled back", lambda: any(u.state == "RolledBack" for u in updates))
    assert not east.db.quiesced
    assert east.agent.epoch == 1
    assert not east.agent.switchover.running
    assert "could not be proved shut" in updates[-1].message


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[World]:
    """A group whose database may take 20 s to come to rest."""
    world = World(tmp_path, parameters={"quiesceSeconds": 20.0})
    await world.start()
    await ready(world)
    yield world
    await world.close()


def hand_over(world: World, rests_after_s: float) -> list[manager_pb2.OperationUpdate]:
    updates = updates_of(world)
    world.sites["east"].db.rests_after = time.monotonic() + rests_after_s
    world.sites["east"].agent.switchover.start(ORDER)
    return updates


async def test_a_copy_that_takes_its_time_has_as_much_as_it_declares(slow: World) -> None:
    hand_over(slow, 3.0)
    await until("west serves", lambda: slow.served_by() == ["west"])


async def test_a_copy_that_declares_nothing_has_two_seconds(world: World) -> None:
    for _ in range(5):
        updates = hand_over(world, 8.0)
        await until("rolled back", lambda updates=updates: any(u.state == "RolledBack" for u in updates))  # type: ignore[misc]
        if "is not heard any more" not in updates[-1].message:
            break
        await ready(world)  # the machine stood still: nothing is said about the copy
    assert time.monotonic() < world.sites["east"].db.rests_after, "not waited for"
    assert "the last copy" in updates[-1].message
    await until("east serves", lambda: world.served_by() == ["east"])


async def test_a_component_whose_driver_restarts_while_it_comes_to_rest_is_not_opened_again(slow: World) -> None:
    hand_over(slow, 3.0)
    east = slow.sites["east"]
    await until("the data comes to rest", lambda: east.db.quiesced)
    await east.restart_db_driver()
    await asyncio.sleep(1.5)  # to ask again for the role would take a moment
    assert east.db.opened_again == 0


async def test_what_is_waited_for_ends_with_the_successor(slow: World) -> None:
    updates = hand_over(slow, 30.0)
    await until("the data comes to rest", lambda: slow.sites["east"].db.quiesced)
    await slow.sites["west"].stop()
    await until("rolled back", lambda: any(u.state == "RolledBack" for u in updates), 20)
    assert "west is not heard any more" in updates[-1].message


async def test_data_lost_behind_an_unknown_gate_moves_only_after_the_lease(world: World) -> None:
    east, west = world.sites["east"], world.sites["west"]
    east.gate.hang = True
    east.db.kill()
    await until("west serves", lambda: world.served_by() == ["west"])
    assert west.agent.epoch == 2
    assert east.agent.voting.promise("vcu-db").epoch == 2
    assert west.agent.voting.promise("vcu-db").released is False
    assert west.agent.last_release is None, "nothing was released: the lease ended"


async def test_a_lease_lost_in_the_middle_of_a_switchover_is_told_as_its_end(world: World) -> None:
    updates = updates_of(world)
    east = world.sites["east"]
    west_agent = world.sites["west"].agent

    async def never(peer: str, request: object) -> None:
        return

    west_agent.switchover.prepare = never
    east.agent.switchover.start(ORDER)
    await until("the data rests", lambda: east.db.quiesced)
    east.agent.fence((Reason("LeaseEnding", "by the test"),))
    assert [(u.state, u.message) for u in updates][-1] == ("Failed", "east lost its lease and fenced itself")
    assert not east.agent.switchover.running
    await until("somebody serves", lambda: len(world.served_by()) == 1)
    assert [u.state for u in updates] == ["Running", "Failed"], "it ends once"


async def test_a_defect_in_telling_costs_no_more_than_the_message(world: World) -> None:
    east = world.sites["east"]

    def broken(update: object) -> None:
        raise RuntimeError("a defect")

    east.agent.switchover.on_update = broken
    east.agent.switchover.start(Order("late", "Switchover", "west", "test", not_after_wall_ms=1))
    assert world.served_by() == ["east"]
    east.agent.switchover.start(ORDER)
    await until("west serves", lambda: world.served_by() == ["west"])


async def test_a_defect_in_standing_down_fences_and_nothing_is_released(world: World) -> None:
    east = world.sites["east"]
    released: list[object] = []

    def broken() -> None:
        raise RuntimeError("a defect")

    async def release(release: object) -> None:
        released.append(release)

    east.agent.stand_down, east.agent.release = broken, release
    east.agent.switchover.start(ORDER)
    await until("it stands down", lambda: east.agent.lease is None)
    assert (released, east.agent.switchover.running) == ([], False)
    await until("somebody serves", lambda: len(world.served_by()) == 1)


async def test_the_same_order_twice_is_one_switchover(world: World) -> None:
    updates = updates_of(world)
    east = world.sites["east"]
    east.agent.switchover.start(ORDER)
    east.agent.switchover.start(ORDER)
    await until("west serves", lambda: world.served_by() == ["west"])
    assert all(u.state == "Running" for u in updates)
    assert world.sites["west"].agent.epoch == 2
