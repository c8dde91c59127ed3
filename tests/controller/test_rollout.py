"""When a changed class replaces a running driver: every rule by itself."""

from __future__ import annotations

import pytest
from graf_driver_sdk.v1 import driver_pb2

from graf.controller.driver_reports import ClassState, driver_report
from graf.controller.pods import PodFacts, facts_of
from graf.controller.rollout import Deployed, Step, Use, Wish, outdated, plan
from graf.crd.driverclass import DriverClass

RUNS = Deployed("old", PodFacts("old", True, "", ""))
BROKEN = Deployed("old", PodFacts("old", False, "CrashLoop", "it ended"))


def step(wish: Wish, now: Deployed | None, use: Use, refused: str = "") -> tuple[Step, str]:
    planned = plan(
        {"db": wish},
        {} if now is None else {"db": now},
        {"db": (use, "vcu-db/db")},
        {"db": "old"},
        {"db": (refused, "why")} if refused else {},
    )["db"]
    return planned.step, planned.reason


@pytest.mark.parametrize(
    ("upgrade", "waits_for", "use", "expected"),
    [
        ("OnStandby", "", Use.STANDBY, (Step.APPLY, "")),
        ("OnStandby", "", Use.ACTIVE, (Step.HOLD, "UpgradeHeld")),
        ("OnStandby", "", Use.UNSETTLED, (Step.HOLD, "UpgradeHeld")),
        ("Automatic", "", Use.UNSETTLED, (Step.HOLD, "UpgradeHeld")),
        ("Automatic", "west", Use.ACTIVE, (Step.HOLD, "UpgradeWaits")),
        ("Automatic", "", Use.ACTIVE, (Step.APPLY, "")),
        ("Manual", "", Use.STANDBY, (Step.HOLD, "UpgradeNeedsApproval")),
        ("Manual", "", Use.NOTHING, (Step.APPLY, "")),
    ],
)
def test_an_upgrade_waits_for_whom_it_would_interrupt(
    upgrade: str, waits_for: str, use: Use, expected: tuple[Step, str]
) -> None:
    assert step(Wish("new", upgrade, waits_for), RUNS, use) == expected  # type: ignore[arg-type]


def test_what_is_not_there_is_made_and_what_is_broken_is_repaired_whatever_it_serves() -> None:
    for use in Use:
        assert step(Wish("new", "Manual"), None, use) == (Step.APPLY, "")
        assert step(Wish("new", "Manual"), BROKEN, use) == (Step.APPLY, "")


def test_what_was_ready_last_comes_back_where_a_new_one_would_forget_the_epochs() -> None:
    moved = Wish("new", leaves_epochs="/var/lib/graf/driver-state/db (it would look in /srv)")
    for use in Use:
        assert step(moved, None, use) == (Step.RESTORE, "EpochsLeft")
    assert plan({"db": moved}, {}, {}, {}, {})["db"].step is Step.APPLY, "nothing was ever ready here"


def test_a_refused_pod_is_hopeless_only_after_a_while_and_never_a_reason_to_change_what_is_active() -> None:
    refused = PodFacts("old", False, "PodRefused", "exceeded quota")
    for_a_moment, for_long = Deployed("old", refused, refused_s=59.9), Deployed("old", refused, refused_s=60.0)
    for use in (Use.STANDBY, Use.UNSETTLED):
        assert step(Wish("new", "Manual"), for_a_moment, use) == (Step.HOLD, "UpgradeNeedsApproval")
        assert step(Wish("new", "Manual"), for_long, use) == (Step.APPLY, "")
    assert step(Wish("new", "Manual"), for_long, Use.ACTIVE) == (Step.HOLD, "UpgradeNeedsApproval")
    assert step(Wish("new"), for_long, Use.ACTIVE) == (Step.HOLD, "UpgradeHeld")


def test_a_revision_that_was_taken_back_is_tried_again_only_when_somebody_approves_it() -> None:
    assert step(Wish("new"), RUNS, Use.STANDBY, refused="new") == (Step.HOLD, "RolledBack")
    approved = Deployed("old", RUNS.pod, approved="new")
    assert step(Wish("new"), approved, Use.STANDBY, refused="new") == (Step.APPLY, "")


def test_a_revision_that_was_good_is_not_taken_back_because_it_crashes_later() -> None:
    assert step(Wish("old"), BROKEN, Use.STANDBY) == (Step.KEEP, "")


def test_nothing_is_removed_without_a_complete_list() -> None:
    assert outdated({"a", "b"}, set(), set(), None) == []
    assert outdated({"a", "b"}, {"b"}, set(), {"b"}) == ["a"]
    assert outdated({"a"}, set(), {"a"}, {"b"}) == []


def test_one_crash_is_no_reason_to_take_a_revision_back() -> None:
    ended = {"exitCode": 1, "reason": "Error", "message": "address in use"}
    container = {"name": "driver", "image": "x", "restartCount": 0, "state": {"terminated": ended}}
    pod = {"metadata": {}, "status": {"containerStatuses": [container]}}
    assert facts_of(pod).reason == "Restarting"
    container["restartCount"] = 2
    assert facts_of(pod).reason == "CrashLoop"


def told(**info: object) -> str:
    driver_class = DriverClass.model_validate(
        {
            "metadata": {"name": "demo"},
            "spec": {"driver": "demo.graf.dev", "template": {}, "requiredCapabilities": ["POSITION"]},
        }
    )
    known = {"name": "demo.graf.dev", "contract_versions": ["v1"], "capabilities": [driver_pb2.CAPABILITY_POSITION]}
    fields = {**known, **info}
    answer = driver_pb2.GetInfoResponse(**fields)  # type: ignore[arg-type]
    report = driver_report(driver_class, ClassState(deployed=True, running=True), answer, True, "")
    assert report.ready == (report.reason == "")
    return str(report.reason)


def test_a_driver_that_is_not_what_its_class_asks_for_is_not_ready() -> None:
    assert told() == ""
    assert told(name="other.graf.dev") == "WrongDriver"
    assert told(capabilities=[]) == "MissingCapability"
    assert told(contract_versions=["v7"]) == "ContractVersion"
    assert told(contract_versions=["v1", "v7"]) == ""
