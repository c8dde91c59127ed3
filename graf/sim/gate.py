"""The traffic component of a site: the kernel's gate, which shuts by itself when the lease ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.api.values import Role
from graf.core.view import ComponentView, Health
from graf.sim.database import Outcome

if TYPE_CHECKING:
    from graf.sim.kernel import Clock
    from graf.sim.world import World

NAME = "net"


class Gate:
    """An nftables element with a time-out, and the driver that renews it.

    Invariant: it is open only until the end of a lease that this site has won, on the machine's own clock, whatever the
    processes do. A renewal never opens a gate that has shut.

    Attributes:
        guard: Highest epoch that the driver was ever called with; durable.
        stuck: The driver does not answer; the element goes on by itself.
    """

    def __init__(self, world: World, site: str, clock: Clock) -> None:
        self.world = world
        self.site = site
        self.clock = clock
        self.guard = 0
        self.role: Role | None = None
        self.end_ns = 0
        self.stuck = False

    @property
    def is_open(self) -> bool:
        """Whether clients get through."""
        return self.role is Role.ACTIVE and self.clock() < self.end_ns

    def reboot(self) -> None:
        """The machine's kernel starts anew: no element."""
        self.role, self.end_ns = None, 0

    def _admits(self, epoch: int) -> bool:
        """The epoch guard: whether a mutating call of that epoch may be taken; it is noted before anything is done."""
        taken = epoch >= self.guard
        self.world.monitors.driver_called(self.site, NAME, epoch, taken=taken)
        self.guard = max(self.guard, epoch)
        return taken

    def ensure(self, role: Role, epoch: int, _active: str, _members: frozenset[str], lease_end_ns: int) -> Outcome:
        """EnsureRole."""
        if self.stuck:
            return Outcome.NO_ANSWER
        if not self._admits(epoch):
            return Outcome.REFUSED
        if role is Role.ACTIVE:
            if lease_end_ns <= self.clock():
                return Outcome.PENDING
            self.role, self.end_ns = Role.ACTIVE, lease_end_ns
            self.world.monitors.gate_opened(self.site)
        else:
            self.role, self.end_ns = role, 0
        return Outcome.DONE

    def renew(self, epoch: int, lease_end_ns: int) -> bool:
        """Lets it stay open until a later end of the lease; False when it is shut."""
        if self.stuck:
            return True
        if epoch < self.guard or not self.is_open:
            return False
        self.end_ns = lease_end_ns
        self.world.monitors.gate_opened(self.site)
        return True

    def view(self, settled: bool, troubled_since_ns: int | None) -> ComponentView:
        """As the driver's status shows it."""
        if self.stuck:
            return ComponentView(NAME, Health.UNKNOWN, troubled_since_ns=troubled_since_ns)
        return ComponentView(
            NAME, Health.HEALTHY, role=self.role, accepting=self.is_open, settled=settled, troubled_since_ns=None
        )
