"""Planted bugs: each takes one safeguard out, and the monitors have to notice.

What may live here: bugs as patches of `graf.core` and of the simulator's own glue, put in and taken out by a context
manager. What may not: anything that `graf.core` or a run without a bug would notice; a weakened monitor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.sim.bugs import changes, copies, data, leases, moves, rules, sets, voters

if TYPE_CHECKING:
    from graf.sim.bugs.bug import Bug

ALL: tuple[Bug, ...] = (
    *rules.BUGS,
    *voters.BUGS,
    *leases.BUGS,
    *sets.BUGS,
    *changes.BUGS,
    *data.BUGS,
    *copies.BUGS,
    *moves.BUGS,
)
BY_NAME: dict[str, Bug] = {bug.name: bug for bug in ALL}
# Those that have to be caught, and those for which something else holds the invariant, as they say themselves.
BUGS = tuple(bug for bug in ALL if not bug.unseen)
UNSEEN = tuple(bug for bug in ALL if bug.unseen)
