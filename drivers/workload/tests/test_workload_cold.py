"""Cold standby and site overrides: objects that the driver makes and removes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from graf_driver_sdk.client import DriverCallError
from graf_driver_sdk.types import Health, Role
from graf_driver_workload.parameters import Kind
from workload_cluster import wait_for
from workload_site import Site, deployment

CONFIG_MAP, CLAIM = Kind("v1", "ConfigMap"), Kind("v1", "PersistentVolumeClaim")
SETTINGS = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {site: none, plmn: '26280'}\n"
VOLUME = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""


def manifests(*documents: str) -> str:
    return "\n---\n".join(documents)


@pytest.fixture
def cold(site: Site) -> Site:
    site.parameters = {"mode": "cold", "manifests": manifests(SETTINGS, VOLUME, deployment("app", 2))}
    return site


async def test_a_cold_component_is_made_when_it_is_active_and_leaves_only_its_data(cold: Site) -> None:
    await cold.ensure(Role.STANDBY)
    assert cold.get("app") is None
    assert ((await cold.status()).role, (await cold.status()).promotable) == (Role.STANDBY, True)
    await cold.ensure(Role.ACTIVE, 2)
    assert len(cold.pods()) == 2
    status = await cold.status()
    assert (status.role, status.health, status.accepting) == (Role.ACTIVE, Health.HEALTHY, True)
    await cold.ensure(Role.STANDBY, 2)
    assert (cold.get("app"), cold.get("settings", CONFIG_MAP), cold.pods()) == (None, None, [])
    assert cold.get("data", CLAIM) is not None, "data is never deleted"
    assert (await cold.status()).role is Role.STANDBY
    await cold.ensure(Role.ACTIVE, 3)
    assert len(cold.pods()) == 2


async def test_objects_go_only_after_their_pods(cold: Site) -> None:
    await cold.ensure(Role.ACTIVE)
    cold.cluster.kubelet.holds_ends.add(cold.namespace)
    progress = await cold.once(Role.FENCED)
    assert not progress.completed
    wait_for("pods to be terminating", lambda: all(p["metadata"].get("deletionTimestamp") for p in cold.pods()))
    assert not (await cold.once(Role.FENCED)).completed
    assert cold.get("app") is not None
    # Even when somebody deletes the object, its pods are remembered.
    cold.cluster.kubectl("-n", cold.namespace, "delete", "deployment", "app")
    progress = await cold.once(Role.FENCED)
    assert not progress.completed
    assert "2 pods of deleted objects are left" in progress.message
    cold.cluster.kubelet.holds_ends.discard(cold.namespace)
    await cold.ensure(Role.FENCED)


async def test_what_has_gone_out_of_the_manifests_is_removed(cold: Site) -> None:
    await cold.ensure(Role.ACTIVE)
    cold.parameters = {"mode": "cold", "manifests": deployment("app", 2)}
    await cold.ensure(Role.ACTIVE, 2)
    assert cold.get("settings", CONFIG_MAP) is None
    assert len(cold.pods()) == 2


async def test_an_object_of_somebody_else_is_neither_taken_nor_removed(cold: Site) -> None:
    cold.create(SETTINGS)
    with pytest.raises(DriverCallError, match=r"ConfigMap/settings is in .* already") as caught:
        await cold.once(Role.ACTIVE)
    assert caught.value.reason == "not-ours"
    await cold.ensure(Role.FENCED)
    assert cold.get("settings", CONFIG_MAP) is not None


async def test_overrides_of_a_site_are_patches_of_both_kinds(cold: Site) -> None:
    strategic = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {site: east}\n"
    image = '[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "registry.east/app:1"}]'
    cold.parameters = {
        **cold.parameters,
        "overrides": [{"patch": strategic}, {"target": {"kind": "Deployment", "name": "app"}, "patch": image}],
    }
    assert await cold.client.validate(cold.spec) == ()
    await cold.ensure(Role.ACTIVE)
    settings, app = cold.get("settings", CONFIG_MAP), cold.get("app")
    assert settings is not None
    assert app is not None
    assert settings["data"] == {"site": "east", "plmn": "26280"}
    assert app["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.east/app:1"


async def test_a_field_that_somebody_else_owns_is_named_and_not_taken(cold: Site) -> None:
    await cold.ensure(Role.ACTIVE)
    cold.cluster.kubectl(
        "-n", cold.namespace, "apply", "--server-side", "--force-conflicts", "--field-manager=operator", "-f", "-",
        stdin=SETTINGS.replace("none", "theirs"),
    )  # fmt: skip
    with pytest.raises(DriverCallError, match=r"others own: .*data\.site.*operator") as caught:
        await cold.once(Role.ACTIVE, 2)
    assert caught.value.reason == "field-conflict"
    cold.parameters = {**cold.parameters, "forceConflicts": True}
    await cold.ensure(Role.ACTIVE, 2)
    settings = cold.get("settings", CONFIG_MAP)
    assert settings is not None
    assert settings["data"]["site"] == "none"


async def test_warm_objects_of_the_driver_begin_with_no_pod_and_an_update_changes_no_count(site: Site) -> None:
    site.parameters = {"mode": "warm", "manifests": manifests(SETTINGS, deployment("app", 2))}
    await site.ensure(Role.STANDBY)
    assert (site.replicas("app"), site.pods()) == (0, [])
    assert (await site.status()).promotable
    await site.ensure(Role.ACTIVE, 2)
    assert site.replicas("app") == 2
    site.patch("app", {"spec": {"replicas": 3}})
    site.parameters = {"mode": "warm", "manifests": deployment("app", 2).replace("app:1", "app:2")}
    await site.ensure(Role.ACTIVE, 2)
    assert site.replicas("app") == 3
    await site.ensure(Role.STANDBY, 2)
    assert site.pods() == []
    await site.ensure(Role.ACTIVE, 3)
    assert site.replicas("app") == 3


async def test_a_kustomization_is_a_folder(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "app.yaml").write_text(deployment("app", 1))
    (folder / "kustomization.yaml").write_text("resources: [app.yaml]\nnamePrefix: vcu-\n")
    site.parameters = {"mode": "cold", "kustomization": str(folder)}
    await site.ensure(Role.ACTIVE)
    assert site.get("vcu-app") is not None
    site.parameters = {"mode": "cold", "kustomization": "/no/such/folder"}
    (problem,) = await site.client.validate(site.spec)
    assert "/no/such/folder is no folder" in problem.cause


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"manifests": "{apiVersion: v1, kind: Secret, metadata: {name: s}}"}, "no place for secrets"),
        ({"manifests": "{apiVersion: v1, kind: Namespace, metadata: {name: n}}"}, "not of a namespace"),
        ({"manifests": SETTINGS}, "nothing that has a scale"),
        ({"manifests": "{apiVersion: batch/v1, kind: Job, metadata: {name: j}}"}, "it has no scale"),
        ({"overrides": [{"target": {"kind": "Deployment"}, "patch": "[{op: remove, path: /none/x}]"}]}, "kustomize"),
    ],
)  # fmt: skip
async def test_manifests_that_are_not_the_drivers_to_make_are_refused(
    cold: Site, change: dict[str, Any], said: str
) -> None:
    cold.parameters = {**cold.parameters, **change}
    (problem,) = await cold.client.validate(cold.spec)
    assert said in problem.cause
    with pytest.raises(DriverCallError, match=said):
        await cold.once(Role.ACTIVE)
    assert cold.get("app") is None


async def test_a_record_that_cannot_be_read_is_never_taken_for_nothing_applied(cold: Site) -> None:
    await cold.ensure(Role.ACTIVE)
    cold.patch("graf-workload.vcu.app", {"data": {"record.json": "{}"}}, CONFIG_MAP)
    with pytest.raises(DriverCallError, match="cannot be read"):
        await cold.once(Role.FENCED)
    assert (await cold.status()).health is Health.UNKNOWN
    assert cold.replicas("app") == 2
