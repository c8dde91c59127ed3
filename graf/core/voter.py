"""The voter: one small promise per group, kept on disk before any answer.

Base: PaxosLease (arXiv 1209.4187), majority leases without synchronised clocks, made durable and given epochs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from graf.api.timing import hold_of
from graf.api.values import Electorate, SetVersion, SyncSet
from graf.core.messages import (
    Campaign,
    CampaignAnswer,
    Claim,
    ClaimAnswer,
    Release,
    ReleaseAnswer,
    SetAnswer,
    Settle,
    SettleAnswer,
    SetUpdate,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BOOTSTRAP_EPOCH = 1

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Promise:
    """What a voter keeps on disk for a group.

    Invariant: the epoch of a stored promise only rises; `stored_set.version` only rises; so does the version of the
    list in force (`voters.current`).

    Attributes:
        ttl_ns: The lease time that the promised holder uses; the voter waits for that one.
        voters: The list in force and, when this voter has granted a change of it, the list that is to follow.
        released: The holder gave the epoch back; it will never be answered as a holder again.
        successor: Whom the holder wanted next, or empty.
        never_won: It was given back by a site that had not won it: nobody has been Active in this epoch.
        unserved: It was given back by a site that had won it and could not open its data: nothing was written in it.
        entitled: The heirs before this epoch was granted here; they are heirs again when nobody won it.
        proposed_in: Epoch in which `voters.proposed` was first granted here; 0 without one.
    """

    group: str
    epoch: int
    site: str
    ttl_ns: int
    voters: Electorate
    stored_set: SyncSet
    released: bool = False
    successor: str = ""
    proposed_in: int = 0
    never_won: bool = False
    unserved: bool = False
    entitled: frozenset[str] = frozenset()

    @property
    def heirs(self) -> frozenset[str]:
        """Sites that may take the group over where the policy leaves failover to people: it was theirs, or given."""
        if not self.released:
            return frozenset({self.site})
        if self.never_won:
            return self.entitled or frozenset({self.site})
        return frozenset({self.site, self.successor} - {""})


@dataclass(frozen=True, slots=True)
class VoterState:
    """State of a voter for all its groups.

    Attributes:
        started_ns: When this incarnation started, on its own monotonic clock.
        drift_ppm: Largest difference of clock rates to allow for.
        promises: Durable part, by group.
        answered_ns: Volatile part: last answer to the holder, by group. A restarted voter may have answered just
            before it died, so a missing entry counts as an answer at `started_ns`.
    """

    name: str
    started_ns: int
    drift_ppm: int
    promises: Mapping[str, Promise] = field(default_factory=lambda: MappingProxyType({}))
    answered_ns: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def free_at_ns(self, group: str) -> int:
        """When the promise to a silent holder ends; only with a stored promise."""
        promise = self.promises[group]
        answered = self.answered_ns.get(group, self.started_ns)
        return answered + hold_of(promise.ttl_ns, self.drift_ppm)

    def silent_until_ns(self, group: str) -> int:
        """Until when a restarted voter answers no campaign of the group."""
        promise = self.promises.get(group)
        if promise is None:
            return self.started_ns
        return self.started_ns + hold_of(promise.ttl_ns, self.drift_ppm)


@dataclass(frozen=True, slots=True)
class VoterStep(Generic[Answer]):
    """Outcome of one message.

    Attributes:
        state: The state after it.
        answer: What to send back, only after `durable` is on disk.
        durable: The promise to write and fsync before anything else happens; None when nothing changed.
    """

    state: VoterState
    answer: Answer
    durable: Promise | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a voter does not grant, and when asking again can make sense."""

    reason: str
    retry_after_ns: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A campaign as the voter sees it; `promise` is None when it has no record of the group."""

    state: VoterState
    promise: Promise | None
    site: str
    campaign: Campaign
    now_ns: int


def _declared_voters_only(asked: Asked) -> Refusal | None:
    """The sender names the voters in force, this voter is on the list, and only sites on it contend.

    A list that was settled later than the one known here is a fact, so it is taken. A change that a voter in force has
    granted may have been won: then only campaigns that carry it too are safe.
    """
    voters = asked.campaign.voters
    if asked.state.name not in voters.members or asked.site not in voters.members:
        return Refusal("NotDeclared")
    if asked.promise is None:
        return None
    known = asked.promise.voters
    if voters.current.version > known.current.version:
        return None
    if voters.current != known.current:
        return Refusal("OtherVoterList")
    # Only who is on the list in force is bound by a change of it: without a majority of that list nothing was decided,
    # so a newcomer of an abandoned change is free for the next one.
    if asked.state.name in known.current.members and known.proposed not in (None, voters.proposed):
        return Refusal("OtherVoterList")
    return None


def _no_record_no_vote(asked: Asked) -> Refusal | None:
    """A voter without a record has lost its disk or is new.

    It takes part in the very first epoch: every voter must grant that one (see `campaign.Contest`), and a voter that
    has stored a set of the first holder does not grant it again, so a group that has served cannot begin anew. And it
    takes part in the change that makes it a voter, but only while whoever brings that change in knows that nothing is
    decided yet without a majority of the list that it is not on (`Campaign.admits`). Who carries on a change that
    another site began cannot know it: voters that were told the end of the change decide by the new list alone.
    """
    if asked.promise is not None or asked.campaign.epoch == BOOTSTRAP_EPOCH:
        return None
    if asked.campaign.admits and asked.state.name in asked.campaign.voters.newcomers:
        return None
    return Refusal("NoRecord")


def _restart_silence(asked: Asked) -> Refusal | None:
    """A restarted voter may have answered the holder just before it died."""
    until = asked.state.silent_until_ns(asked.campaign.group)
    if asked.promise is not None and asked.now_ns < until:
        return Refusal("RestartSilence", until - asked.now_ns)
    return None


def _epoch_rises(asked: Asked) -> Refusal | None:
    """An epoch is granted once, and only if it is higher than any promised."""
    if asked.promise is not None and asked.campaign.epoch <= asked.promise.epoch and not _bootstrap_again(asked):
        return Refusal("EpochNotHigher")
    return None


def _bootstrap_again(asked: Asked) -> bool:
    """The first epoch may be granted to the same site again while it has not served.

    Else a first contest that loses one message leaves a group for ever without an epoch: the granters have a
    record, the others none, and no other epoch is open to those. Nobody else is in the stored set meanwhile.
    """
    promise, campaign = asked.promise, asked.campaign
    return (
        promise is not None
        and campaign.epoch == promise.epoch == BOOTSTRAP_EPOCH
        and promise.site == asked.site
        and promise.stored_set == campaign.known_set == SyncSet(SetVersion(BOOTSTRAP_EPOCH, 0), frozenset({asked.site}))
    )


def _holder_may_live(asked: Asked) -> Refusal | None:
    """A promise to another site binds until that site released it or its lease has ended for sure."""
    promise = asked.promise
    if promise is None or promise.released or promise.site == asked.site:
        return None
    free_at = asked.state.free_at_ns(promise.group)
    if asked.now_ns <= free_at:
        return Refusal("HolderMayLive", free_at - asked.now_ns + 1)
    return None


def _in_synchronous_set(asked: Asked) -> Refusal | None:
    """A site outside the newest known set may lack acknowledged writes: that is a forced failover, for people."""
    promise, campaign = asked.promise, asked.campaign
    if not campaign.lossless:
        return None
    known = campaign.known_set
    stored = promise.stored_set if promise is not None else SyncSet()
    newest = stored if stored.version >= known.version else known
    if asked.site not in newest.members:
        return Refusal("NotInSynchronousSet")
    return None


CampaignRule = tuple[str, "Callable[[Asked], Refusal | None]"]

# Order matters only for which reason is told first. A test takes each out and sees the violation.
CAMPAIGN_RULES: tuple[CampaignRule, ...] = (
    ("declared-voters-only", _declared_voters_only),
    ("no-record-no-vote", _no_record_no_vote),
    ("epoch-rises", _epoch_rises),
    ("restart-silence", _restart_silence),
    ("holder-may-live", _holder_may_live),
    ("in-synchronous-set", _in_synchronous_set),
)


def on_campaign(
    state: VoterState,
    site: str,
    campaign: Campaign,
    now_ns: int,
    rules: tuple[CampaignRule, ...] = CAMPAIGN_RULES,
) -> VoterStep[CampaignAnswer]:
    """Grants or refuses an epoch.

    A grant changes no synchronous set; it counts as an answer to the new holder, so a lease that starts at the
    campaign's send time is covered.
    """
    promise = state.promises.get(campaign.group)
    asked = Asked(state, promise, site, campaign, now_ns)
    for _name, rule in rules:
        refusal = rule(asked)
        if refusal is not None:
            return VoterStep(
                state,
                CampaignAnswer(
                    campaign.group,
                    campaign.epoch,
                    granted=False,
                    reason=refusal.reason,
                    promised_epoch=promise.epoch if promise else 0,
                    promised_site=promise.site if promise else "",
                    retry_after_ns=refusal.retry_after_ns,
                    stored_set=promise.stored_set if promise else SyncSet(),
                    stored_voters=promise.voters if promise else None,
                ),
            )
    stored = promise.stored_set if promise is not None else campaign.known_set
    # A set is of an epoch that was won: who was heir before that one is none any more.
    up_to_date = promise is not None and campaign.known_set.version.epoch <= promise.epoch
    proposed_in = campaign.epoch if campaign.voters.joint else 0
    if promise is not None and campaign.voters.joint and promise.voters == campaign.voters:
        proposed_in = promise.proposed_in
    granted = Promise(
        campaign.group,
        campaign.epoch,
        site,
        campaign.ttl_ns,
        campaign.voters,
        stored,
        proposed_in=proposed_in,
        entitled=_entitled(promise) if promise is not None and up_to_date else frozenset(),
    )
    answer = CampaignAnswer(
        campaign.group,
        campaign.epoch,
        granted=True,
        promised_epoch=campaign.epoch,
        promised_site=site,
        stored_set=stored,
        stored_voters=campaign.voters,
    )
    return VoterStep(_answered(_with(state, granted), campaign.group, now_ns), answer, granted)


def _entitled(promise: Promise) -> frozenset[str]:
    """Who has the newest data when the epoch that is granted now is never served."""
    return promise.heirs | (promise.entitled if promise.unserved else frozenset())


def on_claim(state: VoterState, site: str, claim: Claim, now_ns: int) -> VoterStep[ClaimAnswer]:
    """Renews the holder's lease if this voter has promised exactly that group, epoch and site."""
    promise = state.promises.get(claim.group)
    if promise is None:
        return VoterStep(state, ClaimAnswer(claim.group, claim.epoch, accepted=False, reason="NoRecord"))
    reason = ""
    if promise.voters.newest.version != claim.voters_version:
        reason = "OtherVoterList"
    elif promise.epoch != claim.epoch or promise.site != site:
        reason = "PromisedOther"
    elif promise.released:
        reason = "Released"
    answer = ClaimAnswer(
        claim.group,
        claim.epoch,
        accepted=not reason,
        reason=reason,
        promised_epoch=promise.epoch,
        promised_site=promise.site,
    )
    return VoterStep(state if reason else _answered(state, claim.group, now_ns), answer)


def on_release(state: VoterState, site: str, release: Release) -> VoterStep[ReleaseAnswer]:
    """Marks the promise as given back; idempotent, and only by the site that holds it.

    Who never won the epoch in which a change of voters first came here has not won that change either: it is dropped.
    """
    promise = state.promises.get(release.group)
    if promise is None or promise.epoch != release.epoch or promise.site != site:
        return VoterStep(state, ReleaseAnswer(release.group, release.epoch, released=False))
    answer = ReleaseAnswer(release.group, release.epoch, released=True)
    if promise.released:
        return VoterStep(state, answer)
    released = replace(
        promise,
        released=True,
        successor=release.successor,
        never_won=release.never_won,
        unserved=release.unserved,
    )
    if release.never_won and promise.proposed_in == promise.epoch:
        released = replace(released, voters=Electorate(promise.voters.current), proposed_in=0)
    return VoterStep(_with(state, released), answer, released)


def on_set_update(state: VoterState, site: str, update: SetUpdate) -> VoterStep[SetAnswer]:
    """Stores a newer synchronous set told by the site that holds the promised epoch."""
    promise = state.promises.get(update.group)
    reason = ""
    if promise is None:
        reason = "NoRecord"
    elif promise.epoch != update.epoch or promise.site != site or update.new_set.version.epoch != update.epoch:
        reason = "PromisedOther"
    elif promise.released:
        reason = "Released"
    elif update.new_set.version < promise.stored_set.version:
        reason = "OlderVersion"
    elif update.new_set.version == promise.stored_set.version and update.new_set != promise.stored_set:
        reason = "OtherSetOfSameVersion"
    if promise is None or reason:
        return VoterStep(state, SetAnswer(update.group, update.epoch, update.new_set, stored=False, reason=reason))
    answer = SetAnswer(update.group, update.epoch, update.new_set, stored=True)
    if update.new_set == promise.stored_set:
        return VoterStep(state, answer)
    changed = replace(promise, stored_set=update.new_set)
    return VoterStep(_with(state, changed), answer, changed)


def on_settle(state: VoterState, site: str, settle: Settle) -> VoterStep[SettleAnswer]:
    """Stores that a change of voters is done, as told by the site that holds the promised epoch.

    A voter that is not on the new list stores it too: it will never again support who knows only the old one.
    """
    promise = state.promises.get(settle.group)
    reason = ""
    if promise is None:
        reason = "NoRecord"
    elif promise.epoch != settle.epoch or promise.site != site:
        reason = "PromisedOther"
    elif promise.released:
        reason = "Released"
    elif promise.voters.newest != settle.voters:
        reason = "OtherVoterList"
    if promise is None or reason:
        return VoterStep(state, SettleAnswer(settle.group, settle.epoch, settle.voters, stored=False, reason=reason))
    answer = SettleAnswer(settle.group, settle.epoch, settle.voters, stored=True)
    if not promise.voters.joint:
        return VoterStep(state, answer)
    settled = replace(promise, voters=Electorate(settle.voters), proposed_in=0)
    return VoterStep(_with(state, settled), answer, settled)


def _with(state: VoterState, promise: Promise) -> VoterState:
    promises = MappingProxyType({**state.promises, promise.group: promise})
    return VoterState(state.name, state.started_ns, state.drift_ppm, promises, state.answered_ns)


def _answered(state: VoterState, group: str, now_ns: int) -> VoterState:
    answered = MappingProxyType({**state.answered_ns, group: now_ns})
    return VoterState(state.name, state.started_ns, state.drift_ppm, state.promises, answered)
