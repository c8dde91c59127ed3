"""Hot standby, custom resources, and the times when nothing can be known."""

from __future__ import annotations

import time

import pytest
from graf_driver_sdk.client import DriverCallError
from graf_driver_sdk.testing import eventually
from graf_driver_sdk.types import Health, Role
from graf_driver_workload.parameters import Kind
from workload_cluster import wait_for
from workload_site import Site, deployment

CONFIG_MAP = Kind("v1", "ConfigMap")
CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: cnfs.test.graf.dev}
spec:
  group: test.graf.dev
  scope: Namespaced
  names: {kind: Cnf, plural: cnfs, singular: cnf}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
      subresources:
        status: {}
        scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}
"""
CNF = "apiVersion: test.graf.dev/v1\nkind: Cnf\nmetadata: {name: upf}\nspec: {size: 2}\n"
POD = """
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {cnf: upf}}
spec: {containers: [{name: main, image: "localhost/app:1"}]}
"""


@pytest.fixture
def hot(site: Site) -> Site:
    site.parameters = {
        "mode": "hot", "targets": [{"kind": "Deployment", "name": "app"}], "markerConfigMap": "vcu-role",
    }  # fmt: skip
    site.create(deployment("app", 2))
    return site


async def test_a_hot_standby_runs_and_is_told_its_role(hot: Site) -> None:
    await hot.ensure(Role.STANDBY)
    wait_for("ready pods", lambda: [p["status"].get("phase") for p in hot.pods()] == ["Running"] * 2)
    before = {pod["metadata"]["uid"] for pod in hot.pods()}
    status = await hot.status()
    assert (status.role, status.health, status.accepting) == (Role.STANDBY, Health.HEALTHY, False)
    await hot.ensure(Role.ACTIVE, 2)
    assert {pod["metadata"]["uid"] for pod in hot.pods()} == before, "an activation restarts nothing"
    marker = hot.get("vcu-role", CONFIG_MAP)
    assert marker is not None
    assert marker["data"] == {"role": "ACTIVE", "epoch": "2", "site": "east", "group": "vcu"}
    assert (await hot.status()).accepting


async def test_a_hot_workload_is_fenced_by_its_end_unless_a_gate_is_declared(hot: Site) -> None:
    await hot.ensure(Role.ACTIVE)
    await hot.ensure(Role.FENCED)
    assert hot.pods() == []
    await hot.ensure(Role.STANDBY)
    assert hot.replicas("app") == 2
    hot.parameters = {**hot.parameters, "fencing": "Gate"}
    await hot.ensure(Role.ACTIVE, 2)
    await hot.ensure(Role.FENCED, 2)
    assert len(hot.pods()) == 2
    status = await hot.status()
    assert (status.role, status.accepting) == (Role.FENCED, False)


async def test_a_custom_resource_with_a_scale_is_a_workload_when_its_pods_can_be_told(site: Site) -> None:
    site.cluster.kubectl("apply", "-f", "-", stdin=CRD)
    site.cluster.kubectl("wait", "--for=condition=Established", "crd/cnfs.test.graf.dev", "--timeout=30s")
    site.cluster.kubectl(
        "-n", site.namespace, "create", "role", "cnf", "--verb=get,patch", "--resource=cnfs.test.graf.dev",
        "--resource=cnfs.test.graf.dev/scale",
    )  # fmt: skip
    site.cluster.kubectl("-n", site.namespace, "create", "rolebinding", "cnf", "--role=cnf", "--user=driver")
    site.create(CNF)
    target = {"apiVersion": "test.graf.dev/v1", "kind": "Cnf", "name": "upf"}
    site.parameters = {"mode": "warm", "targets": [target]}
    with pytest.raises(DriverCallError, match="give podSelector"):
        await site.once(Role.FENCED)
    site.parameters = {"mode": "warm", "targets": [{**target, "podSelector": "cnf=upf"}]}
    # The operator of the custom resource is played by hand: it makes the pods, and takes them away.
    for name in ("upf-0", "upf-1"):
        site.create(POD.replace("NAME", name))
    await site.ensure(Role.ACTIVE)
    progress = await site.once(Role.FENCED)
    assert not progress.completed
    assert "2 pods are left" in progress.message
    site.cluster.kubectl("-n", site.namespace, "delete", "pods", "--all", "--wait=false")
    await site.ensure(Role.FENCED)
    assert site.get("upf", Kind("test.graf.dev/v1", "Cnf"))["spec"]["size"] == 0  # type: ignore[index]


async def test_a_kind_without_a_scale_is_refused(site: Site) -> None:
    site.parameters = {"mode": "warm", "targets": [{"kind": "DaemonSet", "name": "app"}]}
    with pytest.raises(DriverCallError, match="has no scale"):
        await site.once(Role.FENCED)
    site.parameters = {"mode": "warm", "targets": [{"apiVersion": "no.such/v1", "kind": "Thing", "name": "app"}]}
    with pytest.raises(DriverCallError, match=r"no Thing in no\.such/v1"):
        await site.once(Role.FENCED)


async def test_without_the_api_server_nothing_is_claimed_and_nothing_hangs(hot: Site) -> None:
    await hot.ensure(Role.ACTIVE)
    hot.cluster.stop_apiserver()
    try:
        began = time.monotonic()
        status = await hot.status()
        assert (status.role, status.health, status.accepting) == (Role.UNSPECIFIED, Health.UNKNOWN, False)
        assert not status.promotable
        with pytest.raises(DriverCallError, match="does not answer") as caught:
            await hot.once(Role.FENCED, 2)
        assert caught.value.could_still_be_running
        assert time.monotonic() - began < 30
        (problem,) = await hot.client.validate(hot.spec)
        assert "API server" in problem.fix
    finally:
        hot.cluster.start_apiserver()
    await hot.ensure(Role.FENCED, 2)
    assert hot.pods() == []


async def test_a_missing_permission_is_named(site: Site) -> None:
    site.create(deployment("app", 1))
    site.parameters = {"mode": "warm", "targets": [{"kind": "Deployment", "name": "app"}]}
    site.cluster.kubectl("-n", site.namespace, "delete", "rolebinding", "graf-driver-workload")

    async def refused() -> bool:
        try:
            await site.once(Role.FENCED)
        except DriverCallError as error:
            return error.reason == "forbidden" and "not permitted" in str(error)
        return False

    await eventually("the permission to be gone", refused, 30)
