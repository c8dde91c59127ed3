"""Decisions into Git and commits out of it, with a real bare repository."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fakes import FakeCluster, Person
from graf_orchestrator.gitloop import STATUS_CONFIG_MAP, GitLoop
from graf_orchestrator.gitrepo import Author, GitRepository
from graf_orchestrator.journal import Decision, Journal
from graf_orchestrator.publish import Publisher
from graf_orchestrator.pull import Puller
from graf_orchestrator.state import State

from graf.core.planning import RecordView

POLICY = "policies/lossless-automatic.yaml"


class Manager:
    """The Git part of a manager, stepped by hand."""

    def __init__(self, work: Path, url: str, cluster: FakeCluster, leads: Any = lambda: True) -> None:
        self.cluster, self.state = cluster, State()
        self.repository = GitRepository(url, "main", work / "repo", Author("GRAF", "manager@graf.dev"))
        self.loop = GitLoop(
            self.repository,
            Publisher(self.repository, leads),
            Puller(self.repository, cluster),
            Journal(work / "journal"),
            cluster,
            self.state,
            1.0,
            {"url": url, "branch": "main"},
        )

    @property
    def status(self) -> dict[str, str]:
        return self.cluster.config_maps.get(STATUS_CONFIG_MAP, {})

    @property
    def committed(self) -> dict[str, str]:
        return self.state.git_view()[0]


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


@pytest.fixture
def manager(tmp_path: Path, person: Person) -> Manager:
    return Manager(tmp_path / "m1", f"file://{person.bare}", FakeCluster())


def decision(number: int, epoch: int, site: str = "west", **fields: Any) -> Decision:
    record = RecordView(
        id=f"{number:014d}-{site}-x",
        group="vcu-db",
        kind="Decision",
        type="Failover",
        epoch=epoch,
        from_site="east",
        to_site=site,
        reasons=("LeaseEnded: silent",),
        **fields,
    )
    fields_of_record = {
        "group": "vcu-db",
        "activeSite": site,
        "epoch": epoch,
        "type": "Failover",
        "record": str(number),
    }
    text = json.dumps(fields_of_record)
    return Decision(record, {"records/vcu-db.yaml": text.encode()}, epoch)


def test_a_valid_commit_is_applied_as_a_whole(manager: Manager, person: Person) -> None:
    head = person.push("Start")
    manager.loop.step()
    assert manager.status["lastApplied"] == head
    assert manager.status["state"] == "Applied"
    folders = ("sites", "driverclasses", "policies", "groups", "operations")
    files = [path for folder in folders for path in (person.tree / folder).glob("*.yaml")]
    assert len(manager.cluster.documents) == len(files) > 5


def test_a_bad_commit_is_refused_as_a_whole_and_the_old_state_stays(manager: Manager, person: Person) -> None:
    good = person.push("Start")
    manager.loop.step()
    policy = (person.tree / POLICY).read_text().replace("rpo: lossless", "onTimeout: ForceWithPossibleDataLoss")
    site = (person.tree / "sites/east.yaml").read_text().replace("East", "Eastern")
    bad = person.push("Bad", **{POLICY: policy, "sites/east.yaml": site})
    manager.loop.step()
    assert manager.status["state"] == "Refused"
    assert (manager.status["lastRefused"], manager.status["lastApplied"]) == (bad, good)
    problem = f"{POLICY}: spec.failover.onTimeout: ForceWithPossibleDataLoss is not yet supported"
    assert problem in manager.status["problems"]
    assert manager.cluster.documents["Site", "east"]["spec"]["displayName"].startswith("East ")


def test_a_commit_that_the_api_server_refuses_is_not_applied_in_part(manager: Manager, person: Person) -> None:
    manager.cluster.refuse = "vcu-db"
    person.push("Start")
    manager.loop.step()
    assert manager.status["state"] == "Refused"
    assert "groups/vcu-db.yaml" in manager.status["problems"]
    assert manager.cluster.documents == {}


def test_a_cluster_that_does_not_answer_is_waited_for(manager: Manager, person: Person) -> None:
    head = person.push("Start")
    manager.cluster.away = True
    manager.loop.step()
    assert manager.cluster.config_maps == {}
    manager.cluster.away = False
    manager.loop.step()
    assert manager.status["lastApplied"] == head


def test_an_older_or_rewritten_history_is_never_applied(manager: Manager, person: Person) -> None:
    person.push("Start")
    manager.loop.step()
    applied = person.push("Newer")
    manager.loop.step()
    person.git("reset", "-q", "--hard", "HEAD~1")
    person.push("Rewritten", force=True)
    manager.loop.step()
    assert manager.status["state"] == "Refused"
    assert manager.status["lastApplied"] == applied
    assert "older, or the history was rewritten" in manager.status["problems"]


def test_a_rewritten_history_is_applied_once_people_accept_it(manager: Manager, person: Person) -> None:
    person.push("Start")
    manager.loop.step()
    person.git("commit", "-q", "--amend", "--allow-empty", "-m", "Rewritten")
    head = person.push("More", force=True)
    manager.loop.step()
    del manager.cluster.config_maps[STATUS_CONFIG_MAP]["lastApplied"]
    manager.loop.step()
    assert manager.status["lastApplied"] == head


def test_what_is_missing_in_git_stays_and_is_told(manager: Manager, person: Person) -> None:
    person.push("Start")
    manager.loop.step()
    (person.tree / "groups/vcu-db.yaml").unlink()
    person.push("Take the group out")
    manager.loop.step()
    assert manager.status["notInGit"] == "RedundancyGroup/vcu-db"
    assert ("RedundancyGroup", "vcu-db") in manager.cluster.documents


def test_a_symbolic_link_refuses_the_commit(manager: Manager, person: Person) -> None:
    (person.tree / "sites" / "link.yaml").symlink_to("/etc/passwd")
    person.push("Link")
    manager.loop.step()
    assert "a symbolic link is not read" in manager.status["problems"]


def test_each_decision_is_one_commit_with_its_trailers(manager: Manager, person: Person) -> None:
    person.push("Start")
    manager.loop.add(decision(1, 4))
    manager.loop.add(decision(2, 5, "east", operation="back"))
    manager.loop.step()
    log = person.log("%s|%an|%(trailers:key=Graf-Epoch,valueonly,separator=%x2C)").splitlines()
    assert log[:2] == [
        "Failover of vcu-db: east (epoch 5)|GRAF|5",
        "Failover of vcu-db: east -> west (epoch 4)|GRAF|4",
    ]
    assert "Graf-Operation: back" in person.log()
    assert "Graf-Reason: LeaseEnded: silent" in person.log()
    assert person.show("records/vcu-db.yaml")["epoch"] == 5
    assert len(manager.committed) == 2
    assert manager.loop.queued == 0


def test_a_decision_is_put_on_top_of_what_somebody_pushed_meanwhile(manager: Manager, person: Person) -> None:
    person.push("Start")
    manager.loop.step()
    head = manager.repository.fetch()
    other = person.push("In between")
    publisher = Publisher(manager.repository, lambda: True)
    tip, made = publisher.publish(head, [decision(1, 4)])
    assert person.log("%H").splitlines()[:2] == [tip, other]
    assert list(made.values()) == [tip]


def test_a_git_outage_queues_decisions_and_catches_up_in_order(
    manager: Manager, person: Person, tmp_path: Path
) -> None:
    person.push("Start")
    manager.loop.step()
    person.bare.rename(tmp_path / "away.git")
    manager.loop.add(decision(2, 5, "east"))
    manager.loop.add(decision(1, 4))
    manager.loop.step()
    assert manager.status["state"] == "Unavailable"
    assert manager.status["queuedDecisions"] == "2"
    assert manager.committed == {}
    again = Manager(tmp_path / "m1", f"file://{person.bare}", manager.cluster)  # restarted meanwhile
    (tmp_path / "away.git").rename(person.bare)
    again.loop.step()
    assert person.log("%s").splitlines()[:2] == [
        "Failover of vcu-db: east (epoch 5)",
        "Failover of vcu-db: east -> west (epoch 4)",
    ]
    assert len(again.committed) == 2
    assert again.status["state"] == "Applied"


def test_a_record_that_is_in_git_is_not_committed_twice(manager: Manager, person: Person, tmp_path: Path) -> None:
    person.push("Start")
    manager.loop.add(decision(1, 4))
    manager.loop.step()
    other = Manager(tmp_path / "m2", f"file://{person.bare}", FakeCluster())
    other.loop.add(decision(1, 4))
    other.loop.step()
    assert person.log().count("Graf-Record: 00000000000001-west-x") == 1
    assert other.committed == manager.committed


def test_the_epoch_decides_which_of_two_decisions_the_files_show(manager: Manager, person: Person) -> None:
    person.push("Start")
    manager.loop.add(decision(1, 7, "west"))
    manager.loop.step()
    manager.loop.add(decision(2, 6, "east"))  # late, from a site that was cut off
    manager.loop.step()
    assert person.show("records/vcu-db.yaml")["activeSite"] == "west"
    assert "Git has epoch 7 by now" in person.log()
    assert "Graf-Epoch: 6" in person.log()


def test_a_manager_that_leads_no_more_pushes_nothing(person: Person, tmp_path: Path) -> None:
    head = person.push("Start")
    paused = Manager(tmp_path / "m3", f"file://{person.bare}", FakeCluster(), leads=lambda: False)
    paused.loop.add(decision(1, 4))
    paused.loop.step()
    assert person.log("%H").splitlines()[0] == head
    assert paused.loop.queued == 1


def test_a_new_manager_learns_from_git_who_is_active(manager: Manager, person: Person, tmp_path: Path) -> None:
    person.push("Start")
    manager.loop.add(decision(1, 4, operation="planned"))
    manager.loop.step()
    new = Manager(tmp_path / "m4", f"file://{person.bare}", FakeCluster())
    new.loop.step()
    _, recorded, operations, ready = new.state.git_view()
    assert (recorded["vcu-db"].active_site, recorded["vcu-db"].epoch) == ("west", 4)
    assert "planned" in operations
    assert ready
