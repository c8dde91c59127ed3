"""What is allowed and seldom: overrides that fit nothing, counts that are none, objects that somebody deletes."""

from __future__ import annotations

from typing import Any

import pytest
from graf_driver_sdk.client import DriverCallError
from graf_driver_sdk.types import Health, Role
from graf_driver_workload.manifests import ManifestError, _replicas
from graf_driver_workload.names import OWNER
from graf_driver_workload.parameters import STATEFUL_SET
from graf_driver_workload.record import CONFIG_MAP
from workload_cluster import wait_for
from workload_site import Site, deployment

HELD = "example.org/hold"
BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: app}
spec: {minAvailable: 2, selector: {matchLabels: {app: app}}}
"""


def override(path: str, value: str, **target: str) -> dict[str, Any]:
    operation = f'[{{"op": "add", "path": "{path}", "value": {value}}}]'
    return {"target": {"kind": "Deployment", "name": "app"} | target, "patch": operation}


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (override("/spec/replicas", '"many"'), "replicas of Deployment/app is 'many'"),
        (override("/spec/replicas", "-1"), "replicas of Deployment/app is -1"),
        (override("/metadata/labels", '["x"]'), "are no mapping"),
        (override("/spec", "[]"), "are no mapping"),
    ],
    ids=["word", "negative", "labels", "spec"],
)
async def test_an_override_that_spoils_an_object_is_told_before_anything_is_made(
    site: Site, one: dict[str, Any], said: str
) -> None:
    fits = override("/spec/minReadySeconds", "0", labelSelector="part=vcu")
    site.parameters = {"mode": "warm", "manifests": deployment("app", 2), "overrides": [fits, one]}
    with pytest.raises(DriverCallError, match=said) as caught:
        await site.ensure(Role.STANDBY)
    assert caught.value.reason == "manifests"
    (problem,) = await site.client.validate(site.spec)
    assert problem.field == "manifests"
    assert site.get("app") is None
    site.parameters["overrides"] = [fits]
    assert await site.client.validate(site.spec) == ()


@pytest.mark.parametrize("target", [{"name": "typo"}, {"labelSelector": "part=other"}], ids=["name", "label"])
async def test_an_override_that_fits_nothing_is_told_by_validate_and_keeps_no_role_from_being_given(
    site: Site, target: dict[str, str]
) -> None:
    unfit = override("/spec/paused", "false", **target)
    fits = override("/spec/minReadySeconds", "0", labelSelector="part=vcu")
    site.parameters = {"mode": "warm", "manifests": deployment("app", 2), "overrides": [fits, unfit]}
    (problem,) = await site.client.validate(site.spec)
    assert problem.field == "manifests"
    assert "overrides[1] patches nothing: no object has" in problem.cause
    assert all(f"{name} {value}" in problem.cause for name, value in target.items())
    await site.ensure(Role.ACTIVE)
    assert site.replicas("app") == 2


EXTRA = """---
apiVersion: v1
kind: ConfigMap
metadata: {name: extra, annotations: {a: b}}
"""
REMOVED = "$patch: delete\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: any}"


async def test_an_override_may_choose_by_what_one_before_it_has_made_and_may_take_away(site: Site) -> None:
    anything = {"kind": "ConfigMap", "name": "extra"}
    site.parameters = {
        "mode": "warm",
        "manifests": deployment("app", 2) + EXTRA,
        "overrides": [
            override("/metadata/labels/new", '"yes"'),
            override("/spec/minReadySeconds", "0", labelSelector="new=yes"),
            override("/metadata/annotations", "{}", **anything),
            {"target": anything, "patch": REMOVED},
        ],
    }
    assert await site.client.validate(site.spec) == ()
    await site.ensure(Role.STANDBY)
    found = site.get("app")
    assert found is not None
    assert found["metadata"]["labels"]["new"] == "yes"
    assert site.get("extra", CONFIG_MAP) is None
    # Nor may it choose by what only one behind it makes: kustomize would not apply it.
    site.parameters["overrides"] = site.parameters["overrides"][1::-1]
    (problem,) = await site.client.validate(site.spec)
    assert "overrides[0] patches nothing" in problem.cause


async def test_a_count_that_is_in_quotes_or_a_whole_fraction_is_one(site: Site) -> None:
    assert _replicas("Deployment/app", {"replicas": 2.0}) == 2
    with pytest.raises(ManifestError):
        _replicas("Deployment/app", {"replicas": 2.5})
    written = deployment("app", 7).replace("replicas: 7", 'replicas: "2"')
    site.parameters = {"mode": "warm", "manifests": written}
    assert await site.client.validate(site.spec) == ()
    await site.ensure(Role.ACTIVE)
    assert site.replicas("app") == 2


async def test_replicas_without_a_value_are_as_left_out(site: Site) -> None:
    site.parameters = {"mode": "warm", "manifests": deployment("app", 2).replace("replicas: 2", "replicas:")}
    await site.ensure(Role.ACTIVE)
    assert site.replicas("app") == 1


async def test_a_workload_that_somebody_deletes_is_told_and_not_promotable(site: Site) -> None:
    site.create(deployment("app", 2))
    site.until_pods(2)
    site.parameters = {"mode": "warm", "targets": [{"kind": "Deployment", "name": "app"}]}
    await site.ensure(Role.ACTIVE)
    site.patch("app", {"metadata": {"finalizers": [HELD]}})
    site.cluster.kubectl("-n", site.namespace, "delete", "deployment", "app", "--wait=false")
    status = await site.status()
    assert not status.promotable
    assert f"being deleted, which waits for {HELD}" in status.promotable_reason
    progress = await site.once(Role.FENCED)  # its controller scales it no more
    assert not progress.completed
    assert f"2 pods are left, 0 of them terminating (it is being deleted, which waits for {HELD}" in progress.message
    site.cluster.kubectl("-n", site.namespace, "delete", "pods,replicasets", "--all", "--wait=false")
    await site.ensure(Role.FENCED)
    site.patch("app", {"metadata": {"finalizers": None}})
    wait_for("its end", lambda: site.get("app") is None)


async def test_a_workload_that_is_labelled_while_active_is_named_and_ends_with_the_others(site: Site) -> None:
    site.create(deployment("app", 2))
    site.until_pods(2)
    site.parameters = {"mode": "warm", "selector": "part=vcu"}
    await site.ensure(Role.ACTIVE)
    site.create(deployment("new", 1))
    site.until_pods(3)
    status = await site.status()
    assert (status.health, status.accepting) == (Health.INITIALISING, True)
    assert "Deployment/new without a role yet" in status.message
    await site.ensure(Role.FENCED)
    assert site.pods() == []


async def test_neither_a_pause_nor_a_budget_nor_on_delete_keeps_a_workload_from_being_fenced(site: Site) -> None:
    stateful = deployment("set", 2).replace("kind: Deployment", "kind: StatefulSet")
    site.create(deployment("app", 2))
    site.create(stateful.replace("  template:", "  serviceName: set\n  updateStrategy: {type: OnDelete}\n  template:"))
    site.create(BUDGET)
    site.until_pods(4)
    site.patch("app", {"spec": {"paused": True, "template": {"metadata": {"labels": {"new": "yes"}}}}})
    site.patch("set", {"spec": {"template": {"metadata": {"labels": {"new": "yes"}}}}}, STATEFUL_SET)
    site.parameters = {"mode": "warm", "selector": "part=vcu"}
    await site.ensure(Role.FENCED)
    assert site.pods() == []
    await site.ensure(Role.ACTIVE, 2)
    assert len(site.pods()) == 4


SETTINGS = "{apiVersion: v1, kind: ConfigMap, metadata: {name: NAME}, data: {site: theirs}}"


async def test_a_marker_that_is_somebody_elses_is_not_written_over(site: Site) -> None:
    site.create(deployment("app", 2))
    site.create(SETTINGS.replace("NAME", "settings"))
    site.until_pods(2)
    site.parameters = {
        "mode": "warm",
        "targets": [{"kind": "Deployment", "name": "app"}],
        "markerConfigMap": "settings",
    }
    with pytest.raises(DriverCallError, match="has somebody else's content") as caught:
        await site.ensure(Role.ACTIVE)
    assert caught.value.reason == "not-ours"
    found = site.get("settings", CONFIG_MAP)
    assert found is not None
    assert found["data"] == {"site": "theirs"}


async def test_a_marker_that_cannot_be_written_keeps_no_workload_from_being_fenced(site: Site) -> None:
    site.create(deployment("app", 2))
    site.until_pods(2)
    site.parameters = {"mode": "warm", "targets": [{"kind": "Deployment", "name": "app"}], "markerConfigMap": "role"}
    await site.ensure(Role.ACTIVE)
    site.patch("role", {"immutable": True}, CONFIG_MAP)
    with pytest.raises(DriverCallError, match="configmaps/role is refused"):
        await site.ensure(Role.FENCED)
    site.until_pods(0)
    assert site.replicas("app") == 0
    with pytest.raises(DriverCallError, match="configmaps/role is refused"):
        await site.ensure(Role.FENCED)  # not completed: the application still reads that it is active
    site.cluster.kubectl("-n", site.namespace, "delete", "configmap", "role")
    await site.ensure(Role.FENCED)


async def test_what_is_there_is_fenced_also_when_another_target_is_not(site: Site) -> None:
    for name in ("app", "gone"):
        site.create(deployment(name, 1))
    site.until_pods(2)
    targets = [{"kind": "Deployment", "name": name} for name in ("gone", "app")]
    site.parameters = {"mode": "warm", "targets": targets}
    await site.ensure(Role.ACTIVE)
    site.cluster.kubectl("-n", site.namespace, "delete", "deployment", "gone", "--cascade=orphan")
    for _ in range(2):  # never completed: what is gone may have left pods behind
        with pytest.raises(DriverCallError, match="Deployment/gone is not in namespace") as caught:
            await site.ensure(Role.FENCED)
        assert caught.value.reason == "not-found"
        assert site.replicas("app") == 0
    site.until_pods(1)


async def test_a_marker_that_somebody_made_anew_with_the_same_content_is_still_the_components(site: Site) -> None:
    """As `kubectl replace` of an exported copy does, and a GitOps agent that replaces: the annotation is lost."""
    site.create(deployment("app", 1))
    site.parameters = {"mode": "warm", "targets": [{"kind": "Deployment", "name": "app"}], "markerConfigMap": "role"}
    await site.ensure(Role.ACTIVE)
    owner = {OWNER: None}
    for role in (Role.FENCED, Role.ACTIVE):
        site.patch("role", {"metadata": {"annotations": owner}}, CONFIG_MAP)
        await site.ensure(role)
        found = site.get("role", CONFIG_MAP)
        assert found is not None
        assert found["data"]["role"] == role.name
        assert found["metadata"]["annotations"][OWNER] == "vcu/app@east"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"apiVersion": "example.org/v1", "kind": "Gone", "name": "x"}, "no-such-kind"),
        ({"apiVersion": "v1", "kind": "ReplicationController", "name": "x"}, "forbidden"),
    ],
    ids=["kind", "permission"],
)
async def test_a_target_that_cannot_be_asked_for_keeps_no_other_one_from_being_fenced(
    site: Site, other: dict[str, str], reason: str
) -> None:
    site.create(deployment("app", 1))
    site.until_pods(1)
    site.parameters = {"mode": "warm", "targets": [other, {"kind": "Deployment", "name": "app"}]}
    for _ in range(2):
        with pytest.raises(DriverCallError) as caught:
            await site.ensure(Role.FENCED)
        assert caught.value.reason == reason
    site.until_pods(0)
    site.parameters = {"mode": "warm", "selector": "part=vcu", "selectorKinds": [
        {name: value for name, value in one.items() if name != "name"} for one in site.parameters["targets"]
    ]}  # fmt: skip
    site.patch("app", {"spec": {"replicas": 1}})
    with pytest.raises(DriverCallError) as caught:
        await site.ensure(Role.FENCED)
    assert caught.value.reason == reason
    assert site.replicas("app") == 0
