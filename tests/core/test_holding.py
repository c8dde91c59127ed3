"""Timing, lease, contest and the holder's synchronous set."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graf.api.timing import MILLISECOND_NS, PROFILES, Timing, hold_of
from graf.api.values import Electorate, SetVersion, SyncSet, VoterList
from graf.core.campaign import Contest, Outcome
from graf.core.lease import Lease
from graf.core.messages import Campaign, CampaignAnswer, SetAnswer, SettleAnswer
from graf.core.syncset import HolderSet
from graf.core.voterchange import Settling

MS = MILLISECOND_NS
G = "vcu-db"
TIMING = PROFILES["metro"]
VOTERS = Electorate(VoterList(1, ("east", "west", "witness")))
NEW_LIST = VoterList(2, ("east", "west", "w2", "w3", "w4"))
JOINT = Electorate(VOTERS.current, NEW_LIST)
BOTH = frozenset({"east", "west"})
EAST = frozenset({"east"})


def lease(**sent_ns: int) -> Lease:
    return Lease(G, 4, VOTERS, TIMING, MappingProxyType(sent_ns))


def test_a_lease_needs_a_majority_of_the_declared_voters() -> None:
    assert lease().end_ns == 0
    assert lease(east=5 * MS).end_ns == 0
    assert lease(east=5 * MS, stranger=9 * MS).end_ns == 0
    assert lease(east=5 * MS, witness=3 * MS).end_ns == 3 * MS + TIMING.ttl_ns


def test_the_majority_th_newest_send_time_counts() -> None:
    assert lease(east=9 * MS, west=1 * MS, witness=5 * MS).end_ns == 5 * MS + TIMING.ttl_ns


def test_an_older_or_strange_acceptance_changes_nothing() -> None:
    held = lease(east=9 * MS, west=9 * MS)
    assert held.accepted("west", 3 * MS) is held
    assert held.accepted("north", 30 * MS) is held
    assert held.accepted("west", 12 * MS).sent_ns["west"] == 12 * MS
    assert held.sent_ns["west"] == 9 * MS, "values are never changed in place"


def test_the_holder_fences_itself_while_the_lease_is_still_valid() -> None:
    held = lease(east=0, west=0)
    early = held.end_ns - TIMING.fence_margin_ns
    assert not held.must_fence(early - 1)
    assert held.must_fence(early)
    assert held.valid(early)
    assert not held.valid(held.end_ns)


def test_supporters_are_those_whose_acceptance_still_counts() -> None:
    assert lease(east=0, west=500 * MS).supporters(TIMING.ttl_ns) == ("west",)


@given(st.integers(1, 10**12), st.integers(0, 500_000))
def test_the_hold_outlasts_the_lease_on_the_fastest_clock(ttl_ns: int, drift_ppm: int) -> None:
    assert hold_of(ttl_ns, drift_ppm) * 1_000_000 >= ttl_ns * (1_000_000 + drift_ppm)


@pytest.mark.parametrize(("heartbeat", "ttl", "drift"), [(0, 700, 1), (200, 700, 1), (100, 700, -1)])
def test_a_timing_that_cannot_lose_three_heartbeats_is_refused(heartbeat: int, ttl: int, drift: int) -> None:
    with pytest.raises(ValueError, match="heartbeat"):
        Timing(heartbeat * MS, ttl * MS, drift)


@pytest.mark.parametrize("name", PROFILES)
def test_each_profile_keeps_its_own_margins(name: str) -> None:
    timing = PROFILES[name]
    assert 0 < timing.fence_margin_ns < timing.ttl_ns - 2 * timing.heartbeat_ns


def contest(epoch: int = 4, known: SyncSet | None = None) -> Contest:
    campaign = Campaign(G, epoch, TIMING.ttl_ns, VOTERS, known or SyncSet(SetVersion(3, 1), BOTH), lossless=True)
    return Contest("west", campaign, TIMING, 1_000 * MS)


def answer(granted: bool, epoch: int = 4, stored: SyncSet | None = None, **more: int) -> CampaignAnswer:
    return CampaignAnswer(G, epoch, granted=granted, stored_set=stored or SyncSet(), **more)  # type: ignore[arg-type]


def test_a_majority_of_grants_wins_and_the_lease_starts_at_the_send_time() -> None:
    won = contest().answered("witness", answer(True)).answered("west", answer(True))
    assert won.outcome is Outcome.WON
    assert won.lease().end_ns == 1_000 * MS + TIMING.ttl_ns


def test_two_refusals_of_three_lose() -> None:
    asked = contest().answered("east", answer(False))
    assert asked.outcome is Outcome.OPEN
    assert asked.answered("witness", answer(False)).outcome is Outcome.LOST


def test_the_own_voter_is_asked_only_when_it_decides() -> None:
    asked = contest()
    assert not asked.own_vote_due
    assert not asked.answered("east", answer(False)).own_vote_due
    asked = asked.answered("witness", answer(True))
    assert asked.own_vote_due
    assert not asked.answered("west", answer(True)).own_vote_due


def test_the_first_epoch_needs_every_voter() -> None:
    asked = contest(1).answered("witness", answer(True, 1)).answered("west", answer(True, 1))
    assert asked.outcome is Outcome.OPEN, "a voter that lost its disk must not help to win the first epoch again"
    assert asked.answered("east", answer(True, 1)).outcome is Outcome.WON
    assert asked.answered("east", answer(False, 1)).outcome is Outcome.LOST


def test_answers_of_other_epochs_groups_strangers_and_second_answers_do_not_count() -> None:
    asked = contest()
    assert asked.answered("witness", answer(True, 3)) is asked
    assert asked.answered("north", answer(True)) is asked
    assert asked.answered("witness", CampaignAnswer("other", 4, granted=True)) is asked
    once = asked.answered("witness", answer(False))
    assert once.answered("witness", answer(True)) is once


def test_the_newest_set_is_that_of_knowledge_and_grants_not_of_refusals() -> None:
    newer, refused = SyncSet(SetVersion(3, 5), EAST), SyncSet(SetVersion(3, 9), BOTH)
    asked = contest().answered("witness", answer(True, stored=newer)).answered("east", answer(False, stored=refused))
    assert asked.newest_set == newer
    assert contest(known=SyncSet(SetVersion(3, 7), BOTH)).newest_set.version == SetVersion(3, 7)


def test_refusals_tell_the_epoch_to_go_above_and_when_to_ask_again() -> None:
    asked = contest().answered("east", answer(False, promised_epoch=9, retry_after_ns=70))
    assert (asked.highest_promised, asked.retry_after_ns) == (9, 70)


def held(members: frozenset[str] = BOTH, epoch: int = 4) -> HolderSet:
    return HolderSet(epoch, VOTERS, SyncSet(SetVersion(epoch, 1), members), counter=1)


def stored(holder: HolderSet, *voters: str) -> HolderSet:
    assert holder.proposed is not None
    proposal = holder.proposed
    for voter in voters:
        holder = holder.answered(voter, SetAnswer(G, holder.epoch, proposal, stored=True))
    return holder


def test_a_new_holder_doubts_every_site_until_its_own_set_is_stored() -> None:
    holder = HolderSet.adopted(4, VOTERS, SyncSet(SetVersion(3, 1), EAST), BOTH)
    assert holder.must_acknowledge == BOTH, "another voter may hold a newer set of epoch 3 with west in it"
    holder = holder.propose(EAST)
    assert holder.must_acknowledge == BOTH
    holder = stored(holder, "east", "witness")
    assert holder.must_acknowledge == EAST
    assert holder.current.version == SetVersion(4, 1)


def test_a_set_shrinks_only_by_a_majoritys_durable_answers() -> None:
    holder = held().propose(EAST)
    assert holder.must_acknowledge == BOTH
    assert stored(holder, "east").must_acknowledge == BOTH
    assert stored(holder, "east", "east").must_acknowledge == BOTH, "one voter counts once"
    assert stored(holder, "east", "north").must_acknowledge == BOTH, "a stranger does not count"
    assert stored(holder, "east", "witness").must_acknowledge == EAST


def test_refusals_and_answers_for_older_proposals_do_not_count() -> None:
    first = held().propose(EAST)
    assert first.proposed is not None
    refusal = SetAnswer(G, 4, first.proposed, stored=False)
    assert first.answered("east", refusal) is first
    second = first.propose(BOTH)
    assert second.answered("east", SetAnswer(G, 4, first.proposed, stored=True)) is second


def test_a_joining_site_is_required_before_it_is_told_and_after() -> None:
    holder = held(EAST).join("west")
    assert holder.must_acknowledge == BOTH
    assert not holder.surely_has("west")
    holder = stored(holder.propose(BOTH), "east", "witness")
    assert (holder.joining, holder.current.members) == ("", BOTH)
    assert holder.surely_has("west")


def test_a_site_that_may_have_been_told_stays_required_when_joining_is_given_up() -> None:
    assert held(EAST).join("west").stop_joining().must_acknowledge == EAST
    told = held(EAST).join("west").propose(BOTH).stop_joining()
    assert told.must_acknowledge == BOTH
    taken_back = told.propose(EAST)
    assert taken_back.must_acknowledge == BOTH, "the told set may be on some disk"
    assert stored(taken_back, "east", "west").must_acknowledge == EAST


def test_versions_rise_with_each_proposal() -> None:
    holder = held()
    versions = []
    for members in (EAST, BOTH, EAST):
        holder = holder.propose(members)
        assert holder.proposed is not None
        versions.append(holder.proposed.version)
    assert versions == [SetVersion(4, 2), SetVersion(4, 3), SetVersion(4, 4)]


@given(st.lists(st.sampled_from(["shrink", "grow", "store", "join", "stop"]), max_size=30))
def test_every_set_that_may_be_stored_last_is_always_required(actions: list[str]) -> None:
    """The invariant of the class, with every proposal since the last majority kept beside it."""
    holder, outstanding = held(), [BOTH]
    for action in actions:
        if action in ("shrink", "grow"):
            members = EAST if action == "shrink" else BOTH
            holder = holder.propose(members)
            outstanding.append(members)
        elif action == "store" and holder.proposed is not None:
            holder = stored(holder, "east", "witness")
            outstanding = [holder.current.members]
        elif action == "join":
            holder = holder.join("west")
        elif action == "stop":
            holder = holder.stop_joining()
        assert frozenset().union(*outstanding) <= holder.must_acknowledge


# -- changes of the voters: nothing counts without a majority of each list


def joint_contest(*granted: str, voters: Electorate = JOINT) -> Contest:
    campaign = Campaign(G, 4, TIMING.ttl_ns, voters, SyncSet(SetVersion(3, 1), BOTH), lossless=True)
    asked = Contest("east", campaign, TIMING, 1_000 * MS)
    for name in granted:
        asked = asked.answered(name, answer(True))
    return asked


def test_a_change_is_won_only_by_majorities_of_both_lists() -> None:
    assert joint_contest("east", "west").outcome is Outcome.OPEN, "two of three, but not three of five"
    assert joint_contest("east", "w2", "w3", "w4").outcome is Outcome.OPEN, "four of five, but not two of three"
    assert joint_contest("east", "west", "w2").outcome is Outcome.WON
    refused = joint_contest("east").answered("west", answer(False)).answered("witness", answer(False))
    assert refused.outcome is Outcome.LOST, "the list before can no longer carry it"


def test_newcomers_are_asked_first_and_the_own_voter_last() -> None:
    """Who has granted a change supports nothing else: nobody of the list before is asked while the new one may fail."""
    asked = joint_contest()
    assert asked.due == ("w2", "w3", "w4")
    asked = asked.ask(asked.due)
    assert asked.due == ()
    asked = asked.answered("w2", answer(True))
    assert asked.due == ("west", "witness"), "with east and west, w2 makes three of five"
    asked = asked.ask(asked.due).answered("witness", answer(True))
    assert asked.due == (), "east would not decide: the new list lacks one"
    assert asked.answered("west", answer(True)).due == ("east",)


def test_a_voter_that_is_admitted_anew_counts_for_the_new_list_alone() -> None:
    again = Electorate(VOTERS.current, VoterList(2, VOTERS.current.members, frozenset({"witness"})))
    assert again.newcomers == ("witness",)
    assert joint_contest("east", "witness", voters=again).outcome is Outcome.OPEN
    assert joint_contest("east", "west", voters=again).outcome is Outcome.WON


def test_a_joint_lease_ends_when_the_first_of_both_lists_says_so() -> None:
    old = {"east": 9 * MS, "witness": 9 * MS}
    assert Lease(G, 4, JOINT, TIMING, MappingProxyType(old)).end_ns == 0, "the new list has not accepted"
    held = Lease(G, 4, JOINT, TIMING, MappingProxyType({**old, "w2": 7 * MS, "w3": 5 * MS}))
    assert held.end_ns == 5 * MS + TIMING.ttl_ns
    only_new = MappingProxyType({"east": 9 * MS, "w2": 9 * MS, "w3": 9 * MS})
    assert Lease(G, 4, JOINT, TIMING, only_new).end_ns == 0, "the list before has not accepted"
    assert Lease(G, 4, JOINT, TIMING, only_new).settled().end_ns == 9 * MS + TIMING.ttl_ns


def test_a_set_is_stored_only_by_majorities_of_both_lists() -> None:
    holder = HolderSet(4, JOINT, SyncSet(SetVersion(4, 1), BOTH), counter=1).propose(EAST)
    assert stored(holder, "east", "witness").must_acknowledge == BOTH
    assert stored(holder, "east", "w2", "w3").must_acknowledge == BOTH
    assert stored(holder, "east", "witness", "w2", "w3").must_acknowledge == EAST


def settled_by(settling: Settling, *voters: str) -> Settling:
    for name in voters:
        settling = settling.answered(name, SettleAnswer(G, 4, NEW_LIST, stored=True))
    return settling


def test_a_change_is_settled_only_by_majorities_of_both_lists_and_only_once_begun() -> None:
    assert not settled_by(Settling(4, JOINT), *JOINT.members).begin().done, "an answer to what was not told yet"
    begun = Settling(4, JOINT).begin()
    assert not settled_by(begun, "east", "witness").done
    assert not settled_by(begun, "w2", "w3", "w4", "east").done
    assert not settled_by(begun, "north", "w2", "w3", "w4", "east").done, "a stranger does not count"
    done = settled_by(begun, "east", "west", "w2")
    assert done.done
    assert done.missing == ("w3", "w4"), "those of the list before that are not on the new one need not know"
    assert settled_by(done, "w3", "w4").everybody_knows


def test_refusals_and_answers_for_other_lists_or_epochs_settle_nothing() -> None:
    begun = Settling(4, JOINT).begin()
    assert begun.answered("east", SettleAnswer(G, 4, NEW_LIST, stored=False)) is begun
    assert begun.answered("east", SettleAnswer(G, 3, NEW_LIST, stored=True)) is begun
    assert begun.answered("east", SettleAnswer(G, 4, VOTERS.current, stored=True)) is begun


def test_an_older_list_cannot_follow_a_newer_one() -> None:
    with pytest.raises(ValueError, match="cannot follow"):
        Electorate(NEW_LIST, VOTERS.current)
    with pytest.raises(ValueError, match="only members"):
        VoterList(1, ("east",), frozenset({"west"}))
