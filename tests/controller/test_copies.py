"""Groups in which no write waits for a standby: data that is only copied, and functions that hold none."""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from world import RPO_S, World, until

from graf.api.values import Stage
from graf.core import retry
from graf.core.handover_rules import Order
from graf.core.view import ComponentConfig
from graf.shell.promises import PromiseStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from world import Site


def world_of_copies(tmp_path: Path) -> World:
    database = ComponentConfig("db", Stage.DATA, copied=True, limited=True)
    return World(tmp_path, waits=False, database=database, parameters={"rpoSeconds": RPO_S})


@pytest.fixture
async def copied(tmp_path: Path) -> AsyncIterator[World]:
    """A group whose only data is a copy that may lack five seconds."""
    world = world_of_copies(tmp_path)
    await world.start()
    yield world
    await world.close()


@pytest.fixture
async def stateless(tmp_path: Path) -> AsyncIterator[World]:
    """A group that holds no data."""
    world = World(tmp_path, lossless=False, waits=False, database=ComponentConfig("db", Stage.WORKLOAD))
    await world.start()
    yield world
    await world.close()


def members(world: World, site: str) -> frozenset[str]:
    held = world.sites[site].agent.protocol.held
    return held.current.members if held is not None else frozenset()


def codes(site: Site) -> set[str]:
    return {reason.code for reason in site.agent.decision.reasons}


def released_by(world: World, site: str) -> bool:
    promise = world.witnesses["witness"].promise
    return promise is not None and promise.site == site and promise.released


async def until_redundant(world: World, active: str, standby: str) -> None:
    await until(f"{active} serves", lambda: world.served_by() == [active])
    await until(f"{standby} is in the set", lambda: {active, standby} <= members(world, active))
    await until("no voter keeps restart silence", world.voters_speak)


async def test_a_copy_takes_over_and_the_former_active_follows(copied: World) -> None:
    await until_redundant(copied, "east", "west")
    assert not copied.sites["east"].db.synchronous_set, "no write waits for a copy"
    await copied.sites["east"].stop()
    await until("west serves", lambda: "west" in copied.served_by())
    await copied.sites["east"].start()
    copied.assign("east")
    await until_redundant(copied, "west", "east")


async def test_a_copy_that_seems_to_age_while_its_active_is_lost_takes_over(copied: World) -> None:
    await until_redundant(copied, "east", "west")
    west = copied.sites["west"]
    await copied.stop_witness()
    await copied.sites["east"].stop()
    west.db.lag_s = 60.0  # nobody is there to be asked
    west.db.notify()
    await until("west tells that", lambda: bool(west.agent.status().copy_refusal))
    await copied.start_witness()
    await until("west serves", lambda: "west" in copied.served_by())


async def test_a_copy_that_is_too_old_leaves_the_set_and_does_not_take_over(copied: World) -> None:
    await until_redundant(copied, "east", "west")
    west = copied.sites["west"]
    west.db.lag_s = RPO_S - 0.5  # within it, and not for a lease time more
    west.db.notify()
    await until("the set is east alone", lambda: members(copied, "east") == {"east"})
    await copied.sites["east"].stop()
    await until(
        "west holds and says why",
        lambda: any(reason.code == "NotInSynchronousSet" for reason in west.agent.decision.reasons),
    )
    assert "west" not in copied.served_by()
    await copied.sites["east"].start()
    copied.assign("east")
    await until("east serves again", lambda: copied.served_by() == ["east"])
    west.db.lag_s = 0.0
    west.db.notify()
    await until_redundant(copied, "east", "west")


async def test_an_active_site_stops_while_no_voter_can_store_that_a_copy_is_too_old(
    copied: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until_redundant(copied, "east", "west")
    east, west = copied.sites["east"], copied.sites["west"]

    def full(_store: PromiseStore, _promise: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disks:
        disks.setattr(PromiseStore, "save", full)
        west.db.lag_s = RPO_S - 0.1
        west.db.notify()
        await until("nobody serves", lambda: copied.served_by() == [])
        assert east.keeper is not None
        assert any("SetNotStored" in reason for r in east.keeper.records.pending for reason in r.reasons)
    await until("east serves again", lambda: copied.served_by() == ["east"])
    await until("the set is east alone", lambda: members(copied, "east") == {"east"})


async def test_a_copy_that_its_driver_refuses_to_open_keeps_nobody_else_from_serving(copied: World) -> None:
    await until_redundant(copied, "east", "west")
    west = copied.sites["west"]
    west.db.refusal = "there is no complete copy, whatever was told"
    await copied.sites["east"].stop()
    await until("west has won and gives back", lambda: released_by(copied, "west"))
    assert "west" not in copied.served_by()
    promise = copied.witnesses["witness"].promise
    assert promise is not None
    assert promise.stored_set.members == {"east", "west"}, "what was shrunk to west is widened again first"
    await until("west says why it waits", lambda: "DataNotPromotable" in codes(west))
    await copied.sites["east"].start()
    copied.assign("east")
    await until("east serves", lambda: copied.served_by() == ["east"])
    west.db.refusal = ""
    await until_redundant(copied, "east", "west")


async def test_a_lone_site_tries_less_and_less_often_until_its_driver_tells_something_else(copied: World) -> None:
    await until_redundant(copied, "east", "west")
    west = copied.sites["west"]
    west.db.refusal = "it cannot be mounted"
    await copied.sites["east"].stop()
    await until("west has won in vain once more", lambda: west.agent.protocol.state.tries.count == 2)
    await until("it rests", lambda: "DataNotPromotable" in codes(west))
    reason = west.agent.decision.reasons[0].detail
    assert "it cannot be mounted; won in vain 2 times" in reason
    west.db.refusal, west.db.says = "", "it was mounted anew"
    west.db.notify()
    await until("west serves", lambda: "west" in copied.served_by())
    assert west.agent.protocol.state.tries.count == 0


async def test_a_site_that_cannot_serve_and_prove_its_gate_shut_lets_others_go_first(
    copied: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_REST_TTLS", 30)  # east's start on a busy machine is shorter than that
    await until_redundant(copied, "east", "west")
    west = copied.sites["west"]
    west.db.refusal, west.gate.hang = "it cannot be mounted", True
    await copied.sites["east"].stop()
    await until("west has won in vain", lambda: west.agent.protocol.state.tries.count == 1)
    await until("it fenced itself", lambda: west.agent.lease is None)
    assert not released_by(copied, "west"), "nothing was released: the gate is unknown"
    await until("it rests", lambda: codes(west) & {"DataNotPromotable", "DriverUnknown"} == {"DataNotPromotable"})
    epoch = west.agent.protocol.state.tries.epoch
    await copied.sites["east"].start()
    copied.assign("east")
    await until("east serves", lambda: copied.served_by() == ["east"])
    assert copied.sites["east"].agent.epoch == epoch + 1, "west did not try again before"
    await until("what west tried counts no more", lambda: west.agent.protocol.state.tries.count == 0)


async def test_of_two_sites_that_cannot_serve_none_takes_the_other_ones_win_for_service(copied: World) -> None:
    await until_redundant(copied, "east", "west")
    for site in copied.sites.values():
        site.db.refusal = "it cannot be mounted"
    await copied.sites["east"].stop()
    await copied.sites["east"].start()
    copied.assign("east")
    for site in copied.sites.values():
        await until(f"{site.name} has won in vain twice", lambda s=site: s.agent.protocol.state.tries.count == 2)
    assert copied.served_by() == []


async def test_a_site_whose_successor_refused_to_open_its_copy_serves_again(tmp_path: Path) -> None:
    copied = world_of_copies(tmp_path)
    copied.speak_as_standby = True
    await copied.start()
    await until_redundant(copied, "east", "west")
    east, west = copied.sites["east"], copied.sites["west"]
    west.db.refusal = "it cannot be mounted"
    east.agent.switchover.start(Order("to-west", "Switchover", "west", "test"))
    await until("west has won and gives back", lambda: released_by(copied, "west"))
    await until("east serves again", lambda: copied.served_by() == ["east"])
    west.db.refusal = ""
    await until_redundant(copied, "east", "west")
    await copied.close()


async def test_a_copy_goes_over_and_back_as_planned(copied: World) -> None:
    await until_redundant(copied, "east", "west")
    for here, there in (("east", "west"), ("west", "east")):
        copied.sites[here].agent.switchover.start(Order(f"to-{there}", "Switchover", there, "test"))
        await until_redundant(copied, there, here)


async def test_a_function_without_data_moves_whatever_was_heard_of_the_other_site(stateless: World) -> None:
    await until_redundant(stateless, "east", "west")
    await stateless.sites["west"].stop()
    await stateless.sites["east"].stop()
    await stateless.sites["west"].start()
    stateless.assign("west")
    await until("west serves", lambda: "west" in stateless.served_by())
    await stateless.sites["west"].stop()
    await stateless.sites["east"].start()
    stateless.assign("east")
    await until("east serves, which was no standby of west", lambda: "east" in stateless.served_by())
    promise = stateless.witnesses["witness"].promise
    assert promise is not None
    assert promise.epoch >= 3


async def test_a_policy_that_lets_writes_be_lost_counts_while_the_group_runs(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    try:
        await until_redundant(world, "east", "west")
        world.waits, world.parameters = False, {"rpoSeconds": RPO_S}
        world.database = ComponentConfig("db", Stage.DATA, copied=True, limited=True)
        for name in world.sites:
            world.assign(name)
        world.sites["west"].db.lag_s = 60.0
        world.sites["west"].db.notify()
        await until("the set is east alone", lambda: members(world, "east") == {"east"})
    finally:
        await world.close()


async def test_a_component_that_is_added_while_the_group_runs_keeps_nothing_from_failing_over(copied: World) -> None:
    await until_redundant(copied, "east", "west")
    for name in copied.sites:
        keeper = copied.sites[name].keeper
        assert keeper is not None
        assignment = copied.sites[name].agent.assignment
        more = (*assignment.config.components, ComponentConfig("files", Stage.DATA, copied=True, limited=True))
        keeper.assign([replace(assignment, config=replace(assignment.config, components=more))])
    await copied.sites["east"].stop()
    await until("west serves", lambda: "west" in copied.served_by())


async def test_a_limit_beyond_all_measure_harms_nobody(tmp_path: Path) -> None:
    database = ComponentConfig("db", Stage.DATA, copied=True, limited=True)
    world = World(tmp_path, waits=False, database=database, parameters={"rpoSeconds": 1e17})
    await world.start()
    try:
        await until_redundant(world, "east", "west")
    finally:
        await world.close()
