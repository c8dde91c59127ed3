"""Failover, return and switchover of real controllers on loopback, with drivers held in memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from world import GROUP, World, until

from graf.core.handover_rules import Order

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.start()
    yield world
    await world.close()


async def until_redundant(world: World, active: str, standby: str) -> None:
    await until(f"{active} serves", lambda: world.served_by() == [active])
    await until(
        f"{standby} is in the synchronous set",
        lambda: {active, standby} <= world.sites[active].agent.protocol.held.current.members,
    )
    await until(f"{standby} can take over", lambda: world.sites[standby].agent.status().promotable)
    await until("no voter keeps restart silence", world.voters_speak)


async def test_the_preferred_site_takes_the_first_epoch_and_the_other_joins_the_set(world: World) -> None:
    await until_redundant(world, "east", "west")
    assert world.sites["east"].agent.epoch == 1
    assert world.sites["west"].agent.role.value == "Standby"


async def test_death_of_the_active_database_moves_the_group_at_once(world: World) -> None:
    await until_redundant(world, "east", "west")
    world.sites["east"].db.kill()
    await until("west serves", lambda: world.served_by() == ["west"])
    assert world.sites["west"].agent.epoch == 2

    await until_redundant(world, "west", "east")


async def test_loss_of_the_active_site_moves_the_group_after_its_lease(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.sites["east"].stop()
    await until("west serves", lambda: "west" in world.served_by())

    assert not world.sites["east"].gate.accepting
    await world.sites["east"].start()
    world.assign("east")
    await until_redundant(world, "west", "east")


async def test_loss_of_the_standby_shrinks_the_set_and_its_return_grows_it(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.sites["west"].stop()
    world.sites["west"].db.kill()
    await until("the set is east alone", lambda: world.sites["east"].db.synchronous_set == ("east",))
    assert world.served_by() == ["east"]
    await world.sites["west"].start()
    world.assign("west")
    await until_redundant(world, "east", "west")
    assert world.sites["east"].agent.epoch == 1


async def test_loss_of_the_witness_moves_nothing(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.stop_witness()
    with pytest.raises(AssertionError):
        await until("anything moves", lambda: world.served_by() != ["east"], timeout_s=2.0)
    assert world.sites["east"].agent.epoch == 1


async def test_a_planned_switchover_goes_there_and_back(world: World) -> None:
    await until_redundant(world, "east", "west")
    for epoch, (source, target) in enumerate((("east", "west"), ("west", "east")), start=2):
        world.sites[source].agent.switchover.start(Order(f"op-{epoch}", "Switchover", target, "test"))
        await until(f"{target} serves", lambda t=target: world.served_by() == [t])

        await until_redundant(world, target, source)
        assert world.sites[target].agent.epoch == epoch


async def test_a_switchover_whose_target_cannot_prove_its_position_rolls_back(world: World) -> None:
    await until_redundant(world, "east", "west")
    world.sites["west"].db.caught_up = False
    agent = world.sites["east"].agent
    updates = []
    agent.switchover.on_update = updates.append
    agent.switchover.start(Order("op", "Switchover", "west", "test"))
    await until("rolled back", lambda: any(u.state in ("RolledBack", "Refused") for u in updates))
    await until("east serves", lambda: world.served_by() == ["east"])
    assert agent.epoch == 1


async def test_no_failover_to_a_site_outside_the_set_but_a_local_restart(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.sites["west"].stop()
    world.sites["west"].db.kill()
    await until("the set is east alone", lambda: world.sites["east"].db.synchronous_set == ("east",))
    world.sites["east"].db.kill()
    await until("east serves again", lambda: world.served_by() == ["east"])
    assert world.sites["east"].agent.epoch == 1
    assert GROUP in world.sites["east"].keeper.agents


async def test_a_voter_that_was_away_at_the_win_supports_the_holder_later(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.stop_witness()
    world.sites["east"].db.kill()
    await until("west serves without the witness", lambda: world.served_by() == ["west"])
    witness = await world.start_witness()
    await until("the witness has promised epoch 2", lambda: witness.promise.epoch == 2)
    await until_redundant(world, "west", "east")
    await until(
        "the witness knows the set in force",
        lambda: witness.promise.stored_set == world.sites["west"].agent.protocol.held.current,
    )
    await world.sites["east"].stop()
    world.sites["east"].db.kill()
    await until("west alone is in the set", lambda: world.sites["west"].db.synchronous_set == ("west",))
    assert world.served_by() == ["west"]
