"""What a seed decides before the run: the shape of the world and which faults are on (swarm testing, Groce 2012)."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace
from typing import Literal

from graf.api.timing import MILLISECOND_NS, PROFILES, Timing

# A declared RPO, in lease times: a site leaves the set one before it is over.
RPO_TTLS = 3
SITES = ("east", "west", "north", "south", "centre")
WITNESSES = ("witness", "oak", "elm", "ash", "fir")

# Every fault that a campaign must have reached. Order matters for the seeds, not for anything else.
FAULTS = (
    "crash-controller",
    "crash-site",
    "crash-database",
    "crash-witness",
    "crash-at-durable-step",
    "crash-at-promotion",
    "lose-disk",
    "pause-controller",
    "freeze-site",
    "pause-manager",
    "pause-machine",
    "isolate-site",
    "cut-one-way",
    "cut-pair",
    "flap-link",
    "delay",
    "loss",
    "duplicate",
    "reorder",
    "hold-replication",
    "hold-apply",
    "mute-standby",
    "semi-sync-off",
    "slow-disk",
    "disk-full",
    "driver-stuck",
    "gate-stuck",
    "driver-lies",
    "missed-event",
    "manager-crash",
    "api-down",
    "git-down",
    "git-conflict",
    "stale-manager",
    "git-early",
    "operator-switchover",
    "operator-wrong",
    "standby-loss",
    "all-sites-lost",
    "manager-and-active",
    "change-voters",
    "change-policy",
)
# With only these on, nobody may take over from anybody unless a person asks for it.
HARMLESS = frozenset(
    {
        "manager-crash",
        "pause-manager",
        "api-down",
        "git-down",
        "git-conflict",
        "stale-manager",
        "git-early",
        "crash-witness",
        "semi-sync-off",
        "hold-apply",
        "change-voters",
    }
)


_FAILBACKS: tuple[Literal["Never", "Manual", "Automatic"], ...] = ("Automatic", "Automatic", "Manual", "Never")


def stream(seed: int, name: str) -> random.Random:
    """A random stream of a seed: the same under every PYTHONHASHSEED and on every interpreter.

    It is `random.Random(text)`, but for where the text is hashed: PyPy's own `random` does that in Python.
    """
    text = f"{seed}/{name}".encode()
    return random.Random(int.from_bytes(text + hashlib.sha512(text).digest()))  # noqa: S311


class Streams:
    """Three random streams of a seed: a change in one draws nothing from the others."""

    def __init__(self, seed: int) -> None:
        self.schedule = stream(seed, "schedule")
        self.workload = stream(seed, "workload")
        self.faults = stream(seed, "faults")


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault that begins at a fixed time.

    Attributes:
        at: When, in heartbeats after the first lease times.
        draw: Whom it hits, as the fault's own function reads a number between 0 and 1.
        lasts: For how many heartbeats.
    """

    at: float
    fault: str
    draw: float
    lasts: float


@dataclass(frozen=True, slots=True)
class Settings:
    """The shape of one run.

    Attributes:
        managers: How many Redundancy Managers there are; one of them leads.
        spare_witnesses: Locations that run a voter which no list has yet.
        fast_ppm: How much faster than real time each location's clock may be at most.
        active_ns: How long faults may begin.
        instant: Heartbeats on a clean network take no time: then a run has fewer events, and a campaign more runs.
        quiet_ns: How long nothing happens afterwards: the bound within which all has to be well again.
        fault_gap_ns: Mean distance of two faults.
        stabilisation_ns: How long the preferred site must be ready before a failback; None: six heartbeats.
        skip: Faults, by number in the order of their beginning, that a shortened run leaves out.
        lossless: The group has a synchronous set; without one nothing but leases keeps two sites from serving.
        rpo_ns: No write waits for a standby; a failover loses at most what was acknowledged in so long before the end.
            None: a write waits for the whole synchronous set.
        script: Faults at fixed times instead of random ones.
    """

    seed: int
    sites: tuple[str, ...]
    witnesses: tuple[str, ...]
    spare_witnesses: tuple[str, ...]
    managers: int
    timing: Timing
    automatic: bool
    failback: Literal["Never", "Manual", "Automatic"]
    latency_ns: tuple[int, int]
    write_gap_ns: int
    active_ns: int
    quiet_ns: int
    fault_gap_ns: int
    faults: tuple[str, ...]
    instant: bool = False
    skip: frozenset[int] = field(default_factory=frozenset)
    stabilisation_ns: int | None = None
    lossless: bool = True
    rpo_ns: int | None = None
    script: tuple[Planned, ...] = ()

    @property
    def voters(self) -> tuple[str, ...]:
        """The first voter list."""
        return (*self.sites, *self.witnesses)

    @property
    def must_not_move(self) -> bool:
        """Whether no unplanned move can be right in this run: the sites alone carry every list that comes up."""
        voters = len(self.voters) + len(self.spare_witnesses)
        carried = "crash-witness" not in self.faults or 2 * len(self.sites) > voters
        return carried and all(fault in HARMLESS for fault in self.faults)

    @property
    def always_manual(self) -> bool:
        """Whether the policy leaves failover to people until the faults have healed."""
        return not self.automatic and "change-policy" not in self.faults

    @property
    def only_planned_moves(self) -> bool:
        """Whether every site and link is well, so that a planned move either is refused or succeeds."""
        return set(self.faults) <= {"operator-switchover", "operator-wrong", "hold-replication", "hold-apply"}

    @property
    def only_standbys_lost(self) -> bool:
        """Whether the active site, its voters and its network are never touched, so that no write may wait for long."""
        return set(self.faults) <= {"standby-loss", "git-down", "api-down", "manager-crash", "pause-manager"}


def copied(settings: Settings) -> Settings:
    """The same run of a group whose data is only copied, with an RPO of some lease times."""
    return replace(settings, rpo_ns=RPO_TTLS * settings.timing.ttl_ns)


def drawn(seed: int) -> Settings:
    """The settings of a seed. Sizes follow the lease: a world is described in heartbeats, whatever one lasts."""
    draw = stream(seed, "faults")
    heartbeat_ms = round(10 ** draw.uniform(2.0, 4.9))
    timing = Timing(
        heartbeat_ms * MILLISECOND_NS,
        round(heartbeat_ms * draw.uniform(4.0, 9.0)) * MILLISECOND_NS,
        draw.choice((1_000, 10_000, 50_000)),
    )
    if draw.random() < 0.15:
        timing = PROFILES[draw.choice(("metro", "regional", "wan"))]
    sites = draw.choices((2, 3, 4, 5), (70, 20, 6, 4))[0]
    witnesses = draw.choice((1, 1, 1, 3)) if sites % 2 == 0 else draw.choice((0, 0, 2))
    if draw.random() < 0.03 and sites == 2:
        witnesses = 0
    latency = draw.choice((timing.heartbeat_ns // 200, timing.heartbeat_ns // 50, timing.heartbeat_ns // 12))
    picked = _swarm(draw)
    return Settings(
        seed=seed,
        sites=SITES[:sites],
        witnesses=WITNESSES[:witnesses],
        spare_witnesses=WITNESSES[witnesses : witnesses + 2] if "change-voters" in picked else (),
        managers=draw.choice((1, 1, 2, 3)),
        timing=timing,
        automatic=draw.random() < 0.88,
        failback=_FAILBACKS[int(draw.random() * 4)],
        latency_ns=(latency // 4 + 1, latency + 1),
        write_gap_ns=round(timing.heartbeat_ns * draw.choice((0.3, 0.7, 1.5))),
        active_ns=timing.heartbeat_ns * draw.choice((8, 14, 30)),
        quiet_ns=quiet_ns(timing),
        fault_gap_ns=round(timing.heartbeat_ns * draw.choice((2, 4, 8))),
        faults=picked,
        instant=draw.random() < 0.6,
    )


def quiet_ns(timing: Timing) -> int:
    """The stated bound: how long after the last fault has healed everything must be well again."""
    return 30 * timing.ttl_ns // 6 + 45 * timing.heartbeat_ns + 5_000 * MILLISECOND_NS


def _swarm(draw: random.Random) -> tuple[str, ...]:
    """Which faults are on: few, many or only harmless ones, so that rare combinations come up."""
    mode = draw.random()
    if mode < 0.08:
        pool = [fault for fault in FAULTS if fault in HARMLESS]
        return tuple(fault for fault in pool if draw.random() < 0.5) or (draw.choice(pool),)
    share = draw.choice((0.05, 0.12, 0.25, 0.5))
    picked = tuple(fault for fault in FAULTS if draw.random() < share)
    return picked or (draw.choice(FAULTS),)
