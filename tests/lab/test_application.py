"""A lab with an application: what it adds to the example is what the drivers and their classes take."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from graf_driver_objects.parameters import parse as parse_objects
from graf_driver_workload.parameters import Mode
from graf_driver_workload.parameters import parse as parse_workload

from graf.crd.driver_rules import driver_class_problems
from graf.crd.driverclass import DriverClass
from graf.crd.group import RedundancyGroup
from graf.lab import application, deploy, gitserver, images, made_with
from graf.lab.made_with import Extra
from graf.lab.topology import SITES, Topology


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topology:
    monkeypatch.setenv("GRAF_LAB_DIR", str(tmp_path))
    made = Topology("app", 2)
    made.state_dir.mkdir(parents=True)
    return made


@pytest.fixture
def group(topology: Topology, tmp_path: Path) -> RedundancyGroup:
    shutil.copytree(gitserver.EXAMPLE, tmp_path / "tree")
    application.add_to_example(tmp_path / "tree", topology)
    return RedundancyGroup.model_validate(yaml.safe_load((tmp_path / "tree" / "groups" / "vcu-db.yaml").read_text()))


def class_of(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((gitserver.EXAMPLE / "driverclasses" / f"{name}.yaml").read_text())
    return read


def test_the_groups_components_are_what_the_drivers_and_their_classes_take(
    group: RedundancyGroup, topology: Topology
) -> None:
    by_name = {component.name: component for component in group.spec.components}
    assert list(by_name) == ["db", "config", "app", "route"]
    assert application.PORT in by_name["route"].parameters["ports"], "the application is behind the gate"
    app = by_name[application.WORKLOAD]
    taken, problems = parse_workload(app.parameters)
    assert taken is not None, problems
    assert taken.mode is Mode.WARM
    config = by_name[application.CONFIGURATION]
    for site in SITES:
        parameters = {**config.parameters, **config.site_parameters[site]}
        objects, problems = parse_objects(parameters)
        assert objects is not None, problems
        assert objects.endpoint == f"{topology.location(site).address}:{application.EXCHANGE_PORT}"
        assert objects.rpo_s == application.RPO_SECONDS
        assert objects.identity_at(site) == application.dns_name(site)
        assert {selection.kind for selection in objects.selections} == {"ConfigMap", "Secret"}
    for component, name in ((app, application.WORKLOAD_CLASS), (config, application.OBJECTS_CLASS)):
        known = class_of(name)["spec"]["parametersSchema"]["properties"]
        assert set(component.parameters) <= set(known)
        assert driver_class_problems(DriverClass.model_validate(class_of(name))) == []


def test_the_controller_may_hand_out_exactly_what_the_classes_ask_for() -> None:
    _, role, binding = application.prerequisites()
    asked = [
        permission
        for name in (application.OBJECTS_CLASS, application.WORKLOAD_CLASS)
        for permission in class_of(name)["spec"]["permissions"]
    ]
    assert {tuple(permission["namespaces"]) for permission in asked} == {(application.NAMESPACE,)}
    own, *granted = role["rules"]
    assert own["resources"] == ["roles", "rolebindings"]
    assert [(rule["resources"], rule["verbs"], rule.get("resourceNames")) for rule in granted] == [
        (permission["resources"], permission["verbs"], permission.get("resourceNames")) for permission in asked
    ]
    assert binding["subjects"][0]["name"] == "graf-controller"


def test_one_site_begins_with_the_configuration_and_both_with_a_deployment_of_no_pods() -> None:
    first, second = (application.own_objects(site) for site in SITES)
    assert [manifest["kind"] for manifest in first] == ["Deployment", "Secret", "ConfigMap"]
    assert [manifest["kind"] for manifest in second] == ["Deployment", "Secret"]
    for deployment, secret in (first[:2], second[:2]):
        assert deployment["spec"]["replicas"] == 0
        assert "data" not in secret


def test_only_a_lab_that_was_made_with_an_application_has_one(topology: Topology) -> None:
    assert not made_with.has(topology, Extra.WORKLOAD)
    assert not set(images.APPLICATION) & set(images.SPECS)
    assert application.CERTIFICATES not in deploy._driver_certificates(topology, "east")
    made_with.remember(topology, Extra.WORKLOAD)
    assert made_with.has(topology, Extra.WORKLOAD)
    assert application.CERTIFICATES in deploy._driver_certificates(topology, "east")
    assert deploy._driver_certificates(topology, "mgmt") == {}


def test_each_site_gets_a_certificate_by_the_name_that_its_peer_demands(topology: Topology) -> None:
    made_with.remember(topology, Extra.WORKLOAD)
    deploy.ensure_identities(topology)
    for site in SITES:
        certificate = x509.load_pem_x509_certificate(application.secret_files(topology, site)["tls.crt"].read_bytes())
        names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        assert isinstance(names, x509.SubjectAlternativeName)
        assert names.get_values_for_type(x509.DNSName) == [application.dns_name(site)]
