"""How a controller drives one component to what is wanted: one call in flight, asked again until it is so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from graf.api.values import Role
from graf.core.view import ComponentView, Health
from graf.sim.database import Outcome

if TYPE_CHECKING:
    from graf.sim.controller import Controller
    from graf.sim.database import Database
    from graf.sim.gate import Gate


@dataclass(frozen=True, slots=True)
class Wish:
    """What a component is asked for; equal values are one wish."""

    role: Role
    epoch: int
    active: str
    members: frozenset[str] = frozenset()


class Handle:
    """One component as its controller holds it; all of it is gone with the controller."""

    def __init__(self, controller: Controller, name: str, device: Database | Gate) -> None:
        self._controller = controller
        self.name = name
        self.device = device
        self.wanted: Wish | None = None
        self.settled = False
        self.needs_resync = False
        self.refused = False
        self._token = 0
        self._troubled_since_ns: int | None = controller.process.clock()
        self._promotable_at_ns: int | None = None

    def want(self, wish: Wish) -> None:
        """Asks for a role; returns at once."""
        if wish == self.wanted:
            return
        self.wanted, self.settled, self.needs_resync, self.refused = wish, False, False, False
        self._begin()

    def forget_wish(self) -> None:
        """Asks for nothing: what is dead stays dead until somebody decides."""
        self.wanted, self.settled, self.refused = None, False, False
        self._token += 1

    def ask_again(self) -> None:
        """What was wanted is not so (any more)."""
        if self.settled:
            self.settled = False
            self._begin()

    def _begin(self) -> None:
        self._token += 1
        self._controller.process.after(self._controller.world.call_ns(), self._call, self._token)

    def _call(self, token: int) -> None:
        wish, controller = self.wanted, self._controller
        if token != self._token or wish is None:
            return
        end_ns = controller.part.lease.end_ns if controller.part.lease is not None else 0
        outcome = self.device.ensure(wish.role, wish.epoch, wish.active, wish.members, end_ns)
        controller.world.kernel.count(f"driver {self.name} {wish.role} {outcome.value}")
        self.refused = outcome is Outcome.REFUSED and wish.role is Role.ACTIVE
        if self.refused:
            self._promotable_at_ns = None
        if outcome is Outcome.DONE:
            controller.process.after(controller.world.call_ns(), self._done, token)
            return
        if outcome is Outcome.NEEDS_RESYNC and not self.needs_resync:
            self.needs_resync = True
            controller.wake()
        controller.process.after(controller.world.retry_ns(), self._call, token)

    def _done(self, token: int) -> None:
        if token != self._token:
            return
        self.settled = True
        self._controller.wake()

    def mend(self, view: ComponentView) -> None:
        """Asks again when what is seen contradicts what is wanted; the driver may have restarted."""
        wish = self.wanted
        if not self.settled or wish is None:
            return
        if view.health is Health.DEAD:
            deviates = wish.role in (Role.ACTIVE, Role.STANDBY)
        elif view.health is Health.UNKNOWN:
            deviates = False
        elif wish.role is Role.INVALIDATED:
            deviates = view.accepting
        elif view.role not in (wish.role, None):
            deviates = True
        elif wish.role is Role.ACTIVE:
            deviates = not view.accepting or (self.name == "db" and view.set_in_force != wish.members)
        else:
            deviates = view.accepting or (self.name == "db" and view.role is None)
        if deviates:
            self._controller.world.kernel.count(f"mend {self.name}")
            self.ask_again()

    def view(self) -> ComponentView:
        """The component as a decision sees it."""
        view = self.device.view(self.settled, self._troubled_since_ns)
        if view.health in (Health.HEALTHY, Health.INITIALISING):
            self._troubled_since_ns = None
        elif self._troubled_since_ns is None:
            self._troubled_since_ns = self._controller.process.clock()
            view = self.device.view(self.settled, self._troubled_since_ns)
        if self._controller.config.waits:
            return view
        if view.health is not Health.HEALTHY:
            self._promotable_at_ns = None
        elif view.promotable:
            self._promotable_at_ns = self._controller.process.clock()
        return replace(
            view, promotable_at_ns=self._promotable_at_ns, refusal=Outcome.REFUSED.value if self.refused else ""
        )
