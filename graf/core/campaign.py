"""The contender's side: asking the declared voters for the next epoch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

from graf.api.values import SyncSet
from graf.core.lease import Lease
from graf.core.messages import Campaign
from graf.core.voter import BOOTSTRAP_EPOCH

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from graf.api.timing import Timing
    from graf.api.values import Electorate
    from graf.core.messages import CampaignAnswer


class Outcome(Enum):
    """State of a contest."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Contest:
    """One campaign of this site and the answers so far.

    Invariant: it is won only by grants, each for exactly this epoch, of a majority of the voters in force; during a
    change of voters, of a majority of both lists. The bootstrap epoch needs the grant of every voter: then each has a
    record, and a voter that later loses its disk cannot help anybody to win that epoch again.

    Attributes:
        asked: Voters that have been sent the campaign.
    """

    site: str
    campaign: Campaign
    timing: Timing
    sent_ns: int
    answers: Mapping[str, CampaignAnswer] = field(default_factory=lambda: MappingProxyType({}))
    asked: frozenset[str] = frozenset()

    @property
    def grants(self) -> tuple[str, ...]:
        """Voters that granted."""
        return tuple(v for v in self.campaign.voters.members if v in self.answers and self.answers[v].granted)

    def _carried_by(self, voters: Collection[str]) -> bool:
        electorate = self.campaign.voters
        if self.campaign.epoch == BOOTSTRAP_EPOCH:
            return all(v in voters for v in electorate.members)
        return electorate.carried_by(voters)

    @property
    def outcome(self) -> Outcome:
        """Won, lost (a win is no longer possible) or open."""
        if self._carried_by(self.grants):
            return Outcome.WON
        possible = [v for v in self.campaign.voters.members if v not in self.answers or self.answers[v].granted]
        return Outcome.OPEN if self._carried_by(possible) else Outcome.LOST

    @property
    def own_vote_due(self) -> bool:
        """Whether the own voter's grant would now decide the contest."""
        return self.site not in self.answers and self._carried_by((*self.grants, self.site))

    @property
    def due(self) -> tuple[str, ...]:
        """Voters to be asked now.

        Newcomers come first: a voter of the list in force that has granted a change supports nothing else any more, so
        it is asked only when the new list can carry it. Who brings the change in asks it only when every newcomer has
        its record: nobody who carries the change on may admit one without. The own voter comes last, when its vote
        decides: a contest that the others refuse leaves no trace, so a contender that cannot reach the holder does not
        push up epochs under it.
        """
        electorate = self.campaign.voters
        newcomers = [v for v in electorate.newcomers if v != self.site]
        first = [v for v in newcomers if v not in self.asked]
        proposed = electorate.proposed
        if proposed is not None:
            admitted = [v for v in proposed.members if v not in newcomers or v in self.grants]
            if len(admitted) < proposed.majority or (self.campaign.admits and not self._all_granted(newcomers)):
                return tuple(first)
        others = [v for v in electorate.members if v not in self.asked and v != self.site and v not in newcomers]
        own = [self.site] if self.site not in self.asked and self.own_vote_due else []
        return (*first, *others, *own)

    def _all_granted(self, voters: Collection[str]) -> bool:
        return all(v in self.grants for v in voters)

    def ask(self, voters: Collection[str]) -> Contest:
        """Notes that the campaign was sent to these voters."""
        return replace(self, asked=self.asked | frozenset(voters))

    def answered(self, voter: str, answer: CampaignAnswer) -> Contest:
        """Takes an answer; those for other epochs or of strangers are left aside."""
        if voter not in self.campaign.voters.members or answer.epoch != self.campaign.epoch:
            return self
        if answer.group != self.campaign.group or voter in self.answers:
            return self
        return replace(self, answers=MappingProxyType({**self.answers, voter: answer}))

    @property
    def highest_promised(self) -> int:
        """Highest epoch that any answer names; the next contest must go above it."""
        return max((a.promised_epoch for a in self.answers.values()), default=0)

    @property
    def other_voters(self) -> Electorate | None:
        """The newest voters that a refusal of the list names; None without such a refusal."""
        told = [
            a.stored_voters
            for a in self.answers.values()
            if a.reason in ("OtherVoterList", "NotDeclared") and a.stored_voters is not None
        ]
        return max(told, key=lambda e: (e.current.version, e.newest.version), default=None)

    @property
    def newest_set(self) -> SyncSet:
        """Newest synchronous set among the contender's own knowledge and the grants."""
        sets = [self.campaign.known_set, *(self.answers[v].stored_set for v in self.grants)]
        return max(sets, key=lambda s: s.version)

    @property
    def retry_after_ns(self) -> int:
        """When a new contest can make sense, after the refusals' own words; 0 when none said."""
        return max((a.retry_after_ns for a in self.answers.values() if not a.granted), default=0)

    def lease(self) -> Lease:
        """The winner's lease; it starts when the campaign was sent."""
        return Lease(
            self.campaign.group,
            self.campaign.epoch,
            self.campaign.voters,
            self.timing,
            MappingProxyType(dict.fromkeys(self.grants, self.sent_ns)),
        )
