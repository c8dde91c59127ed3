"""Changing the voters of a group while it serves: real controllers and witnesses on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from graf_driver_sdk.v1 import driver_pb2 as pb
from world import FIRST, GROUP, TIMING, World, until

from graf.api.values import Electorate, SetVersion, SyncSet, VoterList
from graf.controller.manager_link import group_report
from graf.core.handover_rules import Order
from graf.core.holder import take_over_refusals
from graf.core.messages import SetAnswer, SetUpdate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECOND = VoterList(2, ("east", "west", "w2"))
FIVE = VoterList(2, ("east", "west", "witness", "w2", "w3"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.start()
    yield world
    await world.close()


class Watch:
    """Looks every two milliseconds who serves; remembers the longest time seen without service and every double one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.gap_ms = 0.0
        self.doubles: list[list[str]] = []
        self.samples = 0

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _look(self) -> None:
        unserved_since: float | None = (
            None  # seen without service: a machine that stands still between two looks is no gap
        )
        while True:
            serving = self._world.served_by()
            now = time.monotonic()
            self.samples += 1
            if len(serving) > 1:
                self.doubles.append(serving)
            if serving:
                unserved_since = None
            else:
                unserved_since = unserved_since or now
                self.gap_ms = max(self.gap_ms, (now - unserved_since) * 1000)
            await asyncio.sleep(0.002)


async def until_redundant(world: World, active: str, standby: str) -> None:
    await until(f"{active} serves", lambda: world.served_by() == [active])
    await until(
        f"{standby} is in the synchronous set",
        lambda: {active, standby} <= world.sites[active].agent.protocol.held.current.members,
    )
    await until(f"{active} knows that {standby} can take over", lambda: ready_for(world, active, standby))
    await until("no voter keeps restart silence", world.voters_speak)


def ready_for(world: World, active: str, standby: str) -> bool:
    view = world.sites[active].agent.view(time.monotonic_ns())
    return standby in view.peers and take_over_refusals(view, view.peers[standby]) == ()


def in_force(world: World) -> dict[str, Electorate]:
    """What every voter that runs has on its disk."""
    promises = {n: s.keeper.voting.promise(GROUP) for n, s in world.sites.items() if s.keeper is not None}
    promises |= {n: w.promise for n, w in world.witnesses.items()}
    return {name: promise.voters for name, promise in promises.items() if promise is not None}


async def until_in_force(world: World, voters: VoterList) -> None:
    def everybody_knows() -> bool:
        known = in_force(world)
        return all(known.get(v) == Electorate(voters) for v in voters.members if v in known or v in world.witnesses)

    def holder_counts_on_it() -> bool:
        leases = [s.agent.lease for s in world.sites.values() if s.keeper is not None]
        return [lease.voters for lease in leases if lease is not None] == [Electorate(voters)]

    await until(f"{voters.describe()} is in force at every voter", everybody_knows)
    await until(f"the lease counts on {voters.describe()} alone", holder_counts_on_it)


async def test_a_witness_is_replaced_without_a_moment_out_of_service(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.start_witness("w2")
    east, west = world.sites["east"], world.sites["west"]
    db_history, west_history = list(east.db.history), list(west.db.history)
    async with Watch(world) as watch:
        world.declare(SECOND)
        await until_in_force(world, SECOND)
        await until("west follows in the new epoch", lambda: west.db.epoch == 2 and east.db.epoch == 2)
        await until_redundant(world, "east", "west")
    assert (east.agent.epoch, watch.doubles) == (2, [])
    assert watch.samples > 20
    assert watch.gap_ms < 100, "clients were let in all the time"
    assert east.db.history == db_history, "the database was Active and stayed so"
    assert west.db.history == west_history, "the standby was Standby and stayed so"
    new = [r.type for r in world.sites["east"].keeper.records.pending if r.kind == "Decision" and r.epoch == 2]
    assert new == ["VoterChange", "VotersSettled"], "nothing else was decided"

    await world.stop_witness("witness")
    await east.stop()
    await until("west serves with the new witness's vote", lambda: "west" in world.served_by())


async def test_the_former_witness_is_hung_up_on_and_votes_for_nobody(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.start_witness("w2")
    world.declare(SECOND)
    await until_in_force(world, SECOND)
    for site in world.sites.values():
        links = site.keeper.links
        await until("the former witness is no peer any more", lambda links=links: "witness" not in links._links)
    await world.stop_witness("w2")
    await world.sites["east"].stop()
    with pytest.raises(AssertionError):
        await until("west serves", lambda: "west" in world.served_by(), timeout_s=3.0)


async def test_three_voters_become_five_and_three_again(world: World) -> None:
    await until_redundant(world, "east", "west")
    for name in ("w2", "w3"):
        await world.start_witness(name)
    async with Watch(world) as watch:
        world.declare(FIVE)
        await until_in_force(world, FIVE)
        await until_redundant(world, "east", "west")
        # Two of five are lost, each of which would have been one too many before.
        await world.stop_witness("witness")
        await world.stop_witness("w2")
        world.sites["east"].db.kill()
        await until("west serves", lambda: world.served_by() == ["west"])
        await until_redundant(world, "west", "east")
        for name in ("witness", "w2"):
            await world.start_witness(name)
        third = VoterList(3, FIRST.members)
        world.declare(third)
        await until_in_force(world, third)
        await until_redundant(world, "west", "east")
    assert watch.doubles == []


async def test_a_voter_that_was_away_during_a_change_learns_it_when_it_is_back(world: World) -> None:
    await until_redundant(world, "east", "west")
    for name in ("w2", "w3"):
        await world.start_witness(name)
    await world.stop_witness("witness")
    world.declare(FIVE)
    await until("the change is settled", lambda: world.sites["east"].agent.lease.voters == Electorate(FIVE))
    await world.start_witness("witness")
    await until_in_force(world, FIVE)


async def test_a_list_with_a_dead_witness_waits_says_why_and_costs_nothing(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.start_witness("w2")
    await world.stop_witness("w2")
    world.declare(SECOND)
    east = world.sites["east"].agent
    await until("the reason is shown", lambda: east.decision.reasons[0].code == "VoterChangeWaits")
    assert "w2" in east.decision.reasons[0].detail
    assert in_force(world)["witness"] == Electorate(FIRST)
    assert east.epoch == 1

    world.sites["east"].db.kill()
    await until("the old list still fails over", lambda: world.served_by() == ["west"])
    await until_redundant(world, "west", "east")
    assert {v.current.version for v in in_force(world).values()} == {1}

    await world.start_witness("w2")
    await until_in_force(world, SECOND)
    await until_redundant(world, "west", "east")


async def test_a_voter_that_lost_its_disk_abstains_until_two_changes_have_brought_it_back(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.stop_witness(lose_disk=True)
    witness = await world.start_witness()
    await until("east hears it", lambda: world.sites["east"].agent.view(time.monotonic_ns()).peers["witness"].connected)
    assert witness.promise is None
    east = world.sites["east"].agent
    assert east.lease.epoch == 1
    await until(
        "the report names it",
        lambda: (
            {s.name: s.state for s in group_report(east, time.monotonic_ns()).voter_states}["witness"] == "NoRecord"
        ),
    )

    world.declare(VoterList(2, ("east", "west")))
    await until_in_force(world, VoterList(2, ("east", "west")))
    assert witness.promise is None, "it abstains"
    back = VoterList(3, FIRST.members)
    world.declare(back)
    await until_in_force(world, back)
    assert witness.promise is not None
    await until_redundant(world, "east", "west")
    await world.sites["east"].stop()
    await until("west serves with its vote", lambda: "west" in world.served_by())


async def test_a_voter_that_lost_its_disk_is_admitted_anew_by_one_change_that_says_so(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.stop_witness(lose_disk=True)
    witness = await world.start_witness()
    again = VoterList(2, FIRST.members, frozenset({"witness"}))
    world.declare(again)
    await until_in_force(world, again)
    assert witness.promise is not None
    await until_redundant(world, "east", "west")
    await world.sites["east"].stop()
    await until("west serves with its vote", lambda: "west" in world.served_by())


async def test_a_site_learns_the_newest_set_from_a_witness_that_alone_has_it(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.sites["east"].stop()
    await until("west serves alone", lambda: world.served_by() == ["west"])
    await until("the set is west's alone", lambda: world.sites["west"].agent.known_set().members == {"west"})
    witness = world.witnesses["witness"]
    await world.sites["west"].stop()
    # As left behind by a holder that died while it told its next set.
    promise = witness.promise
    assert promise is not None
    newest = SyncSet(SetVersion(promise.epoch, promise.stored_set.version.counter + 1), frozenset({"east", "west"}))
    told = SetUpdate(promise.group, promise.epoch, newest)
    assert (await witness.desk.voting.ask("west", told)) == SetAnswer(promise.group, promise.epoch, newest, stored=True)
    await world.sites["east"].start()
    world.assign("east")
    await until("east knows it", lambda: world.sites["east"].agent.known_set() == newest)


async def test_a_list_that_reaches_the_standby_alone_changes_nothing(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.start_witness("w2")
    world.declare(SECOND, "west")
    with pytest.raises(AssertionError):
        await until("a new epoch", lambda: world.sites["east"].agent.epoch != 1, timeout_s=1.5)
    assert set(in_force(world).values()) == {Electorate(FIRST)}
    world.sites["east"].db.kill()
    await until("west serves", lambda: world.served_by() == ["west"])
    await until_in_force(world, SECOND)
    await until_redundant(world, "west", "east")


async def test_a_list_that_reaches_the_active_site_alone_is_in_force_at_both(world: World) -> None:
    """West was never told where the new witness is: it hears it from its peer."""
    await until_redundant(world, "east", "west")
    await world.start_witness("w2")
    world.declare(SECOND, "east")
    await until_in_force(world, SECOND)
    await until_redundant(world, "east", "west")
    west = world.sites["west"].keeper
    await until("west has a link to the new witness", lambda: west.links.link("w2").stream is not None)
    await world.stop_witness("witness")
    await world.sites["east"].stop()
    await until("west serves with the new witness's vote", lambda: "west" in world.served_by())


async def test_two_sites_with_different_lists_of_one_version_never_work_with_both(world: World) -> None:
    await until_redundant(world, "east", "west")
    for name in ("w2", "w3"):
        await world.start_witness(name)
    world.declare(VoterList(2, ("east", "west", "w3")), "west")
    world.declare(SECOND, "east")
    await until_in_force(world, SECOND)
    await until_redundant(world, "east", "west")
    world.sites["east"].agent.switchover.start(Order("op", "Switchover", "west", "test"))
    await until_redundant(world, "west", "east")
    with pytest.raises(AssertionError):
        await until("another list", lambda: Electorate(SECOND) not in in_force(world).values(), timeout_s=1.5)
    assert world.witnesses["w3"].promise is None


def never_settles(world: World, site: str) -> None:
    """A holder that is stopped between the win of a change and its end."""
    world.sites[site].agent.protocol.settle = lambda: None


async def test_a_change_whose_holder_dies_is_finished_by_the_site_that_takes_over(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.start_witness("w2")
    never_settles(world, "east")
    async with Watch(world) as watch:
        world.declare(SECOND)
        await until("the change is won", lambda: world.sites["east"].agent.epoch == 2)
        await until(
            "the set of the joint epoch is stored",
            lambda: world.sites["east"].agent.protocol.held.current.version.epoch == 2,
        )
        assert in_force(world)["w2"] == Electorate(FIRST, SECOND)
        await until_redundant(world, "east", "west")
        await world.sites["east"].stop()
        await until("west serves", lambda: "west" in world.served_by())
        await until_in_force(world, SECOND)
    assert watch.doubles == []
    assert world.sites["west"].agent.epoch == 3


async def test_an_unfinished_change_needs_the_old_list_too(world: World) -> None:
    """West and the new witness are a majority of the new list alone: not enough."""
    await until_redundant(world, "east", "west")
    await world.start_witness("w2")
    never_settles(world, "east")
    world.declare(SECOND)
    await until("the change is won", lambda: world.sites["east"].agent.epoch == 2)
    await until_redundant(world, "east", "west")
    await world.stop_witness("witness")
    await world.sites["east"].stop()
    west = world.sites["west"].agent
    with pytest.raises(AssertionError):
        await until("west wins", lambda: west.lease is not None, timeout_s=3.0)
    await until(
        "west says that it has no majority",  # a process that stood still says that first
        lambda: west.decision.reasons[0].code in ("NoMajorityVisible", "BackOff", "Contending"),
    )
    assert west.lease is None
    await world.start_witness("witness")
    await until("west serves", lambda: "west" in world.served_by())
    await until_in_force(world, SECOND)


async def test_a_controller_that_restarts_in_a_change_still_finds_the_voters_of_the_list_in_force(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.start_witness("w2")
    never_settles(world, "east")
    world.declare(SECOND)
    await until("the change is won", lambda: world.sites["east"].agent.epoch == 2)
    await until_redundant(world, "east", "west")
    await world.sites["west"].stop()
    await world.sites["west"].start()
    world.assign("west")
    assert "witness" not in world.sites["west"].agent.assignment.endpoints
    await until_redundant(world, "east", "west")
    await world.sites["east"].stop()
    await until("west serves by both lists", lambda: "west" in world.served_by())
    await until_in_force(world, SECOND)
    assert pb.ROLE_ACTIVE in {role for _, role in world.sites["west"].db.history}


async def test_a_site_whose_voter_lost_its_disk_is_admitted_anew(world: World) -> None:
    """A site is always a voter, so it cannot be taken off the list and put back."""
    await until_redundant(world, "east", "west")
    west = world.sites["west"]
    await west.stop()
    west.lose_promises()
    await west.start()
    world.assign("west")
    await until_redundant(world, "east", "west")
    assert west.keeper.voting.promise(GROUP) is None
    await until(
        "the report names it",
        lambda: world.sites["east"].agent.protocol.voter_states(time.monotonic_ns())["west"] == "NoRecord",
    )
    again = VoterList(2, FIRST.members, frozenset({"west"}))
    world.declare(again)
    await until_in_force(world, again)
    await until_redundant(world, "east", "west")
    await world.stop_witness()
    assert world.sites["east"].agent.lease.supporters(time.monotonic_ns())
    with pytest.raises(AssertionError):
        await until("east loses its lease", lambda: world.served_by() != ["east"], timeout_s=2.0)


async def test_a_changed_timing_counts_from_the_next_epoch_on(world: World) -> None:
    await until_redundant(world, "east", "west")
    await world.start_witness("w2")
    world.timing = replace(TIMING, heartbeat_ns=TIMING.heartbeat_ns // 2)
    world.declare(FIRST)
    east = world.sites["east"].agent
    assert (east.config.timing, east.lease.timing) == (world.timing, TIMING)
    world.declare(SECOND)
    await until_in_force(world, SECOND)
    assert east.lease.timing == world.timing
