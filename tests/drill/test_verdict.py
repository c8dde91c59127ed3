"""Every condition of a pass, taken away one at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from graf.lab.drill.model import (
    Check,
    ClientSummary,
    MeasuredWindow,
    Operation,
    Result,
    Run,
    SafetySummary,
    StaleCalls,
    verdict_of,
)
from graf.lab.drill.scenarios import SCENARIOS
from graf.lab.drill.verdict import Allowed, Evidence, Expectation, gap_limit_ms, judge

NAMES = ("east/write", "east/read", "west/write", "west/read")


def operation(**changes: Any) -> Operation:
    values: dict[str, Any] = {
        "type": "Failover",
        "from_site": "east",
        "to_site": "west",
        "epoch_from": 1,
        "epoch_to": 2,
        "rto_ms": 900.0,
        "rpo_writes": 0,
        "phases_ms": {"detect": 700.0, "campaign": 20.0, "activate": 60.0, "traffic": 90.0},
        "git_commit": "0123456789abcdef",
        "at_ns": 0,
    }
    return Operation(**{**values, **changes})


def good() -> Evidence:
    back = operation(type="Failback", from_site="west", to_site="east", epoch_from=2, epoch_to=3)
    return Evidence(
        client=ClientSummary(acked=6_000, lost=0, gap_ms_max=900.0, errors=30, rate_before_fault=99.0),
        safety=SafetySummary(0, 0, 0, 4, dict.fromkeys(NAMES, 500), dict.fromkeys(NAMES, 45.0)),
        stale=StaleCalls(refused=4),
        operations=(operation(), back),
        expected=(Expectation(("Failover",), "east", "west"), Expectation(("Failback",), "west", "east")),
        windows=(MeasuredWindow("fault to return", 0, 1, 900.0, 1_200.0, True),),
        sites=("east", "west"),
        controls=(("east accepts a write before the fault", True),),
    )


def test_a_run_that_meets_everything_passes() -> None:
    result, checks = judge(good())
    assert result is Result.PASS
    assert all(check.ok for check in checks)


def bad_client(**changes: Any) -> Evidence:
    evidence = good()
    return replace(evidence, client=replace(evidence.client, **changes))


def bad_safety(**changes: Any) -> Evidence:
    evidence = good()
    return replace(evidence, safety=replace(evidence.safety, **changes))


FAILING = {
    "a lost write": bad_client(lost=1),
    "a dual-writable sample": bad_safety(dual_writable_samples=1),
    "a dual-served sample": bad_safety(dual_served_samples=1),
    "an accepted stale epoch": bad_safety(stale_epoch_accepted=1),
    "a gap over the limit": replace(good(), windows=(MeasuredWindow("fault", 0, 1, 1_200.1, 1_200.0, True),)),
    "an operation too few": replace(good(), operations=(operation(),)),
    "an operation too many": replace(good(), expected=()),
    "an operation of another type": replace(good(), operations=(operation(type="Switchover"), good().operations[1])),
    "an operation in the other direction": replace(
        good(), operations=(operation(from_site="west", to_site="east"), good().operations[1])
    ),
    "an epoch that does not rise": replace(good(), operations=(operation(epoch_to=1), good().operations[1])),
    "an epoch that falls between operations": replace(good(), operations=(operation(epoch_to=9), good().operations[1])),
    "an operation without a commit": replace(good(), operations=(operation(git_commit=""), good().operations[1])),
    "an operation without phases": replace(good(), operations=(operation(phases_ms={}), good().operations[1])),
    "a step that failed": replace(good(), failures=("waited 60 s for west to take over",)),
    "a check of the scenario": replace(good(), own=(Check("nothing moved", False, "epoch 1 -> 2"),)),
}
INVALID = {
    "no acknowledged write": bad_client(acked=0),
    "too little load": bad_client(rate_before_fault=49.9),
    "no samples of one question": bad_safety(samples=dict.fromkeys(NAMES[:3], 5)),
    "no samples at all": bad_safety(samples={}, blind_ms_max={}),
    "an observer that was blind": bad_safety(blind_ms_max={**dict.fromkeys(NAMES, 1.0), "west/read": 501.0}),
    "an observer that never saw anybody serve": replace(good(), controls=(("east serves", False),)),
    "a guard that nobody tried": replace(good(), stale=StaleCalls(unreachable=4)),
}


@pytest.mark.parametrize("name", FAILING)
def test_it_fails_on(name: str) -> None:
    result, checks = judge(FAILING[name])
    assert result is Result.FAIL
    assert [check.detail for check in checks if not check.ok]


@pytest.mark.parametrize("name", INVALID)
def test_it_is_invalid_with(name: str) -> None:
    result, checks = judge(INVALID[name])
    assert result is Result.INVALID
    assert any(not check.ok for check in checks)


def test_a_run_that_is_both_invalid_and_failed_fails() -> None:
    assert judge(bad_client(acked=0, lost=1))[0] is Result.FAIL


def test_a_gap_over_the_limit_names_the_costliest_phase() -> None:
    _, checks = judge(FAILING["a gap over the limit"])
    assert any("costliest recorded phase is detect of the Failover: 700 ms" in check.detail for check in checks)


def test_a_part_without_a_limit_fails_nothing() -> None:
    window = MeasuredWindow("part 2: local restart", 0, 1, 9_000.0, None, False)
    assert judge(replace(good(), windows=(*good().windows, window)))[0] is Result.PASS


@pytest.mark.parametrize(
    ("evidence", "allowed", "less"),
    [
        (bad_client(lost=2), Allowed(lost_writes=2), Allowed(lost_writes=1)),
        (bad_safety(dual_writable_samples=2), Allowed(dual_writable=2), Allowed(dual_writable=1)),
        (bad_safety(dual_served_samples=2), Allowed(dual_served=2), Allowed(dual_served=1)),
        (replace(good(), expected=()), Allowed(max_moves=2), Allowed(max_moves=1)),
    ],
)
def test_what_is_allowed_passes_and_one_more_fails(evidence: Evidence, allowed: Allowed, less: Allowed) -> None:
    assert judge(replace(evidence, allowed=allowed))[0] is Result.PASS
    assert judge(replace(evidence, allowed=less))[0] is Result.FAIL


@pytest.mark.parametrize(
    ("scenario", "profile", "limit"),
    [
        ("site-loss", "metro", 1_200.0),
        ("site-partition", "regional", 3_000.0),
        ("site-freeze", "wan", 9_000.0),
        ("standby-loss", "metro", 1_200.0),
        ("volume-loss", "metro", 1_200.0),
        ("table-scope", "metro", 1_700.0),
        ("workload-move", "metro", 7_200.0),
        ("db-crash", "regional", 300.0),
        ("switchover", "wan", 200.0),
        ("manager-loss", "metro", 300.0),
    ],
)
def test_limits_are_those_of_the_promise(scenario: str, profile: str, limit: float) -> None:
    assert gap_limit_ms(scenario, profile) == limit


def test_every_scenario_has_a_limit_for_every_profile_and_names_what_must_move() -> None:
    assert len(SCENARIOS) == 11
    for name, scenario in SCENARIOS.items():
        assert all(gap_limit_ms(name, profile) > 0 for profile in ("metro", "regional", "wan"))
        for expectation in scenario.expected("east", "west"):
            assert {expectation.from_site, expectation.to_site} == {"east", "west"}


def run_with(result: Result) -> Run:
    evidence = good()
    return Run("site-loss", "metro", "vcu-db", 0, 0, result, (), evidence.client, evidence.safety, (), (), ())


def test_a_drill_passes_only_when_every_run_did() -> None:
    passed, failed, invalid = (run_with(result) for result in (Result.PASS, Result.FAIL, Result.INVALID))
    assert verdict_of([passed, passed]) is Result.PASS
    assert verdict_of([passed, invalid]) is Result.INVALID
    assert verdict_of([passed, invalid, failed]) is Result.FAIL
    assert verdict_of([]) is Result.INVALID
