"""A site's part in the protocol of one group: contest, lease, synchronous set and change of voters, event by event.

Values in, values out: every function takes the state and one event and returns the new state with what the caller has
to do (`Effect`). Nothing here is durable; a process that starts again begins with `Participation()` and the promise of
its own voter. Controllers and the simulator run the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from graf.api.timing import MILLISECOND_NS
from graf.api.values import Role, SyncSet
from graf.core.campaign import Contest, Outcome
from graf.core.messages import CONTEST_LOST, Campaign, Claim, Release, Settle, SetUpdate
from graf.core.retry import Tries
from graf.core.syncset import HolderSet
from graf.core.voterchange import Settling

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from graf.api.values import Electorate, VoterList
    from graf.core.lease import Lease
    from graf.core.messages import CampaignAnswer, ClaimAnswer, ReleaseAnswer, Request, SetAnswer, SettleAnswer
    from graf.core.view import ComponentView, GroupConfig

JOIN_BACK_OFF_NS = 2_000 * MILLISECOND_NS
TELL_AGAIN_NS = 200 * MILLISECOND_NS
SHORTEST_CONTEST_NS = 300 * MILLISECOND_NS


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request to these voters; the own voter is asked like the others."""

    voters: tuple[str, ...]
    request: Request


@dataclass(frozen=True, slots=True)
class Won:
    """A majority granted: the commit point. The site is Active from now on."""

    contest: Contest


@dataclass(frozen=True, slots=True)
class ContestLost:
    """A contest ended without a majority; the next one makes sense after `wait_ns`."""

    contest: Contest
    wait_ns: int


@dataclass(frozen=True, slots=True)
class SetStored:
    """A majority has the newer set on disk: it is in force."""

    before: SyncSet
    after: SyncSet


@dataclass(frozen=True, slots=True)
class RequirementChanged:
    """Whose acknowledgement the data drivers have to wait for is another set now."""


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """The lease ends later than before."""

    end_ns: int


@dataclass(frozen=True, slots=True)
class VotersSettled:
    """A change of voters is done: majorities of both lists have the new one on disk as the list in force."""

    voters: VoterList


Effect = Ask | Won | ContestLost | SetStored | RequirementChanged | LeaseRenewed | VotersSettled
Step = tuple["Participation", tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class Participation:
    """What a site's process remembers of its part in a group.

    Invariant: `held` and `settling` are there only with a lease and for its epoch. An epoch that was asked for is never
    asked for again (`highest_promised`): a late grant or release of an older contest must not count for a newer one.

    Attributes:
        contest: The campaign under way; a holder has one only to change the voters.
        contest_ends_ns: When it is given up.
        held: The holder's synchronous set.
        settling: The change of voters that this epoch makes.
        won_at_ns: When the lease was won.
        campaign_sent_ns: When its campaign was sent: the lease of a voter that grants it late counts from there.
        continued: It was won while this site held the lease of an older epoch: nobody else was Active in between.
        admits: Its campaign said that nothing had been decided by the proposed list alone.
        astray: Voters that have promised this epoch or a newer one to somebody else, or take it for released: they will
            not renew the lease until a still newer epoch is won.
        served: A data component was seen active in this epoch here: something may have been acknowledged in it.
        voters_hint: Voters that the refusals of the last contest named; the next contest tries them.
        refused_set: Newest synchronous set for whose sake a voter refused this site; it waits for a member, as for any
            newer set that it knows, instead of asking for one epoch after the other.
        told_set: Newest synchronous set that a peer told or that was in force here: it stays true when that peer loses
            its record.
        set_told_since_ns: Since when there has been a set that was told and is not known to be in force.
        lost_since_ns: Per required site, since when the data drivers have missed it.
        given_to: The site that the last epoch held here was released to; empty for none, and once one is held again.
        given_at_ns: When it was released, or given up because it could not be served; 0 when none was, and once one is
            held again.
        tries: Epochs that were won here in vain.
        giving_back: Voters that may still be bound by a contest that was lost, each with its epoch, until they answer.
    """

    lease: Lease | None = None
    contest: Contest | None = None
    contest_ends_ns: int = 0
    held: HolderSet | None = None
    settling: Settling | None = None
    won_at_ns: int = 0
    campaign_sent_ns: int = 0
    continued: bool = False
    admits: bool = False
    served: bool = False
    astray: frozenset[str] = frozenset()
    highest_promised: int = 0
    contend_not_before_ns: int = 0
    voters_hint: Electorate | None = None
    refused_set: SyncSet = SyncSet()
    told_set: SyncSet = SyncSet()
    told_ns: int = 0
    set_told_since_ns: int = 0
    join_since_ns: int = 0
    join_not_before_ns: int = 0
    invited_ns: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    lost_since_ns: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    given_to: str = ""
    given_at_ns: int = 0
    tries: Tries = Tries()
    giving_back: frozenset[tuple[str, int]] = frozenset()


# -- contests ----------------------------------------------------------------------------------------------------------


def start_contest(
    part: Participation,
    config: GroupConfig,
    epoch: int,
    known_set: SyncSet,
    voters: Electorate,
    now_ns: int,
    told: str = "",
) -> Step:
    """Asks for an epoch, with what the data components tell; nothing when a contest is under way already."""
    if part.contest is not None:
        return part, ()
    # Its lease is proof that no change has been won yet, so nobody has decided by the proposed list alone; but where it
    # carries that very change already, somebody may have since its end was first told.
    held = part.lease is not None and part.lease.valid(now_ns)
    carried = part.lease is not None and part.lease.voters == voters
    admits = voters.joint and held and (not carried or _nothing_by_new_list_alone(part))
    campaign = Campaign(config.group, epoch, config.timing.ttl_ns, voters, known_set, config.lossless, admits)
    part = replace(
        part,
        contest=Contest(config.site, campaign, config.timing, now_ns),
        contest_ends_ns=now_ns + max(2 * config.timing.heartbeat_ns, SHORTEST_CONTEST_NS),
        highest_promised=max(part.highest_promised, epoch),
        voters_hint=None,
        tries=part.tries.asked(told),
        # The first epoch may be asked for again: what is given back of it now would be what is asked for.
        giving_back=frozenset((v, lost) for v, lost in part.giving_back if lost != epoch),
    )
    return _judge(part, config, now_ns)


def contest_time_over(part: Participation, config: GroupConfig, now_ns: int) -> Step:
    """Gives a contest up that has had its time."""
    if part.contest is None or now_ns < part.contest_ends_ns:
        return part, ()
    return _lost(part, config, now_ns)


def campaign_answered(
    part: Participation, config: GroupConfig, voter: str, answer: CampaignAnswer, now_ns: int
) -> Step:
    """Takes a voter's grant or refusal, of the contest under way or of a voter that comes late to a won epoch."""
    if answer.promised_epoch > part.highest_promised:
        part = replace(part, highest_promised=answer.promised_epoch)
    if answer.reason == "NotInSynchronousSet" and answer.stored_set.version > part.refused_set.version:
        part = replace(part, refused_set=answer.stored_set)
    lease = part.lease
    if lease is not None and answer.epoch == lease.epoch:
        if not answer.granted:
            return part, ()
        part, effects = _renewed(part, lease.accepted(voter, part.campaign_sent_ns))
        part, told = _told_anew(part, config, voter, now_ns)
        return part, (*effects, *told, *_latecomer_learns(part, config, voter))
    if part.contest is None:
        return part, ()
    part = replace(part, contest=part.contest.answered(voter, answer))
    return _judge(part, config, now_ns)


def _judge(part: Participation, config: GroupConfig, now_ns: int) -> Step:
    contest = part.contest
    if contest is None:
        return part, ()
    if contest.outcome is Outcome.WON:
        return _won(part, config, contest, now_ns)
    if contest.outcome is Outcome.LOST:
        return _lost(part, config, now_ns)
    due = contest.due
    if not due:
        return part, ()
    return replace(part, contest=contest.ask(due)), (Ask(due, contest.campaign),)


def _won(part: Participation, config: GroupConfig, contest: Contest, now_ns: int) -> Step:
    lease = contest.lease()
    if not lease.valid(now_ns):
        # The answers came too late: the epoch is used up.
        return _lost(part, config, now_ns)
    held = HolderSet.adopted(lease.epoch, lease.voters, contest.newest_set, frozenset(config.sites))
    part = replace(
        part,
        lease=lease,
        contest=None,
        held=held,
        settling=Settling(lease.epoch, lease.voters) if lease.voters.joint else None,
        won_at_ns=now_ns,
        campaign_sent_ns=contest.sent_ns,
        continued=part.lease is not None and part.lease.valid(now_ns),
        admits=contest.campaign.admits,
        served=part.served and part.lease is not None,
        astray=frozenset(),
        invited_ns=MappingProxyType({}),
        lost_since_ns=MappingProxyType({}),
        join_not_before_ns=0,
        given_to="",
        given_at_ns=0,
    )
    return part, (Won(contest),)


def _lost(part: Participation, config: GroupConfig, now_ns: int) -> Step:
    contest = part.contest
    if contest is None:
        return part, ()
    effects: list[Effect] = []
    if part.lease is None and (contest.grants or not contest.asked <= set(contest.answers)):
        # Also to those that have not answered: streams keep order, so a late grant is given back after it. A holder
        # keeps what it was granted: its older lease still counts on these voters, so nobody else may have them yet.
        release = Release(config.group, contest.campaign.epoch, cause=CONTEST_LOST)
        effects.append(Ask(tuple(sorted(contest.asked)), release))
        bound = {v for v in contest.asked if v not in contest.answers or contest.answers[v].granted}
        giving_back = part.giving_back | {(v, contest.campaign.epoch) for v in bound}
        part = replace(part, told_ns=now_ns, giving_back=giving_back)
    # Refusals tell when asking again makes sense; without a word, contenders of different rank do not collide.
    members = contest.campaign.voters.members
    wait_ns = contest.retry_after_ns or config.timing.heartbeat_ns * (1 + members.index(config.site)) // 4
    effects.append(ContestLost(contest, wait_ns))
    part = replace(part, contest=None, contend_not_before_ns=now_ns + wait_ns, voters_hint=contest.other_voters)
    return part, tuple(effects)


def release_answered(part: Participation, voter: str, answer: ReleaseAnswer) -> Participation:
    """A voter has given back what a lost contest was granted, or has nothing of it."""
    if (voter, answer.epoch) not in part.giving_back:
        return part
    return replace(part, giving_back=part.giving_back - {(voter, answer.epoch)})


def _give_back(part: Participation, config: GroupConfig) -> tuple[Effect, ...]:
    """Where the word was lost, a voter would stay bound: under a manual policy, until people come."""
    return tuple(
        Ask((voter,), Release(config.group, epoch, cause=CONTEST_LOST)) for voter, epoch in sorted(part.giving_back)
    )


# -- the lease ---------------------------------------------------------------------------------------------------------


def claim(part: Participation, now_ns: int) -> Claim | None:
    """What a heartbeat says for this group; nothing without a lease."""
    lease = part.lease
    if lease is None or not lease.valid(now_ns):
        return None
    return Claim(lease.group, lease.epoch, lease.voters.newest.version)


def claim_answered(
    part: Participation, config: GroupConfig, voter: str, answer: ClaimAnswer, sent_ns: int, now_ns: int
) -> Step:
    """Takes a voter's answer to a claim that was sent at `sent_ns`."""
    lease = part.lease
    if lease is None or answer.epoch != lease.epoch:
        return part, ()
    if answer.accepted:
        if voter in part.astray:
            part = replace(part, astray=part.astray - {voter})
        return _renewed(part, lease.accepted(voter, sent_ns))
    part = replace(part, highest_promised=max(part.highest_promised, answer.promised_epoch))
    if answer.reason in ("PromisedOther", "Released", "OtherVoterList") and answer.promised_epoch >= lease.epoch:
        # Whatever list it knows: who has promised a newer epoch renews this one no more.
        part = replace(part, astray=part.astray | {voter})
    # It may have missed the change of voters with the epoch: then it names the lists first.
    behind = answer.reason in ("PromisedOther", "OtherVoterList") and answer.promised_epoch < lease.epoch
    new_here = answer.reason == "NoRecord" and voter in lease.voters.newcomers and _nothing_by_new_list_alone(part)
    if behind or new_here:
        return _invite(part, config, lease, voter, now_ns)
    return part, ()


def _nothing_by_new_list_alone(part: Participation) -> bool:
    """Whether this holder brought the change in itself and has never begun to tell its end.

    Later a voter may have decided by the new list alone: a new one that has lost its disk since then must not be taken
    for one that has promised nothing.
    """
    return part.admits and part.settling is not None and not part.settling.begun


def _invite(part: Participation, config: GroupConfig, lease: Lease, voter: str, now_ns: int) -> Step:
    """Asks a voter that was away when this site won for its promise of the same epoch.

    Without it the voter would support nobody until the next epoch, and the loss of another one would end the lease. The
    voter grants it by the same rules as any campaign.
    """
    if part.held is None or now_ns - part.invited_ns.get(voter, -lease.timing.ttl_ns) < lease.timing.heartbeat_ns:
        return part, ()
    campaign = Campaign(
        lease.group,
        lease.epoch,
        lease.timing.ttl_ns,
        lease.voters,
        part.held.current,
        config.lossless,
        admits=lease.voters.joint and _nothing_by_new_list_alone(part),
    )
    part = replace(part, invited_ns=MappingProxyType({**part.invited_ns, voter: now_ns}))
    return part, (Ask((voter,), campaign),)


def _renewed(part: Participation, lease: Lease) -> Step:
    before = part.lease
    if lease is before:
        return part, ()
    part = replace(part, lease=lease)
    if before is None or lease.end_ns <= before.end_ns:
        return part, ()
    return part, (LeaseRenewed(lease.end_ns),)


def give_up(part: Participation) -> Participation:
    """The lease is over or given back: nothing is claimed from now on.

    A contest for a change of voters goes with it, without a word to those that granted: they keep their promise to this
    site for as long as they would keep any. The set that was in force is remembered: this site's own voter may not have
    it, and no other site may have heard of it.
    """
    if part.held is not None:
        part = heard_set(part, part.held.current)
    return replace(
        part,
        lease=None,
        contest=None if part.lease is not None else part.contest,
        held=None,
        served=False,
        settling=None,
        lost_since_ns=MappingProxyType({}),
    )


def give_to(part: Participation, successor: str, now_ns: int) -> Participation:
    """The epoch is being released to a successor: this site does not ask for it back at once."""
    return replace(part, given_to=successor, given_at_ns=now_ns)


def cannot_serve(part: Participation, why: str, now_ns: int) -> Participation:
    """The epoch that was won cannot be served: it is released, or left to end where the gate is not proved to be shut.

    Either way this site lets others go first, for longer each time.
    """
    if part.lease is None:
        return part
    return replace(part, given_to="", given_at_ns=now_ns, tries=part.tries.failed(part.lease.epoch, why))


def heard_serving(part: Participation, epoch: int) -> Participation:
    """A peer is Active, and ready, in an epoch: whatever was tried here in vain before it counts no more."""
    if not part.tries.count or epoch <= part.tries.epoch:
        return part
    return replace(part, tries=Tries())


# -- the synchronous set -----------------------------------------------------------------------------------------------


def must_acknowledge(part: Participation, config: GroupConfig) -> frozenset[str]:
    """Sites whose acknowledgement the data drivers have to wait for, this one included."""
    own = frozenset({config.site})
    if part.held is None or not config.lossless or not config.waits:
        return own
    return part.held.must_acknowledge | own


def observe_followers(
    part: Participation, config: GroupConfig, data: Iterable[ComponentView], now_ns: int
) -> Participation:
    """Notes since when the active data components miss a site whose acknowledgement may be required."""
    if part.held is None:
        return part
    active = [view for view in data if view.role is Role.ACTIVE]
    if active and not part.served:
        part = replace(part, served=True, tries=Tries())
    lost: dict[str, int] = {}
    for site in config.sites:
        if site == config.site:
            continue
        for view in active:
            follower = view.followers.get(site)
            since: int | None = None
            if follower is None or not follower.connected:
                since = part.lost_since_ns.get(site, now_ns)
            elif follower.stalled_ns > config.timing.heartbeat_ns // 2:
                since = now_ns - follower.stalled_ns - follower.age_ns
            if since is not None:
                lost[site] = min(lost.get(site, since), since)
    if lost == part.lost_since_ns:
        return part
    return replace(part, lost_since_ns=MappingProxyType(lost))


def heard_set(part: Participation, known_set: SyncSet) -> Participation:
    """A peer tells the newest set that it knows."""
    return replace(part, told_set=known_set) if known_set.version > part.told_set.version else part


def heard_record(part: Participation, config: GroupConfig, stored_set: SyncSet) -> Participation:
    """A voter that runs no function tells the set on its disk, which may be on no other.

    A set that lets this site in is worth to know: nobody else may be left who tells it. One that leaves it out may not
    be in force anywhere; the voters judge that.
    """
    return heard_set(part, stored_set) if config.site in stored_set.members else part


def propose_set(part: Participation, config: GroupConfig, members: frozenset[str], now_ns: int) -> Step:
    """Tells the voters a newer set."""
    if part.held is None:
        return part, ()
    since_ns = now_ns if part.held.proposed is None else part.set_told_since_ns
    part = replace(part, held=part.held.propose(members), set_told_since_ns=since_ns)
    return _tell_set(part, config, now_ns)


def set_answered(part: Participation, config: GroupConfig, voter: str, answer: SetAnswer) -> Step:
    """Takes a voter's answer to a newer set."""
    before = part.held
    if before is None or answer.epoch != before.epoch:
        return part, ()
    after = before.answered(voter, answer)
    if after == before:
        return part, ()
    return replace(part, held=after), _set_in_force(before, after)


def _set_in_force(before: HolderSet, after: HolderSet) -> tuple[Effect, ...]:
    if before.proposed is None or after.current != before.proposed:
        return ()
    return SetStored(before.current, after.current), RequirementChanged()


def join(part: Participation, site: str, now_ns: int) -> Step:
    """Begins to require a site's acknowledgements."""
    if part.held is None:
        return part, ()
    return replace(part, held=part.held.join(site), join_since_ns=now_ns), (RequirementChanged(),)


def stop_joining(part: Participation, now_ns: int) -> Step:
    """Gives a joining up; it is tried again after a while."""
    if part.held is None:
        return part, ()
    part = replace(part, held=part.held.stop_joining(), join_not_before_ns=now_ns + JOIN_BACK_OFF_NS)
    return part, (RequirementChanged(),)


def tell_again(part: Participation, config: GroupConfig, now_ns: int) -> Step:
    """Repeats what is not known to have arrived: a set, the end of a change of voters, that a contest was lost."""
    if now_ns - part.told_ns <= TELL_AGAIN_NS:
        return part, ()
    part, told = _tell_set(part, config, now_ns)
    part, settled = _tell_settled(part, config, now_ns)
    if part.giving_back:
        part = replace(part, told_ns=now_ns)
    return part, (*told, *settled, *_give_back(part, config))


def _tell_set(part: Participation, config: GroupConfig, now_ns: int) -> Step:
    held, lease = part.held, part.lease
    if held is None or lease is None or held.proposed is None:
        return part, ()
    missing = tuple(v for v in lease.voters.members if v not in held.stored_by)
    return replace(part, told_ns=now_ns), (Ask(missing, SetUpdate(config.group, lease.epoch, held.proposed)),)


def _told_anew(part: Participation, config: GroupConfig, voter: str, now_ns: int) -> Step:
    """A voter that grants an epoch after it stored a set of it has lost its disk, and the set with it.

    What it answered before must not count any more, nor what of that is still on its way: the set is told under another
    version.
    """
    held = part.held
    if held is None or held.proposed is None or voter not in held.stored_by:
        return part, ()
    return propose_set(part, config, held.proposed.members, now_ns)


def _latecomer_learns(part: Participation, config: GroupConfig, voter: str) -> tuple[Effect, ...]:
    """A voter that has only now promised this epoch learns the set in force."""
    held, lease = part.held, part.lease
    if held is None or lease is None or held.current.version.epoch != lease.epoch:
        return ()
    return (Ask((voter,), SetUpdate(config.group, lease.epoch, held.current)),)


# -- the voters --------------------------------------------------------------------------------------------------------


def settle(part: Participation, config: GroupConfig, now_ns: int) -> Step:
    """Begins to tell that the change of voters is done."""
    if part.settling is None or part.settling.begun:
        return part, ()
    return _tell_settled(replace(part, settling=part.settling.begin()), config, now_ns)


def settle_answered(part: Participation, voter: str, answer: SettleAnswer) -> Step:
    """Takes a voter's answer to the end of a change; majorities of both lists make it the list in force."""
    settling, lease, held = part.settling, part.lease, part.held
    if settling is None or lease is None or answer.epoch != lease.epoch:
        return part, ()
    settling = settling.answered(voter, answer)
    if not settling.done or held is None:
        return replace(part, settling=settling), ()
    # Those of the new list that have not heard it yet are told by `tell_again`: a change is over when all know.
    still = None if settling.everybody_knows else settling
    if not lease.voters.joint:
        return replace(part, settling=still), ()
    lease = lease.settled()
    counted = held.settled(lease.voters)
    part = replace(part, lease=lease, settling=still, held=counted)
    return part, (VotersSettled(lease.voters.current), LeaseRenewed(lease.end_ns), *_set_in_force(held, counted))


def _tell_settled(part: Participation, config: GroupConfig, now_ns: int) -> Step:
    settling, lease = part.settling, part.lease
    if settling is None or lease is None or not settling.begun:
        return part, ()
    return replace(part, told_ns=now_ns), (
        Ask(settling.missing, Settle(config.group, lease.epoch, settling.voters.newest)),
    )
