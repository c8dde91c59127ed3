"""A site of the simulator executes `graf.core.handover`: what goes wrong on the way is told to it, and it obeys."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graf.api.values import SyncSet
from graf.core.campaign import Contest
from graf.core.handover_rules import Order, Phase
from graf.core.holder import take_over_refusals
from graf.core.messages import Campaign
from graf.sim.controller import Controller
from graf.sim.settings import SITES, WITNESSES, drawn
from graf.sim.voting import GROUP
from graf.sim.world import World

ORDER = Order("op", "Switchover", "west", "asked for by a test")


class Scene:
    """Two sites and a witness; east serves, and west could take over now."""

    def __init__(self) -> None:
        # A fault that the group may move for, and that nobody schedules.
        settings = replace(
            drawn(0),
            sites=SITES[:2],
            witnesses=WITNESSES[:1],
            spare_witnesses=(),
            faults=("crash-site",),
            automatic=True,
        )
        assert settings.lossless
        self.world = World(settings)
        self.kernel = self.world.kernel
        self.heartbeat_ns = settings.timing.heartbeat_ns
        self.east, self.west = (self.world.controllers[name] for name in ("east", "west"))
        for _ in range(80):
            self.heartbeats(1)
            if self._west_can_take_over():
                return
        pytest.fail("west cannot take over after 80 heartbeats")

    def _west_can_take_over(self) -> bool:
        now = self.east.process.clock()
        view = self.east._view({name: handle.view() for name, handle in self.east.handles.items()}, now)
        return view.lease is not None and not take_over_refusals(view, view.peers["west"])

    def heartbeats(self, number: int) -> None:
        self.kernel.run(self.kernel.now + number * self.heartbeat_ns)

    def until(self, phase: Phase) -> None:
        for _ in range(1_000):
            if self.east.moves.state.phase is phase:
                return
            self.kernel.run(self.kernel.now + self.heartbeat_ns // 500)
        pytest.fail(f"no {phase} within two heartbeats but {self.east.moves.state.phase}")

    def count(self, key: str) -> int:
        return self.kernel.counts.get(key, 0)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def serves(controller: Controller) -> bool:
    return controller.part.lease is not None and controller.db.serving and controller.gate.is_open


def test_a_move_ends_at_the_successor(scene: Scene) -> None:
    scene.east.moves.start(ORDER)
    assert scene.east.moves.running
    scene.heartbeats(10)
    assert serves(scene.west)
    assert not scene.east.gate.is_open
    assert (scene.east.moves.state.phase, scene.count("nobody took over")) == (Phase.IDLE, 0)


def test_an_order_that_comes_during_a_contest_is_refused(scene: Scene) -> None:
    part, config = scene.east.part, scene.east.config
    assert part.lease is not None
    campaign = Campaign(GROUP, part.lease.epoch + 1, config.timing.ttl_ns, part.lease.voters, SyncSet(), lossless=True)
    scene.east.part = replace(part, contest=Contest("east", campaign, config.timing, scene.east.process.clock()))
    scene.east.moves.start(ORDER)
    assert scene.east.moves.state.phase is Phase.IDLE
    assert (scene.count("rule not-during-a-contest"), scene.count("switchover refused Busy")) == (1, 1)


def test_a_second_order_is_refused_while_the_first_is_under_way(scene: Scene) -> None:
    scene.east.moves.start(ORDER)
    before = scene.east.moves.state
    scene.east.moves.start(replace(ORDER, operation="another"))
    assert scene.east.moves.state is before
    assert scene.count("rule one-at-a-time") == 1


def test_an_order_that_was_on_its_way_for_too_long_is_refused(scene: Scene) -> None:
    late = replace(ORDER, not_after_wall_ms=scene.kernel.now // 1_000_000 - 1)
    scene.east.moves.start(late)
    assert scene.east.moves.state.phase is Phase.IDLE
    assert scene.count("rule in-time") == 1


def test_a_gate_that_does_not_answer_rolls_the_move_back(scene: Scene) -> None:
    scene.east.gate.stuck = True
    scene.east.moves.start(ORDER)
    scene.until(Phase.ROLLING_BACK)
    assert not scene.east.moves.running
    scene.east.gate.stuck = False
    scene.heartbeats(10)
    assert serves(scene.east)
    assert scene.count("switchover failed GateUnknown") == 1
    assert scene.count("switchover rolled back") == 1


def test_a_successor_that_does_not_answer_rolls_the_move_back(scene: Scene) -> None:
    scene.east.moves.start(ORDER)
    scene.west.process.pause()
    scene.heartbeats(5)
    scene.west.process.resume()
    scene.heartbeats(10)
    assert serves(scene.east)
    assert scene.count("switchover failed NotProvedInTime") == 1


def test_a_successor_that_is_not_heard_any_more_is_not_asked(scene: Scene) -> None:
    scene.west.process.die()
    scene.east.moves.start(ORDER)
    scene.east.heard["west"] -= scene.east.config.timing.suspect_ns
    scene.until(Phase.ROLLING_BACK)
    assert scene.count("switchover failed PeerUnreachable") == 1


def test_data_that_does_not_come_to_rest_rolls_the_move_back(scene: Scene) -> None:
    scene.west.db.mute = True
    scene.heartbeats(1)
    assert scene.east.db.pending
    scene.east.moves.start(ORDER)
    scene.until(Phase.ROLLING_BACK)
    scene.west.db.mute = False
    scene.heartbeats(10)
    assert serves(scene.east)
    assert scene.count("switchover failed QuiesceFailed") == 1


def test_data_that_does_not_take_the_roll_back_is_asked_again(scene: Scene) -> None:
    scene.east.gate.stuck = True
    scene.east.moves.start(ORDER)
    scene.until(Phase.ROLLING_BACK)
    scene.east.gate.stuck = False
    scene.east.db.stuck = True
    scene.until(Phase.IDLE)
    assert scene.east.db.quiesced
    scene.east.db.stuck = False
    scene.heartbeats(5)
    assert serves(scene.east)
    assert scene.count("not accepting after a roll-back") == 1


def test_a_fenced_site_ends_its_move_and_its_steps(scene: Scene) -> None:
    scene.east.moves.start(ORDER)
    scene.east.fence()
    assert scene.east.moves.state.phase is Phase.IDLE
    scene.heartbeats(4)
    assert not scene.east.db.quiesced
    assert scene.count("switchover released") == 0


def test_a_release_that_the_own_disk_does_not_take_is_told_to_the_others(scene: Scene) -> None:
    scene.east.voter.disk_full = True
    scene.east.moves.start(ORDER)
    scene.heartbeats(10)
    assert serves(scene.west)
    assert scene.count("switchover released") == 1


def test_a_successor_that_does_not_take_over_is_told_from_here(scene: Scene) -> None:
    scene.east.moves.start(ORDER)
    scene.until(Phase.RELEASING)
    for name in ("west", "witness"):
        scene.world.processes[name].pause()
    scene.heartbeats(12)
    assert scene.count("nobody took over") == 1


def test_a_new_incarnation_knows_of_no_move(scene: Scene) -> None:
    scene.east.moves.start(ORDER)
    scene.east.process.die()
    scene.east.process.born()
    scene.east.start()
    scene.heartbeats(4)
    assert scene.east.moves.state.count == 0
    assert scene.count("switchover released") == 0
