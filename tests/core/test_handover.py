"""Handing a group over, event by event: what each event leads to, and what each rule of the beginning refuses."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from graf.api.timing import MILLISECOND_NS
from graf.api.values import Electorate, Reason, Role, SetVersion, SyncSet
from graf.core import handover
from graf.core.campaign import Contest
from graf.core.handover import Step
from graf.core.handover_effects import (
    Abandon,
    AwaitProof,
    CannotServe,
    Ended,
    FenceSelf,
    ForgetData,
    OpenTraffic,
    Prepare,
    Quiesce,
    RecordRefusal,
    RecordRelease,
    Report,
    RollBack,
    SendRelease,
    ShutTraffic,
    StandDown,
    WatchSuccessor,
)
from graf.core.handover_rules import ORDER_RULES, Attempt, Handover, Phase
from graf.core.messages import Campaign, Release
from graf.core.syncset import HolderSet

sys.path.insert(0, str(Path(__file__).parent))
from handover_world import CONFIG, LIST, LOST, NOW, TIMING, VOTERS, WEST, G, lease, order, view

POSITIONS = MappingProxyType({"db": "0-10-7"})


def given(phase: Phase, **changed: Any) -> Handover:
    """The first hand-over of a site, planned, under way in epoch 3."""
    return Handover(phase, replace(Attempt(1, 3, "west", NOW, order()), **changed), 1)


def loud(**changed: Any) -> Handover:
    return Handover(Phase.SHUTTING, replace(Attempt(1, 3, "west", NOW, None, LOST, proved=True), **changed), 1)


def begun(state: Handover | None = None) -> Step:
    return handover.ordered(state or Handover(), order(), view(), NOW, 0)


# -- the beginning -----------------------------------------------------------------------------------------------------


def test_an_order_begins_with_the_data() -> None:
    state, effects = begun()
    assert (state.phase, state.under_way) == (Phase.QUIESCING, True)
    assert effects == (Report("op", "Running", "Quiesce", "east stops accepting writes"), Quiesce(1, 3))


CONTEST = Contest("east", Campaign(G, 4, TIMING.ttl_ns, Electorate(LIST), SyncSet(), lossless=True), TIMING, NOW)
NARROW = SyncSet(SetVersion(3, 3), frozenset({"east"}))


def west(**changed: Any) -> dict[str, Any]:
    return {"peers": {"west": replace(WEST, **changed)}}


REFUSED: dict[str, tuple[str, Handover, dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "without a lease": ("holds-the-group", Handover(), {}, {"lease": None}, ("NotActive",)),
    "with a lease that is over": (
        "holds-the-group",
        Handover(),
        {},
        {"lease": replace(lease(3), sent_ns=dict.fromkeys(VOTERS.members, NOW - TIMING.ttl_ns))},
        ("NotActive",),
    ),
    "beside another": ("one-at-a-time", given(Phase.PROVING), {"operation": "op2"}, {}, ("Busy",)),
    "beside a loud one": ("one-at-a-time", loud(), {}, {}, ("Busy",)),
    "while one is rolled back": ("one-at-a-time", given(Phase.ROLLING_BACK), {"operation": "op2"}, {}, ("Busy",)),
    "while voters are changed": ("not-during-a-contest", Handover(), {}, {"contest": CONTEST}, ("Busy",)),
    "to this site": ("somewhere-else", Handover(), {"target": "east"}, {}, ("AlreadyActive",)),
    "too late": ("in-time", Handover(), {"not_after_wall_ms": 999}, {}, ("TooLate",)),
    "to nobody": ("target-can-take-over", Handover(), {"target": "north"}, {}, ("NotASite",)),
    "to a witness": (
        "target-can-take-over",
        Handover(),
        {"target": "witness"},
        {},
        ("NotASite", "NotInSynchronousSet", "NotStandby", "DataNotPromotable", "NotReady"),
    ),
    "to a silent site": ("target-can-take-over", Handover(), {}, west(connected=False), ("PeerUnreachable",)),
    "to a site that may lack writes": (
        "target-can-take-over",
        Handover(),
        {},
        {"holder_set": HolderSet(3, VOTERS, NARROW, counter=3)},
        ("NotInSynchronousSet",),
    ),
    "to a site that is judged": ("target-can-take-over", Handover(), {}, west(role=Role.INVALIDATED), ("NotStandby",)),
    "to a site with too much lag": (
        "target-can-take-over",
        Handover(),
        {},
        west(promotable=False, promotable_reason="lag"),
        ("DataNotPromotable",),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_order_is_refused_with_every_reason_and_nothing_is_touched(case: str) -> None:
    _rule, state, asked, changed, codes = REFUSED[case]
    after, effects = handover.ordered(state, order(**asked), view(**changed), NOW, 1000)
    report, refusal = effects
    assert after == state
    assert isinstance(refusal, RecordRefusal)
    assert (refusal.type, tuple(reason.code for reason in refusal.reasons)) == ("Switchover", codes)
    assert isinstance(report, Report)
    assert (report.state, report.step) == ("Refused", "Precheck")
    assert all(code in report.message for code in codes)


@pytest.mark.parametrize("case", REFUSED)
def test_without_its_rule_the_order_is_not_refused_for_that(case: str) -> None:
    rule, state, asked, changed, codes = REFUSED[case]
    rules = tuple(item for item in ORDER_RULES if item[0] != rule)
    after, effects = handover.ordered(state, order(**asked), view(**changed), NOW, 1000, rules)
    refused = [effect for effect in effects if isinstance(effect, RecordRefusal)]
    assert after.count == state.count + 1 or refused[0].reasons[0].code != codes[0]


def test_every_rule_of_the_beginning_refuses_something() -> None:
    assert {case[0] for case in REFUSED.values()} == {name for name, _rule in ORDER_RULES}


def test_an_order_within_its_time_begins() -> None:
    state, _ = handover.ordered(Handover(), order(not_after_wall_ms=1000), view(), NOW, 1000)
    assert state.phase is Phase.QUIESCING


def test_the_same_order_again_is_told_how_far_it_is_and_done_once() -> None:
    for phase, step in ((Phase.PROVING, "Quiesce"), (Phase.ROLLING_BACK, "RollBack")):
        state = given(phase)
        assert begun(state) == (state, (Report("op", "Running", step, "is under way"),))


def test_an_order_that_ended_is_told_its_end_again() -> None:
    state, effects = handover.rolled_back(
        given(Phase.ROLLING_BACK, failure=Reason("SuccessorNotReady", "no")), CONFIG, 1, (), 3
    )
    told = next(effect for effect in effects if isinstance(effect, Report))
    assert begun(state) == (state, (told,))
    another, _ = handover.ordered(state, order("op2"), view(), NOW, 0)
    assert another.phase is Phase.QUIESCING


# -- planned -----------------------------------------------------------------------------------------------------------


def test_data_at_rest_is_what_the_successor_has_to_prove() -> None:
    state, effects = handover.quiesced(given(Phase.QUIESCING), 1, POSITIONS)
    assert (state.phase, effects) == (Phase.PROVING, (Prepare(1, "west", 3, "op", POSITIONS),))


def test_the_gate_is_shut_while_the_successor_proves_its_position() -> None:
    assert handover.asked(given(Phase.PROVING), 1)[1] == (ShutTraffic(1), AwaitProof(1))


def answer(state: Handover, ready: bool = True, why: str = "", lease_epoch: int = 3, epoch: int = 3) -> Step:
    return handover.answered(state, CONFIG, "op", epoch, ready, why, lease_epoch, NOW + 80 * MILLISECOND_NS)


def gate(state: Handover, is_shut: bool = True, lease_epoch: int = 3) -> Step:
    return handover.gate_told(state, CONFIG, 1, is_shut, lease_epoch, NOW + 80 * MILLISECOND_NS)


RELEASE = (StandDown(), SendRelease(1, Release(G, 3, "west", "Switchover", 80.0, "op")))


def test_whichever_of_gate_and_proof_comes_last_releases() -> None:
    proved, nothing = answer(given(Phase.PROVING))
    assert (proved.phase, nothing) == (Phase.PROVING, ())
    assert gate(proved)[1] == RELEASE
    shut, nothing = gate(given(Phase.PROVING))
    assert (shut.phase, nothing) == (Phase.PROVING, ())
    state, effects = answer(shut)
    assert (state.phase, state.under_way, effects) == (Phase.RELEASING, True, RELEASE)


FAILURES: dict[str, tuple[Step, str]] = {
    "data that does not rest": (
        handover.quiesce_failed(given(Phase.QUIESCING), CONFIG, 1, "db: Quiesce failed", 3),
        "QuiesceFailed",
    ),
    "a link that is down": (handover.unreachable(given(Phase.PROVING), CONFIG, 1, 3), "PeerUnreachable"),
    "a successor that is not ready": (
        answer(given(Phase.PROVING, gate_shut=True), ready=False, why="db has not reached p"),
        "SuccessorNotReady",
    ),
    "a successor that says nothing in time": (
        handover.proof_timed_out(given(Phase.PROVING, gate_shut=True), CONFIG, 1, 3, NOW),
        "NotProvedInTime",
    ),
    "a gate that is unknown": (gate(given(Phase.PROVING, proved=True), is_shut=False), "GateUnknown"),
    "a gate that is unknown first": (gate(given(Phase.PROVING), is_shut=False), "GateUnknown"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_before_the_release_is_rolled_back_and_told(name: str) -> None:
    (state, effects), code = FAILURES[name]
    assert (state.phase, effects) == (Phase.ROLLING_BACK, (RollBack(1, 3),))
    assert not state.under_way, "what is rolled back is decided about again"
    state, effects = handover.rolled_back(state, CONFIG, 1, ("db: Unquiesce failed",), 3)
    opened, report, refusal, ended = effects
    assert (state.phase, opened, ended) == (Phase.IDLE, OpenTraffic(3), Ended())
    assert isinstance(report, Report)
    assert (report.state, report.step) == ("RolledBack", "RollBack")
    assert report.message.endswith("; east stays active in epoch 3; db: Unquiesce failed")
    assert isinstance(refusal, RecordRefusal)
    assert [reason.code for reason in refusal.reasons] == ["RolledBack", code]


def test_a_failure_waits_for_the_word_of_the_gate() -> None:
    refused, effects = answer(given(Phase.PROVING), ready=False)
    assert effects == ()
    timed_out, effects = handover.proof_timed_out(given(Phase.PROVING), CONFIG, 1, 3, NOW)
    assert effects == ()
    for state in (refused, timed_out):
        assert gate(state)[1] == (RollBack(1, 3),)


def test_only_the_first_word_of_the_successor_counts() -> None:
    refused, _ = answer(given(Phase.PROVING), ready=False)
    assert answer(refused, ready=True) == (refused, ())
    proved, _ = answer(given(Phase.PROVING))
    assert handover.proof_timed_out(proved, CONFIG, 1, 3, NOW) == (proved, ())


def test_an_answer_about_another_epoch_or_operation_is_none() -> None:
    state = given(Phase.PROVING, gate_shut=True)
    assert answer(state, epoch=2) == (state, ())
    assert handover.answered(state, CONFIG, "op0", 3, True, "", 3, NOW) == (state, ())


@pytest.mark.parametrize("lease_epoch", [0, 5])
def test_under_another_lease_nothing_is_released_and_nothing_rolled_back(lease_epoch: int) -> None:
    for step in (
        gate(given(Phase.PROVING, proved=True), lease_epoch=lease_epoch),
        answer(given(Phase.PROVING, gate_shut=True), lease_epoch=lease_epoch),
        handover.quiesce_failed(given(Phase.QUIESCING), CONFIG, 1, "no", lease_epoch),
        handover.rolled_back(given(Phase.ROLLING_BACK, failure=Reason("X", "x")), CONFIG, 1, (), lease_epoch),
    ):
        state, (report, ended) = step
        assert (state.phase, ended) == (Phase.IDLE, Ended())
        assert isinstance(report, Report)
        assert (report.state, report.message.split("; ")[-1]) == ("Failed", "and east lost its lease meanwhile")


@pytest.mark.parametrize("phase", [Phase.QUIESCING, Phase.PROVING, Phase.ROLLING_BACK])
def test_a_lost_lease_ends_what_was_planned_and_says_so(phase: Phase) -> None:
    state, (abandon, report) = handover.lease_lost(given(phase), CONFIG)
    assert (state.phase, abandon) == (Phase.IDLE, Abandon())
    assert isinstance(report, Report)
    assert (report.state, report.message) == ("Failed", "east lost its lease and fenced itself")


def test_a_lost_lease_breaks_no_release_off() -> None:
    state = given(Phase.RELEASING)
    assert handover.lease_lost(state, CONFIG) == (state, ())


def test_a_lost_lease_with_nothing_under_way_is_no_news() -> None:
    assert handover.lease_lost(Handover(), CONFIG) == (Handover(), ())


def test_a_release_is_told_and_the_successor_watched() -> None:
    state, effects = handover.released(given(Phase.RELEASING), CONFIG, 1)
    watch = WatchSuccessor("op", "west", 3)
    told = Report("op", "Running", "Released", "east released epoch 3")
    assert (state.phase, effects) == (Phase.IDLE, (told, watch, Ended()))
    (late,) = handover.nobody_took_over(watch, "15 s")
    assert isinstance(late, Report)
    assert (late.state, late.step) == ("Failed", "TakeOver")
    assert late.message == "west did not take over within 15 s; look at graf status"


def test_a_release_that_failed_is_told_and_not_tried_again() -> None:
    state, effects = handover.release_failed(given(Phase.RELEASING), CONFIG, 1, "disk full")
    assert state.phase is Phase.IDLE
    assert [type(effect) for effect in effects] == [Report, RecordRefusal, Ended]
    assert handover.released(state, CONFIG, 1) == (state, ())


# -- loud --------------------------------------------------------------------------------------------------------------


def lost(state: Handover, lease_epoch: int = 3) -> Step:
    return handover.data_lost(state, "west", LOST, lease_epoch, NOW)


def test_lost_data_is_asked_for_nothing_and_clients_are_taken_away() -> None:
    state, effects = lost(Handover())
    assert (state.phase, state.under_way, effects) == (Phase.SHUTTING, True, (ForgetData(), ShutTraffic(1)))
    state, effects = gate(state)
    release = Release(G, 3, "west", "DataComponentLost", 80.0, "")
    assert (state.phase, effects) == (Phase.RELEASING, (StandDown(), SendRelease(1, release)))
    state, effects = handover.released(state, CONFIG, 1)
    assert (state.phase, effects) == (Phase.IDLE, (RecordRelease(3, "west", LOST), Ended()))


def test_an_epoch_that_cannot_be_served_is_noted_before_the_gate_is_asked() -> None:
    state, effects = handover.data_lost(Handover(), "", LOST, 3, NOW)
    why = CannotServe("; ".join(reason.detail for reason in LOST))
    assert (state.phase, effects) == (Phase.SHUTTING, (why, ForgetData(), ShutTraffic(1)))


def test_a_gate_that_is_unknown_leaves_the_lease_to_end_by_itself() -> None:
    state, (fence, ended) = gate(loud(), is_shut=False)
    assert (state.phase, ended) == (Phase.IDLE, Ended())
    assert isinstance(fence, FenceSelf)
    assert fence.reasons == (Reason("GateUnknown", "the gate could not be proved shut; waiting for the lease"),)


def test_a_loud_hand_over_under_another_lease_is_over() -> None:
    assert gate(loud(), lease_epoch=5) == (Handover(count=1), (Ended(),))
    assert handover.lease_lost(loud(), CONFIG) == (Handover(count=1), (Abandon(),))


def test_lost_data_without_a_lease_or_while_something_is_handed_over_changes_nothing() -> None:
    assert lost(Handover(), lease_epoch=0) == (Handover(), ())
    for state in (given(Phase.QUIESCING), given(Phase.PROVING), given(Phase.RELEASING), loud()):
        assert lost(state) == (state, ())


def test_a_roll_back_gives_way_to_the_loss_of_its_data() -> None:
    state, effects = lost(given(Phase.ROLLING_BACK, failure=Reason("GateUnknown", "no gate")))
    abandon, report, *rest = effects
    assert (state.phase, state.count) == (Phase.SHUTTING, 2)
    assert (abandon, rest) == (Abandon(), [ForgetData(), ShutTraffic(2)])
    assert isinstance(report, Report)
    assert (report.state, report.message) == ("Failed", "no gate; and the data component was lost meanwhile")


def test_a_loud_release_that_failed_is_in_the_record() -> None:
    state, effects = handover.release_failed(replace(loud(), phase=Phase.RELEASING), CONFIG, 1, "disk full")
    assert state.phase is Phase.IDLE
    assert [type(effect) for effect in effects] == [RecordRefusal, Ended]


# -- late events -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [Handover(), Handover(count=1), given(Phase.PROVING, number=2)])
def test_what_comes_late_changes_nothing(state: Handover) -> None:
    for step in (
        handover.quiesced(state, 1, POSITIONS),
        handover.quiesce_failed(state, CONFIG, 1, "no", 3),
        handover.asked(state, 1),
        handover.unreachable(state, CONFIG, 1, 3),
        handover.proof_timed_out(state, CONFIG, 1, 3, NOW),
        gate(state),
        handover.released(state, CONFIG, 1),
        handover.release_failed(state, CONFIG, 1, "no"),
        handover.rolled_back(state, CONFIG, 1, (), 3),
    ):
        assert step == (state, ())
