"""What never changes during a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graf.api.values import Electorate, VoterList
    from graf.sim.explore.clocks import Clocks
    from graf.sim.explore.patches import Patch


@dataclass(frozen=True, slots=True)
class Setting:
    """One group, its bounds of time and what is broken in it.

    Attributes:
        names: All nodes, in the order of the state.
        sites: Those that contend.
        voters: The list in force at the start.
        declared: The list that the sites are told to have.
        redeclared: Another list that a holder may be told at any moment instead, or None.
        timed: Time passes in ticks; else a promise ends whenever no lease counts on it any more.
        data: There is a write to be acknowledged.
        may_lose_disk: Nodes whose crash may take the disk.
        hands_over: A holder may give its epoch back.
    """

    names: tuple[str, ...]
    sites: tuple[str, ...]
    voters: Electorate
    declared: VoterList
    clocks: Clocks
    patch: Patch
    timed: bool
    lossless: bool
    data: bool = False
    may_lose_disk: frozenset[str] = frozenset()
    hands_over: bool = True
    redeclared: VoterList | None = None
