"""What the manager tells of a driver class from the sites' reports, and which site an upgrade waits for."""

from __future__ import annotations

from typing import Any

from graf_orchestrator.drivers import driver_class_status, waits_for
from graf_orchestrator.memory import GroupMemory
from graf_orchestrator.state import SiteLink

from graf.api.recorded import Recorded
from graf.crd.assignment import GroupAssignment
from graf.crd.driverclass import DriverClass
from graf.shell.proto import manager_pb2 as pb


def link(heard_s: float = 100.0, **report: Any) -> SiteLink:
    fields = {"driver_class": "db", "ready": True, "revision": "r", "wanted_revision": "r", "generation": 2, **report}
    return SiteLink(connected=True, heard_s=heard_s, report=pb.SiteReport(drivers=[pb.DriverReport(**fields)]))


def test_ready_counts_the_sites_and_names_the_first_reason() -> None:
    west = link(ready=False, reason="ImageMissing", message="no such image")
    status, condition = driver_class_status("db", 2, {"east": link(), "west": west}, 100.0)
    assert (status["ready"], status["reason"]) == ("1/2", "west: ImageMissing")
    assert (condition.status, condition.reason) == ("False", "ImageMissing")
    assert "no such image" in condition.message


def test_a_site_that_is_silent_or_has_an_older_class_is_not_ready() -> None:
    links = {"east": link(heard_s=0.0), "west": link(generation=1)}
    status, condition = driver_class_status("db", 2, links, 100.0)
    assert [item["reason"] for item in status["sites"]] == ["SiteSilent", "NotTaken"]
    assert condition.status == "False"
    assert driver_class_status("db", 2, {"east": link(heard_s=0.0)}, 100.0)[1].status == "Unknown"
    assert driver_class_status("db", 2, {}, 100.0)[1].status == "Unknown"


def test_a_class_whose_selector_selects_no_site_says_so() -> None:
    status, condition = driver_class_status("db", 2, {}, 100.0, ("west", "east"))
    assert (status["reason"], condition.status, condition.reason) == ("SelectsNoSite", "False", "SelectsNoSite")
    assert "none of the sites east, west; correct matchLabels" in condition.message
    status, condition = driver_class_status("db", 2, {"east": link()}, 100.0, ("east",))
    assert condition.reason == "EverySite", "what a site still has is told as long as it has it"


def memory(active: str, *sites: str) -> GroupMemory:
    """A group whose component at each of these sites is of the class."""
    component: Any = type("C", (), {"driver_class": "db"})
    compiled: Any = type("A", (), {"spec": type("S", (), {"components": [component]})})
    at_sites: dict[str, GroupAssignment] = dict.fromkeys(sites, compiled)
    return GroupMemory(Recorded(active, 1, {}), {}, at_sites)


def automatic(upgrade: str = "Automatic") -> DriverClass:
    return DriverClass.model_validate(
        {"metadata": {"name": "db", "generation": 2}, "spec": {"driver": "d", "template": {}, "upgrade": upgrade}}
    )


def wait(upgrade: str, site: str, west: SiteLink | None) -> str:
    groups = {"vcu-db": memory("east", "east", "west")}
    return waits_for(automatic(upgrade), site, groups, {} if west is None else {"west": west})


def test_an_automatic_upgrade_reaches_the_active_site_after_the_standby() -> None:
    assert wait("Automatic", "east", None) == "west"
    assert wait("Automatic", "east", link(generation=1)) == "west"
    assert wait("Automatic", "east", link(revision="older")) == "west"
    assert wait("Automatic", "east", link(ready=False)) == "west"
    assert wait("Automatic", "east", link()) == ""
    assert wait("Automatic", "west", None) == "", "a standby waits for nobody"
    assert wait("OnStandby", "east", None) == ""


def test_sites_that_are_active_for_different_groups_do_not_wait_for_each_other() -> None:
    groups = {"vcu-db": memory("east", "east", "west"), "ims-db": memory("west", "west", "east")}
    old = {"east": link(revision="older"), "west": link(revision="older")}
    assert waits_for(automatic(), "east", groups, old) == "", "its name comes first"
    assert waits_for(automatic(), "west", groups, old) == "east"
    assert waits_for(automatic(), "west", groups, {**old, "east": link()}) == ""


def test_a_ring_of_active_sites_has_one_that_begins_and_a_mere_standby_goes_before_all() -> None:
    ring = {
        "a": memory("east", "east", "north"),
        "b": memory("north", "north", "west"),
        "c": memory("west", "west", "east", "spare"),
    }
    old = {site: link(revision="older") for site in ("east", "north", "west", "spare")}
    assert {site: waits_for(automatic(), site, ring, old) for site in old} == {
        "east": "",
        "north": "",
        "west": "east, spare",
        "spare": "",
    }


def test_a_site_lets_those_that_are_active_for_other_groups_go_first_where_they_do_not_wait_for_it() -> None:
    groups = {"a": memory("east", "east", "west"), "b": memory("west", "west", "north")}
    links = {site: link(revision="older") for site in ("east", "north", "west")}
    order = []
    while len(order) < len(links):
        free = [site for site in links if site not in order and not waits_for(automatic(), site, groups, links)]
        assert len(free) == 1
        order += free
        links[free[0]] = link()
    assert order == ["north", "west", "east"]
