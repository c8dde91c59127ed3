"""Handing a group over from its active site: planned and step by step, or loudly when its data component is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graf.api.values import Role
from graf.core.holder import take_over_refusals
from graf.core.messages import Release
from graf.sim import database, gate
from graf.sim.handle import Wish

if TYPE_CHECKING:
    from graf.core.lease import Lease
    from graf.sim.controller import Controller


@dataclass(slots=True)
class Order:
    """What a manager asked for."""

    operation: str
    kind: str
    target: str
    not_after_ns: int


class Moves:
    """At most one at a time. Before the release a failure rolls back; after it nothing is asked back."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.order: Order | None = None
        self._loud = False
        self._releasing = False
        self._token = 0
        self._lease: Lease | None = None
        self._ready = False
        self._shut = False

    @property
    def running(self) -> bool:
        """Whether the group is being handed over."""
        return self._loud or self._releasing or self.order is not None

    def cancel(self) -> None:
        """The lease is being lost: whatever was planned is off."""
        if self.order is not None:
            self._controller.world.operation_told(self.order.operation, "Failed", "the lease was lost")
        self.order = None
        self._token += 1

    # -- planned -------------------------------------------------------------------------------------------------------

    def start(self, order: Order) -> None:
        """Begins, or refuses with every reason."""
        controller, world = self._controller, self._controller.world
        refusals = self._refusals(order)
        if refusals:
            for code in refusals:
                world.kernel.count(f"switchover refused {code}")
            world.operation_told(order.operation, "Refused", "; ".join(refusals))
            return
        self.order, self._lease = order, controller.part.lease
        self._ready = self._shut = False
        self._token += 1
        self._later(self._quiesce, world.call_ns(), 0)

    def _refusals(self, order: Order) -> list[str]:
        controller = self._controller
        now = controller.process.clock()
        lease = controller.part.lease
        if lease is None or not lease.valid(now):
            return ["NotActive"]
        if self.running:
            return ["Busy"]
        if order.target == controller.name:
            return ["AlreadyActive"]
        if controller.world.kernel.now > order.not_after_ns:
            return ["TooLate"]
        views = {name: handle.view() for name, handle in controller.handles.items()}
        view = controller._view(views, now)
        peer = view.peers.get(order.target)
        if peer is None:
            return ["NotASite"]
        return [reason.code for reason in take_over_refusals(view, peer)]

    def _later(self, step: object, delay_ns: int, *args: object) -> None:
        self._controller.process.after(delay_ns, self._run, step, self._token, args)

    def _run(self, step: object, token: int, args: tuple[object, ...]) -> None:
        if token == self._token and self.order is not None:
            step(*args)  # type: ignore[operator]

    def _quiesce(self, tries: int) -> None:
        controller, lease = self._controller, self._lease
        if lease is None or self.order is None:
            return
        position = controller.db.quiesce(lease.epoch)
        if position is None:
            if tries > 8:
                self._roll_back("the data did not come to rest")
            else:
                self._later(self._quiesce, controller.world.retry_ns(), tries + 1)
            return
        order = self.order
        controller.world.send(controller.process, order.target, "on_prepare", lease.epoch, order.operation, position)
        controller.handles[gate.NAME].want(Wish(Role.FENCED, lease.epoch, ""))
        self._later(self._look, controller.world.retry_ns(), 0)

    def _look(self, tries: int) -> None:
        handle = self._controller.handles[gate.NAME]
        self._shut = handle.settled and not self._controller.gate.is_open
        if self._ready and self._shut:
            self._hand_over()
        elif tries > 12:
            self._roll_back("the successor or the gate did not answer in time")
        else:
            self._later(self._look, self._controller.world.retry_ns(), tries + 1)

    def ready(self, operation: str, is_ready: bool) -> None:
        """The successor answered."""
        if self.order is None or self.order.operation != operation:
            return
        if is_ready:
            self._ready = True
        else:
            self._roll_back("the successor cannot take over")

    def _hand_over(self) -> None:
        controller, order, lease = self._controller, self.order, self._lease
        held = controller.part.lease
        if order is None or lease is None or held is None or held.epoch != lease.epoch:
            self._roll_back("the lease was lost meanwhile")
            return
        controller.stand_down()
        controller.world.kernel.count("switchover released")
        release = Release(controller.config.group, lease.epoch, order.target, order.kind, 0.0, order.operation)
        self.order = None
        self._token += 1
        self._release(release, lease)

    def _release(self, release: Release, lease: Lease) -> None:
        """The own voter first and durably, then the others; nothing is asked back before that."""
        controller = self._controller
        others = tuple(v for v in lease.voters.members if v != controller.name)
        self._releasing = True

        def told(_answer: object) -> None:
            self._releasing = False
            controller.ask(others, release)
            controller.wake()

        controller.voter.ask(controller.name, release, told)

    def _roll_back(self, why: str) -> None:
        controller, order, lease = self._controller, self.order, self._lease
        self.order = None
        self._token += 1
        controller.world.kernel.count("switchover rolled back")
        if order is not None:
            controller.world.operation_told(order.operation, "RolledBack", why)
        held = controller.part.lease
        if lease is None or held is None or held.epoch != lease.epoch:
            return
        controller.db.unquiesce()
        controller.handles[database.NAME].ask_again()
        controller.handles[gate.NAME].want(Wish(Role.ACTIVE, lease.epoch, controller.name))
        controller.wake()

    # -- loud ----------------------------------------------------------------------------------------------------------

    def hand_over_loudly(self, successor: str) -> None:
        """The data component is lost here and a standby has everything: release at once."""
        controller, lease = self._controller, self._controller.part.lease
        if lease is None or self.running:
            return
        self._loud = True
        controller.handles[database.NAME].forget_wish()
        controller.handles[gate.NAME].want(Wish(Role.FENCED, controller.epoch, ""))
        controller.process.after(controller.world.retry_ns(), self._loud_look, successor, lease, 0)

    def _loud_look(self, successor: str, lease: Lease, tries: int) -> None:
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
        if not shut:
            # Unknown is not shut: the lease is left to end by itself, in the kernel and at the voters.
            controller.world.kernel.count("gate unknown")
            controller.fence()
            return
        controller.stand_down()
        controller.record("Release", successor)
        controller.world.kernel.count("loud release")
        self._release(Release(controller.config.group, lease.epoch, successor, "DataComponentLost", 0.0), lease)
