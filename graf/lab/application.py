"""A lab with an application: the group gets a Deployment, `app`, and its configuration, `config`.

The Deployment is warm: its object is at both sites, with no Pod at the standby. What it reads, a ConfigMap and a
Secret, is written at the active site only and follows from there. Without it a lab is as before: what every drill
measures, milliseconds of a database's promotion, would have the start of a Pod in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from graf.crd.driverclass import DriverClass
from graf.lab import site
from graf.lab.build import REPOSITORY
from graf.lab.errors import LabError
from graf.lab.topology import SITES, Topology

WORKLOAD, WORKLOAD_CLASS = "app", "workload"
CONFIGURATION, OBJECTS_CLASS = "config", "objects"
NAMESPACE = "vcu"
DEPLOYMENT = "vcu-app"
PLAN, SECRET = "vcu-plan", "vcu-app"  # names of a ConfigMap and a Secret
PLAN_KEY, SECRET_KEY = "plan", "key"
LABELS = {"app.kubernetes.io/part-of": "vcu"}
PORT = 8080
EXCHANGE_PORT = 7874
RPO_SECONDS = 10
CERTIFICATES = "graf-objects-tls"
EXAMPLE = REPOSITORY / "gitops" / "example"
_GROUP_FILE = Path("groups") / "vcu-db.yaml"
_RBAC = "rbac.authorization.k8s.io"
_CONTROLLER = {"kind": "ServiceAccount", "name": "graf-controller", "namespace": "graf-system"}


def identity(location: str) -> str:
    """Name of a site's certificate for its objects, among the files of the lab's authority."""
    return f"{location}-objects"


def dns_name(location: str) -> str:
    """The name in that certificate."""
    return f"{location}.objects.graf.dev"


def components(topology: Topology) -> list[dict[str, Any]]:
    """Both components, as the group's owner writes them."""
    chosen = [
        {"apiVersion": "v1", "kind": "ConfigMap", "namespace": NAMESPACE, "labelSelector": _selector()},
        {"apiVersion": "v1", "kind": "Secret", "namespace": NAMESPACE, "names": [SECRET]},
    ]
    return [
        {
            "name": CONFIGURATION,
            "driverClass": OBJECTS_CLASS,
            "stage": "data",
            "parameters": {"objects": chosen, "rpoSeconds": RPO_SECONDS},
            "siteParameters": {
                name: {"endpoint": f"{topology.location(name).address}:{EXCHANGE_PORT}"} for name in SITES
            },
        },
        {
            "name": WORKLOAD,
            "driverClass": WORKLOAD_CLASS,
            "stage": "workload",
            "dependsOn": [CONFIGURATION],
            "parameters": {
                "namespace": NAMESPACE,
                "mode": "warm",
                "targets": [{"kind": "Deployment", "name": DEPLOYMENT, "replicas": 1}],
            },
        },
    ]


def add_to_example(tree: Path, topology: Topology) -> None:
    """Puts the components into a checkout of the example, and the application's port behind the gate."""
    path = tree / _GROUP_FILE
    group = yaml.safe_load(path.read_text())
    listed = group["spec"]["components"]
    for component in listed:
        if component["stage"] == "traffic":
            component["parameters"]["ports"].append(PORT)
    listed[1:1] = components(topology)
    path.write_text(yaml.safe_dump(group, sort_keys=False))


def secret_files(topology: Topology, location: str) -> dict[str, Path]:
    """The Secret that the DriverClass of the example mounts: key to file."""
    name = identity(location)
    return {
        "ca.crt": topology.pki_dir / "ca.crt",
        "tls.crt": topology.pki_dir / f"{name}.crt",
        "tls.key": topology.pki_dir / f"{name}.key",
    }


def prerequisites() -> list[dict[str, Any]]:
    """What an administrator gives a site: the namespace, and the rights that the controller may hand to the drivers."""
    rules: list[dict[str, Any]] = [
        {"apiGroups": [_RBAC], "resources": ["roles", "rolebindings"], "verbs": ["get", "create", "patch", "delete"]}
    ]
    for name in (OBJECTS_CLASS, WORKLOAD_CLASS):
        text = (EXAMPLE / "driverclasses" / f"{name}.yaml").read_text()
        for permission in DriverClass.model_validate(yaml.safe_load(text)).spec.permissions:
            rule = {
                "apiGroups": list(permission.api_groups) or [""],
                "resources": list(permission.resources),
                "verbs": list(permission.verbs),
            }
            rules.append(
                rule | ({"resourceNames": list(permission.resource_names)} if permission.resource_names else {})
            )
    metadata = {"name": "graf-driver-grants", "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": metadata["name"]},
            "subjects": [_CONTROLLER],
        },
    ]


def own_objects(location: str) -> list[dict[str, Any]]:
    """What a site has from its first day and nobody here touches again: the scaled-in Deployment, an empty Secret.

    The configuration is at one site only; the other one gets it from there.
    """
    found = [_deployment(), _object("Secret", SECRET)]
    if location == SITES[0]:
        found.append(_object("ConfigMap", PLAN) | {"data": {PLAN_KEY: "initial"}})
    return found


def apply(topology: Topology, location: str) -> None:
    """Brings a site's part of it: what is missing is made, what is there is left as the drivers have it.

    Raises:
        LabError: The API server refused something.
    """
    for manifest in prerequisites():
        site.kubectl(topology, location, "apply", "-f", "-", stdin=json.dumps(manifest))
    for manifest in own_objects(location):
        try:
            site.kubectl(topology, location, "create", "-f", "-", stdin=json.dumps(manifest))
        except LabError as problem:
            if "AlreadyExists" not in problem.why:
                raise


def _selector() -> str:
    return ",".join(f"{name}={value}" for name, value in LABELS.items())


def _object(kind: str, name: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": LABELS}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


def _deployment() -> dict[str, Any]:
    container = {
        "name": "app",
        "image": "localhost/graf:dev",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "graf.lab.drill.application_server", str(PORT)],
        "env": [{"name": "SITE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1, "failureThreshold": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}},
        "volumeMounts": [
            {"name": "plan", "mountPath": "/etc/vcu/plan", "readOnly": True},
            {"name": "key", "mountPath": "/etc/vcu/key", "readOnly": True},
        ],
    }
    pod = {
        "hostNetwork": True,  # clients come by the service address, which the network driver holds on the node
        "terminationGracePeriodSeconds": 2,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [
            {"name": "plan", "configMap": {"name": PLAN}},
            {"name": "key", "secret": {"secretName": SECRET}},
        ],
    }
    selector = {"app": DEPLOYMENT}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": DEPLOYMENT, "namespace": NAMESPACE, "labels": LABELS},
        "spec": {
            "replicas": 0,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": selector}, "spec": pod},
        },
    }
