"""The reconcile, with an API server in memory and a clock that the test moves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fakes import FakeCluster
from graf_orchestrator.journal import Decision
from graf_orchestrator.reconcile import Reconciler
from graf_orchestrator.state import State
from graf_orchestrator.world import failback_policy

from graf.api.recorded import Recorded
from graf.core.planning import FailbackPolicy
from graf.crd.policy import Failback, Failover, RedundancyPolicySpec
from graf.shell.proto import manager_pb2 as pb

NAMES = ("east", "west")


class GitStub:
    """Takes decisions, and puts them into Git when the test says so."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def add(self, decision: Decision) -> None:
        if decision.record.id not in [item.record.id for item in self.decisions]:
            self.decisions.append(decision)


class Bench:
    """A reconcile and everything around it."""

    def __init__(self, cluster: FakeCluster | None = None) -> None:
        self.now = 1000.0
        self.state = State(clock=lambda: self.now, wall_clock=lambda: 1_700_000_000.0 + self.now)
        self.cluster = cluster or FakeCluster()
        if cluster is None:
            self.cluster.load_example()
        self.git = GitStub()
        self.sent: list[tuple[str, pb.ManagerMessage]] = []
        self.reconciler = Reconciler(self.state, self.cluster, self.git, self._send, "graf-system")  # type: ignore[arg-type]
        self.state.git_history({}, frozenset())
        self.roles = {"east": "Standby", "west": "Standby"}
        self.promotable = dict.fromkeys(NAMES, True)
        self.components: dict[str, list[pb.ComponentReport]] = {}
        self.epoch, self.number = 0, 0

    def _send(self, site: str, message: pb.ManagerMessage) -> bool:
        self.sent.append((site, message))
        return True

    def connect(self) -> None:
        for index, name in enumerate(NAMES):
            self.state.connected(name, index + 1)

    def round(self, seconds: float = 1.0) -> None:
        """Everybody reports, time goes on, the reconcile runs with what a watch would have told."""
        self.now += seconds
        for name in NAMES:
            if not self.state.links().get(name):
                continue
            active = self.roles[name] == "Active"
            group = pb.GroupReport(
                group="vcu-db",
                role=self.roles[name],
                epoch=self.epoch,
                lease_left_ms=int(self.now) % 700 if active else -1,
                promotable=self.promotable[name] and not active,
                promotable_reason="" if self.promotable[name] else "still resynchronising",
                synchronous_set=NAMES,
                set_epoch=1,
                set_counter=1,
                components=self.components.get(name, []),
            )
            self.state.report(name, pb.SiteReport(groups=[group]))
        for document in list(self.cluster.documents.values()):
            self.state.put_object(document)
        self.reconciler.round()

    def activate(self, site: str, kind: str, source: str = "", **fields: Any) -> str:
        self.number += 1
        self.epoch += 1
        self.roles = {name: "Active" if name == site else "Standby" for name in NAMES}
        record = pb.Record(
            id=f"{self.number:014d}-{site}",
            group="vcu-db",
            kind="Decision",
            type=kind,
            epoch=self.epoch,
            epoch_from=self.epoch - 1,
            from_site=source,
            to_site=site,
            wall_ms=int((1_700_000_000 + self.now) * 1000),
            **fields,
        )
        self.state.put_record(site, record)
        return record.id

    @property
    def status(self) -> dict[str, Any]:
        return self.cluster.status("RedundancyGroup", "vcu-db")

    def condition(self, name: str) -> tuple[str, str]:
        return next((c["status"], c["reason"]) for c in self.status["conditions"] if c["type"] == name)

    def message(self, name: str) -> str:
        return next(str(c["message"]) for c in self.status["conditions"] if c["type"] == name)

    def messages(self, body: str) -> list[tuple[str, Any]]:
        return [(site, getattr(m, body)) for site, m in self.sent if m.WhichOneof("body") == body]

    def operation(self, name: str, target: str = "west", **spec: Any) -> None:
        self.cluster.create(
            {
                "apiVersion": "graf.dev/v1alpha1",
                "kind": "RedundancyOperation",
                "metadata": {"name": name, "namespace": "graf-system"},
                "spec": {"type": "Switchover", "groupRef": {"name": "vcu-db"}, "target": target, **spec},
            }
        )

    def result(self, name: str) -> dict[str, Any]:
        return self.cluster.status("RedundancyOperation", name)


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.round()
    made.connect()
    made.round()
    return made


@pytest.fixture
def active(bench: Bench) -> Bench:
    """East is active in epoch 1, and everything is quiet."""
    bench.activate("east", "Bootstrap")
    bench.round()
    bench.round()
    return bench


def test_each_site_gets_its_whole_content_once(bench: Bench) -> None:
    bench.round()
    sent = bench.messages("assignments")
    assert [site for site, _ in sent] == ["east", "west"]
    assert json.loads(sent[1][1].group_assignments_json[0])["site"] == "west"
    bench.state.connected("west", 9)
    bench.round()
    assert [site for site, _ in bench.messages("assignments")] == ["east", "west", "west"]


def test_a_bootstrap_is_in_the_status_in_git_and_only_then_acknowledged(bench: Bench) -> None:
    record = bench.activate("east", "Bootstrap")
    bench.round()
    assert (bench.status["activeSite"], bench.status["epoch"], bench.status["ready"]) == ("east", 1, "2/2")
    assert bench.condition("Recorded") == ("False", "Queued")
    assert bench.messages("record_ack") == []
    (decision,) = bench.git.decisions
    assert {"clusters/east/vcu-db.yaml", "clusters/west/vcu-db.yaml", "records/vcu-db.yaml"} == set(decision.files)
    bench.state.committed({record: "c0ffee"})
    bench.round()
    assert [(site, ack.id) for site, ack in bench.messages("record_ack")] == [("east", record)]
    assert bench.status["history"][-1]["gitCommit"] == "c0ffee"
    assert bench.status["lastOperation"]["gitCommit"] == "c0ffee"
    assert bench.condition("Recorded") == ("True", "InGit")


def test_a_record_that_is_sent_again_counts_once_and_is_acknowledged_again(active: Bench) -> None:
    record = active.git.decisions[0].record
    active.state.committed({record.id: "c0ffee"})
    active.round()
    active.state.put_record("east", pb.Record(id=record.id, group="vcu-db", kind="Decision", type="Bootstrap", epoch=1))
    active.round()
    assert len(active.status["history"]) == 1
    assert len(active.messages("record_ack")) == 2


def test_a_failover_rewrites_the_failed_sites_assignment_before_it_can_come_back(active: Bench) -> None:
    active.activate("west", "Failover", "east", phases_ms={"detect": 700.0, "campaign": 5.0, "activate": 20.0})
    active.round()
    spec = json.loads([m for site, m in active.messages("assignments") if site == "east"][-1].group_assignments_json[0])
    assert (spec["role"], spec["activeSite"], spec["epoch"]) == ("Invalidated", "west", 2)
    assert b"role: Invalidated" in active.git.decisions[-1].files["clusters/east/vcu-db.yaml"]
    assert active.status["lastOperation"]["rtoMs"] == 725.0
    assert active.status["predictedRto"]["ms"] == 707 + 25


def test_the_predicted_outage_has_what_the_standbys_drivers_tell(active: Bench) -> None:
    name = pb.ComponentReport(name="name", lag_seconds=-1, lag_transactions=-1, predicted_reach_ms=5000)
    active.components = {"east": [pb.ComponentReport(name="name", predicted_reach_ms=90_000)], "west": [name]}
    active.round(10)
    assert active.status["predictedRto"]["ms"] == 707 + 300 + 5000, "the active's own part is of no takeover"
    assert active.status["rto"] == "~6007 ms"
    (west,) = (site for site in active.status["sites"] if site["name"] == "west")
    assert west["components"][0]["predictedReachMs"] == 5000
    assert "predictedActivationMs" not in west["components"][0], "0 is nothing to tell"
    name.predicted_activation_ms = -1
    active.round(10)
    assert active.status["predictedRto"]["atLeast"]
    assert active.status["rto"] == ">6007 ms"


def test_an_old_record_is_kept_and_moves_nothing(active: Bench) -> None:
    active.activate("west", "Failover", "east")
    active.round()
    late = pb.Record(id="00000000000000-east", group="vcu-db", kind="Decision", type="Resume", epoch=1, to_site="east")
    active.state.put_record("east", late)
    active.round()
    assert (active.status["activeSite"], active.status["epoch"]) == ("west", 2)
    assert active.git.decisions[-1].files == {}


def test_a_record_from_a_site_outside_of_the_group_is_refused(active: Bench) -> None:
    active.state.put_record("north", pb.Record(id="x1", group="vcu-db", kind="Decision", type="Failover", epoch=9))
    active.round()
    assert active.status["epoch"] == 1
    assert len(active.git.decisions) == 1


def test_a_refusal_is_told_and_acknowledged_with_the_status(active: Bench) -> None:
    record = pb.Record(
        id="00000000000009-west", group="vcu-db", kind="Refusal", type="Failover", reasons=["NotInSynchronousSet: west"]
    )
    active.state.put_record("west", record)
    active.round()
    assert active.status["history"][-1]["reasons"] == ["NotInSynchronousSet: west"]
    assert [(site, ack.id) for site, ack in active.messages("record_ack")] == [("west", record.id)]
    assert any("NotInSynchronousSet" in event["message"] for event in active.cluster.events)
    assert len(active.git.decisions) == 1


def test_a_silent_site_is_unknown_and_no_longer_ready(active: Bench) -> None:
    active.state.disconnected("west", 2)
    active.now += 10
    active.reconciler.round()
    west = next(site for site in active.status["sites"] if site["name"] == "west")
    assert (west["role"], west["connected"], active.status["ready"]) == ("Unknown", False, "0/2")
    assert active.condition("Protected")[0] == "Unknown"


def _declare_files(bench: Bench, rpo_s: float) -> None:
    document = bench.cluster.documents["RedundancyGroup", "vcu-db"]
    files = {"name": "files", "driverClass": "pv", "stage": "data", "parameters": {"rpoSeconds": rpo_s}}
    spec = {**document["spec"], "components": [*document["spec"]["components"], files]}
    bench.cluster.apply({**document, "spec": spec}, dry_run=False)


def _files(promotable: bool, lag_s: float) -> list[pb.ComponentReport]:
    return [pb.ComponentReport(name="files", role="Standby", promotable=promotable, lag_seconds=lag_s)]


def test_a_standby_that_may_lack_more_than_declared_is_told_until_it_has_caught_up(active: Bench) -> None:
    active.round()
    assert all(condition["type"] != "WithinRpo" for condition in active.status["conditions"])
    _declare_files(active, 10)
    active.round()
    assert active.condition("WithinRpo") == ("Unknown", "NotHeard")
    active.components["west"] = _files(promotable=True, lag_s=0.7)
    active.round()
    assert active.condition("WithinRpo") == ("True", "LosesAtMost")
    active.components["west"] = _files(promotable=False, lag_s=31.0)
    active.round()
    assert active.condition("WithinRpo") == ("False", "MayLoseMore")
    assert "files at west (declared 10 s)" in active.message("WithinRpo")
    assert active.condition("Protected")[0] == "False"
    assert "files" in active.message("Protected")
    active.components["west"] = _files(promotable=True, lag_s=0.7)
    active.round()
    assert active.condition("WithinRpo")[0] == "True"


def test_a_lag_that_grows_is_no_reason_to_write_a_status(active: Bench) -> None:
    _declare_files(active, 10)
    active.components["west"] = _files(promotable=False, lag_s=11.0)
    active.round()
    before = active.cluster.status_writes
    for number in range(40):
        active.components["west"] = _files(promotable=False, lag_s=12.0 + number)
        active.round(0.25)
    assert active.cluster.status_writes - before <= 8


def test_a_quiet_group_is_written_rarely(active: Bench) -> None:
    before = active.cluster.status_writes
    for _ in range(40):
        active.round(0.25)
    assert active.cluster.status_writes - before <= 8


def test_a_switchover_is_commanded_at_the_active_site_and_ended_by_its_record(active: Bench) -> None:
    active.operation("there")
    active.round()
    ((site, command),) = active.messages("command")
    assert (site, command.operation, command.target) == ("east", "there", "west")
    assert active.result("there")["state"] == "Running"
    active.state.put_update(
        "east", pb.OperationUpdate(operation="there", group="vcu-db", state="Running", step="Drain")
    )
    record = active.activate("west", "Switchover", "east", operation="there", phases_ms={"activate": 40.0})
    active.state.committed({record: "c0ffee"})
    active.round()
    active.round()
    result = active.result("there")
    assert (result["state"], result["rtoMs"], result["epochTo"], result["gitCommit"]) == (
        "Succeeded",
        40.0,
        2,
        "c0ffee",
    )
    assert result["steps"][0]["name"] == "Drain"


def test_one_operation_at_a_time(active: Bench) -> None:
    active.operation("first")
    active.operation("second")
    active.round()
    assert len(active.messages("command")) == 1
    assert active.result("second")["state"] == "Pending"
    assert "first" in active.result("second")["message"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"target": "north"}, "north is not a site of vcu-db"),
        ({"type": "Drill"}, "Drill is not yet supported"),
        ({"groupRef": {"name": "other"}}, "no RedundancyGroup other"),
        ({"notAfter": "2020-01-01T00:00:00Z"}, "had not begun by"),
    ],
)
def test_an_operation_that_cannot_be_is_refused_with_its_reason(active: Bench, spec: dict[str, Any], says: str) -> None:
    active.operation("bad", **spec)
    active.round()
    active.now += 11
    active.round()
    assert active.result("bad")["state"] == "Refused"
    assert says in active.result("bad")["message"]
    assert active.messages("command") == []


def test_an_operation_of_an_earlier_manager_is_ended_by_the_epoch(active: Bench) -> None:
    active.operation("there")
    active.round()
    active.activate("west", "Switchover", "east")  # its record says nothing about the operation
    successor = Bench(active.cluster)
    successor.connect()
    successor.roles, successor.epoch = active.roles, active.epoch
    successor.state.git_history({"vcu-db": Recorded("west", 2)}, frozenset())
    for _ in range(5):
        successor.round()
    assert successor.result("there")["state"] == "Succeeded"
    assert successor.messages("command") == []


def test_an_operation_that_is_in_git_already_is_not_done_again(active: Bench) -> None:
    active.state.git_history({}, frozenset({"there"}))
    active.operation("there")
    active.round()
    assert active.result("there")["state"] == "Succeeded"
    assert active.messages("command") == []


def test_the_manager_goes_back_after_the_window_and_only_once(active: Bench) -> None:
    active.activate("west", "Failover", "east")
    active.roles["east"] = "Invalidated"
    active.round()
    assert active.condition("FailbackPending") == ("True", "PreferredSiteNotReady")
    active.roles["east"] = "Standby"
    for _ in range(4):
        active.round()
    assert active.condition("FailbackPending") == ("True", "StabilisationWindow")
    assert active.messages("command") == []
    for _ in range(4):
        active.round()
    ((site, command),) = active.messages("command")
    assert (site, command.type, command.target) == ("west", "Failback", "east")
    assert command.operation == "failback-vcu-db-e2-1"


def test_an_invalid_group_keeps_its_last_valid_assignments(active: Bench) -> None:
    document = dict(active.cluster.documents["RedundancyGroup", "vcu-db"])
    spec = {**document["spec"], "policyRef": {"name": "nothing"}}
    active.cluster.apply({**document, "spec": spec}, dry_run=False)
    sent = len(active.messages("assignments"))
    active.round()
    assert active.condition("Accepted") == ("False", "Invalid")
    assert len(active.messages("assignments")) == sent
    active.state.connected("west", 7)
    active.round()
    assert len(active.messages("assignments")) == sent + 1


def test_an_api_server_that_is_away_delays_the_status_and_nothing_else(active: Bench) -> None:
    active.cluster.away = True
    record = active.activate("west", "Failover", "east")
    active.round()
    assert active.git.decisions[-1].record.id == record
    assert active.messages("assignments")[-1][1].revision
    active.state.committed({record: "c0ffee"})
    active.round()
    assert [ack.id for _, ack in active.messages("record_ack")] == [record]
    assert active.status["epoch"] == 1
    active.cluster.away = False
    for _ in range(4):
        active.round()
    assert active.status["epoch"] == 2


def test_a_change_of_voters_raises_the_epoch_and_is_no_operation(active: Bench) -> None:
    before = active.status["lastOperation"]
    active.activate("east", "VoterChange", "east", phases_ms={"campaign": 12.0, "activate": 3.0})
    active.state.put_record(
        "east",
        pb.Record(
            id="00000000000099-east",
            group="vcu-db",
            kind="Decision",
            type="VotersSettled",
            epoch=2,
            from_site="east",
            to_site="east",
        ),
    )
    active.round()
    active.round()
    assert (active.status["activeSite"], active.status["epoch"]) == ("east", 2)
    assert active.status["lastOperation"] == before, "clients were served all the time"
    kinds = [decision.record.type for decision in active.git.decisions]
    assert kinds[-2:] == ["VoterChange", "VotersSettled"], "each is a commit"
    assert all(decision.file_epoch == 2 for decision in active.git.decisions[-2:])
    assert {entry["type"] for entry in active.status["history"]} >= {"VoterChange", "VotersSettled"}


def test_the_failback_is_planned_with_the_times_of_the_policy() -> None:
    spec = RedundancyPolicySpec(
        failback=Failback(mode="Automatic", stabilisation_window_seconds=20), failover=Failover(cooldown_seconds=70)
    )
    assert failback_policy(spec) == FailbackPolicy("Automatic", 20, 70)
