"""GRAF itself on the lab's clusters: the bases of `gitops/bases` with an overlay of this lab's own values.

The overlay holds what a production cluster's owner would write too: certificates, addresses, image tags. It is
generated into the lab's state directory and applied with `kubectl apply -k`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import yaml

from graf.lab import application, made_with, pki, site, volume
from graf.lab.build import REPOSITORY
from graf.lab.errors import LabError
from graf.lab.images import Image
from graf.lab.made_with import Extra
from graf.lab.state import write_atomically, write_if_changed
from graf.lab.topology import MANAGEMENT, MANAGER_NODE_PORT, SITES, Topology

NAMESPACE = "graf-system"
BASES = REPOSITORY / "gitops" / "bases"
_DATABASE_SECRET = ("replication-password", "application-password", "local-password")


def controller_config(topology: Topology, location: str) -> dict[str, Any]:
    """Configuration of a site's controller."""
    management = topology.location(MANAGEMENT).address
    return {
        "site": location,
        "listen": "0.0.0.0:7443",
        "manager": {"endpoint": f"{management}:{MANAGER_NODE_PORT}"},
        "tlsDir": "/etc/graf/tls",
        "dataDir": "/var/lib/graf/controller",
        "driverSocketDir": "/run/graf/drivers",
        "namespace": NAMESPACE,
    }


def witness_config() -> dict[str, Any]:
    """Configuration of the witness."""
    return {
        "name": "witness",
        "listen": "0.0.0.0:7444",
        "tlsDir": "/etc/graf/tls",
        "dataDir": "/var/lib/graf/witness",
    }


def manager_config(topology: Topology) -> dict[str, Any]:
    """Configuration of the Redundancy Manager."""
    return {
        "listen": "0.0.0.0:7445",
        "tlsDir": "/etc/graf/tls",
        "namespace": NAMESPACE,
        "git": {
            "url": topology.git_url,
            "branch": "main",
            "pollSeconds": 2,
            "workDir": "/var/lib/graf/manager/repo",
        },
        "author": {"name": "GRAF Redundancy Manager", "email": "manager@graf.dev"},
    }


def database_passwords(topology: Topology) -> Path:
    """The passwords of the example's database, made once for a lab; both sites have the same."""
    directory = topology.pki_dir / "graf-mysql"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in _DATABASE_SECRET:
        if not (directory / name).exists():
            write_atomically(directory / name, secrets.token_urlsafe(24), mode=0o600)
    return directory


def ensure_identities(topology: Topology) -> None:
    """Make every certificate that GRAF and its drivers need in this lab, where missing."""
    pki.ensure_graf_identities(topology)
    if made_with.has(topology, Extra.VOLUME):
        pki.ensure_identities(topology, {volume.identity(name): volume.dns_name(name) for name in SITES})
    if made_with.has(topology, Extra.WORKLOAD):
        names = {application.identity(name): application.dns_name(name) for name in SITES}
        pki.ensure_identities(topology, names)


def render(topology: Topology, location: str, images: list[Image]) -> Path:
    """Write a location's overlay.

    Returns:
        The folder to apply.
    """
    overlay = topology.location_dir(location) / "overlay"
    shutil.rmtree(overlay, ignore_errors=True)
    overlay.mkdir(parents=True)
    if location == MANAGEMENT:
        bases = ["graf-system", "graf-witness", "graf-manager"]
        configs = {
            "graf-config": {"manager.yaml": manager_config(topology)},
            "graf-witness-config": {"witness.yaml": witness_config()},
        }
        identities = {"graf-tls": "manager", "graf-witness-tls": "witness"}
    else:
        bases = ["graf-system", "graf-controller"]
        configs = {"graf-config": {"controller.yaml": controller_config(topology, location)}}
        identities = {"graf-tls": location}
    secret_files: dict[str, list[str]] = {}
    for secret, identity in identities.items():
        folder = overlay / secret
        folder.mkdir(mode=0o700)
        for target, source in (("ca.crt", "ca.crt"), ("tls.crt", f"{identity}.crt"), ("tls.key", f"{identity}.key")):
            shutil.copy(topology.pki_dir / source, folder / target)
        secret_files[secret] = [f"{secret}/{name}" for name in ("ca.crt", "tls.crt", "tls.key")]
    if location in SITES:
        shutil.copytree(database_passwords(topology), overlay / "graf-mysql")
        secret_files["graf-mysql"] = [f"graf-mysql/{name}" for name in _DATABASE_SECRET]
    fixed = {"graf-mysql"}
    for secret, files in _driver_certificates(topology, location).items():
        fixed.add(secret)
        (overlay / secret).mkdir(mode=0o700)
        for key, certificate in files.items():
            shutil.copy(certificate, overlay / secret / key)
        secret_files[secret] = [f"{secret}/{key}" for key in files]
    for contents in configs.values():
        for name, content in contents.items():
            (overlay / name).write_text(yaml.safe_dump(content, sort_keys=False))
    kustomization: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": ["cluster-bindings.yaml", *(os.path.relpath(BASES / base, overlay.resolve()) for base in bases)],
        "configMapGenerator": [{"name": name, "files": list(files)} for name, files in configs.items()],
        "secretGenerator": [{"name": name, "files": files} for name, files in secret_files.items()],
        # A tag names content: a Pod is replaced exactly when its image is another one.
        "images": [{"name": i.spec.reference, "newTag": i.tag} for i in images if i.spec.name == "graf"],
    }
    if location == MANAGEMENT:
        kustomization["patches"] = [{"patch": yaml.safe_dump(_api_server_name(topology))}]
    if location in SITES:
        # The DriverClasses of the example name these Secrets, so their names carry no hash.
        for generator in kustomization["secretGenerator"]:
            if generator["name"] in fixed:
                generator["options"] = {"disableNameSuffixHash": True}
    (overlay / "cluster-bindings.yaml").write_text(yaml.safe_dump_all(_cluster_bindings()))
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization, sort_keys=False))
    return overlay


def _driver_certificates(topology: Topology, location: str) -> dict[str, dict[str, Path]]:
    """Secrets that DriverClasses mount at a site, for drivers that talk to the other site's: key to file."""
    found: dict[str, dict[str, Path]] = {}
    if location in SITES and made_with.has(topology, Extra.VOLUME):
        found[volume.SECRET] = volume.secret_files(topology, location)
    if location in SITES and made_with.has(topology, Extra.WORKLOAD):
        found[application.CERTIFICATES] = application.secret_files(topology, location)
    return found


def _api_server_name(topology: Topology) -> dict[str, Any]:
    """The API server's name for the manager's Pod: the lab's clusters run no DNS, nothing else is named."""
    alias = {
        "ip": topology.location(MANAGEMENT).kubernetes_service,
        "hostnames": ["kubernetes.default.svc", "kubernetes"],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "graf-manager"},
        "spec": {"template": {"spec": {"hostAliases": [alias]}}},
    }


def _cluster_bindings() -> list[dict[str, Any]]:
    """What `kubeadm init` gives its administrators, and its API server towards kubelets (exec, logs)."""
    grants = (
        ("kubeadm:cluster-admins", "cluster-admin", "Group", "kubeadm:cluster-admins"),
        (
            "kubeadm:apiserver-kubelet-client",
            "system:kubelet-api-admin",
            "User",
            "kube-apiserver-kubelet-client",
        ),
    )
    group = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": group, "kind": kind, "name": subject}],
        }
        for name, role, kind, subject in grants
    ]


def apply(topology: Topology, location: str, images: list[Image]) -> bool:
    """Bring a cluster to what this repository says.

    Returns:
        Whether anything changed.

    Raises:
        LabError: The API server refused something.
    """
    ensure_identities(topology)
    if location in SITES and made_with.has(topology, Extra.WORKLOAD):
        application.apply(topology, location)
    overlay = render(topology, location, images)
    text = site.kubectl(topology, location, "apply", "-k", str(overlay), "-o", "json", timeout_s=60)
    # kubectl says "configured" also of a Secret that it did not change: what the server holds is compared.
    record = topology.location_dir(location) / "applied.json"
    changed = write_if_changed(record, json.dumps(_versions(json.loads(text)), indent=1))
    return restart_outdated_drivers(topology, location, images) or changed


def _versions(applied: dict[str, Any]) -> dict[str, str]:
    """Each object with what changes when it does, and does not change with its status."""
    versions = {}
    for item in applied.get("items", [applied]):
        metadata = item["metadata"]
        version = metadata.get("generation") or metadata.get("resourceVersion")
        versions[f"{item['kind']}/{metadata['name']}"] = f"{metadata.get('uid')} {version}"
    return versions


def restart_outdated_drivers(topology: Topology, location: str, images: list[Image]) -> bool:
    """Replace driver Pods that run an older content of their image.

    The example's DriverClasses name images by the tag `dev`, whose content changes while GRAF is developed.

    Returns:
        Whether any was replaced.
    """
    if location not in SITES:
        return False
    record = topology.location_dir(location) / "driver-images.json"
    now = {image.spec.reference: image.tag for image in images}
    try:
        before = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):
        before = None
    if before == now:
        return False
    if before is not None:
        for reference in now:
            if now[reference] != before.get(reference) and "driver" in reference:
                name = reference.removeprefix("localhost/")
                site.kubectl(
                    topology,
                    location,
                    *("-n", NAMESPACE, "delete", "pods", "-l", f"app.kubernetes.io/name={name}", "--wait=false"),
                )
    write_atomically(record, json.dumps(now))
    return before is not None


def wait_pods(topology: Topology, location: str, timeout_s: float) -> None:
    """Wait until every Pod of GRAF at a cluster is ready.

    Raises:
        LabError: Some are not in time; names each with its reason.
    """
    from graf.lab import process

    seen: dict[str, str] = {}

    def ready() -> bool:
        nonlocal seen
        pods = json.loads(site.kubectl(topology, location, "-n", NAMESPACE, "get", "pods", "-o", "json"))["items"]
        living = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return bool(living) and all(_is_ready(pod) for pod in living) and len(living) >= _expected(location)

    def why() -> str:
        seen = site.pods_not_ready(topology, location, NAMESPACE)
        return "; ".join(f"{name}: {reason}" for name, reason in seen.items()) or "no Pod was made"

    try:
        process.wait_for(ready, f"the Pods of {location}", timeout_s, why=why, interval_s=0.5)
    except LabError as problem:
        raise LabError(
            problem.what,
            problem.why,
            f"kubectl --kubeconfig {topology.kubeconfig(location)} -n {NAMESPACE} describe pods",
        ) from problem


def _expected(location: str) -> int:
    return 2 if location == MANAGEMENT else 1


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
