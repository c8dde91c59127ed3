"""Warm standby against a real API server and real controllers."""

from __future__ import annotations

import pytest
from graf_driver_sdk.client import DriverCallError
from graf_driver_sdk.types import Health, Role
from graf_driver_workload.parameters import STATEFUL_SET, Kind
from workload_cluster import wait_for
from workload_site import Site, deployment

HPA = Kind("autoscaling/v2", "HorizontalPodAutoscaler")


@pytest.fixture
def warm(site: Site) -> Site:
    site.parameters = {"mode": "warm", "targets": [{"kind": "Deployment", "name": "app"}]}
    return site


def autoscaler(name: str, low: int) -> str:
    return f"""
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: {name}}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {name}}}
  minReplicas: {low}
  maxReplicas: 9
  metrics: [{{type: Resource, resource: {{name: cpu, target: {{type: Utilization, averageUtilization: 80}}}}}}]
"""


async def test_a_standby_is_scaled_to_zero_and_gets_its_own_count_back(warm: Site) -> None:
    warm.create(deployment("app", 3))
    warm.until_pods(3)
    await warm.ensure(Role.STANDBY, 1)
    assert warm.pods() == []
    status = await warm.status()
    assert (status.role, status.health, status.accepting) == (Role.STANDBY, Health.HEALTHY, False)
    assert status.promotable
    await warm.ensure(Role.ACTIVE, 2)
    status = await warm.status()
    assert (status.role, status.health, status.accepting) == (Role.ACTIVE, Health.HEALTHY, True)
    assert warm.replicas("app") == 3
    assert status.facts["pods_ready"] == "3"
    found = warm.get("app")
    assert found is not None
    annotations = found["metadata"]["annotations"]
    assert annotations["workload.graf.dev/owner"] == "vcu/app@east"
    assert (annotations["workload.graf.dev/role"], annotations["workload.graf.dev/epoch"]) == ("ACTIVE", "2")


async def test_fencing_is_not_completed_while_a_pod_is_terminating(warm: Site) -> None:
    warm.create(deployment("app", 2))
    await warm.ensure(Role.ACTIVE, 1)
    warm.cluster.kubelet.holds_ends.add(warm.namespace)
    progress = await warm.once(Role.FENCED)
    assert not progress.completed
    wait_for("two pods to be terminating", lambda: all(p["metadata"].get("deletionTimestamp") for p in warm.pods()))
    progress = await warm.once(Role.FENCED)
    assert not progress.completed
    assert "2 of them terminating" in progress.message
    assert warm.replicas("app") == 0, "the spec alone proves nothing"
    assert (await warm.status()).role is Role.UNSPECIFIED
    warm.cluster.kubelet.holds_ends.discard(warm.namespace)
    await warm.ensure(Role.FENCED)
    assert (await warm.status()).role is Role.FENCED


async def test_a_count_that_nobody_has_said_is_never_guessed(warm: Site) -> None:
    warm.create(deployment("app", 0))
    await warm.ensure(Role.STANDBY)
    status = await warm.status()
    assert not status.promotable
    assert "how many replicas" in status.promotable_reason
    (problem,) = await warm.client.validate(warm.spec)
    assert "how many replicas Deployment/app" in problem.cause
    with pytest.raises(DriverCallError, match=r"workload\.graf\.dev/replicas=N"):
        await warm.once(Role.ACTIVE, 2)
    assert warm.replicas("app") == 0
    warm.patch("app", {"metadata": {"annotations": {"workload.graf.dev/replicas": "2"}}})
    await warm.ensure(Role.ACTIVE, 2)
    assert warm.replicas("app") == 2


async def test_a_hand_that_scales_a_standby_out_changes_neither_its_count_nor_its_role_for_long(warm: Site) -> None:
    warm.create(deployment("app", 3))
    await warm.ensure(Role.STANDBY)
    warm.patch("app", {"spec": {"replicas": 1}})
    wait_for("the stranger's pod to be ready", lambda: warm.pods()[0]["status"].get("phase") == "Running")
    status = await warm.status()
    assert (status.role, status.accepting) == (Role.UNSPECIFIED, True)
    await warm.ensure(Role.STANDBY)
    assert warm.pods() == []
    await warm.ensure(Role.ACTIVE, 2)
    assert warm.replicas("app") == 3


async def test_an_active_workload_is_left_to_whoever_scales_it_and_the_new_count_is_kept(warm: Site) -> None:
    warm.create(deployment("app", 1))
    await warm.ensure(Role.ACTIVE)
    warm.patch("app", {"spec": {"replicas": 2}})
    await warm.ensure(Role.ACTIVE)
    assert warm.replicas("app") == 2
    await warm.ensure(Role.FENCED)
    await warm.ensure(Role.ACTIVE, 2)
    assert warm.replicas("app") == 2


async def test_an_active_that_somebody_scaled_to_zero_is_dead_and_is_scaled_out_again(warm: Site) -> None:
    warm.create(deployment("app", 2))
    await warm.ensure(Role.ACTIVE)
    warm.patch("app", {"spec": {"replicas": 0}})
    wait_for("no pods", lambda: not warm.pods())
    status = await warm.status()
    assert (status.health, status.accepting) == (Health.DEAD, False)
    await warm.ensure(Role.ACTIVE)
    assert warm.replicas("app") == 2


async def test_a_standby_keeps_its_declared_share(site: Site) -> None:
    site.parameters = {
        "mode": "warm", "standbyReplicas": 1, "targets": [{"kind": "Deployment", "name": "app", "replicas": 3}],
    }  # fmt: skip
    site.create(deployment("app", 0))
    await site.ensure(Role.STANDBY)
    wait_for("the share to be ready", lambda: [p["status"].get("phase") for p in site.pods()] == ["Running"])
    status = await site.status()
    assert (status.role, status.health, status.accepting) == (Role.STANDBY, Health.HEALTHY, False)
    await site.ensure(Role.ACTIVE, 2)
    assert site.replicas("app") == 3
    await site.ensure(Role.STANDBY, 2)
    assert len(site.pods()) == 1


async def test_a_pod_in_trouble_keeps_activation_pending_and_is_named(warm: Site) -> None:
    warm.create(deployment("app", 0))
    warm.patch("app", {"metadata": {"annotations": {"workload.graf.dev/replicas": "1"}}})
    warm.cluster.kubelet.crashes.add(warm.namespace)
    await warm.once(Role.ACTIVE)
    wait_for("the pod to crash", lambda: warm.pods() and warm.pods()[0]["status"].get("containerStatuses"))
    progress = await warm.once(Role.ACTIVE)
    assert not progress.completed
    assert "main CrashLoopBackOff" in progress.message
    status = await warm.status()
    assert (status.role, status.health, status.accepting) == (Role.ACTIVE, Health.UNHEALTHY, False)
    warm.cluster.kubelet.crashes.discard(warm.namespace)


async def test_a_stateful_set_and_a_deployment_are_found_by_label_even_when_one_loses_it(site: Site) -> None:
    site.parameters = {"mode": "warm", "selector": "part=vcu"}
    site.create(deployment("app", 1))
    site.create(deployment("db", 2).replace("kind: Deployment", "kind: StatefulSet"))
    await site.ensure(Role.ACTIVE)
    assert len(site.pods()) == 3
    site.patch("app", {"metadata": {"labels": {"part": None}}})
    await site.ensure(Role.FENCED)
    assert site.pods() == []
    await site.ensure(Role.ACTIVE, 2)
    assert (site.replicas("app"), site.replicas("db", STATEFUL_SET)) == (1, 2)


async def test_a_missing_workload_is_never_taken_for_one_that_does_not_run(warm: Site) -> None:
    for role in (Role.FENCED, Role.ACTIVE):
        with pytest.raises(DriverCallError, match="Deployment/app is not in namespace"):
            await warm.once(role)
    status = await warm.status()
    assert (status.role, status.health) == (Role.UNSPECIFIED, Health.UNHEALTHY)


async def test_two_components_do_not_get_one_workload(warm: Site) -> None:
    warm.create(deployment("app", 1))
    warm.patch("app", {"metadata": {"annotations": {"workload.graf.dev/owner": "other/app@east"}}})
    with pytest.raises(DriverCallError, match="belongs to other/app@east"):
        await warm.once(Role.FENCED)
    assert warm.replicas("app") == 1


async def test_an_epoch_on_the_object_outlives_the_drivers_own_disk(warm: Site) -> None:
    warm.create(deployment("app", 1))
    warm.patch("app", {"metadata": {"annotations": {"workload.graf.dev/epoch": "9"}}})
    with pytest.raises(DriverCallError, match="epoch 9") as caught:
        await warm.once(Role.FENCED, 8)
    assert caught.value.reason == "stale-epoch"
    assert warm.replicas("app") == 1


async def test_an_autoscaler_rests_at_a_standby_and_is_respected_at_the_active(warm: Site) -> None:
    warm.create(deployment("app", 1))
    warm.create(autoscaler("app", 2))
    wait_for("the autoscaler's minimum", lambda: warm.replicas("app") == 2)
    assert await warm.client.validate(warm.spec) == ()
    await warm.ensure(Role.STANDBY)
    warm.patch("app", {"metadata": {"annotations": {"workload.graf.dev/replicas": "1"}}})
    await warm.ensure(Role.ACTIVE, 2)
    assert warm.replicas("app") == 2, "never below the autoscaler's minimum"
    assert (await warm.status()).facts["Deployment/app autoscaler"] == "app"


async def test_an_autoscaler_that_would_start_a_standby_is_refused_on_the_first_day(warm: Site) -> None:
    warm.create(deployment("app", 2))
    warm.create(autoscaler("app", 2))
    warm.parameters = {**warm.parameters, "standbyReplicas": 1}
    (problem,) = await warm.client.validate(warm.spec)
    assert "would scale Deployment/app to at least 2 at a standby" in problem.cause
    assert "would scale" in (await warm.status()).promotable_reason


async def test_a_gitops_agent_that_owns_the_count_is_named(warm: Site) -> None:
    warm.cluster.kubectl(
        "-n", warm.namespace, "apply", "--server-side", "--field-manager=kustomize-controller", "-f", "-",
        stdin=deployment("app", 2),
    )  # fmt: skip
    (problem,) = await warm.client.validate(warm.spec)
    assert "kustomize-controller owns spec.replicas of Deployment/app" in problem.cause
