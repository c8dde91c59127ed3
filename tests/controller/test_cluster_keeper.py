"""What the controller keeps in its cluster while the API server refuses, a Pod is refused, or somebody deletes.

The API server is a dictionary here; tests/integration/test_driver_deployment.py has a real one.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graf.controller import deploy
from graf.controller.cluster_api import ApiError, ClusterApi
from graf.controller.deploy import ClusterKeeper, Desired
from graf.controller.dialing import Dialer
from graf.controller.driver_pki import DriverPki
from graf.controller.rendering import APPROVED, CLASS_LABEL, object_name
from graf.controller.rollout import Use
from graf.crd.driverclass import DriverClass

OTHER_PLACE = {
    "volumes": [{"name": "epochs", "hostPath": {"path": "/srv/epochs"}}],
    "volumeMounts": [{"name": "epochs", "mountPath": "/var/lib/graf/driver-state"}],
}


class MemoryApi(ClusterApi):
    """Objects by kind and name."""

    def __init__(self) -> None:
        super().__init__("graf-system")
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.refuses: set[str] = set()

    def apply(self, document: dict[str, Any], *, only_check: bool = False) -> dict[str, Any]:
        if document["kind"] in self.refuses:
            raise ApiError(422, "an admission policy says no")
        if not only_check:
            key = (document["kind"], document["metadata"]["name"])
            before = self.objects.get(key, {})
            made = copy.deepcopy(document)
            if document["kind"] == "Deployment" and before:
                made["metadata"]["annotations"] = before["metadata"]["annotations"] | made["metadata"]["annotations"]
                made["status"] = before.get("status", {})
            self.objects[key] = made
        return document

    def listed(self, kind: str, label_selector: str) -> list[dict[str, Any]]:
        return [copy.deepcopy(item) for (of, _), item in self.objects.items() if of == kind]

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        self.objects.pop((kind, name), None)


class Site:
    """A keeper with one class, db."""

    def __init__(self, work: Path) -> None:
        self.api = MemoryApi()
        self.certificate = "first"
        self.use = Use.STANDBY
        self.wants()
        pki: Any = SimpleNamespace(
            driver=lambda _name: SimpleNamespace(secret=lambda: {"tls.crt": self.certificate}),
        )
        self.keeper = ClusterKeeper(
            "graf-system",
            "/run/graf/drivers",
            dict,
            lambda: {"db": (self.use, "vcu-db/db")},
            pki,
            Dialer(Path("/run/graf/drivers"), work / "addresses.json", DriverPki(work / "pki", "east")),
            work / "revisions",
            self.api,
        )

    def wants(self, image: str = "localhost/driver:1", **spec: Any) -> None:
        container = {"name": "driver", "image": image}
        pod: dict[str, Any] = {"containers": [container]}
        if spec.pop("elsewhere", False):
            pod["volumes"] = OTHER_PLACE["volumes"]
            container["volumeMounts"] = OTHER_PLACE["volumeMounts"]  # type: ignore[assignment]
        self.wanted = DriverClass.model_validate(
            {
                "metadata": {"name": "db", "generation": 1},
                "spec": {"driver": "demo.graf.dev", "template": {"spec": pod}, **spec},
            }
        )

    def round(self) -> str:
        """The reason that is told after it."""
        self.keeper.round(Desired({"db": self.wanted}, (), None))
        return self.keeper.states["db"].reason

    @property
    def deployment(self) -> dict[str, Any]:
        return self.api.objects["Deployment", object_name("db")]

    @property
    def image(self) -> str:
        return str(self.deployment["spec"]["template"]["spec"]["containers"][0]["image"])

    def pod_is_ready(self) -> None:
        self.deployment.pop("status", None)
        annotations = self.deployment["spec"]["template"]["metadata"]["annotations"]
        self.api.objects["Pod", "db"] = {
            "metadata": {"name": "db", "labels": {CLASS_LABEL: "db"}, "annotations": annotations},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }

    def pod_is_refused(self) -> None:
        self.api.objects.pop(("Pod", "db"), None)
        failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
        self.deployment["status"] = {"conditions": [failure]}

    def runs(self) -> None:
        self.round()
        self.pod_is_ready()
        self.round()
        assert self.keeper.states["db"].running


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(deploy.time, "monotonic", lambda: now[0])
    return now


TLS = {"endpoint": {"kind": "TLS", "port": 9443}}


@pytest.mark.parametrize("image", ["localhost/driver:1", "localhost/driver:2"])
def test_a_certificate_is_renewed_while_the_api_server_refuses_the_deployment(site: Site, image: str) -> None:
    site.wants(**TLS)
    site.runs()
    site.api.refuses = {"Deployment"}
    site.certificate = "second"
    site.wants(image, **TLS)
    assert site.round() == "Refused"
    assert site.api.objects["Secret", "graf-driver-db-tls"]["data"] == {"tls.crt": "second"}
    assert site.image == "localhost/driver:1"


def test_what_a_refused_change_left_goes_away_with_the_next_one(site: Site) -> None:
    site.runs()
    site.api.refuses = {"Deployment"}
    site.wants("localhost/driver:2", **TLS)
    assert site.round() == "Refused"
    assert ("Service", "graf-driver-db") not in site.api.objects
    site.api.refuses = set()
    site.wants("localhost/driver:3")
    site.round()
    assert site.image == "localhost/driver:3"
    assert ("Secret", "graf-driver-db-tls") not in site.api.objects


def test_a_class_that_was_never_accepted_leaves_nothing(site: Site) -> None:
    site.api.refuses = {"Deployment"}
    site.wants(**TLS)
    assert site.round() == "Refused"
    assert site.api.objects == {}


def test_a_pod_that_is_refused_for_a_moment_takes_no_upgrade_back(site: Site, clock: list[float]) -> None:
    site.runs()
    site.wants("localhost/driver:2")
    site.round()
    site.pod_is_refused()
    for clock[0] in range(2000, 2059, 5):
        assert site.round() == "PodRefused", "it is told at once"
        assert site.image == "localhost/driver:2"
    site.deployment.pop("status")
    clock[0] = 2059.0
    assert site.round() == "NoPod"
    site.pod_is_refused()
    for clock[0] in range(2060, 2120, 5):
        site.round()
        assert site.image == "localhost/driver:2", "it counts anew after a break"
    clock[0] = 2120.0
    site.round()
    assert site.image == "localhost/driver:1"
    site.pod_is_ready()
    assert site.round() == "RolledBack"


def test_rounds_that_saw_nothing_are_a_break(site: Site, clock: list[float]) -> None:
    site.runs()
    site.wants("localhost/driver:2")
    site.round()
    site.pod_is_refused()
    site.round()
    clock[0] += 3600.0
    site.round()
    assert site.image == "localhost/driver:2"


def test_a_corrected_revision_is_not_blamed_for_the_one_before(site: Site, clock: list[float]) -> None:
    site.runs()
    site.wants("localhost/driver:2")
    site.round()
    site.pod_is_refused()
    for clock[0] in range(2000, 2056, 5):
        site.round()
    site.wants("localhost/driver:3")
    site.round()
    for clock[0] in range(2060, 2116, 5):
        site.round()
        assert site.image == "localhost/driver:3"


def test_a_refused_pod_of_an_active_component_lets_no_unapproved_revision_in(site: Site, clock: list[float]) -> None:
    site.use = Use.ACTIVE
    site.runs()
    site.wants("localhost/driver:2", upgrade="Manual")
    site.pod_is_refused()
    for clock[0] in range(2000, 2200, 5):
        assert site.round() == "PodRefused", "what is broken is told before what only waits"
    assert "exceeded quota; revision " in site.keeper.states["db"].message
    assert "waits for approval" in site.keeper.states["db"].message
    assert site.image == "localhost/driver:1"
    site.deployment["metadata"]["annotations"][APPROVED] = site.keeper.states["db"].wanted_revision
    site.round()
    assert site.image == "localhost/driver:2"


def test_a_driver_whose_deployment_was_deleted_does_not_forget_its_epochs(site: Site) -> None:
    site.runs()
    before = site.deployment["spec"]
    site.wants("localhost/driver:2", elsewhere=True)
    assert site.round() == "EpochsLeft"
    for key in (("Deployment", "graf-driver-db"), ("ServiceAccount", "graf-driver-db"), ("Pod", "db")):
        del site.api.objects[key]
    assert site.round() == "EpochsLeft"
    assert site.deployment["spec"] == before, "what was ready last is back"
    assert ("ServiceAccount", "graf-driver-db") in site.api.objects
    site.pod_is_ready()
    assert site.round() == "EpochsLeft"
    site.deployment["metadata"]["annotations"][APPROVED] = site.keeper.states["db"].wanted_revision
    site.round()
    assert site.image == "localhost/driver:2"


def test_a_first_deployment_has_no_epochs_to_forget(site: Site) -> None:
    site.wants(elsewhere=True)
    assert site.round() == "Starting"


def test_a_pod_that_ends_in_its_time_is_told_as_that(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.runs()
    site.wants("localhost/driver:2")
    site.round()
    pod = site.api.objects["Pod", "db"]
    pod["metadata"]["deletionTimestamp"] = "2026-11-30T01:00:30Z"
    pod["spec"] = {"nodeName": "n1"}
    end_s = 1796000430.0  # the same
    monkeypatch.setattr(deploy.time, "time", lambda: end_s - 29.0)
    assert site.round() == "Stopping"
    assert site.keeper.states["db"].message == "Pod db at node n1 has until 2026-11-30T01:00:30Z to end"
    monkeypatch.setattr(deploy.time, "time", lambda: end_s + 1.0)
    assert site.round() == "Ending"
    message = "Pod db at node n1 was to end at 2026-11-30T01:00:30Z and is still there"
    assert site.keeper.states["db"].message == message
