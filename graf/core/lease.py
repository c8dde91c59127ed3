"""The holder's side of a lease: how long this site may be Active."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from graf.api.values import Electorate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graf.api.timing import Timing


@dataclass(frozen=True, slots=True)
class Lease:
    """A site's time-limited right to be Active.

    Invariant: `end_ns` is the send time of the majority-th newest answered heartbeat (or campaign: a grant is an
    answer too) plus the time to live, all on the holder's monotonic clock. Receive times never enter. During a change
    of voters it is the earlier one of what the two lists give.

    Attributes:
        sent_ns: Per declared voter, the send time of the newest message that it accepted.
    """

    group: str
    epoch: int
    voters: Electorate
    timing: Timing
    sent_ns: Mapping[str, int]

    @property
    def end_ns(self) -> int:
        """When the lease ends; a time in the past when no majority ever answered."""
        return min([self._end_by(needed, counted) for needed, counted in self.voters.tallies])

    def _end_by(self, needed: int, counted: tuple[str, ...]) -> int:
        newest = [self.sent_ns[v] for v in counted if v in self.sent_ns]
        if len(newest) < needed:
            return 0
        newest.sort(reverse=True)
        return newest[needed - 1] + self.timing.ttl_ns

    def valid(self, now_ns: int) -> bool:
        """Whether this site may be Active at `now_ns`."""
        return now_ns < self.end_ns

    def must_fence(self, now_ns: int) -> bool:
        """Whether the holder has to fence itself now, before the lease ends."""
        return now_ns >= self.end_ns - self.timing.fence_margin_ns

    def accepted(self, voter: str, sent_ns: int) -> Lease:
        """A voter accepted what was sent to it at `sent_ns`."""
        if voter not in self.voters.members or self.sent_ns.get(voter, -1) >= sent_ns:
            return self
        sent = MappingProxyType({**self.sent_ns, voter: sent_ns})
        return Lease(self.group, self.epoch, self.voters, self.timing, sent)

    def settled(self) -> Lease:
        """The change of voters is done: from now on the lease counts on the new list alone."""
        return replace(self, voters=Electorate(self.voters.newest))

    def supporters(self, now_ns: int) -> tuple[str, ...]:
        """Voters whose newest acceptance still counts."""
        return tuple(
            v for v in self.voters.members if v in self.sent_ns and now_ns < self.sent_ns[v] + self.timing.ttl_ns
        )
