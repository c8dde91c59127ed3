"""Bugs of a site's own doing: hand-over, fencing, the loop that asks again, and the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graf.api.values import Role
from graf.core import handover
from graf.core import participant as protocol
from graf.core.handover_effects import StandDown
from graf.core.handover_rules import RELEASE_RULES, Phase
from graf.sim import database, gate
from graf.sim.bugs.bug import Bug, Patch, planting, without
from graf.sim.controller import Controller
from graf.sim.handle import Handle, Wish
from graf.sim.manager import Manager
from graf.sim.moves import Moves

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.core.handover import Step

_commit, _call, _shut_traffic = Manager._commit, Handle._call, Moves._shut_traffic
_judge = handover._judge


def release_rules(*events: Callable[..., Step], without_rule: str) -> tuple[Patch, ...]:
    """At these events an epoch is released without this rule."""
    rules = without(RELEASE_RULES, without_rule)
    return tuple(Patch(event, "__defaults__", (rules,)) for event in events)


# -- handing over ------------------------------------------------------------------------------------------------------


def _released_at_once(self: Moves, number: int) -> None:
    """Said to be shut before it is asked to shut."""
    if self.state.phase is Phase.SHUTTING:
        self._gate_told(number, True)
    _shut_traffic(self, number)


def _released_and_still_claimed(*arguments: Any) -> Step:
    """The lease is kept beside the release that gives it away."""
    state, todo = _judge(*arguments)
    return state, tuple(effect for effect in todo if not isinstance(effect, StandDown))


def _nobody_proves(self: Controller, src: str, epoch: int, operation: str, _position: int, _tries: int) -> None:
    self.world.send(self.process, src, "on_ready", epoch, operation, True)


def _active_again_meanwhile(self: Controller) -> None:
    """What is being handed over is asked for again."""
    lease = self.part.lease
    if lease is None or self.part.held is None:
        return
    must = protocol.must_acknowledge(self.part, self.config)
    db = self.handles[database.NAME]
    db.want(Wish(Role.ACTIVE, lease.epoch, self.name, must))
    if not self.activating or self._is_active(db, lease.epoch):
        self.handles[gate.NAME].want(Wish(Role.ACTIVE, lease.epoch, self.name))


# -- fencing and the loop ----------------------------------------------------------------------------------------------


def _asked_once(self: Handle, token: int) -> None:
    if self.wanted is not None and getattr(self, "_asked", None) != token:
        self.__dict__["_asked"] = token
        _call(self, token)


def _never_mended(_self: Handle, _view: object) -> None:
    """What is seen is not compared with what is wanted."""


def _only_events_wake(_self: Controller, _due: int) -> None:
    """Time alone is no reason to decide again."""


# -- the record --------------------------------------------------------------------------------------------------------


def _dropped_after_send(self: Manager, sites: list[Controller], base: int) -> None:
    _commit(self, sites, base)
    for controller in sites:
        controller.records.clear()


def _nothing_recorded(self: Controller, kind: str, text: str, **_more: Any) -> None:
    """A decision is taken and not written down."""


BUGS = (
    Bug(
        "released-before-the-gate-is-shut",
        "A planned move releases the epoch as soon as the successor is ready, whether the gate is shut or not.",
        ("I1",),
        planting(*release_rules(handover.answered, without_rule="gate-is-shut")),
        needs=("operator-switchover", "gate-stuck"),
    ),
    Bug(
        "fenced-after-the-release",
        "A holder whose data died releases first and shuts its gate afterwards.",
        ("I1",),
        planting(Patch(Moves, "_shut_traffic", _released_at_once)),
        needs=("crash-database", "gate-stuck"),
    ),
    Bug(
        "unknown-gate-taken-for-shut",
        "A holder whose gate does not answer releases the epoch as if it were shut.",
        ("I1",),
        planting(*release_rules(handover.gate_told, without_rule="gate-is-shut")),
        needs=("gate-stuck", "crash-database"),
    ),
    Bug(
        "released-and-still-claimed",
        "A holder keeps the lease that it gives away.",
        ("I1",),
        planting(Patch(handover, "_judge", _released_and_still_claimed)),
        needs=("operator-switchover",),
    ),
    Bug(
        "order-obeyed-unchecked",
        "A site does what a manager asks without checking that it is still right.",
        ("I2", "I8", "I11"),
        planting(Patch(handover.ordered, "__defaults__", ((),))),
        needs=("operator-switchover", "operator-wrong", "hold-replication"),
        unseen="the successor holds by itself, and the voters refuse it (voter-without:in-synchronous-set)",
    ),
    Bug(
        "move-without-proof-of-position",
        "The successor of a planned move says that it has reached the position without looking.",
        ("I2",),
        planting(Patch(Controller, "_prove", _nobody_proves)),
        needs=("operator-switchover", "hold-apply"),
        unseen="a member of the set has received every acknowledged write, proved or not",
    ),
    Bug(
        "active-again-while-handing-over",
        "A site asks its drivers to serve again while it hands the group over.",
        ("I1", "I8"),
        planting(Patch(Controller, "want_active", _active_again_meanwhile)),
        needs=("operator-switchover",),
    ),
    Bug(
        "only-events-wake",
        "A site decides only when something happens, not when a time has come.",
        ("I8",),
        planting(Patch(Controller, "_timer", _only_events_wake)),
    ),
    Bug(
        "driver-asked-once",
        "A driver that has not finished is not asked again.",
        ("I8",),
        planting(Patch(Handle, "_call", _asked_once)),
    ),
    Bug(
        "never-mended",
        "A component that is not what was wanted of it any more is left as it is.",
        ("I8",),
        planting(Patch(Handle, "mend", _never_mended)),
    ),
    Bug(
        "record-dropped-after-send",
        "A record is deleted at the site when it has been sent, whether it is in Git or not.",
        ("I10",),
        planting(Patch(Manager, "_commit", _dropped_after_send)),
        needs=("git-down", "crash-site"),
    ),
    Bug(
        "nothing-recorded",
        "A site takes over and writes no record of it.",
        ("I10",),
        planting(Patch(Controller, "record", _nothing_recorded)),
    ),
)
