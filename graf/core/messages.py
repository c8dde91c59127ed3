"""What voters and contenders of a group say to each other. Who sent a message is an argument, never a field."""

from __future__ import annotations

from dataclasses import dataclass

from graf.api.values import Electorate, SyncSet, VoterList

# Cause of a release by which a contender says that it never won that epoch and never will.
CONTEST_LOST = "ContestLost"
DATA_LOST_BEFORE_PROMOTION = "DataLostBeforePromotion"


@dataclass(frozen=True, slots=True)
class Claim:
    """Part of a heartbeat: the sender is Active for this group and epoch.

    `voters_version` is the newest list that the lease counts on; it is the same before and after a change is settled.
    """

    group: str
    epoch: int
    voters_version: int


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """A voter's answer to a claim. Accepted means: it has promised exactly that group, epoch and site."""

    group: str
    epoch: int
    accepted: bool
    reason: str = ""
    promised_epoch: int = 0
    promised_site: str = ""


@dataclass(frozen=True, slots=True)
class Campaign:
    """A site asks for an epoch. The lease of a winner starts when this was sent.

    Attributes:
        admits: The sender knows that nothing has been decided by the proposed list alone yet, so a new voter without a
            record may take part: it cannot have lost a promise that anybody counts on.
    """

    group: str
    epoch: int
    ttl_ns: int
    voters: Electorate
    known_set: SyncSet
    lossless: bool
    admits: bool = False


@dataclass(frozen=True, slots=True)
class CampaignAnswer:
    """Grant or refusal, with the voter's stored synchronous set and the voters that it knows to be in force."""

    group: str
    epoch: int
    granted: bool
    reason: str = ""
    promised_epoch: int = 0
    promised_site: str = ""
    retry_after_ns: int = 0
    stored_set: SyncSet = SyncSet()
    stored_voters: Electorate | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """The holder of an epoch, or the loser of a split vote, gives it back.

    Attributes:
        successor: The site that is meant to campaign now; empty for anybody.
        cause: Reason code, for the record of the successor.
        detect_ms: From the first evidence to the release on the holder's clock, milliseconds.
        operation: The RedundancyOperation that asked for it, or empty.
    """

    group: str
    epoch: int
    successor: str = ""
    cause: str = ""
    detect_ms: float = 0.0
    operation: str = ""

    @property
    def never_won(self) -> bool:
        """Whether it gives back what a lost contest was granted."""
        return self.cause == CONTEST_LOST

    @property
    def unserved(self) -> bool:
        """Whether it gives back an epoch that it won and in which it has served nothing."""
        return self.cause == DATA_LOST_BEFORE_PROMOTION


@dataclass(frozen=True, slots=True)
class ReleaseAnswer:
    """Whether the promise of exactly that epoch and site is marked released on disk."""

    group: str
    epoch: int
    released: bool


@dataclass(frozen=True, slots=True)
class SetUpdate:
    """The holder of an epoch tells a newer synchronous set."""

    group: str
    epoch: int
    new_set: SyncSet


@dataclass(frozen=True, slots=True)
class SetAnswer:
    """Whether that version is on the voter's disk."""

    group: str
    epoch: int
    new_set: SyncSet
    stored: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Settle:
    """The holder of a joint epoch tells that its change of voters is done: `voters` is the list in force now."""

    group: str
    epoch: int
    voters: VoterList


@dataclass(frozen=True, slots=True)
class SettleAnswer:
    """Whether that list is on the voter's disk as the one in force."""

    group: str
    epoch: int
    voters: VoterList
    stored: bool
    reason: str = ""


Request = Campaign | Claim | Release | SetUpdate | Settle
