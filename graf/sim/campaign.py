"""Many seeds: run in chunks that any number of workers can take, and added up in the order of the seeds."""

from __future__ import annotations

import hashlib
import importlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graf.sim.coverage import unreached
from graf.sim.run import play_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK = 100
HOUR_NS = 3_600_000_000_000
# A campaign goes rarely through each of very many paths: PyPy compiles them early, in short traces, and keeps them.
JIT = "trace_limit=2000,threshold=400,function_threshold=600,trace_eagerness=50,decay=5,loop_longevity=100000"


def tune() -> None:
    """At the start of a worker; nothing but PyPy has such parameters."""
    if sys.implementation.name == "pypy":
        importlib.import_module("pypyjit").set_param(JIT)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The outcome of consecutive seeds; plain values, so that it travels between processes.

    Attributes:
        digest: Hash of all traces, in order.
        violations: (seed, invariant, what was seen).
    """

    first: int
    seeds: int
    digest: bytes
    simulated_ns: int
    events: int
    counts: dict[str, int]
    violations: tuple[tuple[int, str, str], ...]


def chunks(first: int, seeds: int) -> Iterator[tuple[int, int]]:
    """(first seed, number) of each chunk. The cut is always the same, so that the hash does not depend on workers."""
    while seeds > 0:
        yield first, min(CHUNK, seeds)
        first, seeds = first + CHUNK, seeds - CHUNK


def play_chunk(part: tuple[int, int], *, copies: bool = False) -> Chunk:
    """Plays consecutive seeds; with `copies` for groups whose data is only copied."""
    first, seeds = part
    digest = hashlib.sha256()
    simulated_ns = events = 0
    counts: dict[str, int] = {}
    violations = []
    for seed in range(first, first + seeds):
        outcome = play_seed(seed, copies=copies)
        digest.update(outcome.trace.to_bytes(8, "big"))
        simulated_ns += outcome.simulated_ns
        events += outcome.events
        for key, number in outcome.counts.items():
            counts[key] = counts.get(key, 0) + number
        if outcome.invariant:
            violations.append((seed, outcome.invariant, outcome.violation))
    return Chunk(first, seeds, digest.digest(), simulated_ns, events, counts, tuple(violations))


@dataclass(slots=True)
class Campaign:
    """What is known so far; chunks have to be added in the order of their seeds."""

    copies: bool = False
    seeds: int = 0
    simulated_ns: int = 0
    events: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    violations: list[tuple[int, str, str]] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, chunk: Chunk) -> None:
        """Adds the next chunk."""
        self.seeds += chunk.seeds
        self.simulated_ns += chunk.simulated_ns
        self.events += chunk.events
        self.digest.update(chunk.digest)
        for key, number in chunk.counts.items():
            self.counts[key] = self.counts.get(key, 0) + number
        self.violations.extend(chunk.violations)

    @property
    def unreached(self) -> list[str]:
        """What a campaign has to reach and this one has not."""
        return unreached(self.counts, copies=self.copies)

    def summary(self) -> dict[str, Any]:
        """As data, without anything that differs between two machines."""
        return {
            "seeds": self.seeds,
            "simulated_hours": round(self.simulated_ns / HOUR_NS, 2),
            "events": self.events,
            "violations": len(self.violations),
            "violating": [{"seed": s, "invariant": i, "seen": seen} for s, i, seen in self.violations[:20]],
            "unreached": self.unreached,
            "trace_hash": self.digest.hexdigest()[:32],
            "reached": dict(sorted(self.counts.items())),
        }


def merged(parts: Iterable[Chunk]) -> Campaign:
    """All chunks together."""
    campaign = Campaign()
    for part in parts:
        campaign.add(part)
    return campaign
