"""A site's part in the protocol, event by event: what it remembers and what it says to do."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from graf.api.timing import PROFILES
from graf.api.values import Electorate, Role, SetVersion, SyncSet, VoterList
from graf.core import participant
from graf.core.lease import Lease
from graf.core.messages import (
    CONTEST_LOST,
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
from graf.core.participant import (
    Ask,
    ContestLost,
    LeaseRenewed,
    Participation,
    RequirementChanged,
    SetStored,
    VotersSettled,
    Won,
)
from graf.core.retry import Tries
from graf.core.syncset import HolderSet
from graf.core.view import ComponentView, FollowerView, GroupConfig, Health
from graf.core.voterchange import Settling

G = "vcu-db"
TIMING = PROFILES["metro"]
HEARTBEAT, TTL = TIMING.heartbeat_ns, TIMING.ttl_ns
LIST = VoterList(1, ("east", "west", "witness"))
NEW_LIST = VoterList(2, ("east", "west", "w2"))
VOTERS, JOINT = Electorate(LIST), Electorate(LIST, NEW_LIST)
BOTH, EAST = frozenset({"east", "west"}), frozenset({"east"})
KNOWN = SyncSet(SetVersion(3, 1), BOTH)
CONFIG = GroupConfig(
    G, "east", ("east", "west"), LIST, TIMING, lossless=True, automatic=True, initial_site="east", components=()
)
T0 = 100 * TTL


def grant(epoch: int, voters: Electorate = VOTERS, stored: SyncSet = KNOWN) -> CampaignAnswer:
    return CampaignAnswer(G, epoch, granted=True, promised_epoch=epoch, stored_set=stored, stored_voters=voters)


def refusal(epoch: int, reason: str = "HolderMayLive", promised: int = 0, **more: object) -> CampaignAnswer:
    return CampaignAnswer(G, epoch, granted=False, reason=reason, promised_epoch=promised, **more)  # type: ignore[arg-type]


def started(epoch: int = 4, voters: Electorate = VOTERS, part: Participation | None = None) -> participant.Step:
    return participant.start_contest(part or Participation(), CONFIG, epoch, KNOWN, voters, T0)


def answered(part: Participation, *answers: tuple[str, CampaignAnswer], at_ns: int = T0 + 1) -> participant.Step:
    effects: tuple[participant.Effect, ...] = ()
    for voter, answer in answers:
        part, more = participant.campaign_answered(part, CONFIG, voter, answer, at_ns)
        effects = (*effects, *more)
    return part, effects


def admitting(effects: tuple[participant.Effect, ...]) -> list[bool]:
    """Of each campaign that is to be sent, whether it admits voters without a record."""
    return [e.request.admits for e in effects if isinstance(e, Ask) and isinstance(e.request, Campaign)]


def holder(epoch: int = 3, voters: Electorate = VOTERS, end_ns: int = T0 + TTL) -> Participation:
    lease = Lease(G, epoch, voters, TIMING, MappingProxyType(dict.fromkeys(voters.members, end_ns - TTL)))
    current = SyncSet(SetVersion(epoch, 1), BOTH)
    return Participation(
        lease=lease,
        held=HolderSet(epoch, voters, current, counter=1),
        settling=Settling(epoch, voters) if voters.joint else None,
        campaign_sent_ns=end_ns - TTL,
        continued=voters.joint,
        admits=voters.joint,
        highest_promised=epoch,
    )


# -- contests


def test_the_others_are_asked_first_and_the_own_voter_when_it_decides() -> None:
    part, effects = started()
    assert [e.voters for e in effects if isinstance(e, Ask)] == [("west", "witness")]
    part, effects = answered(part, ("witness", grant(4)))
    assert [e.voters for e in effects if isinstance(e, Ask)] == [("east",)]
    part, effects = answered(part, ("east", grant(4)))
    assert [type(e) for e in effects] == [Won]
    assert part.lease is not None
    assert (part.lease.epoch, part.lease.end_ns) == (4, T0 + TTL), "the lease starts when the campaign was sent"
    assert part.contest is None
    assert part.held is not None
    assert part.held.must_acknowledge == BOTH


def test_a_second_contest_waits_for_the_first() -> None:
    part, _ = started()
    assert started(5, part=part) == (part, ())


def test_answers_that_come_after_the_lease_would_have_ended_win_nothing() -> None:
    part, effects = answered(started()[0], ("witness", grant(4)), ("east", grant(4)), at_ns=T0 + TTL)
    assert part.lease is None
    assert [type(e) for e in effects] == [Ask, Ask, ContestLost]


def test_a_contest_is_given_up_when_its_time_is_over_and_told_to_all_that_were_asked() -> None:
    part, _ = answered(started()[0], ("witness", refusal(4, promised=9)))
    assert participant.contest_time_over(part, CONFIG, part.contest_ends_ns - 1) == (part, ())
    part, effects = participant.contest_time_over(part, CONFIG, part.contest_ends_ns)
    release, lost = effects
    assert isinstance(release, Ask)
    assert isinstance(release.request, Release)
    assert release.request.never_won
    assert release.voters == ("west", "witness"), "the own voter was not asked, so it is not told"
    assert isinstance(lost, ContestLost)
    assert part.highest_promised == 9
    assert part.contend_not_before_ns == part.contest_ends_ns + lost.wait_ns


def test_a_lost_contest_is_given_back_until_each_voter_that_may_be_bound_has_answered() -> None:
    part, _ = answered(started()[0], ("witness", grant(4)))
    part, _ = participant.contest_time_over(part, CONFIG, part.contest_ends_ns)
    told = part.contest_ends_ns
    assert participant.tell_again(part, CONFIG, told) == (part, ())

    def again(part: Participation, at_ns: int) -> set[str]:
        _, effects = participant.tell_again(part, CONFIG, at_ns)
        asks = [e for e in effects if isinstance(e, Ask)]
        assert all(e.request == Release(G, 4, cause=CONTEST_LOST) for e in asks)
        return {voter for ask in asks for voter in ask.voters}

    later = told + participant.TELL_AGAIN_NS + 1
    assert again(part, later) == {"west", "witness", "east"}, "its own voter's grant decided, so it was asked too"
    part = participant.release_answered(part, "witness", ReleaseAnswer(G, 4, released=True))
    part = participant.release_answered(part, "west", ReleaseAnswer(G, 3, released=True))
    assert again(part, later) == {"west", "east"}, "the answer for another epoch ends nothing"
    part = participant.release_answered(part, "west", ReleaseAnswer(G, 4, released=False))
    part = participant.release_answered(part, "east", ReleaseAnswer(G, 4, released=True))
    assert participant.tell_again(part, CONFIG, later)[1] == ()


def test_who_refused_has_nothing_to_give_back() -> None:
    part, _ = answered(started()[0], ("witness", refusal(4)))
    part, _ = participant.contest_time_over(part, CONFIG, part.contest_ends_ns)
    assert part.giving_back == {("west", 4)}


def test_what_a_voter_has_of_an_older_contest_is_given_back_too() -> None:
    part, _ = participant.contest_time_over(started()[0], CONFIG, T0 + TTL)
    part, _ = participant.contest_time_over(started(5, part=part)[0], CONFIG, T0 + TTL)
    part = participant.release_answered(part, "west", ReleaseAnswer(G, 5, released=False))
    assert part.giving_back == {("west", 4), ("witness", 4), ("witness", 5)}


def test_the_first_epoch_is_not_given_back_while_it_is_asked_for_again() -> None:
    part, _ = participant.contest_time_over(started(1)[0], CONFIG, T0 + TTL)
    assert {epoch for _, epoch in part.giving_back} == {1}
    part, _ = started(1, part=part)
    assert part.giving_back == frozenset(), "it would give back what is being granted now, or is held"


def test_a_witness_tells_a_set_that_lets_this_site_in_and_vetoes_nothing() -> None:
    wider, narrower = SyncSet(SetVersion(4, 1), BOTH), SyncSet(SetVersion(4, 2), frozenset({"west"}))
    part = participant.heard_record(Participation(), CONFIG, wider)
    assert part.told_set == wider
    assert participant.heard_record(part, CONFIG, narrower) == part, "it may be on that disk alone"
    assert participant.heard_set(part, narrower).told_set == narrower, "a site tells what it knows to be newest"


def test_a_contest_that_all_refuse_leaves_no_trace() -> None:
    part, effects = answered(
        started()[0], ("witness", refusal(4, retry_after_ns=70)), ("west", refusal(4, retry_after_ns=50))
    )
    assert [type(e) for e in effects] == [ContestLost]
    assert part.contend_not_before_ns == T0 + 1 + 70


def test_the_newest_set_that_a_refusal_named_is_remembered_beyond_the_contest() -> None:
    newer, older = SyncSet(SetVersion(3, 2), frozenset({"west"})), SyncSet(SetVersion(2, 9), frozenset({"west"}))
    part, _ = answered(
        started()[0],
        ("witness", refusal(4, "NotInSynchronousSet", stored_set=newer)),
        ("west", refusal(4, "NotInSynchronousSet", stored_set=older)),
    )
    assert part.contest is None
    assert part.refused_set == newer
    part, _ = answered(started(5, part=part)[0], ("witness", refusal(5, "HolderMayLive", stored_set=SyncSet())))
    assert part.refused_set == newer
    other = SyncSet(SetVersion(9, 1), frozenset({"west"}))
    part, _ = answered(part, ("west", refusal(5, "HolderMayLive", stored_set=other)))
    assert part.refused_set == newer, "only a refusal for the sake of the set says that this site is left out"


def test_a_refusal_for_another_list_is_a_hint_for_the_next_contest_only() -> None:
    """A hint that turns out wrong is dropped with the next contest, whatever that one says."""
    settled = Electorate(NEW_LIST)
    other = refusal(4, "OtherVoterList", stored_voters=settled)
    part, _ = answered(started()[0], ("witness", other), ("west", refusal(4)))
    assert part.voters_hint == settled
    part, _ = participant.start_contest(part, CONFIG, 5, KNOWN, settled, T0)
    assert part.voters_hint is None
    part, _ = answered(part, ("w2", refusal(5, "NoRecord")), ("west", refusal(5, "EpochNotHigher")))
    assert part.voters_hint is None


def test_the_newest_list_that_refusals_name_is_the_hint() -> None:
    part, _ = answered(
        started()[0],
        ("witness", refusal(4, "OtherVoterList", stored_voters=JOINT)),
        ("west", refusal(4, "OtherVoterList", stored_voters=Electorate(NEW_LIST))),
    )
    assert part.voters_hint == Electorate(NEW_LIST)


# -- the lease


def test_a_lease_is_claimed_while_it_is_valid_with_the_newest_list() -> None:
    part = holder(voters=JOINT)
    assert participant.claim(part, T0) == Claim(G, 3, 2)
    assert participant.claim(part, T0 + TTL) is None
    assert participant.claim(Participation(), T0) is None


def test_an_accepted_claim_renews_from_its_send_time() -> None:
    part = holder()
    yes = ClaimAnswer(G, 3, accepted=True)
    part, effects = participant.claim_answered(part, CONFIG, "west", yes, T0 + 5, T0 + 9)
    assert effects == (), "one voter is no majority"
    part, effects = participant.claim_answered(part, CONFIG, "east", yes, T0 + 7, T0 + 9)
    assert effects == (LeaseRenewed(T0 + 5 + TTL),)
    assert participant.claim_answered(part, CONFIG, "east", replace(yes, epoch=2), T0 + 8, T0 + 9) == (part, ())


def test_a_joint_lease_is_renewed_only_by_both_lists() -> None:
    part, yes = holder(voters=JOINT), ClaimAnswer(G, 3, accepted=True)
    for voter in ("east", "witness"):
        part, effects = participant.claim_answered(part, CONFIG, voter, yes, T0 + 5, T0 + 9)
        assert effects == ()
    part, effects = participant.claim_answered(part, CONFIG, "w2", yes, T0 + 5, T0 + 9)
    assert effects == (LeaseRenewed(T0 + 5 + TTL),)


def test_a_voter_that_was_away_is_invited_once_per_heartbeat_and_learns_the_set() -> None:
    part, behind = holder(), ClaimAnswer(G, 3, accepted=False, reason="PromisedOther", promised_epoch=2)
    part, effects = participant.claim_answered(part, CONFIG, "witness", behind, T0, T0)
    (ask,) = effects
    assert isinstance(ask, Ask)
    assert ask.voters == ("witness",)
    assert isinstance(ask.request, Campaign)
    assert (ask.request.epoch, ask.request.voters) == (3, VOTERS)
    assert participant.claim_answered(part, CONFIG, "witness", behind, T0, T0 + HEARTBEAT - 1)[1] == ()
    assert participant.claim_answered(part, CONFIG, "witness", behind, T0, T0 + HEARTBEAT)[1] != ()
    part, effects = participant.campaign_answered(part, CONFIG, "witness", grant(3), T0 + 1)
    assert [e.request for e in effects if isinstance(e, Ask)] == [SetUpdate(G, 3, SyncSet(SetVersion(3, 1), BOTH))]


def test_a_voter_that_missed_a_change_of_voters_is_invited_too() -> None:
    part = replace(holder(), lease=replace(holder().lease, voters=Electorate(NEW_LIST)))  # type: ignore[type-var]
    behind = ClaimAnswer(G, 3, accepted=False, reason="OtherVoterList", promised_epoch=2)
    (ask,) = participant.claim_answered(part, CONFIG, "west", behind, T0, T0)[1]
    assert isinstance(ask, Ask)
    assert isinstance(ask.request, Campaign)
    assert (ask.voters, ask.request.voters) == (("west",), Electorate(NEW_LIST))
    ahead = replace(behind, promised_epoch=4)
    astray, effects = participant.claim_answered(part, CONFIG, "west", ahead, T0, T0)
    assert effects == ()
    assert astray.astray == {"west"}, "whatever list it knows, it renews nothing until a newer epoch is won"


def test_a_voter_without_a_record_is_invited_only_as_a_newcomer() -> None:
    nothing = ClaimAnswer(G, 3, accepted=False, reason="NoRecord")
    part = holder(voters=JOINT)
    assert participant.claim_answered(part, CONFIG, "witness", nothing, T0, T0)[1] == ()
    assert participant.claim_answered(part, CONFIG, "w2", nothing, T0, T0)[1] != ()


def test_a_new_voter_that_loses_its_disk_while_the_change_is_settled_is_not_invited_again() -> None:
    nothing = ClaimAnswer(G, 3, accepted=False, reason="NoRecord")
    part, _ = participant.settle(holder(voters=JOINT), CONFIG, T0)
    assert participant.claim_answered(part, CONFIG, "w2", nothing, T0, T0)[1] == ()
    took_over = replace(holder(voters=JOINT), continued=False, admits=False)
    assert participant.claim_answered(took_over, CONFIG, "w2", nothing, T0, T0)[1] == (), (
        "another site may have settled"
    )


def test_only_the_holder_that_brings_a_change_in_admits_voters_without_a_record() -> None:
    def admits(part: Participation) -> set[bool]:
        _, effects = participant.start_contest(part, CONFIG, 4, KNOWN, JOINT, T0)
        return {e.request.admits for e in effects if isinstance(e, Ask) and isinstance(e.request, Campaign)}

    assert admits(holder()) == {True}
    assert admits(holder(end_ns=T0)) == {False}, "its lease has ended: the change may have been won meanwhile"
    assert admits(Participation()) == {False}


# -- the synchronous set


def test_a_change_whose_end_was_told_admits_nobody_without_a_record_in_a_newer_epoch_either() -> None:
    part, effects = participant.start_contest(holder(), CONFIG, 4, KNOWN, JOINT, T0)
    part, _ = answered(part, *((voter, grant(4, JOINT)) for voter in ("w2", "west", "witness", "east")))
    assert part.lease is not None
    assert part.lease.epoch == 4
    again = participant.start_contest(part, CONFIG, 5, KNOWN, JOINT, T0 + 2)[1]
    assert admitting(again) == [True], "nothing is decided by the new list yet"

    told, _ = participant.settle(part, CONFIG, T0 + 2)
    regained, effects = participant.start_contest(told, CONFIG, 5, KNOWN, JOINT, T0 + 2)
    assert admitting(effects) == [False]
    regained, _ = answered(regained, *((v, grant(5, JOINT)) for v in ("w2", "west", "witness", "east")), at_ns=T0 + 3)
    assert regained.lease is not None
    assert regained.lease.epoch == 5
    blank = ClaimAnswer(G, 5, accepted=False, reason="NoRecord")
    assert participant.claim_answered(regained, CONFIG, "w2", blank, T0 + 4, T0 + 4)[1] == ()
    once_more = participant.start_contest(regained, CONFIG, 6, KNOWN, JOINT, T0 + 4)[1]
    assert admitting(once_more) == [False]


def test_a_set_is_told_until_a_majority_has_it_and_only_to_those_that_do_not() -> None:
    part, effects = participant.propose_set(holder(), CONFIG, EAST, T0)
    (told,) = effects
    assert isinstance(told, Ask)
    assert told.voters == VOTERS.members
    assert isinstance(told.request, SetUpdate)
    stored = SetAnswer(G, 3, told.request.new_set, stored=True)
    part, effects = participant.set_answered(part, CONFIG, "witness", stored)
    assert effects == ()
    assert participant.must_acknowledge(part, CONFIG) == BOTH
    assert participant.tell_again(part, CONFIG, T0 + participant.TELL_AGAIN_NS)[1] == ()
    part, effects = participant.tell_again(part, CONFIG, T0 + participant.TELL_AGAIN_NS + 1)
    assert [e.voters for e in effects if isinstance(e, Ask)] == [("east", "west")]
    part, effects = participant.set_answered(part, CONFIG, "east", stored)
    assert [type(e) for e in effects] == [SetStored, RequirementChanged]
    assert participant.must_acknowledge(part, CONFIG) == EAST


def test_a_joining_is_required_at_once_and_not_tried_again_too_soon() -> None:
    part = holder()
    part = replace(part, held=HolderSet(3, VOTERS, SyncSet(SetVersion(3, 1), EAST), counter=1))
    part, effects = participant.join(part, "west", T0)
    assert effects == (RequirementChanged(),)
    assert participant.must_acknowledge(part, CONFIG) == BOTH
    part, effects = participant.stop_joining(part, T0)
    assert effects == (RequirementChanged(),)
    assert participant.must_acknowledge(part, CONFIG) == EAST
    assert part.join_not_before_ns == T0 + participant.JOIN_BACK_OFF_NS


def test_a_follower_that_is_missed_is_missed_since_it_was_first() -> None:
    def seen(*followers: tuple[str, FollowerView]) -> ComponentView:
        return ComponentView("db", Health.HEALTHY, Role.ACTIVE, followers=MappingProxyType(dict(followers)))

    part = participant.observe_followers(holder(), CONFIG, [seen()], T0)
    assert part.lost_since_ns == {"west": T0}
    part = participant.observe_followers(part, CONFIG, [seen()], T0 + 50)
    assert part.lost_since_ns == {"west": T0}
    stalled = FollowerView(connected=True, acknowledging=True, stalled_ns=HEARTBEAT, age_ns=7)
    part = participant.observe_followers(part, CONFIG, [seen(("west", stalled))], T0 + 60)
    assert part.lost_since_ns == {"west": T0 + 60 - HEARTBEAT - 7}, "an observation is as old as it is"
    fine = replace(stalled, stalled_ns=HEARTBEAT // 2)
    part = participant.observe_followers(part, CONFIG, [seen(("west", fine))], T0 + 70)
    assert part.lost_since_ns == {}
    idle = replace(seen(), role=Role.STANDBY)
    assert participant.observe_followers(part, CONFIG, [idle], T0 + 80).lost_since_ns == {}


# -- changes of the voters


def change_contest(part: Participation | None = None) -> Participation:
    part, effects = started(4, JOINT, part or holder())
    assert [e.voters for e in effects if isinstance(e, Ask)] == [("w2",)], "the newcomer first"
    part, effects = answered(part, ("w2", grant(4, JOINT)))
    assert [e.voters for e in effects if isinstance(e, Ask)] == [("west", "witness")]
    return part


def test_a_holder_that_wins_a_change_goes_on_with_a_joint_lease_and_joint_sets() -> None:
    before = holder()
    part = change_contest(before)
    assert part.lease is before.lease, "until it is won the old lease is in force"
    part, effects = answered(part, ("west", grant(4, JOINT)))
    assert [e.voters for e in effects if isinstance(e, Ask)] == [("east",)]
    part, effects = answered(part, ("east", grant(4, JOINT)))
    assert [type(e) for e in effects] == [Won]
    assert part.lease is not None
    assert part.held is not None
    assert (part.lease.epoch, part.lease.voters, part.held.voters) == (4, JOINT, JOINT)
    assert part.settling == Settling(4, JOINT)


def test_newcomers_that_refuse_leave_the_voters_in_force_untouched() -> None:
    other = Electorate(LIST, VoterList(2, ("east", "w2", "w3")))
    part, effects = started(4, other, holder())
    assert [e.voters for e in effects if isinstance(e, Ask)] == [("w2", "w3")]
    part, effects = answered(part, ("w2", refusal(4, "NotDeclared")), ("w3", refusal(4, "NotDeclared")))
    assert [type(e) for e in effects] == [ContestLost], "nobody of the list before was asked"


def test_who_carries_a_change_on_waits_for_no_newcomer() -> None:
    """It can admit none without a record, and the voters that have granted the change support nothing else."""
    _, effects = started(5, JOINT)
    assert [e.voters for e in effects if isinstance(e, Ask)] == [("w2", "west", "witness")]


def test_a_lost_change_releases_nothing_and_keeps_the_lease() -> None:
    """What a holder was granted it keeps: its older lease still counts on those voters."""
    part, _ = answered(change_contest(), ("west", grant(4, JOINT)))
    before = part.lease
    part, effects = participant.contest_time_over(part, CONFIG, part.contest_ends_ns)
    assert [type(e) for e in effects] == [ContestLost]
    assert part.lease is before
    assert (part.contest, part.settling) == (None, None)
    assert part.highest_promised == 4, "the next one asks for a higher epoch"


def test_a_holder_that_gives_up_takes_its_contest_with_it() -> None:
    part = participant.give_up(change_contest())
    assert (part.lease, part.held, part.settling, part.contest) == (None, None, None, None)
    contender, _ = started()
    assert participant.give_up(contender).contest is not None, "without a lease there is nothing to give up"


def told(part: Participation, *voters: str) -> participant.Step:
    effects: tuple[participant.Effect, ...] = ()
    for voter in voters:
        part, effects = participant.settle_answered(part, voter, SettleAnswer(G, 3, NEW_LIST, stored=True))
    return part, effects


def test_a_set_that_waits_for_the_list_before_is_in_force_when_that_is_no_longer_asked() -> None:
    """No voter of the list before may be left to answer, and those of the new one have answered already."""
    part, _ = participant.settle(holder(voters=JOINT), CONFIG, T0)
    part, _ = participant.propose_set(part, CONFIG, EAST, T0)
    assert part.held is not None
    proposed = part.held.proposed
    assert proposed is not None
    for voter in ("east", "w2"):
        part, effects = participant.set_answered(part, CONFIG, voter, SetAnswer(G, 3, proposed, stored=True))
    assert effects == (), "one of the list before"
    part, effects = told(part, "east", "witness", "w2")
    assert SetStored(SyncSet(SetVersion(3, 1), BOTH), proposed) in effects
    assert part.held is not None
    assert part.held.current == proposed


def test_a_voter_that_grants_anew_has_lost_the_set_that_it_stored() -> None:
    """It answered for the set, lost its disk and is admitted anew: it has the older one now, and does not count."""
    part, _ = participant.propose_set(holder(voters=JOINT), CONFIG, EAST, T0)
    assert part.held is not None
    told = part.held.proposed
    assert told is not None
    before = SetAnswer(G, 3, told, stored=True)
    for voter in ("east", "w2"):
        part, _ = participant.set_answered(part, CONFIG, voter, before)
    again = CampaignAnswer(G, 3, granted=True, promised_epoch=3, promised_site="east")
    part, effects = participant.campaign_answered(part, CONFIG, "w2", again, T0)
    assert part.held is not None
    assert part.held.stored_by == frozenset()
    assert part.held.must_acknowledge >= BOTH
    told_again = [e.request.new_set for e in effects if isinstance(e, Ask) and isinstance(e.request, SetUpdate)]
    assert SyncSet(SetVersion(3, 3), EAST) in told_again
    for voter in ("west", "witness", "w2"):  # what was on its way counts no more
        part, _ = participant.set_answered(part, CONFIG, voter, before)
    assert part.held is not None
    assert part.held.current.members == BOTH


def test_since_when_a_set_is_not_stored_is_known_from_the_first_one_on() -> None:
    part, _ = participant.propose_set(holder(), CONFIG, EAST, T0)
    part, _ = participant.propose_set(part, CONFIG, BOTH, T0 + 5)
    assert part.set_told_since_ns == T0
    assert part.held is not None
    assert part.held.proposed is not None
    stored = SetAnswer(G, 3, part.held.proposed, stored=True)
    for voter in ("east", "west"):
        part, _ = participant.set_answered(part, CONFIG, voter, stored)
    part, _ = participant.propose_set(part, CONFIG, EAST, T0 + 9)
    assert part.set_told_since_ns == T0 + 9


def test_the_newest_set_that_a_peer_told_is_remembered_when_the_peer_forgets_it() -> None:
    newer, older = SyncSet(SetVersion(4, 2), BOTH), SyncSet(SetVersion(3, 1), EAST)
    part = participant.heard_set(participant.heard_set(Participation(), newer), older)
    assert part.told_set == newer
    in_force = SyncSet(SetVersion(3, 1), BOTH)
    assert participant.give_up(holder()).told_set == in_force, "the own voter may not have it"


def test_what_is_given_to_a_successor_is_remembered_until_an_epoch_is_held_again() -> None:
    part = participant.give_to(participant.give_up(holder()), "west", T0)
    assert (part.lease, part.given_to, part.given_at_ns) == (None, "west", T0)
    part, _ = started(part=part)
    assert part.given_to == "west"
    part, _ = answered(part, ("witness", grant(4)), ("east", grant(4)))
    assert part.lease is not None
    assert part.given_to == ""


def tried(part: Participation, epoch: int, why: str, told: str = "whole") -> Participation:
    """Wins an epoch and cannot serve it."""
    part, _ = participant.start_contest(part, CONFIG, epoch, KNOWN, VOTERS, T0, told)
    part, _ = answered(part, ("witness", grant(epoch)), ("east", grant(epoch)))
    return participant.give_up(participant.cannot_serve(part, why, T0 + epoch))


def test_what_was_won_in_vain_is_counted_until_something_is_new() -> None:
    part = tried(tried(tried(Participation(), 4, "db: no disk 17"), 5, "db: no disk 18"), 6, "db: no disk 3")
    assert (part.tries.count, part.tries.epoch, part.given_at_ns, part.given_to) == (3, 6, T0 + 6, "")
    assert part.tries.why == "db: no disk 3", "the newest is told, with its figures"
    assert tried(part, 7, "db: no mount").tries.count == 1
    assert tried(part, 7, "db: no disk 4", "whole again").tries.count == 1
    assert tried(tried(part, 7, "db: no mount"), 8, "db: no disk 4").tries.count == 2, "in turn they are no news"


def test_a_site_that_served_or_heard_another_one_serve_begins_to_count_anew() -> None:
    part = tried(tried(Participation(), 4, "db: no"), 5, "db: no")
    assert participant.heard_serving(part, 5) == part, "that is what was won here in vain"
    assert participant.heard_serving(part, 6).tries == Tries()
    serving = ComponentView("db", Health.HEALTHY, Role.ACTIVE)
    won, _ = participant.start_contest(part, CONFIG, 7, KNOWN, VOTERS, T0)
    won, _ = answered(won, ("witness", grant(7)), ("east", grant(7)))
    assert (won.tries.count, won.given_at_ns) == (2, 0), "to win is no success"
    assert participant.observe_followers(won, CONFIG, [serving], T0).tries == Tries()


def test_without_a_lease_nothing_was_won_in_vain() -> None:
    assert participant.cannot_serve(Participation(), "db: no", T0) == Participation()


def test_a_change_is_settled_by_both_lists_and_told_until_all_of_the_new_one_know() -> None:
    part, effects = participant.settle(holder(voters=JOINT), CONFIG, T0)
    assert effects == (Ask(JOINT.members, Settle(G, 3, NEW_LIST)),)
    assert participant.settle(part, CONFIG, T0) == (part, ()), "once is enough"
    part, effects = told(part, "east", "witness")
    assert effects == (), "two of the list before, but one of the new one"
    assert part.lease is not None
    assert part.lease.voters == JOINT
    part, effects = told(part, "w2")
    assert [type(e) for e in effects] == [VotersSettled, LeaseRenewed]
    assert part.lease is not None
    assert part.held is not None
    assert part.lease.voters == part.held.voters == Electorate(NEW_LIST)
    part, effects = participant.tell_again(part, CONFIG, T0 + participant.TELL_AGAIN_NS + 1)
    assert [e.voters for e in effects if isinstance(e, Ask)] == [("west",)], "west has not heard it yet"
    part, effects = told(part, "west")
    assert (effects, part.settling) == ((), None)


def test_answers_before_it_is_begun_or_for_another_epoch_settle_nothing() -> None:
    part = holder(voters=JOINT)
    assert told(part, *JOINT.members)[0].lease == part.lease
    part, _ = participant.settle(part, CONFIG, T0)
    old = SettleAnswer(G, 2, NEW_LIST, stored=True)
    for voter in JOINT.members:
        part, effects = participant.settle_answered(part, voter, old)
        assert effects == ()


def test_a_site_without_a_lease_proposes_joins_settles_and_tells_nothing() -> None:
    part = Participation()
    assert participant.propose_set(part, CONFIG, EAST, T0) == (part, ())
    assert participant.join(part, "west", T0) == (part, ())
    assert participant.stop_joining(part, T0) == (part, ())
    assert participant.settle(part, CONFIG, T0) == (part, ())
    assert participant.tell_again(part, CONFIG, T0) == (part, ())
    assert participant.must_acknowledge(part, CONFIG) == EAST
