"""What a DriverClass must not say, and which class serves at which site."""

from __future__ import annotations

from typing import Any

import pytest

from graf.api.recorded import Recorded
from graf.controller.rendering import render
from graf.crd import gitops
from graf.crd.compile import compile_group
from graf.crd.driver_rules import claim_problems, class_at, driver_class_problems
from graf.crd.driverclass import DriverClass
from graf.crd.group import RedundancyGroup
from graf.crd.parse import parse_object
from graf.crd.policy import RedundancyPolicy
from graf.crd.site import Site

DRIVER = {"name": "driver", "image": "localhost/driver:1"}


def driver_class(name: str = "demo", created: str = "", **spec: Any) -> DriverClass:
    metadata = {"name": name, **({"creationTimestamp": created} if created else {})}
    template = {"spec": {"containers": [DRIVER]}}
    return DriverClass.model_validate(
        {"metadata": metadata, "spec": {"driver": "demo.graf.dev", "template": template, **spec}}
    )


def site(name: str, **labels: str) -> Site:
    endpoints = {"controller": "198.18.0.20:7443"}
    return Site.model_validate({"metadata": {"name": name, "labels": labels}, "spec": {"endpoints": endpoints}})


def mounting(volume: dict[str, Any], path: str = "/var/lib/graf/driver-state", **more: str | bool) -> dict[str, Any]:
    mount = {"name": "state", "mountPath": path, **more}
    return {"spec": {"containers": [{**DRIVER, "volumeMounts": [mount]}], "volumes": [{"name": "state", **volume}]}}


def rule(**changes: Any) -> dict[str, Any]:
    return {"permissions": [{"resources": ["pods"], "verbs": ["get"], **changes}]}


@pytest.mark.parametrize(
    ("spec", "field", "cause"),
    [
        ({"template": mounting({"emptyDir": {}})}, "spec.template.spec.containers[0].volumeMounts", "forget"),
        ({"template": mounting({"emptyDir": {}}, path="/var/lib/graf/driver-state/")}, "volumeMounts", "forget"),
        ({"template": mounting({"emptyDir": {}}, path="/var/lib//graf/driver-state")}, "volumeMounts", "forget"),
        ({"template": mounting({"emptyDir": {}}, path="/var/lib/graf/driver-state/vcu-db")}, "volumeMounts", "forget"),
        ({"template": mounting({"hostPath": None})}, "volumeMounts", "forget"),
        ({"template": mounting({"hostPath": {"path": "/tmp/epochs"}})}, "volumeMounts", "a restart of the machine"),
        ({"template": mounting({"hostPath": {"path": "/run//graf"}})}, "volumeMounts", "a restart of the machine"),
        ({"template": mounting({"hostPath": {"path": "/srv"}}, subPathExpr="$(POD)")}, "volumeMounts", "each Pod may"),
        ({"template": mounting({"hostPath": {"path": "/srv"}}, readOnly=True)}, "volumeMounts", "is read-only"),
        ({"template": {"spec": {"containers": [{**DRIVER, "env": ["A=B"]}]}}}, "containers[0].env", "no list of map"),
        ({"template": {"spec": {"containers": [{**DRIVER, "volumeMounts": ["/x"]}]}}}, "volumeMounts", "no list of"),
        ({"template": {"spec": {"containers": [{**DRIVER, "ports": 7450}]}}}, "ports", "no list of mappings"),
        ({"template": {"spec": {"containers": [DRIVER], "volumes": {"a": 1}}}}, "spec.volumes", "no list of mappings"),
        ({"template": {"metadata": [], "spec": {"containers": [DRIVER]}}}, "spec.template.metadata", "no mapping"),
        ({"template": {"metadata": {"labels": "a"}, "spec": {"containers": [DRIVER]}}}, "labels", "no mapping"),
        ({"template": {"spec": {"containers": [DRIVER], "serviceAccountName": "admin"}}}, "serviceAccountName", "each"),
        (
            {
                "template": {
                    "spec": {"containers": [{**DRIVER, "env": [{"name": "GRAF_DRIVER_STATE_DIR", "value": "/"}]}]}
                }
            },
            "containers[0].env",
            "set by the controller",
        ),
        ({"template": {"spec": {"containers": [{"name": "driver"}]}}}, "containers[0]", "name and an image"),
        (rule(apiGroups=["rbac.authorization.k8s.io"]), "permissions[0].apiGroups", "every right"),
        (rule(resources=["pods/exec"]), "permissions[0].resources", "around every other rule"),
        (rule(resources=["secrets"]), "permissions[0].resources", "all Secrets"),
        (rule(resources=["secrets"], resourceNames=["one"], verbs=["create"]), "permissions[0].resources", "all Secr"),
        (rule(resources=["secrets"], resourceNames=["one"], clusterWide=True), "permissions[0].resources", "all Sec"),
        (rule(namespaces=["app"], clusterWide=True), "permissions[0].namespaces", "beside clusterWide"),
        ({"endpoint": {"kind": "TLS"}, "requiredCapabilities": ["GATE"]}, "spec.endpoint.kind", "own clock"),
    ],
)
def test_what_could_forget_epochs_or_take_rights_is_refused(spec: dict[str, Any], field: str, cause: str) -> None:
    problems = driver_class_problems(driver_class(**spec))
    assert [p for p in problems if field in p.field and cause in p.cause and p.fix], [str(p) for p in problems]


@pytest.mark.parametrize(
    "change", [{"resources": ["*"]}, {"verbs": ["*"]}, {"verbs": ["escalate"]}, {"apiGroups": ["*"]}]
)
def test_a_wildcard_is_no_permission(change: dict[str, Any]) -> None:
    document = {
        "apiVersion": "graf.dev/v1alpha1",
        "kind": "DriverClass",
        "metadata": {"name": "demo"},
        "spec": {"driver": "demo.graf.dev", "template": {}, **rule(**change)},
    }
    resource, problems = parse_object(document)
    assert resource is None
    assert any("permissions" in p.field for p in problems), [str(p) for p in problems]


def test_what_lasts_and_is_narrow_is_accepted() -> None:
    narrow = rule(resources=["secrets"], resourceNames=["one"], verbs=["get", "list", "watch"], namespaces=["app"])
    lasting = mounting({"persistentVolumeClaim": {"claimName": "state"}})
    assert driver_class_problems(driver_class(template=lasting, endpoint={"kind": "TLS"}, **narrow)) == []


def test_of_two_classes_with_one_driver_at_one_site_the_newer_is_refused() -> None:
    old, new = driver_class("z-old", "2026-01-01T00:00:00Z"), driver_class("a-new", "2026-02-01T00:00:00Z")
    found = claim_problems({"a-new": new, "z-old": old}, {"east": site("east")})
    assert list(found) == ["a-new"]
    assert "DriverClass z-old is demo.graf.dev at east already" in found["a-new"][0].cause


def test_two_classes_of_one_driver_live_beside_each_other_at_different_sites_or_as_instances() -> None:
    sites = {"east": site("east", zone="e"), "west": site("west", zone="w")}
    east = driver_class("east", siteSelector={"matchLabels": {"zone": "e"}})
    west = driver_class("west", siteSelector={"matchLabels": {"zone": "w"}})
    assert claim_problems({"east": east, "west": west}, sites) == {}
    both = {"one": driver_class("one", instance="one"), "two": driver_class("two", instance="two")}
    assert claim_problems(both, sites) == {}
    assert claim_problems({"east": east, "all": driver_class("all")}, sites)


def test_two_instances_must_not_share_the_place_of_their_epochs() -> None:
    shared = mounting({"hostPath": {"path": "/var/lib/graf/driver-state/demo"}})
    one, two = driver_class("one", instance="a", template=shared), driver_class("two", instance="b", template=shared)
    found = claim_problems({"one": one, "two": two}, {"east": site("east")})
    assert "keeps its epochs in /var/lib/graf/driver-state/demo" in found["two"][0].cause


def test_the_place_of_the_epochs_is_the_volume_with_the_folder_below_it() -> None:
    def claims(first: dict[str, Any], second: dict[str, Any]) -> bool:
        one, two = driver_class("one", instance="a", template=first), driver_class("two", instance="b", template=second)
        return bool(claim_problems({"one": one, "two": two}, {"east": site("east")}))

    host: dict[str, Any] = {"hostPath": {"path": "/srv/epochs/"}}
    claim = {"persistentVolumeClaim": {"claimName": "epochs"}}
    for volume in (host, claim):
        assert not claims(mounting(volume, subPath="one"), mounting(volume, subPath="two"))
        assert claims(mounting(volume, subPath="one"), mounting(volume, subPath="one/"))
    assert claims(mounting(host, subPath="one"), mounting({"hostPath": {"path": "/srv/epochs/one"}}))
    assert claims(mounting(host), mounting(host, path="/var/lib/graf/driver-state/"))


@pytest.mark.parametrize(
    "change",
    [{"env": None}, {"volumeMounts": None}, {"ports": None}, {"metadata": None}, {"labels": None}, {"volumes": None}],
)
def test_a_field_without_a_value_is_as_one_that_is_left_out(change: dict[str, None]) -> None:
    name = next(iter(change))
    container: dict[str, Any] = DRIVER | (change if name in ("env", "volumeMounts", "ports") else {})
    template: dict[str, Any] = {"spec": {"containers": [container]} | (change if name == "volumes" else {})}
    if name in ("metadata", "labels"):
        template["metadata"] = None if name == "metadata" else change
    for kind in ("UnixSocket", "TLS"):
        wanted = driver_class(endpoint={"kind": kind})
        given = driver_class(endpoint={"kind": kind}, template=template)
        assert driver_class_problems(given) == []
        made = render(given, "graf-system", "/run/graf/drivers", {})
        assert made == render(wanted, "graf-system", "/run/graf/drivers", {})


def test_a_template_that_mounts_its_own_place_for_the_epochs_gets_no_second_one() -> None:
    own = mounting({"hostPath": {"path": "/srv/epochs"}}, path="/var/lib/graf/driver-state/")
    made = render(driver_class(template=own), "graf-system", "/run/graf/drivers", None)
    pod = made.deployment["spec"]["template"]["spec"]
    mounts = [item["mountPath"] for item in pod["containers"][0]["volumeMounts"]]
    assert mounts == ["/var/lib/graf/driver-state/", "/run/graf/drivers"]


def test_a_site_that_a_class_leaves_out_gets_the_class_of_the_same_driver_that_selects_it() -> None:
    east, west = site("east", zone="e"), site("west", zone="w")
    classes = {
        "demo": driver_class("demo", siteSelector={"matchLabels": {"zone": "e"}}),
        "demo-west": driver_class("demo-west", siteSelector={"matchLabels": {"zone": "w"}}),
    }
    assert [getattr(class_at("demo", classes, s), "name", None) for s in (east, west)] == ["demo", "demo-west"]
    assert class_at("demo", {"demo": classes["demo"]}, west) is None


def test_a_group_is_assigned_another_class_at_the_other_site(tree: dict[str, bytes]) -> None:
    text = tree["driverclasses/mysql.yaml"].decode()
    here = text.replace(
        "  endpoint:", "  siteSelector: {matchLabels: {topology.graf.dev/region: east}}\n  endpoint:", 1
    )
    there = here.replace("name: mysql\n", "name: mysql-west\n", 1).replace("region: east", "region: west")
    tree |= {"driverclasses/mysql.yaml": here.encode(), "driverclasses/mysql-west.yaml": there.encode()}
    repository = gitops.load(tree)
    assert repository.problems == ()
    resources = repository.resources()
    group, policy = resources["RedundancyGroup", "vcu-db"], resources["RedundancyPolicy", "lossless-automatic"]
    assert isinstance(group, RedundancyGroup)
    assert isinstance(policy, RedundancyPolicy)
    classes, sites = gitops.of_kind(resources, DriverClass), gitops.of_kind(resources, Site)
    compiled = compile_group(group, policy, Recorded("east", 1, {}), classes, sites)
    assert {s: c.spec.components[0].driver_class for s, c in compiled.items()} == {
        "east": "mysql",
        "west": "mysql-west",
    }
    del tree["driverclasses/mysql-west.yaml"]
    assert any("leaves out the site west" in p.cause for p in gitops.load(tree).problems)
    tree["driverclasses/mysql-west.yaml"] = text.replace("name: mysql\n", "name: mysql-west\n", 1).encode()
    assert any("mysql is mysql.graf.dev at east already" in p.cause for p in gitops.load(tree).problems)
