"""The three small groups that are gone through, and how far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from graf.api.values import Electorate, SetVersion, SyncSet, VoterList
from graf.core.lease import Lease
from graf.core.participant import Participation
from graf.core.syncset import HolderSet
from graf.core.voter import Promise, VoterState
from graf.sim.explore.clocks import GROUP, NOW, Clocks
from graf.sim.explore.patches import HalfList, Patch
from graf.sim.explore.setting import Setting
from graf.sim.explore.values import Node, Past
from graf.sim.explore.world import World

if TYPE_CHECKING:
    from collections.abc import Mapping

EAST, WEST, WITNESS, NEW_WITNESS = "east", "west", "w", "x"
SITES = (EAST, WEST)
MOST_STATES = 5_000_000


@dataclass(frozen=True, slots=True)
class Configuration:
    """A group and its bounds.

    Attributes:
        kind: `lease`, `set` or `voters`.
        bounds: How many contests, crashes, lost disks and told sets there are in all; `ticks` is the life of a lease.
    """

    name: str
    kind: str
    bounds: Mapping[str, int]
    lossless: bool = False

    def world(self, patch: Patch | None = None) -> World:
        """Its first state, whole or broken: east holds epoch 1 and has just been answered by everybody."""
        patch = patch or Patch()
        bounds = self.bounds
        clocks = Clocks.of(bounds.get("ticks", 2))
        if patch.hold_without_drift:
            clocks = replace(clocks, voter_drift_ppm=0)
        names = (EAST, WEST, WITNESS)
        make = HalfList if patch.half_is_a_majority else VoterList
        listed = make(1, names)
        setting = Setting(
            names=(*names, NEW_WITNESS) if self.kind == "voters" else names,
            sites=SITES,
            voters=Electorate(listed),
            declared=VoterList(2, (EAST, WEST, NEW_WITNESS)) if self.kind == "voters" else listed,
            clocks=clocks,
            patch=patch,
            timed=self.kind == "lease",
            lossless=self.lossless,
            data=self.kind == "set",
            may_lose_disk=frozenset({WEST, WITNESS, NEW_WITNESS}) if bounds.get("lost disks") else frozenset(),
            redeclared=VoterList(3, (EAST, WITNESS, NEW_WITNESS)) if bounds.get("other lists") else None,
        )
        past = Past(
            contests=bounds.get("contests", 0),
            crashes=bounds.get("crashes", 0),
            losses=bounds.get("lost disks", 0),
            writes=1 if setting.data else 0,
            changes=bounds.get("told sets", 0),
        )
        return World(setting, (_first(setting, name) for name in setting.names), past)


def _first(setting: Setting, name: str) -> Node:
    voters, timing = setting.voters, setting.clocks.timing
    everybody = SyncSet(SetVersion(1, 1), frozenset(SITES))
    nothing: MappingProxyType[str, int] = MappingProxyType({})
    drift = setting.clocks.voter_drift_ppm
    if name not in voters.members:
        return Node(VoterState(name, setting.clocks.long_ago, drift), None)
    promise = Promise(GROUP, 1, EAST, timing.ttl_ns, voters, everybody)
    promises, answered = MappingProxyType({GROUP: promise}), MappingProxyType({GROUP: NOW})
    state = VoterState(name, setting.clocks.long_ago, drift, promises, answered)
    if name == EAST:
        lease = Lease(GROUP, 1, voters, timing, MappingProxyType(dict.fromkeys(voters.members, NOW)))
        held = HolderSet(1, voters, everybody, counter=1)
        part = Participation(lease=lease, held=held, campaign_sent_ns=NOW, highest_promised=1)
        return Node(state, promise, part, lease.end_ns)
    return Node(state, promise, Participation(lost_since_ns=nothing) if name in SITES else None)


def lease(contests: int, crashes: int, lost_disks: int = 0, ticks: int = 2) -> Configuration:
    """Leases, campaigns, claims and releases, in time."""
    bounds = {"contests": contests, "crashes": crashes, "lost disks": lost_disks, "ticks": ticks}
    return Configuration("lease", "lease", MappingProxyType(bounds))


def synchronous_set(contests: int, told: int, crashes: int = 0) -> Configuration:
    """One write beside changes of the synchronous set and failovers."""
    bounds = {"contests": contests, "crashes": crashes, "told sets": told}
    return Configuration("set", "set", MappingProxyType(bounds), lossless=True)


def voters(contests: int, crashes: int = 0, lost_disks: int = 0, *, lossless: bool = False) -> Configuration:
    """A change of the voter list, `w` to `x`, that any holder may begin."""
    bounds = {"contests": contests, "crashes": crashes, "lost disks": lost_disks}
    name = "voters, lost disk" if lost_disks else "voters"
    return Configuration(name, "voters", MappingProxyType(bounds), lossless)


def other_voters(contests: int) -> Configuration:
    """Two changes of the voter list that have a newcomer in common; a holder may be told either at any moment."""
    return Configuration("voters, two changes", "voters", MappingProxyType({"contests": contests, "other lists": 1}))


BOUNDS: Mapping[str, tuple[Configuration, ...]] = MappingProxyType(
    {
        "quick": (lease(1, 1), synchronous_set(1, 1), voters(1, 1, 1)),
        "normal": (lease(2, 1), synchronous_set(1, 2), voters(2), voters(1, 1, 1), other_voters(2)),
        "deep": (
            lease(2, 1, ticks=3),
            synchronous_set(2, 1),
            synchronous_set(1, 2, 1),
            voters(2, 1),
            voters(2, 0, 1),
            other_voters(3),
        ),
    }
)
