"""The voter answers campaigns, claims, releases and set updates by its promise alone."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from graf.api.timing import MILLISECOND_NS, Timing
from graf.api.values import Electorate, SetVersion, SyncSet, VoterList
from graf.core.campaign import Contest, Outcome
from graf.core.messages import CONTEST_LOST, Campaign, Claim, Release, Settle, SetUpdate
from graf.core.voter import (
    CAMPAIGN_RULES,
    Promise,
    VoterState,
    on_campaign,
    on_claim,
    on_release,
    on_set_update,
    on_settle,
)

G = "vcu-db"
TIMING = Timing(100 * MILLISECOND_NS, 700 * MILLISECOND_NS)
VOTERS = Electorate(VoterList(1, ("east", "west", "witness")))
START = 1_000 * MILLISECOND_NS
LATER = START + 10 * TIMING.ttl_ns
BOTH = SyncSet(SetVersion(3, 2), frozenset({"east", "west"}))
EAST_ONLY = SyncSet(SetVersion(3, 3), frozenset({"east"}))
FIRST = SyncSet(SetVersion(1, 0), frozenset({"east"}))
PROMISE = Promise(G, 3, "east", TIMING.ttl_ns, VOTERS, BOTH)


def voter(promise: Promise | None = PROMISE, answered_ns: int | None = START) -> VoterState:
    promises = {G: promise} if promise else {}
    answered = {G: answered_ns} if answered_ns is not None else {}
    return VoterState("witness", START, 10_000, MappingProxyType(promises), MappingProxyType(answered))


def campaign(epoch: int = 4, known: SyncSet = BOTH, voters: Electorate = VOTERS, lossless: bool = True) -> Campaign:
    return Campaign(G, epoch, TIMING.ttl_ns, voters, known, lossless)


NEXT = VoterList(2, ("east", "west", "w2"))
JOINT = Electorate(VOTERS.current, NEXT)
OTHER_NEXT = Electorate(VOTERS.current, VoterList(2, ("east", "west", "w3")))
GRANTED_CHANGE = replace(PROMISE, voters=JOINT, proposed_in=3)
SETTLED = replace(PROMISE, voters=Electorate(VoterList(2, ("east", "west", "w2", "witness", "w3"))))
OUTSIDE = replace(PROMISE, stored_set=EAST_ONLY)
REFUSED = {
    "NotDeclared: a stranger asks": ("declared-voters-only", voter(), "north", campaign(lossless=False), LATER),
    "NotDeclared: this voter is not on the list": (
        "declared-voters-only",
        voter(),
        "west",
        campaign(voters=Electorate(VoterList(1, ("east", "west", "other")))),
        LATER,
    ),
    "OtherVoterList: another list of the same version is named": (
        "declared-voters-only",
        voter(),
        "west",
        campaign(voters=replace(VOTERS, current=VoterList(1, ("west", "east", "witness")))),
        LATER,
    ),
    "OtherVoterList: the list was settled later here": (
        "declared-voters-only",
        voter(SETTLED),
        "west",
        campaign(),
        LATER,
    ),
    "OtherVoterList: another change was granted here": (
        "declared-voters-only",
        voter(GRANTED_CHANGE),
        "west",
        campaign(voters=OTHER_NEXT),
        LATER,
    ),
    "OtherVoterList: a change was granted here and is left out": (
        "declared-voters-only",
        voter(GRANTED_CHANGE),
        "west",
        campaign(),
        LATER,
    ),
    "NoRecord: it is no newcomer of the change": (
        "no-record-no-vote",
        voter(None),
        "west",
        campaign(voters=JOINT),
        LATER,
    ),
    "NoRecord: the disk was lost": ("no-record-no-vote", voter(None), "west", campaign(), LATER),
    "EpochNotHigher: the same epoch": ("epoch-rises", voter(), "west", campaign(3), LATER),
    "EpochNotHigher: an older epoch": ("epoch-rises", voter(), "west", campaign(2), LATER),
    "RestartSilence: although it was released": (
        "restart-silence",
        voter(replace(PROMISE, released=True)),
        "west",
        campaign(),
        START + TIMING.ttl_ns,
    ),
    "HolderMayLive: the last answer is one hold old": (
        "holder-may-live",
        voter(answered_ns=LATER),
        "west",
        campaign(),
        LATER + TIMING.hold_ns,
    ),
    "NotInSynchronousSet: the stored set leaves it out": (
        "in-synchronous-set",
        voter(OUTSIDE),
        "west",
        campaign(),
        LATER,
    ),
    "NotInSynchronousSet: its own newer set leaves it out": (
        "in-synchronous-set",
        voter(),
        "west",
        campaign(known=EAST_ONLY),
        LATER,
    ),
}


def test_a_newcomer_of_an_abandoned_change_is_free_for_the_next_one() -> None:
    newcomer = replace(voter(GRANTED_CHANGE), name="w2")
    next_change = Electorate(VOTERS.current, VoterList(3, ("east", "west", "w2", "w3")))
    step = on_campaign(newcomer, "east", campaign(voters=next_change), LATER)
    assert step.answer.granted
    assert step.durable is not None
    assert (step.durable.voters, step.durable.proposed_in) == (next_change, 4)
    assert step.durable.stored_set == GRANTED_CHANGE.stored_set, "what it has stored is kept"


@pytest.mark.parametrize("case", REFUSED)
def test_each_rule_refuses_alone_and_is_granted_without_it(case: str) -> None:
    rule, state, site, asked, now_ns = REFUSED[case]
    step = on_campaign(state, site, asked, now_ns)
    assert not step.answer.granted
    assert step.answer.reason == case.split(":")[0]
    assert step.state == state, "a refusal leaves no trace"
    assert step.durable is None
    rules = tuple(r for r in CAMPAIGN_RULES if r[0] != rule)
    assert on_campaign(state, site, asked, now_ns, rules).answer.granted, f"{rule} is the only one to refuse this"


def test_every_campaign_rule_has_a_case() -> None:
    assert {case[0] for case in REFUSED.values()} == {name for name, _ in CAMPAIGN_RULES}


def test_a_grant_is_durable_keeps_the_set_and_counts_as_an_answer() -> None:
    step = on_campaign(voter(), "west", campaign(), LATER)
    assert step.answer.granted
    assert step.durable == Promise(G, 4, "west", TIMING.ttl_ns, VOTERS, BOTH, entitled=frozenset({"east"}))
    assert step.state.promises[G] == step.durable
    assert step.state.answered_ns[G] == LATER
    assert step.answer.stored_set == BOTH


def test_an_older_set_of_the_contender_does_not_outrank_the_stored_one() -> None:
    older = SyncSet(SetVersion(2, 9), frozenset({"east", "west"}))
    step = on_campaign(voter(OUTSIDE), "west", campaign(known=older), LATER)
    assert step.answer.reason == "NotInSynchronousSet"


def test_a_group_that_may_lose_data_asks_for_no_set() -> None:
    assert on_campaign(voter(OUTSIDE), "west", campaign(lossless=False), LATER).answer.granted


def test_the_refusal_says_when_the_hold_ends() -> None:
    state = voter(answered_ns=LATER)
    answer = on_campaign(state, "west", campaign(), LATER + 1).answer
    assert on_campaign(state, "west", campaign(), LATER + 1 + answer.retry_after_ns).answer.granted
    assert not on_campaign(state, "west", campaign(), LATER + answer.retry_after_ns).answer.granted


def test_a_restarted_voter_counts_its_start_as_an_answer() -> None:
    state = voter(answered_ns=None)
    assert state.free_at_ns(G) == START + TIMING.hold_ns
    assert not on_campaign(state, "west", campaign(), START + TIMING.hold_ns).answer.granted
    assert on_campaign(state, "west", campaign(), START + TIMING.hold_ns + 1).answer.granted


def test_the_holder_itself_and_anybody_after_a_release_need_not_wait() -> None:
    assert on_campaign(voter(answered_ns=LATER), "east", campaign(), LATER).answer.granted
    released = voter(replace(PROMISE, released=True), answered_ns=LATER)
    assert on_campaign(released, "west", campaign(), LATER).answer.granted


def test_the_first_epoch_is_granted_without_a_record_and_again_to_the_same_site_only() -> None:
    first = on_campaign(voter(None), "east", campaign(1, FIRST), START)
    assert first.answer.granted
    now_ns = START + 2 * TIMING.hold_ns
    again = on_campaign(first.state, "east", campaign(1, FIRST), now_ns)
    assert again.answer.granted, "a first contest that lost one message can be tried again"
    other = on_campaign(first.state, "west", campaign(1, replace(FIRST, members=frozenset({"west"}))), now_ns)
    assert other.answer.reason == "EpochNotHigher"


def test_the_first_epoch_is_not_granted_again_once_a_set_is_stored() -> None:
    state = on_campaign(voter(None), "east", campaign(1, FIRST), START).state
    state = on_set_update(state, "east", SetUpdate(G, 1, SyncSet(SetVersion(1, 1), frozenset({"east"})))).state
    answer = on_campaign(state, "east", campaign(1, FIRST), START + 2 * TIMING.hold_ns).answer
    assert answer.reason == "EpochNotHigher"


def test_two_voter_lists_at_work_would_make_two_winners() -> None:
    """Why the list is compared: without the rule, disjoint majorities of two lists both win."""
    other = Electorate(VoterList(1, ("west", "w2", "w3")))
    rules = tuple(r for r in CAMPAIGN_RULES if r[0] != "declared-voters-only")
    winners: dict[bool, list[str]] = {True: [], False: []}
    for broken in (False, True):
        for site, voters in (("east", VOTERS), ("west", other)):
            contest = Contest(site, campaign(4, BOTH, voters), TIMING, LATER)
            for name in voters.members[1:]:
                state = replace(voter(replace(PROMISE, released=True)), name=name)
                step = on_campaign(state, site, contest.campaign, LATER, rules if broken else CAMPAIGN_RULES)
                contest = contest.answered(name, step.answer)
            if contest.outcome is Outcome.WON:
                winners[broken].append(site)
    assert winners == {False: ["east"], True: ["east", "west"]}


@pytest.mark.parametrize(
    ("promise", "site", "claim", "reason"),
    [
        (PROMISE, "east", Claim(G, 3, 1), ""),
        (None, "east", Claim(G, 3, 1), "NoRecord"),
        (PROMISE, "east", Claim(G, 3, 2), "OtherVoterList"),
        (PROMISE, "east", Claim(G, 2, 1), "PromisedOther"),
        (PROMISE, "west", Claim(G, 3, 1), "PromisedOther"),
        (replace(PROMISE, released=True), "east", Claim(G, 3, 1), "Released"),
    ],
)
def test_only_exactly_the_promised_holder_is_renewed(
    promise: Promise | None, site: str, claim: Claim, reason: str
) -> None:
    state = voter(promise)
    step = on_claim(state, site, claim, LATER)
    assert (step.answer.accepted, step.answer.reason) == (not reason, reason)
    assert (step.state.answered_ns.get(G) == LATER) is not bool(reason), "only an acceptance extends the hold"
    assert step.durable is None, "a renewal needs no disk"


def test_a_release_is_durable_and_idempotent_and_only_the_holders() -> None:
    step = on_release(voter(), "east", Release(G, 3, successor="west"))
    assert step.answer.released
    assert step.durable is not None
    assert (step.durable.released, step.durable.successor) == (True, "west")
    again = on_release(step.state, "east", Release(G, 3))
    assert again.answer.released
    assert again.durable is None
    for site, epoch in (("west", 3), ("east", 2), ("east", 4)):
        refused = on_release(voter(), site, Release(G, epoch))
        assert not refused.answer.released
        assert refused.state == voter()
    assert not on_release(voter(None), "east", Release(G, 3)).answer.released


@pytest.mark.parametrize(
    ("cause", "heirs"),
    [
        (CONTEST_LOST, {"east", "west"}),  # nobody won epoch 4: what east released to west still stands
        ("DataComponentLost", {"north"}),  # north was Active in epoch 4, and gives it to nobody
    ],
)
def test_an_epoch_that_nobody_won_takes_the_right_to_take_over_from_no_one(cause: str, heirs: set[str]) -> None:
    assert PROMISE.heirs == {"east"}
    given = on_release(voter(), "east", Release(G, 3, successor="west")).state
    assert given.promises[G].heirs == {"east", "west"}
    north = Electorate(VoterList(1, (*VOTERS.members, "north")))
    four = replace(given, promises=MappingProxyType({G: replace(given.promises[G], voters=north)}))
    granted = on_campaign(four, "north", campaign(voters=north, lossless=False), LATER).state
    assert granted.promises[G].heirs == {"north"}, "it may have won"
    back = on_release(granted, "north", Release(G, 4, cause=cause)).state
    assert back.promises[G].heirs == heirs


def test_who_was_heir_before_an_epoch_that_was_won_elsewhere_is_none_any_more() -> None:
    given = on_release(voter(), "east", Release(G, 3, successor="west")).state
    won_in_four = SyncSet(SetVersion(4, 1), frozenset({"west"}))
    granted = on_campaign(given, "west", campaign(epoch=5, known=won_in_four), LATER).state
    back = on_release(granted, "west", Release(G, 5, cause=CONTEST_LOST)).state
    assert back.promises[G].heirs == {"west"}


@pytest.mark.parametrize(
    ("promise", "site", "update", "reason"),
    [
        (PROMISE, "east", SetUpdate(G, 3, EAST_ONLY), ""),
        (PROMISE, "east", SetUpdate(G, 3, BOTH), ""),
        (None, "east", SetUpdate(G, 3, EAST_ONLY), "NoRecord"),
        (PROMISE, "west", SetUpdate(G, 3, EAST_ONLY), "PromisedOther"),
        (PROMISE, "east", SetUpdate(G, 2, EAST_ONLY), "PromisedOther"),
        (PROMISE, "east", SetUpdate(G, 3, replace(EAST_ONLY, version=SetVersion(4, 1))), "PromisedOther"),
        (replace(PROMISE, released=True), "east", SetUpdate(G, 3, EAST_ONLY), "Released"),
        (OUTSIDE, "east", SetUpdate(G, 3, BOTH), "OlderVersion"),
        (PROMISE, "east", SetUpdate(G, 3, replace(EAST_ONLY, version=BOTH.version)), "OtherSetOfSameVersion"),
    ],
)
def test_only_a_newer_set_of_the_promised_holder_is_stored(
    promise: Promise | None, site: str, update: SetUpdate, reason: str
) -> None:
    step = on_set_update(voter(promise), site, update)
    assert (step.answer.stored, step.answer.reason) == (not reason, reason)
    if reason:
        assert step.state == voter(promise)
    else:
        assert step.state.promises[G].stored_set == update.new_set
    changed = promise is not None and not reason and update.new_set != promise.stored_set
    assert (step.durable is not None) == changed


# -- changes of the voters


def test_a_refusal_for_another_list_names_the_lists_that_are_known_here() -> None:
    answer = on_campaign(voter(GRANTED_CHANGE), "west", campaign(), LATER).answer
    assert (answer.reason, answer.stored_voters) == ("OtherVoterList", JOINT)
    assert on_campaign(voter(None), "west", campaign(), LATER).answer.stored_voters is None


def test_a_list_that_was_settled_later_is_taken_as_a_fact() -> None:
    settled = Electorate(VoterList(2, ("east", "west", "witness")))
    for promise in (PROMISE, GRANTED_CHANGE):
        step = on_campaign(voter(promise), "west", campaign(voters=settled), LATER)
        assert step.answer.granted
        assert step.durable is not None
        assert (step.durable.voters, step.durable.proposed_in) == (settled, 0)


def test_a_new_voter_without_a_record_grants_the_change_that_admits_it() -> None:
    state = replace(voter(None), name="w2")
    step = on_campaign(state, "east", replace(campaign(voters=JOINT), admits=True), LATER)
    assert step.answer.granted
    assert step.durable is not None
    assert step.durable.voters == JOINT
    alone = on_campaign(state, "east", campaign(voters=Electorate(NEXT)), LATER)
    assert alone.answer.reason == "NoRecord", "once the change is settled it may have promised anything"
    carried_on = on_campaign(state, "west", campaign(voters=JOINT), LATER)
    assert carried_on.answer.reason == "NoRecord", "somebody may have been told that the change is settled"


def test_a_voter_that_lost_its_disk_grants_only_the_change_that_admits_it_anew() -> None:
    again = Electorate(VOTERS.current, VoterList(2, VOTERS.current.members, frozenset({"witness"})))
    assert on_campaign(voter(None), "east", replace(campaign(voters=again), admits=True), LATER).answer.granted
    same = Electorate(VOTERS.current, VoterList(2, VOTERS.current.members))
    asks = replace(campaign(voters=same), admits=True)
    assert on_campaign(voter(None), "east", asks, LATER).answer.reason == "NoRecord"


def test_a_voter_remembers_in_which_epoch_a_change_first_came_to_it() -> None:
    step = on_campaign(voter(), "east", campaign(4, voters=JOINT), LATER)
    assert step.durable is not None
    assert step.durable.proposed_in == 4
    carried_on = on_campaign(step.state, "east", campaign(5, voters=JOINT), LATER)
    assert carried_on.durable is not None
    assert carried_on.durable.proposed_in == 4


@pytest.mark.parametrize(
    ("proposed_in", "cause", "voters"),
    [
        (3, CONTEST_LOST, VOTERS),  # never won where it came first: dropped
        (3, "Switchover", JOINT),  # it was won
        (2, CONTEST_LOST, JOINT),  # an earlier epoch may have won it
    ],
)
def test_a_lost_contest_drops_only_a_change_that_came_with_it(proposed_in: int, cause: str, voters: Electorate) -> None:
    promise = replace(GRANTED_CHANGE, proposed_in=proposed_in)
    step = on_release(voter(promise), "east", Release(G, 3, cause=cause))
    assert step.durable is not None
    assert step.durable.released
    assert step.durable.voters == voters


@pytest.mark.parametrize(
    ("promise", "site", "settle", "reason"),
    [
        (GRANTED_CHANGE, "east", Settle(G, 3, NEXT), ""),
        (replace(PROMISE, voters=Electorate(NEXT)), "east", Settle(G, 3, NEXT), ""),
        (None, "east", Settle(G, 3, NEXT), "NoRecord"),
        (GRANTED_CHANGE, "west", Settle(G, 3, NEXT), "PromisedOther"),
        (GRANTED_CHANGE, "east", Settle(G, 4, NEXT), "PromisedOther"),
        (replace(GRANTED_CHANGE, released=True), "east", Settle(G, 3, NEXT), "Released"),
        (PROMISE, "east", Settle(G, 3, NEXT), "OtherVoterList"),
    ],
)
def test_only_the_holder_of_the_joint_epoch_settles_a_change(
    promise: Promise | None, site: str, settle: Settle, reason: str
) -> None:
    state = voter(promise)
    step = on_settle(state, site, settle)
    assert (step.answer.stored, step.answer.reason) == (not reason, reason)
    if reason:
        assert step.state == state
    else:
        assert step.state.promises[G].voters == Electorate(NEXT)
        assert (step.durable is None) == (not promise.voters.joint if promise else False)


def test_a_holder_of_a_joint_epoch_is_renewed_before_and_after_it_is_settled() -> None:
    for promise in (GRANTED_CHANGE, replace(PROMISE, voters=Electorate(NEXT))):
        assert on_claim(voter(promise), "east", Claim(G, 3, 2), LATER).answer.accepted
        assert on_claim(voter(promise), "east", Claim(G, 3, 1), LATER).answer.reason == "OtherVoterList"
