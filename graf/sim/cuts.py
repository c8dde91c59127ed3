"""What a group does when links between its locations are cut: every combination, played in the simulator.

A case is: a layout of locations, which site was active, whose replication had failed before, which links are then cut,
both ways and all at once. Users reach every site in every case, which is the worst that they can do to safety.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TYPE_CHECKING

from graf.api.timing import MILLISECOND_NS, PROFILES, SECOND_NS
from graf.api.values import Role
from graf.sim.observer import ObservedWorld, Sight
from graf.sim.settings import Settings, quiet_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMING = PROFILES["regional"]
MANAGER = "m1"
READY_WITHIN_NS = 60 * SECOND_NS
# Longer than every time-out of the profile; looked at during the last of it.
CUT_NS = 12 * SECOND_NS
LOOKED_AT_NS = 3 * SECOND_NS

Link = frozenset[str]
Links = frozenset[Link]


@dataclass(frozen=True, slots=True)
class Layout:
    """Locations of a group, the manager's not counted."""

    title: str
    sites: tuple[str, ...]
    witnesses: tuple[str, ...] = ()

    @property
    def voters(self) -> tuple[str, ...]:
        """All that vote."""
        return (*self.sites, *self.witnesses)


LAYOUTS = (
    Layout("Two sites and a manager", ("east", "west")),
    Layout("Two sites, a witness and a manager", ("east", "west"), ("witness",)),
    Layout("Three sites and a manager", ("east", "west", "north")),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One combination.

    Attributes:
        active: The site that was active before.
        behind: Sites whose replication had failed before, so that they were out of the synchronous set.
        cuts: Links between voters that are cut.
        manager_cuts: Locations that the manager cannot reach.
    """

    layout: Layout
    active: str
    behind: frozenset[str]
    cuts: Links
    manager_cuts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SiteSeen:
    """A site towards the end of the cut.

    Attributes:
        codes: Reason codes that its status showed during that time.
    """

    role: Role
    gate_open: bool
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a case.

    Attributes:
        serving: Sites that acknowledged writes towards the end of the cut.
        takeover: The site that took over from the one that was active; empty when none did.
        double: Times at which two sites answered reads, or one acknowledged that had been replaced.
        records: What sites wrote during the cut: (site, type).
        unwell: What was not well again within the stated bound after healing; empty when all was.
        active_after: Who was active then.
    """

    serving: tuple[str, ...]
    takeover: str
    double: int
    sites: dict[str, SiteSeen]
    records: tuple[tuple[str, str], ...]
    unwell: str
    active_after: str


def voter_links(layout: Layout) -> tuple[Link, ...]:
    """Every link between two voters."""
    return tuple(frozenset(pair) for pair in combinations(layout.voters, 2))


def _subsets(items: tuple[str, ...]) -> Iterator[frozenset[str]]:
    for size in range(len(items) + 1):
        for chosen in combinations(items, size):
            yield frozenset(chosen)


def all_cases(layout: Layout) -> tuple[Case, ...]:
    """Every combination of cut links, of who was active and of who was behind; the manager reaches everybody."""
    links = voter_links(layout)
    cuts = [frozenset(chosen) for size in range(len(links) + 1) for chosen in combinations(links, size)]
    return tuple(
        Case(layout, active, behind, cut)
        for active in layout.sites
        for behind in _subsets(tuple(site for site in layout.sites if site != active))
        for cut in cuts
    )


def symmetric(case: Case) -> Case:
    """The same case with sites renamed: the active one is the first; of all such names the smallest."""
    sites = case.layout.sites
    standbys = [site for site in sites if site != case.active]
    names = []
    for order in permutations(standbys):
        to = dict(zip((case.active, *order), sites, strict=True))
        cuts = frozenset(frozenset(to.get(end, end) for end in link) for link in case.cuts)
        renamed = Case(case.layout, sites[0], frozenset(to[site] for site in case.behind), cuts)
        names.append((tuple(sorted(renamed.behind)), tuple(sorted(tuple(sorted(link)) for link in cuts)), renamed))
    return min(names, key=lambda name: name[:2])[2]


def distinct_cases(layout: Layout) -> tuple[Case, ...]:
    """One case of each that are the same up to the names of the sites."""
    return tuple(dict.fromkeys(symmetric(case) for case in all_cases(layout)))


def manager_variants(case: Case) -> tuple[Case, ...]:
    """The same case with every combination of the manager's own links cut."""
    return tuple(
        Case(case.layout, case.active, case.behind, case.cuts, chosen) for chosen in _subsets(case.layout.voters)
    )


class NotReadyError(Exception):
    """The world before a cut could not be brought about."""


def play(case: Case, seed: int = 0) -> Seen:
    """Plays one case: the group becomes healthy, links are cut, looked at, and healed.

    Raises:
        InvariantError: One of I1-I11 does not hold.
        NotReadyError: The world before the cut could not be brought about.
    """
    return _Run(case, seed).play()


class _Run:
    def __init__(self, case: Case, seed: int) -> None:
        self._case = case
        layout = case.layout
        self._world = ObservedWorld(
            Settings(
                seed=seed,
                sites=layout.sites,
                witnesses=layout.witnesses,
                spare_witnesses=(),
                managers=1,
                timing=TIMING,
                automatic=True,
                failback="Never",
                latency_ns=(MILLISECOND_NS // 4, MILLISECOND_NS),
                write_gap_ns=100 * MILLISECOND_NS,
                active_ns=0,
                quiet_ns=quiet_ns(TIMING),
                fault_gap_ns=SECOND_NS,
                faults=("cut-pair",),
                instant=True,
            )
        )
        self._kernel = self._world.kernel
        self._sight = Sight(self._world, {site: (site,) for site in layout.sites})

    def play(self) -> Seen:
        case, world, network = self._case, self._world, self._world.network
        self._prepare()
        wins = len(world.monitors.wins)
        records = {record.id for c in world.controllers.values() for record in c.records} | world.managers.git.ids
        cuts = [pair for link in case.cuts for pair in permutations(sorted(link), 2)]
        cuts += [pair for end in sorted(case.manager_cuts) for pair in permutations((MANAGER, end), 2)]
        network.cut(cuts)
        self._kernel.run(self._kernel.now + CUT_NS - LOOKED_AT_NS)
        looked_ns = self._kernel.now
        codes = self._watch(LOOKED_AT_NS)
        serving = sorted({answer.site for answer in world.answers if answer.at_ns > looked_ns})
        sites = {
            c.name: SiteSeen(c.role, world.gates[c.name].is_open, tuple(sorted(codes[c.name])))
            for c in world.controllers.values()
        }
        written = [*world.managers.git.commits, *(record for c in world.controllers.values() for record in c.records)]
        told = dict.fromkeys((record.site, record.type) for record in written if record.id not in records)
        takeover = next((site for _epoch, site, _ in reversed(world.monitors.wins[wins:]) if site != case.active), "")
        network.mend(cuts)
        network.mend(self._held(), network.replication_cuts)
        unwell = self._heal()
        holder = self._sight.holder()
        return Seen(
            serving=tuple(serving),
            takeover=takeover,
            double=len(world.dual_served_ns) + sum(1 for answer in world.answers if not answer.by_right),
            sites=sites,
            records=tuple(sorted(told)),
            unwell=unwell,
            active_after=holder.name if holder is not None else "",
        )

    def _prepare(self) -> None:
        case, sites = self._case, frozenset(self._case.layout.sites)
        everybody = self._case.layout.sites
        self._wait(lambda: self._sight.settled(everybody[0], "") or self._lacks(sites))
        if case.active != everybody[0]:
            self._world.managers.create(case.active, "Switchover")
            self._wait(lambda: self._sight.settled(case.active, "") or self._lacks(sites))
        if case.behind:
            self._world.network.cut(self._held(), self._world.network.replication_cuts)
            self._wait(lambda: self._lacks(sites - case.behind))
        self._kernel.run(self._kernel.now + SECOND_NS)

    def _held(self) -> list[tuple[str, str]]:
        others = [(site, other) for site in sorted(self._case.behind) for other in self._case.layout.sites]
        return [pair for site, other in others if site != other for pair in ((site, other), (other, site))]

    def _lacks(self, members: frozenset[str]) -> str:
        now = self._sight.members()
        return "" if now == members else f"the synchronous set is {', '.join(sorted(now))}"

    def _wait(self, missing: Callable[[], str]) -> None:
        end_ns = self._kernel.now + READY_WITHIN_NS
        while lacking := missing():
            if self._kernel.now > end_ns:
                raise NotReadyError(f"{self._case}: {lacking}")
            self._kernel.run(self._kernel.now + TIMING.heartbeat_ns)

    def _watch(self, duration_ns: int) -> dict[str, set[str]]:
        codes: dict[str, set[str]] = {site: set() for site in self._case.layout.sites}
        end_ns = self._kernel.now + duration_ns
        while self._kernel.now < end_ns:
            self._kernel.run(self._kernel.now + TIMING.heartbeat_ns)
            for controller in self._world.controllers.values():
                codes[controller.name].update(reason.code for reason in controller.decision.reasons)
        return codes

    def _heal(self) -> str:
        world = self._world
        world.monitors.healed()
        end_ns = self._kernel.now + world.settings.quiet_ns
        while self._kernel.now < end_ns and next(world.monitors.unwell(), None) is not None:
            self._kernel.run(self._kernel.now + TIMING.heartbeat_ns)
        return "; ".join(f"{invariant}: {what}" for invariant, what in world.monitors.unwell())
