"""What is there: workloads, their pods, and the autoscalers that would fight. Reads only; values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from graf_driver_sdk.errors import PreconditionError

from graf_driver_workload import names
from graf_driver_workload.api import KubeApi, Object, Resource
from graf_driver_workload.evidence import Evidence, read
from graf_driver_workload.parameters import DEPLOYMENT, Kind, Target

_REPLICA_SETS: Final = Kind("apps/v1", "ReplicaSet")
_PODS: Final = Kind("v1", "Pod")
_OVER: Final = ("Succeeded", "Failed")
# Managers that write again what they wrote, for ever: a count that one of them owns is not ours to change.
_RECONCILERS: Final = ("kustomize-controller", "helm-controller", "argocd-controller", "configsync.gke.io")


class NoScaleError(PreconditionError):
    """The object cannot be scaled, or its pods cannot be told."""

    reason = "no-scale"


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of a workload that could still run something; one that has ended, and stays as a record, is none."""

    live: int = 0
    ready: int = 0
    terminating: int = 0
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """A HorizontalPodAutoscaler of the workload."""

    name: str
    low: int
    keda: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """One target as it is now.

    Attributes:
        replicas: its `spec.replicas`, by the scale subresource.
        settled: its controllers have seen this very spec, and none of them is to make another pod of an older one.
        reconciler: a GitOps agent that owns `spec.replicas`, and would scale it back.
        uid: of the object.
        version: its resourceVersion.
        fallback: how many replicas its manifest gives it.
        applied: the driver made it.
        held: what it waits for while it is being deleted; empty when nobody has deleted it.
    """

    resource: Resource
    name: str
    replicas: int
    evidence: Evidence
    pods: Pods
    settled: bool
    declared: int | None = None
    fallback: int | None = None
    autoscaler: Autoscaler | None = None
    reconciler: str = ""
    uid: str = ""
    version: str = ""
    selector: str = ""
    applied: bool = False
    held: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.resource.kind.kind}/{self.name}"


class Objects:
    """Reads one namespace."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._autoscalers: list[Object] | None = None

    def workload(self, target: Target, item: Object | None = None) -> Workload | None:
        """A target as it is now; None when there is no such object.

        Raises:
            NoScaleError: it has no scale, or nothing says which pods are its own.
        """
        resource = self._api.resource(target.kind)
        if not resource.has_scale:
            raise NoScaleError(f"{target.kind} has no scale, so {target.name} cannot be scaled in; use another kind")
        if item is None:
            item = self._api.get(resource.path(self._namespace, target.name))
        if item is None:
            return None
        scale = self._api.get(resource.path(self._namespace, target.name, "scale"))
        if scale is None:
            return None
        selector = target.pod_selector or scale.get("status", {}).get("selector", "")
        if not selector:
            raise NoScaleError(
                f"{target.kind.kind}/{target.name} does not say which pods are its own (its scale has no selector); "
                f"give podSelector for it"
            )
        metadata = item["metadata"]
        return Workload(
            resource=resource,
            name=target.name,
            replicas=int(scale.get("spec", {}).get("replicas", 0)),
            evidence=read(item),
            pods=self.pods(selector),
            settled=_settled(target.kind, item, scale) and self._replica_sets_settled(target.kind, item, selector),
            declared=target.replicas,
            fallback=target.fallback,
            autoscaler=self._autoscaler(target),
            reconciler=_reconciler(item),
            uid=metadata["uid"],
            version=metadata["resourceVersion"],
            selector=selector,
            applied=names.APPLIED in (metadata.get("labels") or {}),
            held=_held(metadata),
            labels=metadata.get("labels") or {},
        )

    def selected(self, kind: Kind, selector: str) -> list[tuple[Target, Object]]:
        """Objects of a kind by label."""
        listed = self._api.items(self._api.resource(kind).path(self._namespace), labelSelector=selector)
        return [(Target(kind, item["metadata"]["name"]), item) for item in listed]

    def pods(self, selector: str) -> Pods:
        """The pods of a selector; the list is complete and as of now."""
        path = self._api.resource(_PODS).path(self._namespace)
        live = [pod for pod in self._api.items(path, labelSelector=selector) if _phase(pod) not in _OVER]
        leaving = [pod for pod in live if pod["metadata"].get("deletionTimestamp")]
        ready = [pod for pod in live if pod not in leaving and _condition(pod, "Ready").get("status") == "True"]
        troubles = sorted({trouble for pod in live if pod not in leaving for trouble in _troubles(pod)})
        return Pods(len(live), len(ready), len(leaving), tuple(troubles))

    def _replica_sets_settled(self, kind: Kind, item: Object, selector: str) -> bool:
        if kind != DEPLOYMENT:
            return True
        path = self._api.resource(_REPLICA_SETS).path(self._namespace)
        owned = [
            one
            for one in self._api.items(path, labelSelector=selector)
            if any(owner["uid"] == item["metadata"]["uid"] for owner in one["metadata"].get("ownerReferences", []))
        ]
        wanted = sum(int(one["spec"].get("replicas", 0)) for one in owned)
        return all(_observed(one) for one in owned) and (item["spec"].get("replicas", 1) != 0 or wanted == 0)

    def _autoscaler(self, target: Target) -> Autoscaler | None:
        if self._autoscalers is None:
            resource = self._api.resource(Kind("autoscaling/v2", "HorizontalPodAutoscaler"))
            self._autoscalers = self._api.items(resource.path(self._namespace))
        group = target.kind.api_version.rpartition("/")[0]
        for item in self._autoscalers:
            ref = item["spec"]["scaleTargetRef"]
            same = (ref["kind"], ref["name"]) == (target.kind.kind, target.name)
            if same and ref.get("apiVersion", "").rpartition("/")[0] == group:
                labels = item["metadata"].get("labels") or {}
                keda = labels.get("app.kubernetes.io/managed-by") == "keda-operator"
                return Autoscaler(item["metadata"]["name"], int(item["spec"].get("minReplicas", 1)), keda)
        return None


def _settled(kind: Kind, item: Object, scale: Object) -> bool:
    """The controller has seen this spec, and counts as many pods as it wants."""
    status = scale.get("status", {})
    wanted = int(scale.get("spec", {}).get("replicas", 0))
    return _observed(item, must_say=kind.api_version == "apps/v1") and (
        wanted > 0 or int(status.get("replicas", 0)) == 0
    )


def _observed(item: Object, *, must_say: bool = True) -> bool:
    # A custom resource need not have it: then only its count of pods tells.
    status = item.get("status", {})
    if "observedGeneration" not in status and not must_say:
        return True
    return int(status.get("observedGeneration", 0)) >= int(item["metadata"].get("generation", 0))


def _held(metadata: Object) -> str:
    if not metadata.get("deletionTimestamp"):
        return ""
    return ", ".join(metadata.get("finalizers") or ()) or "its end"


def _reconciler(item: Object) -> str:
    for entry in item["metadata"].get("managedFields", []):
        fields: Any = entry.get("fieldsV1", {})
        owns = "f:replicas" in fields.get("f:spec", {})
        if owns and not entry.get("subresource") and entry.get("manager") in _RECONCILERS:
            return str(entry["manager"])
    return ""


def _phase(pod: Object) -> str:
    return str(pod.get("status", {}).get("phase", ""))


def _condition(pod: Object, kind: str) -> Object:
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == kind:
            return dict(condition)
    return {}


def _troubles(pod: Object) -> list[str]:
    """What keeps a pod from being ready and will not pass by itself."""
    name = pod["metadata"]["name"]
    scheduled = _condition(pod, "PodScheduled")
    found = []
    if scheduled.get("status") == "False":
        found.append(f"{name}: {scheduled.get('reason', 'not scheduled')}: {scheduled.get('message', '')}"[:160])
    status = pod.get("status", {})
    for one in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = one.get("state", {}).get("waiting", {}).get("reason", "")
        if waiting and waiting not in ("ContainerCreating", "PodInitializing"):
            found.append(f"{name}: {one['name']} {waiting}")
        elif not one.get("ready") and one.get("restartCount", 0) > 0 and not one.get("state", {}).get("terminated"):
            found.append(f"{name}: {one['name']} restarted {one['restartCount']} times and is not ready")
    return found
