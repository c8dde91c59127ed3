"""Durations of the lease protocol."""

from __future__ import annotations

from dataclasses import dataclass

MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000
PPM = 1_000_000
# How long a planned move waits for a component to come to rest, and for its proof, where `quiesceSeconds` says nothing.
REST_S = 2.0


@dataclass(frozen=True, slots=True)
class Timing:
    """How often a lease is renewed and how long it lasts.

    Invariant: `heartbeat * 4 <= ttl`, so that three renewals in a row may be lost.

    Attributes:
        heartbeat_ns: Distance of two heartbeats.
        ttl_ns: Life of a lease, counted from the send time of the heartbeat that renewed it.
        drift_ppm: Largest difference of two clocks' rates that safety may rely on, parts per million.
    """

    heartbeat_ns: int
    ttl_ns: int
    drift_ppm: int = 10_000

    def __post_init__(self) -> None:
        if self.heartbeat_ns <= 0 or self.drift_ppm < 0:
            raise ValueError("heartbeat must be positive and drift not negative")
        if self.heartbeat_ns * 4 > self.ttl_ns:
            raise ValueError(f"heartbeat * 4 must be <= ttl, got {self.heartbeat_ns} ns and {self.ttl_ns} ns")

    @property
    def hold_ns(self) -> int:
        """How long a voter keeps a promise to a silent holder: `ttl * (1 + drift)`, rounded up."""
        return hold_of(self.ttl_ns, self.drift_ppm)

    @property
    def suspect_ns(self) -> int:
        """Silence after which a follower counts as lost for the synchronous set. No lease depends on it."""
        return self.heartbeat_ns * 4

    @property
    def fence_margin_ns(self) -> int:
        """How long before the end of its lease a holder fences itself."""
        return max(self.ttl_ns // 10, 50 * MILLISECOND_NS) if self.ttl_ns >= 500 * MILLISECOND_NS else self.ttl_ns // 8


def hold_of(ttl_ns: int, drift_ppm: int) -> int:
    """`ttl * (1 + drift)` in whole nanoseconds, rounded up."""
    return ttl_ns + -(-ttl_ns * drift_ppm // PPM)


PROFILES = {
    "metro": Timing(100 * MILLISECOND_NS, 700 * MILLISECOND_NS),
    "regional": Timing(300 * MILLISECOND_NS, 2 * SECOND_NS),
    "wan": Timing(SECOND_NS, 6 * SECOND_NS),
}
