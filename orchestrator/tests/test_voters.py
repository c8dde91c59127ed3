"""Which voters decide about a group, as people see it: in force, wanted, what it waits for, who abstains."""

from __future__ import annotations

from typing import Any

import yaml
from fakes import example
from graf_orchestrator.state import SiteLink
from graf_orchestrator.voters import voters_status

from graf.api.recorded import Recorded
from graf.crd.group import RedundancyGroup, VotersStatus
from graf.shell.proto import manager_pb2 as pb

NOW = 1000.0
FIRST = pb.VoterList(version=1, members=["east", "west", "witness"])
SECOND = pb.VoterList(version=2, members=["east", "w2", "west"])


def group(version: int = 1) -> RedundancyGroup:
    document = yaml.safe_load(example()["groups/vcu-db.yaml"])
    document["spec"]["voters"]["version"] = version
    return RedundancyGroup.model_validate(document)


def link(connected: bool = True, **report: Any) -> SiteLink:
    report = {"group": "vcu-db", "role": "Standby", "epoch": 3, "lease_left_ms": -1, "voters": FIRST, **report}
    return SiteLink(connected=connected, report=pb.SiteReport(groups=[pb.GroupReport(**report)]), heard_s=NOW)


def holder(**report: Any) -> SiteLink:
    states = [pb.VoterState(name=name, state="Supports") for name in ("east", "west", "witness")]
    return link(**{"role": "Active", "lease_left_ms": 600, "voter_states": states, **report})


def status(version: int = 1, old: dict[str, Any] | None = None, **links: SiteLink) -> dict[str, Any]:
    result = voters_status(group(version), Recorded("east", 3, {}), links, old or {}, NOW)
    VotersStatus.model_validate(result)
    return result


def test_the_declared_list_in_force_needs_no_words() -> None:
    found = status(east=holder(), west=link())
    assert (found["state"], found["message"]) == ("InForce", "")
    assert found["inForce"] == {"version": 1, "members": ["east", "west", "witness"], "readmitted": []}
    assert {item["state"] for item in found["voters"]} == {"Supports"}


def test_a_change_under_way_shows_both_lists() -> None:
    found = status(2, east=holder(proposed_voters=SECOND, reasons=["Serving: epoch 4"]), west=link())
    assert (found["state"], found["proposed"]["version"]) == ("Changing", 2)
    assert found["message"] == "majorities of v1 and v2 are needed until it is settled"


def test_a_list_that_waits_says_for_what_and_what_to_do() -> None:
    reason = "VoterChangeWaits: v1 {east} -> v2 {w2} needs majorities of both lists and every new voter; not heard: w2"
    found = status(2, east=holder(reasons=[reason]))
    assert found["state"] == "Waiting"
    assert reason in found["message"]
    assert "start these voters, or declare a list without them as version 3" in found["message"]
    found = status(2, east=holder(reasons=["ActiveNotOnNewList: east is active and not in v2"]))
    assert "graf switchover vcu-db --to SITE" in found["message"]


def test_a_list_that_no_active_site_has_begun_says_so() -> None:
    assert status(2, east=holder(reasons=["Serving: epoch 3"]))["message"] == "v2 waits for the active site to begin"
    found = status(2, east=link(), west=link())
    assert found["message"] == "v2 waits: the active site changes the list, and none holds the lease now"


def test_a_voter_that_lost_its_record_is_named_with_the_way_to_admit_it() -> None:
    states = [pb.VoterState(name="east", state="Supports"), pb.VoterState(name="witness", state="NoRecord")]
    found = status(east=holder(voter_states=states))
    assert found["state"] == "InForce"
    assert "witness abstains" in found["message"]
    assert "as version 2 with readmit: [witness]" in found["message"]


def test_a_new_voter_that_has_no_record_yet_is_not_called_lost() -> None:
    states = [pb.VoterState(name="w2", state="NoRecord")]
    found = status(2, east=holder(proposed_voters=SECOND, voter_states=states))
    assert "abstains" not in found["message"]
    again = pb.VoterList(version=2, members=FIRST.members, readmitted=["witness"])
    states = [pb.VoterState(name="witness", state="NoRecord")]
    assert "abstains" not in status(2, east=holder(proposed_voters=again, voter_states=states))["message"]


def test_without_the_holder_the_newest_list_on_a_sites_disk_is_shown() -> None:
    found = status(2, east=link(voters=FIRST), west=link(voters=SECOND, epoch=4))
    assert (found["state"], found["inForce"]["version"]) == ("InForce", 2)


def test_without_any_report_the_last_known_list_stays_and_is_called_unknown() -> None:
    before = status(east=holder())
    found = status(2, before, east=link(connected=False))
    assert (found["state"], found["inForce"]) == ("Unknown", before["inForce"])
    assert found["declaredVersion"] == 2
