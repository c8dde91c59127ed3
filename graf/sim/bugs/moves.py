"""Bugs of a site's own doing: hand-over, fencing, the loop that asks again, and the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graf.api.values import Role
from graf.core.messages import Release
from graf.sim import database, gate
from graf.sim.bugs.bug import Bug, Patch, planting
from graf.sim.controller import Controller
from graf.sim.handle import Handle, Wish
from graf.sim.manager import Manager
from graf.sim.moves import Moves

if TYPE_CHECKING:
    from graf.core.lease import Lease
    from graf.sim.moves import Order

_commit, _call = Manager._commit, Handle._call


# -- handing over ------------------------------------------------------------------------------------------------------


def _not_looked_at(self: Moves, tries: int) -> None:
    """The epoch is released when the successor is ready, whether the gate is shut or not."""
    self._shut = True
    if self._ready:
        self._hand_over()
    elif tries > 12:
        self._roll_back("the successor did not answer in time")
    else:
        self._later(self._look, self._controller.world.retry_ns(), tries + 1)


def _gate_left_alone(self: Moves, tries: int) -> None:
    """The gate is not even asked to shut."""
    controller, lease, order = self._controller, self._lease, self.order
    if lease is None or order is None:
        return
    position = controller.db.quiesce(lease.epoch)
    if position is None:
        if tries > 8:
            self._roll_back("the data did not come to rest")
        else:
            self._later(self._quiesce, controller.world.retry_ns(), tries + 1)
        return
    controller.world.send(controller.process, order.target, "on_prepare", lease.epoch, order.operation, position)
    self._later(self._look, controller.world.retry_ns(), 0)


def _released_at_once(self: Moves, successor: str) -> None:
    """The holder whose data died releases first and shuts its gate afterwards."""
    controller, lease = self._controller, self._controller.part.lease
    if lease is None or self.running:
        return
    controller.stand_down()
    controller.record("Release", successor)
    self._release(Release(controller.config.group, lease.epoch, successor, "DataComponentLost", 0.0), lease)
    controller.handles[gate.NAME].want(Wish(Role.FENCED, lease.epoch, ""))


def _unknown_taken_for_shut(self: Moves, successor: str, lease: Lease, tries: int) -> None:
    controller = self._controller
    handle = controller.handles[gate.NAME]
    shut = handle.settled and not controller.gate.is_open
    if not shut and tries < 4:
        controller.process.after(controller.world.retry_ns(), self._loud_look, successor, lease, tries + 1)
        return
    self._loud = False
    held = controller.part.lease
    if held is None or held.epoch != lease.epoch:
        return
    controller.stand_down()
    controller.record("Release", successor)
    self._release(Release(controller.config.group, lease.epoch, successor, "DataComponentLost", 0.0), lease)


def _released_and_still_claimed(self: Moves) -> None:
    """The lease is kept beside the release that gives it away."""
    controller, order, lease = self._controller, self.order, self._lease
    if order is None or lease is None or controller.part.lease is None:
        return
    release = Release(controller.config.group, lease.epoch, order.target, "Switchover", 0.0, order.operation)
    self.order = None
    self._token += 1
    self._release(release, lease)


def _no_check(_self: Moves, _order: Order) -> list[str]:
    return []


def _nobody_proves(self: Controller, src: str, _epoch: int, operation: str, _position: int, _tries: int) -> None:
    self.world.send(self.process, src, "on_ready", operation, True)


def _active_again_meanwhile(self: Controller) -> None:
    """What is being handed over is asked for again."""
    lease = self.part.lease
    if lease is None or self.part.held is None:
        return
    self.handles[database.NAME].want(Wish(Role.ACTIVE, lease.epoch, self.name, frozenset({self.name})))
    self.handles[gate.NAME].want(Wish(Role.ACTIVE, lease.epoch, self.name))


# -- fencing and the loop ----------------------------------------------------------------------------------------------


def _asked_once(self: Handle, token: int) -> None:
    if self.wanted is not None and getattr(self, "_asked", None) != token:
        self.__dict__["_asked"] = token
        _call(self, token)


def _never_mended(_self: Handle) -> None:
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
        "A planned move releases the epoch without a look at the gate.",
        ("I1",),
        planting(Patch(Moves, "_look", _not_looked_at), Patch(Moves, "_quiesce", _gate_left_alone)),
        needs=("operator-switchover",),
    ),
    Bug(
        "fenced-after-the-release",
        "A holder whose data died releases first and shuts its gate afterwards.",
        ("I1",),
        planting(Patch(Moves, "hand_over_loudly", _released_at_once)),
        needs=("crash-database", "gate-stuck"),
    ),
    Bug(
        "unknown-gate-taken-for-shut",
        "A holder whose gate does not answer releases the epoch as if it were shut.",
        ("I1",),
        planting(Patch(Moves, "_loud_look", _unknown_taken_for_shut)),
        needs=("gate-stuck", "crash-database"),
    ),
    Bug(
        "released-and-still-claimed",
        "A holder keeps the lease that it gives away.",
        ("I1",),
        planting(Patch(Moves, "_hand_over", _released_and_still_claimed)),
        needs=("operator-switchover",),
    ),
    Bug(
        "order-obeyed-unchecked",
        "A site does what a manager asks without checking that it is still right.",
        ("I2", "I8", "I11"),
        planting(Patch(Moves, "_refusals", _no_check)),
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
