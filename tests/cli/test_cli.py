"""The command line as an operator meets it, against an API of plain values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from graf.cli import connect, main
from graf.cli.errors import CliError
from graf.crd.driverclass import DriverClass
from graf.crd.group import RedundancyGroup
from graf.crd.operation import RedundancyOperation
from graf.crd.site import Site
from graf.ports.group_api import ApiError, ApiFault

EXAMPLE = Path(__file__).parents[2] / "gitops" / "example" / "groups" / "vcu-db.yaml"
STATUS: dict[str, Any] = {
    "activeSite": "east",
    "epoch": 7,
    "synchronousSet": {"epoch": 7, "counter": 1, "members": ["east", "west"]},
    "predictedRto": {"ms": 900, "basis": "lease 700 ms, last activation 200 ms"},
    "sites": [
        {"name": "east", "role": "Active", "connected": True, "epoch": 7, "leaseLeftMs": 640},
        {
            "name": "west",
            "role": "Standby",
            "connected": True,
            "epoch": 7,
            "promotable": True,
            "lagTransactions": 0,
            "observedAt": "2026-01-01T00:00:00Z",
        },
    ],
    "lastOperation": {
        "type": "Failover",
        "fromSite": "west",
        "toSite": "east",
        "epochFrom": 6,
        "epochTo": 7,
        "result": "Succeeded",
        "rtoMs": 830.4,
        "rpoWrites": 0,
        "gitCommit": "0123456789abcdef",
    },
    "history": [
        {
            "id": "r1",
            "type": "Failover",
            "fromSite": "west",
            "toSite": "east",
            "epoch": 7,
            "epochFrom": 6,
            "site": "east",
            "reasons": ["HolderSilent: the lease of west has ended"],
            "message": "took over",
            "at": "2026-01-01T00:00:00Z",
            "gitCommit": "0123456789abcdef",
        }
    ],
}


def group(**changes: Any) -> RedundancyGroup:
    base = yaml.safe_load(EXAMPLE.read_text())
    return RedundancyGroup.model_validate({**base, "status": {**STATUS, **changes}})


class FakeApi:
    """The port, from values. Each read of an operation takes its next state."""

    def __init__(self, found: RedundancyGroup | None = None) -> None:
        self.found = found or group()
        self.states: list[dict[str, Any]] = []
        self.classes: list[DriverClass] = []
        self.places: list[Site] = []
        self.asked: list[RedundancyOperation] = []
        self.git = {"state": "Applied", "lastApplied": "feedbeef00112233", "queuedDecisions": "0"}
        self.problem: ApiError | None = None

    def _check(self) -> None:
        if self.problem is not None:
            raise self.problem

    def groups(self) -> list[RedundancyGroup]:
        self._check()
        return [self.found] if self.found.name else []

    def group(self, name: str) -> RedundancyGroup:
        self._check()
        if name != self.found.name:
            raise ApiError(ApiFault.NOT_FOUND, f"RedundancyGroup {name} does not exist.", "`graf status` lists them.")
        return self.found

    def driver_classes(self) -> list[DriverClass]:
        self._check()
        return self.classes

    def sites(self) -> list[Site]:
        return self.places

    def gitops_status(self) -> dict[str, str]:
        return self.git

    def create_operation(self, operation: RedundancyOperation) -> None:
        self.asked.append(operation)

    def operation(self, name: str) -> RedundancyOperation:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return self.asked[0].model_copy(
            update={"status": RedundancyOperation.model_validate({**self.asked[0].to_dict(), "status": state}).status}
        )


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeApi:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("graf.shell.planned_move.POLL_S", 0.0)
    fake = FakeApi()
    monkeypatch.setattr(connect, "api_maker", lambda _: fake)
    return fake


def driver_class(name: str, conditions: Any = (), **sites: dict[str, Any]) -> DriverClass:
    """The example's class, with what the sites tell of it."""
    base = yaml.safe_load((EXAMPLE.parents[1] / "driverclasses" / f"{name}.yaml").read_text())
    told = [{"site": site, **entry} for site, entry in sites.items()]
    return DriverClass.model_validate({**base, "status": {"sites": told, "conditions": list(conditions)}})


def place(name: str, *drivers: dict[str, Any]) -> Site:
    base = yaml.safe_load((EXAMPLE.parents[1] / "sites" / f"{name}.yaml").read_text())
    return Site.model_validate({**base, "status": {"drivers": list(drivers)}})


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Any:
    def graf(*argv: str) -> tuple[int, str, str]:
        code = main.run(list(argv))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return graf


def test_status_answers_who_is_active_and_whether_the_standby_can_take_over(api: FakeApi, terminal: Any) -> None:
    code, out, _ = terminal("status")
    assert code == 0
    for words in ("active east", "epoch 7", "640 ms", "0 transactions", "take over now?", "yes, west", "900 ms"):
        assert words in out, words
    assert "nothing: every acknowledged write is there" in out
    assert "Failover west -> east, epoch 6 -> 7" in out
    assert "feedbeef" in out
    assert "witness (witness)" in out


def test_status_says_when_the_predicted_outage_is_only_a_lower_bound(api: FakeApi, terminal: Any) -> None:
    api.found = group(predictedRto={"ms": 900, "basis": "lease 700 ms; db at west cannot tell", "atLeast": True})
    _, out, _ = terminal("status")
    assert "outage at least 900 ms" in out
    api.found = group()
    assert "outage about 900 ms" in terminal("status")[1]


def test_status_says_why_the_standby_cannot_take_over(api: FakeApi, terminal: Any) -> None:
    sites = [STATUS["sites"][0], {**STATUS["sites"][1], "promotable": False, "promotableReason": "a gap in its log"}]
    api.found = group(sites=sites, synchronousSet={"members": ["east"]})
    code, out, _ = terminal("status", "vcu-db")
    assert code == 0
    assert "no (west: a gap in its log)" in out
    assert "the group holds" in out


@pytest.mark.parametrize(
    ("lag", "words"),
    [
        ({"lagSeconds": 0.7, "promotable": True}, "up to 0.7 s of changes at west when reported; 10 s may be lost"),
        (
            {"lagSeconds": 31.0, "promotable": False, "promotableReason": "the link is down"},
            "up to 31.0 s of changes at west when reported; 10 s may be lost: the link is down",
        ),
        ({}, "unknown at west when reported; 10 s may be lost"),
    ],
)
def test_status_says_what_the_standby_would_lose_of_a_volume(
    api: FakeApi, terminal: Any, lag: dict[str, Any], words: str
) -> None:
    files = {"name": "files", "role": "Standby", **lag}
    found = group(sites=[STATUS["sites"][0], {**STATUS["sites"][1], "components": [files]}]).to_dict()
    component = {"name": "files", "driverClass": "pv", "stage": "data", "parameters": {"rpoSeconds": 10}}
    found["spec"]["components"].append(component)
    api.found = RedundancyGroup.model_validate(found)
    code, out, _ = terminal("status", "vcu-db")
    assert code == 0
    assert words in " ".join(out.split())


def test_status_shows_a_refused_commit_with_its_problems(api: FakeApi, terminal: Any) -> None:
    api.git = {
        "state": "Refused",
        "lastApplied": "feedbeef",
        "lastRefused": "badc0de",
        "problems": "groups/x.yaml: spec.voters: two voters; declare three",
    }
    _, out, _ = terminal("status")
    assert "Refused, last applied commit feedbeef" in out
    assert "badc0de" in out
    assert "groups/x.yaml: spec.voters: two voters; declare three" in out


def test_status_as_data_has_the_same_answers(api: FakeApi, terminal: Any) -> None:
    code, out, _ = terminal("status", "--json")
    data = json.loads(out)
    assert code == 0
    assert data[0]["status"]["activeSite"] == "east"
    assert data[0]["canTakeOver"] == ["west"]


def test_a_group_without_a_status_is_said(api: FakeApi, terminal: Any) -> None:
    api.found = RedundancyGroup.model_validate(yaml.safe_load(EXAMPLE.read_text()))
    code, out, _ = terminal("status")
    assert code == 0
    assert "the manager has not seen it" in out


def test_an_unreachable_management_cluster_is_explained_without_a_traceback(api: FakeApi, terminal: Any) -> None:
    api.problem = ApiError(ApiFault.UNREACHABLE, "The API server does not answer.", "Look with `graf lab status`.")
    code, out, err = terminal("status")
    assert code == 1
    assert out == ""
    assert "error The API server does not answer." in err
    assert "next  Look with `graf lab status`." in err
    assert "Traceback" not in err


def test_an_error_that_nobody_expected_is_one_line_too(
    api: FakeApi, terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "groups", lambda: 1 / 0)
    code, _, err = terminal("status")
    assert code == 1
    assert "unexpected ZeroDivisionError" in err
    assert "Traceback" not in err


def test_events_show_decision_reasons_and_commit(api: FakeApi, terminal: Any) -> None:
    code, out, _ = terminal("events", "vcu-db")
    assert code == 0
    for words in ("Failover", "west -> east", "HolderSilent", "0123456789", "took over"):
        assert words in out, words


@pytest.mark.parametrize("columns", ["80", "200", None])
def test_reasons_are_readable_on_a_narrow_terminal_and_in_a_file(
    api: FakeApi, terminal: Any, monkeypatch: pytest.MonkeyPatch, columns: str | None
) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS")
    else:
        monkeypatch.setenv("COLUMNS", columns)
    _, out, _ = terminal("events", "vcu-db")
    assert "HolderSilent: the lease of west has ended; took over" in out


def test_only_a_decision_waits_for_its_commit(api: FakeApi, terminal: Any) -> None:
    first = STATUS["history"][0]
    for kind, shown in (("Decision", True), ("Refusal", False), ("Event", False)):
        api.found = group(history=[{**first, "kind": kind, "gitCommit": ""}])
        assert ("queued" in terminal("events", "vcu-db")[1]) is shown


def test_events_of_an_unknown_group_name_the_way_on(api: FakeApi, terminal: Any) -> None:
    code, _, err = terminal("events", "nothing")
    assert code == 1
    assert "nothing does not exist" in err


def test_a_switchover_is_asked_for_followed_and_measured(api: FakeApi, terminal: Any) -> None:
    step = {"name": "drain traffic", "state": "Succeeded", "message": "gate shut"}
    done = {"fromSite": "east", "toSite": "west", "epochFrom": 7, "epochTo": 8, "rtoMs": 140.0, "rpoWrites": 0}
    api.states = [{"state": "Pending"}, {"state": "Running", "steps": [step]}, {"state": "Succeeded", **done}]
    code, out, _ = terminal("switchover", "vcu-db", "--to", "west", "--reason", "maintenance")
    assert code == 0
    spec = api.asked[0].spec
    assert (spec.type, spec.group_ref.name, spec.target, spec.reason) == ("Switchover", "vcu-db", "west", "maintenance")
    assert spec.not_after is not None
    assert "drain traffic" in out
    assert "measured outage 140 ms, 0 acknowledged writes lost" in out


def test_a_switchover_without_waiting_says_how_to_follow_it(api: FakeApi, terminal: Any) -> None:
    code, out, _ = terminal("switchover", "vcu-db", "--to", "west", "--no-wait")
    assert code == 0
    assert f"redundancyoperation {api.asked[0].name}" in out.replace("\n", " ")


def test_a_refused_switchover_prints_its_reasons_and_fails(api: FakeApi, terminal: Any) -> None:
    api.states = [{"state": "Refused", "message": "NotStandby: west is Invalidated", "evidence": ["PeerUnreachable"]}]
    code, _, err = terminal("switchover", "vcu-db", "--to", "west")
    assert code == 3
    assert "NotStandby: west is Invalidated" in err
    assert "PeerUnreachable" in err


@pytest.mark.parametrize(("target", "words"), [("north", "not a site"), ("east", "active at east already")])
def test_a_switchover_that_cannot_be_meant_is_not_asked_for(
    api: FakeApi, terminal: Any, target: str, words: str
) -> None:
    code, _, err = terminal("switchover", "vcu-db", "--to", target)
    assert code == 1
    assert words in err
    assert api.asked == []


def test_without_a_lab_it_says_how_to_start_one(terminal: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("GRAF_LAB_DIR", str(tmp_path))
    code, _, err = terminal("status")
    assert code == 1
    assert "graf lab up" in err


def test_the_default_lab_is_found_by_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("GRAF_LAB_DIR", str(tmp_path))
    place = tmp_path / "lab" / "mgmt" / "admin.kubeconfig"
    place.parent.mkdir(parents=True)
    place.touch()
    assert connect.find_kubeconfig(None) == place


def test_another_lab_is_meant_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAF_LAB_DIR", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path))
    with pytest.raises(CliError, match="no lab 'other'") as refusal:
        connect.find_kubeconfig(None, "other")
    assert "--name other" in refusal.value.next_step
    place = tmp_path / "other" / "mgmt" / "admin.kubeconfig"
    place.parent.mkdir(parents=True)
    place.touch()
    assert connect.find_kubeconfig(None, "other") == place


def test_a_kubeconfig_variable_that_names_nothing_is_said(
    terminal: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    code, _, err = terminal("status")
    assert code == 1
    assert "KUBECONFIG names no existing file" in err.replace("\n", " ")


def test_the_version_is_printed_without_loading_a_cluster_client(terminal: Any) -> None:
    code, out, _ = terminal("--version")
    assert code == 0
    assert out.startswith("graf 0.")
    script = "import sys; import graf.cli.main; sys.exit('kubernetes' in sys.modules or 'graf.lab' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_wrong_usage_is_explained_with_status_2(terminal: Any) -> None:
    code, _, err = terminal("switchover")
    assert code == 2
    assert "Missing argument" in err


def test_a_sub_command_that_cannot_be_loaded_leaves_the_others_usable(
    api: FakeApi, terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        name = "broken"

        @staticmethod
        def load() -> None:
            raise ImportError("no module named x")

    monkeypatch.setattr(main, "entry_points", lambda group: [Broken])
    assert terminal("status")[0] == 0
    code, _, err = terminal("broken")
    assert code == 1
    assert "no module named x" in err


def test_the_lab_and_the_drills_are_mounted_by_entry_point(terminal: Any) -> None:
    code, out, _ = terminal("drill", "list")
    assert code == 0
    for name in (
        "db-crash",
        "site-loss",
        "site-partition",
        "site-freeze",
        "standby-loss",
        "manager-loss",
        "switchover",
        "regressions",
        "github-2018",
        "whole-machine-paused",
    ):
        assert name in out
    code, _, err = terminal("drill", "run", "no-such-drill")
    assert code == 1
    assert "there is no scenario 'no-such-drill'" in err


VOTERS = {
    "state": "InForce",
    "declaredVersion": 1,
    "inForce": {"version": 1, "members": ["east", "west", "witness"]},
    "message": "",
}


def test_status_says_which_voters_are_in_force(api: FakeApi, terminal: Any) -> None:
    api.found = group(voters=VOTERS)
    _, out, _ = terminal("status")
    assert "v1 in force: east (site), west (site), witness (witness)" in out
    assert "voter change" not in out


def test_status_says_what_a_change_of_voters_waits_for_and_what_to_do(api: FakeApi, terminal: Any) -> None:
    waits = "VoterChangeWaits: not heard: w2; start these voters, or declare a list without them as version 3"
    api.found = group(voters={**VOTERS, "state": "Waiting", "declaredVersion": 2, "message": waits})
    _, out, _ = terminal("status")
    assert "v1 in force" in out
    assert "Waiting, to v2" in out
    assert waits in out
    proposed = {"version": 2, "members": ["east", "west", "w2"]}
    api.found = group(voters={**VOTERS, "state": "Changing", "declaredVersion": 2, "proposed": proposed})
    _, out, _ = terminal("status")
    assert "Changing, to v2: east, west, w2" in out


def test_status_names_a_voter_that_abstains(api: FakeApi, terminal: Any) -> None:
    api.found = group(voters={**VOTERS, "message": "witness abstains: it has lost its record"})
    _, out, _ = terminal("status")
    assert "witness abstains: it has lost its record" in out


@pytest.fixture
def drivers(api: FakeApi) -> FakeApi:
    """mysql is well at east and refused at west; network at west is not heard; nobody has told of pv."""
    cannot = "the driver cannot GATE, which spec.requiredCapabilities asks for"
    refused = {"ready": False, "reason": "MissingCapability", "message": cannot, "version": "0.0.9"}
    well = {"ready": True, "version": "1.2.3", "image": "registry.test/mysql:1", "capabilities": ["POSITION"]}
    silent = {"ready": False, "reason": "SiteSilent", "message": "the site's controller is not heard"}
    api.classes = [
        driver_class("pv"),
        driver_class("network", west=silent),
        driver_class("mysql", west=refused, east=well),
    ]
    api.places = [place("east", {"driverClass": "mysql", "name": "mysql.graf.dev", "ready": True})]
    return api


def test_drivers_are_listed_by_class_and_site_with_their_users_and_the_reason_of_a_refusal(
    drivers: FakeApi, terminal: Any
) -> None:
    code, out, _ = terminal("drivers", "--json")
    assert code == 0
    found = {(row["driverClass"], row["site"]): row for row in json.loads(out)}
    assert list(found) == [("mysql", "east"), ("mysql", "west"), ("network", "west"), ("pv", "")]
    east, west = found["mysql", "east"], found["mysql", "west"]
    assert (east["health"], east["version"], east["says"]) == ("Ready", "1.2.3", "mysql.graf.dev")
    assert (east["image"], east["capabilities"]) == ("registry.test/mysql:1", ["POSITION"])
    assert (east["usedBy"], east["reason"]) == (["vcu-db/db"], "")
    assert (west["health"], west["reason"], west["version"]) == ("NotReady", "MissingCapability", "0.0.9")
    assert found["network", "west"]["health"] == "Unknown", "a site that is not heard is neither well nor ill"
    assert found["network", "west"]["usedBy"] == ["vcu-db/route"]
    assert (found["pv", ""]["health"], found["pv", ""]["usedBy"]) == ("NotUsed", [])
    assert found["pv", ""]["image"], "what would run is told too"

    _, out, _ = terminal("drivers")
    for words in ("CLASS", "mysql.graf.dev", "1.2.3", "registry.test/mysql:1", "POSITION", "vcu-db/db", "Ready"):
        assert words in out, words
    assert "mysql at west: MissingCapability: the driver cannot GATE" in out
    assert "network at west: SiteSilent" in out
    assert "pv: NotUsed" in out


def test_a_site_that_has_another_class_for_the_component_is_no_user_of_the_declared_one(
    drivers: FakeApi, terminal: Any
) -> None:
    components = [{"name": "db", "driverClass": "mysql-of-west"}]
    drivers.found = group(sites=[STATUS["sites"][0], {**STATUS["sites"][1], "components": components}])
    rows = json.loads(terminal("drivers", "--json")[1])
    users = {(row["driverClass"], row["site"]): row["usedBy"] for row in rows}
    assert users["mysql", "west"] == []
    assert users["mysql", "east"] == ["vcu-db/db"]


def test_a_class_that_the_manager_does_not_support_says_why(drivers: FakeApi, terminal: Any) -> None:
    condition = {
        "type": "Supported",
        "status": "False",
        "reason": "NotYetSupported",
        "message": "spec.x is not yet supported",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    drivers.classes = [driver_class("pv", conditions=[condition])]
    assert "pv: NotYetSupported: spec.x is not yet supported" in terminal("drivers")[1]


def test_without_any_class_it_says_where_they_come_from(api: FakeApi, terminal: Any) -> None:
    code, _, err = terminal("drivers")
    assert code != 0
    assert "no DriverClass" in err
    assert "Git" in err
    assert terminal("drivers", "--json")[1].strip() == "[]"
