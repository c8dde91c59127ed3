"""The users: they write unique numbers through whatever gate is open, and remember what was acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graf.sim.world import World

USERS = "users"


class Clients:
    """Writes at random intervals for the whole run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.number = 0
        self._draw = world.streams.workload
        self._next()

    def _next(self) -> None:
        gap = int(self._world.settings.write_gap_ns * (0.3 + 1.4 * self._draw.random())) + 1
        kernel = self._world.kernel
        kernel.at(kernel.now + gap, None, self._write)

    def _write(self) -> None:
        world = self._world
        self._next()
        # Old routes linger: any site whose gate is open may be the one that is reached.
        open_sites = [
            site for site, gate in world.gates.items() if gate.is_open and world.network.both_ways(USERS, site)
        ]
        if not open_sites:
            return
        site = open_sites[0] if len(open_sites) == 1 else self._draw.choice(open_sites)
        self.number += 1
        world.client_writes(site, self.number)
        if world.databases[site].write(self.number):
            world.monitors.written(site, self.number)
