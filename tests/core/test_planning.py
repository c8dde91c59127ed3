"""Pure decisions of the manager: what is recorded, when it goes back, which operations may start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from graf.api.recorded import AssignedRole, Recorded, role_of
from graf.core.planning import (
    FAILBACK_RULES,
    PRECHECK_RULES,
    READY_RULES,
    FailbackDecision,
    FailbackPolicy,
    FailbackRule,
    GroupView,
    PrecheckRule,
    RecordView,
    SiteView,
    Verdict,
    advance,
    newer,
    not_ready,
    plan_failback,
    precheck,
)

SITES = ("east", "west")
AWAY = GroupView(
    group="g",
    recorded=Recorded("west", 4, {"east": "Standby", "west": "Active"}),
    preferred="east",
    sites={
        "east": SiteView("east", fresh=True, role="Standby", epoch=4, promotable=True),
        "west": SiteView("west", fresh=True, role="Active", epoch=4),
    },
    synchronous_set=frozenset(SITES),
)


def policy(mode: Any = "Automatic", window: float = 10, cooldown: float = 0) -> FailbackPolicy:
    return FailbackPolicy(mode, window, cooldown)


def east(**changes: Any) -> GroupView:
    return replace(AWAY, sites={**AWAY.sites, "east": replace(AWAY.sites["east"], **changes)})


def record(**fields: Any) -> RecordView:
    base: dict[str, Any] = {"id": "1", "group": "g", "kind": "Decision", "type": "Failover", "epoch": 5}
    return RecordView(**{**base, **fields})


@pytest.mark.parametrize(
    ("kind", "left_behind"), [("Failover", "Invalidated"), ("Switchover", "Standby"), ("Failback", "Standby")]
)
def test_only_an_unplanned_move_leaves_an_invalidated_site_behind(kind: str, left_behind: AssignedRole) -> None:
    moved = advance(AWAY.recorded, record(type=kind, from_site="west", to_site="east"), SITES)
    assert moved == Recorded("east", 5, {"east": "Active", "west": left_behind})


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_an_older_record_never_moves_the_active_site_back(epoch: int) -> None:
    assert advance(AWAY.recorded, record(epoch=epoch, from_site="west", to_site="east"), SITES) == AWAY.recorded


@pytest.mark.parametrize("kind", ["Shrink", "Grow", "Fence", "Hold"])
def test_a_change_of_the_set_moves_nothing(kind: str) -> None:
    assert advance(AWAY.recorded, record(type=kind, epoch=9, to_site="east"), SITES) == AWAY.recorded


def test_a_refusal_moves_nothing() -> None:
    assert advance(AWAY.recorded, record(kind="Refusal", to_site="east"), SITES) == AWAY.recorded


def test_a_site_that_has_returned_is_a_standby_again() -> None:
    before = Recorded("west", 4, {"east": "Invalidated", "west": "Active"})
    after = advance(before, record(kind="Event", type="Return", epoch=4, from_site="east", to_site="west"), SITES)
    assert after.roles["east"] == "Standby"


def test_of_two_records_the_higher_epoch_counts() -> None:
    assert newer(Recorded("east", 3), Recorded("west", 4)).active_site == "west"
    assert newer(Recorded("west", 4), Recorded("east", 4)).active_site == "west"


@pytest.mark.parametrize(
    ("view", "rules", "since", "reason", "created"),
    [
        (AWAY, policy(), 0.0, "Failback", "failback-g-e4-1"),
        (AWAY, policy(), 90.5, "StabilisationWindow", ""),
        (AWAY, policy(), None, "StabilisationWindow", ""),
        (AWAY, policy(window=0), None, "Failback", "failback-g-e4-1"),
        (AWAY, policy("Manual"), 0.0, "Manual", ""),
        (AWAY, policy("Never"), 0.0, "Never", ""),
        (replace(AWAY, recorded=Recorded("east", 4)), policy(), 0.0, "AtPreferredSite", ""),
        (replace(AWAY, recorded=Recorded()), policy(), 0.0, "NotActivated", ""),
        (replace(AWAY, running_operation="x"), policy(), 0.0, "OperationRunning", ""),
        (replace(AWAY, failbacks_tried=5), policy(), 0.0, "TriedTooOften", ""),
        (replace(AWAY, failbacks_tried=1, last_completed_s=95.0), policy(), 0.0, "Cooldown", ""),
        (replace(AWAY, failbacks_tried=1, last_completed_s=80.0), policy(), 0.0, "Failback", "failback-g-e4-2"),
        (replace(AWAY, last_completed_s=80.0), policy(cooldown=60), 0.0, "Cooldown", ""),
        (replace(AWAY, last_completed_s=30.0), policy(cooldown=60), 0.0, "Failback", "failback-g-e4-1"),
        (east(fresh=False), policy(), 0.0, "PreferredSiteNotReady", ""),
        (east(role="Invalidated"), policy(), 0.0, "PreferredSiteNotReady", ""),
        (east(promotable=False), policy(), 0.0, "PreferredSiteNotReady", ""),
        (replace(AWAY, synchronous_set=frozenset({"west"})), policy(), 0.0, "PreferredSiteNotReady", ""),
    ],
)
def test_the_failback_follows_the_policy(
    view: GroupView, rules: FailbackPolicy, since: float | None, reason: str, created: str
) -> None:
    decision = plan_failback(rules, view, since, now_s=100.0)
    assert (decision.reason, decision.create) == (reason, created)
    assert decision.message


def test_the_window_starts_again_after_a_break() -> None:
    first = plan_failback(policy(), AWAY, None, now_s=100.0)
    broken = plan_failback(policy(), east(promotable=False), first.ready_since_s, now_s=109.0)
    again = plan_failback(policy(), AWAY, broken.ready_since_s, now_s=111.0)
    assert (first.ready_since_s, broken.ready_since_s, again.ready_since_s) == (100.0, None, 111.0)
    assert again.recheck_after_s == 10.0


def west(**changes: Any) -> GroupView:
    return replace(AWAY, sites={**AWAY.sites, "west": replace(AWAY.sites["west"], **changes)})


@pytest.mark.parametrize(
    ("view", "target", "waited", "state", "reason", "says"),
    [
        (AWAY, "east", 0.0, "Start", "Ready", "west -> east"),
        (AWAY, None, 0.0, "Start", "Ready", "west -> east"),
        (AWAY, "west", 0.0, "Succeeded", "AlreadyActive", "is the active site already"),
        (AWAY, "north", 0.0, "Refused", "NotASite", "not a site"),
        (replace(AWAY, recorded=Recorded()), "east", 0.0, "Refused", "NotActivated", "never active"),
        (replace(AWAY, running_operation="other"), "east", 0.0, "Wait", "Busy", "waits for other"),
        (replace(AWAY, running_operation="mine"), "east", 0.0, "Start", "Ready", "west -> east"),
        (east(fresh=False), "east", 1.0, "Wait", "PeerUnreachable", "east is not connected"),
        (east(fresh=False), "east", 11.0, "Refused", "PeerUnreachable", "east is not connected"),
        (west(fresh=False), "east", 1.0, "Wait", "ActiveUnreachable", "west is not connected"),
        (west(fresh=False), "east", 11.0, "Refused", "ActiveUnreachable", "west is not connected"),
        (
            east(promotable=False, promotable_reason="lag"),
            "east",
            0.0,
            "Refused",
            "DataNotPromotable",
            "DataNotPromotable: east",
        ),
        (east(role="Invalidated"), "east", 0.0, "Refused", "NotStandby", "NotStandby: east is Invalidated"),
        (
            replace(AWAY, synchronous_set=frozenset({"west"})),
            "east",
            0.0,
            "Refused",
            "NotInSynchronousSet",
            "NotInSynchronousSet: east",
        ),
    ],
)
def test_an_operation_is_checked_before_it_starts(
    view: GroupView, target: str | None, waited: float, state: str, reason: str, says: str
) -> None:
    verdict = precheck(view, "Switchover", target, "mine", waited, grace_s=10.0)
    assert (verdict.state, verdict.reason) == (state, reason)
    assert says in verdict.message


# -- each rule is needed -----------------------------------------------------------------------------------------------

NEVER_ACTIVE = replace(AWAY, recorded=Recorded())
NOT_IN_SET = replace(AWAY, synchronous_set=frozenset({"west"}))

NOT_READY = {
    "is-connected": (east(fresh=False), "PeerUnreachable"),
    "is-standby": (east(role="Invalidated"), "NotStandby"),
    "has-every-write": (NOT_IN_SET, "NotInSynchronousSet"),
    "is-promotable": (east(promotable=False), "DataNotPromotable"),
}


@pytest.mark.parametrize("name", NOT_READY)
def test_each_rule_of_readiness_is_all_that_keeps_a_site_from_taking_over(name: str) -> None:
    view, code = NOT_READY[name]
    reason = not_ready(view, "east")
    assert reason is not None
    assert reason.code == code
    assert not_ready(view, "east", tuple(rule for rule in READY_RULES if rule[0] != name)) is None


def test_of_a_site_that_is_unknown_nothing_is_believed() -> None:
    reason = not_ready(AWAY, "north")
    assert reason is not None
    assert reason.code == "PeerUnreachable"


STAYS = {
    "was-active-once": (NEVER_ACTIVE, policy(), "NotActivated"),
    "is-away": (replace(AWAY, recorded=Recorded("east", 4)), policy(), "AtPreferredSite"),
    "policy-may-forbid": (AWAY, policy("Never"), "Never"),
    "people-may-ask": (AWAY, policy("Manual"), "Manual"),
    "one-move-at-a-time": (replace(AWAY, running_operation="x"), policy(), "OperationRunning"),
    "preferred-site-is-ready": (east(promotable=False), policy(), "PreferredSiteNotReady"),
    "not-tried-too-often": (replace(AWAY, failbacks_tried=5), policy(), "TriedTooOften"),
    "cooldown": (replace(AWAY, last_completed_s=80.0), policy(cooldown=60), "Cooldown"),
    "stabilisation-window": (AWAY, policy(window=200), "StabilisationWindow"),
}


def failback(view: GroupView, rules: FailbackPolicy, table: tuple[FailbackRule, ...]) -> FailbackDecision:
    return plan_failback(rules, view, 0.0, 100.0, table)


@pytest.mark.parametrize("name", STAYS)
def test_each_rule_of_the_failback_is_all_that_keeps_the_group_where_it_is(name: str) -> None:
    view, rules, reason = STAYS[name]
    decision = failback(view, rules, FAILBACK_RULES)
    assert (decision.reason, decision.create) == (reason, "")
    without = failback(view, rules, tuple(rule for rule in FAILBACK_RULES if rule[0] != name))
    assert without.reason == "Failback", f"{name} is not what decides here"


def test_the_window_counts_longer_than_a_shorter_cooldown() -> None:
    view = replace(AWAY, last_completed_s=95.0)
    decision = plan_failback(policy(window=30, cooldown=20), view, 90.0, now_s=100.0)
    assert (decision.reason, decision.recheck_after_s) == ("StabilisationWindow", 20.0)


CHECKED: dict[str, tuple[GroupView, str, str, str]] = {
    "target-is-a-site": (AWAY, "north", "NotASite", "PeerUnreachable"),
    "something-to-move": (NEVER_ACTIVE, "east", "NotActivated", "ActiveUnreachable"),
    "not-there-already": (AWAY, "west", "AlreadyActive", "NotStandby"),
    "one-operation-at-a-time": (replace(AWAY, running_operation="other"), "east", "Busy", "Ready"),
    "active-site-is-connected": (west(fresh=False), "east", "ActiveUnreachable", "Ready"),
    "target-is-ready": (NOT_IN_SET, "east", "NotInSynchronousSet", "Ready"),
}


def checked(view: GroupView, target: str, waited_s: float, table: tuple[PrecheckRule, ...]) -> Verdict:
    return precheck(view, "Switchover", target, "mine", waited_s, 10.0, table)


@pytest.mark.parametrize("name", CHECKED)
def test_each_rule_of_the_precheck_decides_where_it_speaks(name: str) -> None:
    view, target, reason, otherwise = CHECKED[name]
    assert checked(view, target, 0.0, PRECHECK_RULES).reason == reason
    without = tuple(rule for rule in PRECHECK_RULES if rule[0] != name)
    assert checked(view, target, 0.0, without).reason == otherwise


def test_without_its_rule_a_target_that_has_yet_to_dial_in_is_refused_at_once() -> None:
    assert checked(east(fresh=False), "east", 1.0, PRECHECK_RULES).state == "Wait"
    without = tuple(rule for rule in PRECHECK_RULES if rule[0] != "target-is-connected")
    assert checked(east(fresh=False), "east", 1.0, without).state == "Refused"


def test_every_rule_is_taken_out_by_some_test() -> None:
    def names(table: tuple[tuple[str, Callable[..., Any]], ...]) -> set[str]:
        return {name for name, _rule in table}

    assert set(NOT_READY) == names(READY_RULES)
    assert set(STAYS) == names(FAILBACK_RULES)
    assert {*CHECKED, "target-is-connected"} == names(PRECHECK_RULES)


def test_of_the_record_only_the_active_site_is_active() -> None:
    recorded = Recorded("west", 4, {"east": "Active", "north": "Invalidated"})
    assert [role_of(site, recorded) for site in ("east", "west", "north", "south")] == [
        "Standby",
        "Active",
        "Invalidated",
        "Standby",
    ]
