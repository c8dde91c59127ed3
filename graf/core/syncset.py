"""The holder's side of the synchronous set: who must have a write before it is acknowledged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from graf.api.values import SetVersion, SyncSet

if TYPE_CHECKING:
    from graf.api.values import Electorate
    from graf.core.messages import SetAnswer


@dataclass(frozen=True, slots=True)
class HolderSet:
    """What the holder of an epoch knows of the set.

    Invariant: `must_acknowledge` contains every set that a majority of the voters may have stored last, so whoever
    a later campaign lets win has every write that was acknowledged meanwhile.

    Attributes:
        current: The newest set that is known to be on a majority's disks, or the one adopted from the grants.
        proposed: A newer one that was told and is not yet known to be on a majority's disks.
        stored_by: Voters that have answered for `proposed`.
        joining: A site whose acknowledgements are required already and that is not in `current` yet.
        counter: Highest counter ever used in this epoch.
        doubtful: Members of sets that some voter may have stored and that this holder has not outdone yet.
        inherited: Members of the adopted set: each has everything that was acknowledged before this epoch.
    """

    epoch: int
    voters: Electorate
    current: SyncSet
    proposed: SyncSet | None = None
    stored_by: frozenset[str] = frozenset()
    joining: str = ""
    counter: int = 0
    doubtful: frozenset[str] = frozenset()
    inherited: frozenset[str] = frozenset()

    @classmethod
    def adopted(cls, epoch: int, voters: Electorate, newest: SyncSet, sites: frozenset[str]) -> HolderSet:
        """What a new holder starts with: the newest set that its grants carried, and doubt about every site.

        An earlier holder may have told a newer set to voters that did not take part in this win, with any of the
        sites in it. It outranks the adopted one until a majority has stored a set of this epoch.
        """
        return cls(epoch, voters, newest, doubtful=sites, inherited=newest.members)

    @property
    def must_acknowledge(self) -> frozenset[str]:
        """Sites without whose acknowledgement nothing may be acknowledged to a client."""
        sites = self.current.members | self.doubtful
        if self.proposed is not None:
            sites |= self.proposed.members
        if self.joining:
            sites |= {self.joining}
        return sites

    def surely_has(self, site: str) -> bool:
        """Whether the site is in every set that a later campaign could be judged by."""
        if self.proposed is not None and site not in self.proposed.members:
            return False
        return site in self.current.members

    def propose(self, members: frozenset[str]) -> HolderSet:
        """Tells a newer set. An unfinished older proposal may be on some disks: it stays doubtful until this ends."""
        counter = self.counter + 1
        doubtful = self.doubtful | (self.proposed.members if self.proposed is not None else frozenset())
        return replace(
            self,
            proposed=SyncSet(SetVersion(self.epoch, counter), members),
            stored_by=frozenset(),
            counter=counter,
            doubtful=doubtful,
        )

    def answered(self, voter: str, answer: SetAnswer) -> HolderSet:
        """Takes a voter's durable answer; a majority makes the proposal current."""
        if self.proposed is None or answer.new_set != self.proposed or not answer.stored:
            return self
        if voter not in self.voters.members:
            return self
        return replace(self, stored_by=self.stored_by | {voter})._counted()

    def settled(self, voters: Electorate) -> HolderSet:
        """The change of voters is done: what was told is counted on the new list alone, which may have it already."""
        return replace(self, voters=voters)._counted()

    def _counted(self) -> HolderSet:
        if self.proposed is None or not self.voters.carried_by(self.stored_by):
            return self
        joining = "" if self.joining in self.proposed.members else self.joining
        return replace(
            self,
            current=self.proposed,
            proposed=None,
            stored_by=frozenset(),
            doubtful=frozenset(),
            joining=joining,
        )

    def join(self, site: str) -> HolderSet:
        """Begins to require the acknowledgements of a site; it is told to the voters only when it has caught up."""
        return replace(self, joining=site)

    def stop_joining(self) -> HolderSet:
        """Gives a joining up. The site stays required if it may have been told already."""
        return replace(self, joining="")
