"""The way back of a site: verdict, resync, follow. Begins again from the verdict whenever a step fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.api.values import Role, Verdict
from graf.sim import database, gate
from graf.sim.handle import Wish

if TYPE_CHECKING:
    from graf.sim.controller import Controller


class Return:
    """At most one at a time; `target` is the site that is followed, with its epoch."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.target: tuple[str, int] | None = None
        self._token = 0

    def begin(self, active: str, epoch: int) -> None:
        """Makes this site Standby of `active`."""
        controller = self._controller
        if self.target == (active, epoch):
            return
        self._token += 1
        self.target = (active, epoch)
        if controller.role is not Role.STANDBY:
            controller.role = Role.INVALIDATED
        controller.handles[gate.NAME].want(Wish(Role.STANDBY, epoch, active))
        self._later(self._assess, controller.world.call_ns())

    def cancel(self) -> None:
        """Something else happens now."""
        self.target = None
        self._token += 1

    def _later(self, step: object, delay_ns: int) -> None:
        self._controller.process.after(delay_ns, self._run, step, self._token)

    def _run(self, step: object, token: int) -> None:
        if token == self._token and self.target is not None:
            step()  # type: ignore[operator]

    def _assess(self) -> None:
        controller = self._controller
        assert self.target is not None
        active, _epoch = self.target
        verdict = controller.db.assess(active)
        controller.world.kernel.count(f"verdict {verdict}")
        if verdict is Verdict.UNKNOWN:
            controller.handles[database.NAME].ask_again()
            self._later(self._assess, controller.world.retry_ns())
            return
        controller.verdict = verdict.value
        if verdict is Verdict.DIVERGED:
            self._later(self._rebuild, controller.world.rebuild_ns())
            return
        self._want_standby()

    def _rebuild(self) -> None:
        controller = self._controller
        assert self.target is not None
        active, epoch = self.target
        if controller.db.rebuild(active, epoch):
            controller.world.monitors.rebuilt(controller.name)
            controller.record("Resync", f"rebuilt from {active}")
            self._want_standby()
            return
        if controller.db.role is Role.ACTIVE:
            # Its controller died in the middle of a planned move: it is quiesced, and was never fenced.
            controller.handles[database.NAME].want(Wish(Role.INVALIDATED, epoch, active))
        self._later(self._assess, controller.world.retry_ns())

    def _want_standby(self) -> None:
        controller = self._controller
        assert self.target is not None
        active, epoch = self.target
        controller.handles[database.NAME].want(Wish(Role.STANDBY, epoch, active))
        self._later(self._look, controller.world.retry_ns())

    def _look(self) -> None:
        controller = self._controller
        assert self.target is not None
        handle = controller.handles[database.NAME]
        if handle.needs_resync:
            controller.role = Role.INVALIDATED
            handle.needs_resync = False
            self._later(self._assess, controller.world.retry_ns())
            return
        if handle.settled and controller.role is not Role.STANDBY:
            controller.role = Role.STANDBY
            controller.record("Return", f"follows {self.target[0]}, data was {controller.verdict}")
            controller.wake()
        self._later(self._look, controller.world.retry_ns() * 4)
