"""The objects of a driver at this site, from its DriverClass. Pure: values in, values out.

Everything is named `graf-driver-<class>`. The labels that the Deployment selects by never change: a selector is
immutable.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graf.crd.driver_rules import STATE_DIR, driver_container, state_mount, state_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graf.crd.driverclass import DriverClass, Permission

CLASS_LABEL = "graf.dev/driver-class"
REVISION = "graf.dev/revision"
APPROVED = "graf.dev/approve-upgrade"
MANAGED_BY = {"app.kubernetes.io/managed-by": "graf-controller"}
SOCKET_VOLUME = "graf-driver-sockets"
STATE_VOLUME = "graf-driver-state"
TLS_VOLUME = "graf-driver-tls"
TLS_DIR = "/etc/graf/driver-tls"
RBAC_GROUP = "rbac.authorization.k8s.io"
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the cluster should hold for one class.

    Attributes:
        before: what the Pod needs to start, in the order in which it is applied.
        deployment: the Deployment; replacing its template restarts the driver and what is beside it.
        revision: of the Pod template.
        image: of the container that serves the contract.
    """

    before: tuple[Document, ...]
    deployment: Document
    revision: str
    image: str


def object_name(driver_class: str) -> str:
    """Name of the objects of a class."""
    return f"graf-driver-{driver_class}"


def role_name(driver_class: str) -> str:
    """Name of its roles and bindings; not that of its account: administrators may have used that for their own."""
    return f"{object_name(driver_class)}-permissions"


def server_name(driver_class: str) -> str:
    """DNS name in the certificate of a driver, whatever address it is dialled at."""
    return f"{driver_class}.driver.graf.dev"


def render(driver_class: DriverClass, namespace: str, socket_dir: str, secret: dict[str, str] | None) -> Rendered:
    """All objects of a class.

    Args:
        driver_class: a class without problems (`driver_class_problems`).
        namespace: where the driver runs.
        socket_dir: directory of the unix sockets at the node.
        secret: data of the Secret with the driver's certificate, for a TLS endpoint.

    Raises:
        ValueError: the template has no container.
    """
    template = _template(driver_class, socket_dir)
    revision = revision_of(template)
    template["metadata"].setdefault("annotations", {})[REVISION] = revision
    name = object_name(driver_class.name)
    before: list[Document] = [
        {**_head("v1", "ServiceAccount", driver_class, namespace), "automountServiceAccountToken": False},
        *_access(driver_class, namespace),
    ]
    if driver_class.spec.endpoint.kind == "TLS":
        before += [
            {
                **_head("v1", "Secret", driver_class, namespace, f"{name}-tls"),
                "type": "kubernetes.io/tls",
                "data": dict(secret or {}),
            },
            {
                **_head("v1", "Service", driver_class, namespace),
                "spec": {
                    "selector": selector(driver_class.name),
                    "ports": [{"name": "grpc", "port": driver_class.spec.endpoint.port, "protocol": "TCP"}],
                },
            },
        ]
    deployment = _head("apps/v1", "Deployment", driver_class, namespace)
    deployment["metadata"]["annotations"] = {REVISION: revision}
    deployment["spec"] = {
        "replicas": 1,
        # Replaced rather than rolled: two drivers of one component must never run side by side.
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": selector(driver_class.name)},
        "template": template,
    }
    found = driver_container(template)
    return Rendered(tuple(before), deployment, revision, str(found[1].get("image", "")) if found else "")


def selector(driver_class: str) -> dict[str, str]:
    """Labels of the driver's Pod."""
    return {"app.kubernetes.io/name": object_name(driver_class), **MANAGED_BY}


def revision_of(template: Document) -> str:
    """Equal for equal Pod templates, whatever else changes in the class."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def _head(api_version: str, kind: str, driver_class: DriverClass, namespace: str | None, name: str = "") -> Document:
    metadata: Document = {
        "name": name or object_name(driver_class.name),
        "labels": {**selector(driver_class.name), CLASS_LABEL: driver_class.name},
    }
    if namespace is not None:
        metadata["namespace"] = namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _access(driver_class: DriverClass, namespace: str) -> Iterator[Document]:
    """A Role for each namespace that is named, a ClusterRole only for what is cluster-wide, each with its binding."""
    account = {"kind": "ServiceAccount", "name": object_name(driver_class.name), "namespace": namespace}
    rules: dict[str | None, list[Document]] = {}
    for permission in driver_class.spec.permissions:
        places = [None] if permission.cluster_wide else permission.namespaces or [namespace]
        for place in places:
            rules.setdefault(place, []).append(_rule(permission))
    for place, wanted in rules.items():
        kind = "ClusterRole" if place is None else "Role"
        name = role_name(driver_class.name)
        head = _head(f"{RBAC_GROUP}/v1", kind, driver_class, place, name)
        yield {**head, "rules": wanted}
        yield {
            **_head(f"{RBAC_GROUP}/v1", f"{kind}Binding", driver_class, place, name),
            "roleRef": {"apiGroup": RBAC_GROUP, "kind": kind, "name": name},
            "subjects": [account],
        }


def _rule(permission: Permission) -> Document:
    rule: Document = {
        "apiGroups": list(permission.api_groups) or [""],
        "resources": list(permission.resources),
        "verbs": list(permission.verbs),
    }
    if permission.resource_names:
        rule["resourceNames"] = list(permission.resource_names)
    return rule


def _template(driver_class: DriverClass, socket_dir: str) -> Document:
    template: Document = _without_null(copy.deepcopy(driver_class.spec.template))
    found = driver_container(template)
    if found is None:
        raise ValueError(f"DriverClass {driver_class.name}: spec.template has no container; add one named 'driver'")
    pod: Document = template["spec"]
    driver: Document = pod["containers"][found[0]]
    metadata = template.setdefault("metadata", {})
    labels = metadata.get("labels", {})
    metadata["labels"] = {**labels, **selector(driver_class.name), CLASS_LABEL: driver_class.name}
    # Without a permission there is no token either: nothing to steal. A template that names the account says that an
    # administrator of the site has bound roles to it.
    needs_token = bool(driver_class.spec.permissions) or bool(pod.get("serviceAccountName"))
    pod.setdefault("automountServiceAccountToken", needs_token)
    pod.pop("serviceAccount", None)
    pod["serviceAccountName"] = object_name(driver_class.name)
    # What a driver that dies says last is what an operator reads first.
    driver.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    mounts, volumes = driver.setdefault("volumeMounts", []), pod.setdefault("volumes", [])
    environment = driver.setdefault("env", [])
    if state_mount(driver) is None:
        path = state_path(driver_class)
        volumes.append({"name": STATE_VOLUME, "hostPath": {"path": path, "type": "DirectoryOrCreate"}})
        mounts.append({"name": STATE_VOLUME, "mountPath": STATE_DIR})
    environment.append({"name": "GRAF_DRIVER_STATE_DIR", "value": STATE_DIR})
    endpoint = driver_class.spec.endpoint
    if endpoint.kind == "TLS":
        secret = {"secretName": f"{object_name(driver_class.name)}-tls", "defaultMode": 0o400}
        volumes.append({"name": TLS_VOLUME, "secret": secret})
        mounts.append({"name": TLS_VOLUME, "mountPath": TLS_DIR, "readOnly": True})
        environment += [
            {"name": "GRAF_DRIVER_ENDPOINT", "value": f"0.0.0.0:{endpoint.port}"},
            {"name": "GRAF_DRIVER_TLS_DIR", "value": TLS_DIR},
        ]
        driver.setdefault("ports", []).append({"name": "graf-driver", "containerPort": endpoint.port})
    else:
        volumes.append({"name": SOCKET_VOLUME, "hostPath": {"path": socket_dir, "type": "DirectoryOrCreate"}})
        mounts.append({"name": SOCKET_VOLUME, "mountPath": socket_dir})
        environment.append({"name": "GRAF_DRIVER_SOCKET", "value": f"{socket_dir}/{driver_class.name}.sock"})
    return template


def _without_null(value: Any) -> Any:
    """A field that is there without a value is as one that is left out; an API server sees it so too."""
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value
