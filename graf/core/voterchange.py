"""A change of voters, from the joint epoch that decides it to the list that is alone in force."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graf.api.values import Electorate, VoterList
    from graf.core.messages import SettleAnswer


@dataclass(frozen=True, slots=True)
class Settling:
    """The holder of a joint epoch makes the new list the only one.

    Invariant: the lease and the sets of the epoch count on both lists until majorities of *both* have on disk that the
    new one is in force. Then no campaign that knows only the old list, or the change as unfinished, can be won any
    more: it would need a majority of the old one. A new voter that loses its disk meanwhile cannot be taken for one
    that has promised nothing, because nothing was decided by it alone.

    Attributes:
        begun: It may be told: the set of the epoch is stored, so who is judged by the new list alone finds it there.
        told: Voters that have it on disk.
    """

    epoch: int
    voters: Electorate
    begun: bool = False
    told: frozenset[str] = frozenset()

    def begin(self) -> Settling:
        """From now on it is told."""
        return replace(self, begun=True)

    def answered(self, voter: str, answer: SettleAnswer) -> Settling:
        """Takes a voter's durable answer."""
        if not self.begun or not answer.stored or answer.voters != self.voters.newest or answer.epoch != self.epoch:
            return self
        if voter not in self.voters.members:
            return self
        return replace(self, told=self.told | {voter})

    @property
    def done(self) -> bool:
        """Whether the new list is alone in force."""
        return self.begun and self.voters.carried_by(self.told)

    @property
    def everybody_knows(self) -> bool:
        """Whether there is nobody left to tell."""
        return not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """Whom to tell: voters of either list, and once it is done only those of the new one."""
        members = self.voters.newest.members if self.done else self.voters.members
        return tuple(v for v in members if v not in self.told)


def bound_to(in_force: VoterList, told: Mapping[str, Electorate | None]) -> tuple[VoterList, ...]:
    """The changes of the list in force that voters of that list say they are bound to.

    A second change beside such a one could leave each with too few voters, for ever; so it is finished first, and its
    newcomers are heard. A newcomer that is not on the list in force is not bound by it; one that it admits anew is.

    Args:
        in_force: The list in force.
        told: By voter, what it tells of its record; None for one that has none.
    """
    return tuple(
        voters.proposed
        for name, voters in told.items()
        if voters is not None
        and voters.proposed is not None
        and voters.current == in_force
        and name in in_force.members
    )
