"""A real kube-apiserver on loopback with VolSync's kinds; what stands in for its controller is beside it.

The definitions here are structural ones of just the fields that are used, written from VolSync's documented API: they
are not VolSync's own files. Not used by the driver itself.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graf_driver_sdk.testing_kubernetes import apiserver_command, etcd_command, kubeconfig, kubectl

from graf_driver_pv.testing import free_port
from graf_driver_pv.volsync_cluster import CLAIM, DESTINATION, SNAPSHOT, SOURCE, Cluster, Kind

TOKEN = "only-of-this-test"  # noqa: S105 - a test's own API server
NAME = "files"
CLAIM_NAME = "files-data"


class Clusterwide(Kind):
    """Of no namespace, or of all of them."""

    def path(self, namespace: str, name: str = "") -> str:
        """Without the namespace."""
        return super().path("", name).replace("/namespaces//", "/")


def _text(**more: Any) -> dict[str, Any]:
    return {"type": "string", **more}


def _fields(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields}


def _source() -> dict[str, Any]:
    port = {"type": "integer", "format": "int32"}
    method = _text(enum=["Direct", "None", "Clone", "Snapshot"])
    return {
        "sourcePVC": _text(),
        "rsyncTLS": _fields(keySecret=_text(), address=_text(), port=port, copyMethod=method),
    }


def _destination() -> dict[str, Any]:
    size = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    names = ("keySecret", "serviceType", "storageClassName", "volumeSnapshotClassName")
    mover = _fields(capacity=size, accessModes={"type": "array", "items": _text()}, **{name: _text() for name in names})
    mover["properties"]["copyMethod"] = _text(enum=["Direct", "None", "Snapshot"])
    return {"rsyncTLS": mover}


def _volsync(own: dict[str, Any]) -> dict[str, Any]:
    condition = _fields(type=_text(), status=_text(), reason=_text(), message=_text())
    status = _fields(
        lastSyncStartTime=_text(format="date-time"),
        lastSyncTime=_text(format="date-time"),
        lastSyncDuration=_text(),
        lastManualSync=_text(),
        latestImage=_fields(apiGroup=_text(), kind=_text(), name=_text()),
        latestMoverStatus=_fields(result=_text(), logs=_text()),
        conditions={"type": "array", "items": condition},
    )
    trigger = _fields(schedule=_text(), manual=_text())
    return _fields(spec=_fields(paused={"type": "boolean"}, trigger=trigger, **own), status=status)


def _snapshot() -> dict[str, Any]:
    source = _fields(persistentVolumeClaimName=_text())
    error = _fields(message=_text())
    return _fields(
        spec=_fields(source=source, volumeSnapshotClassName=_text()),
        status=_fields(readyToUse={"type": "boolean"}, error=error),
    )


def definition(kind: Kind) -> dict[str, Any]:
    """Of one kind, in short."""
    group, _, version = kind.api.partition("/")
    schemas = {SOURCE: _volsync(_source()), DESTINATION: _volsync(_destination()), SNAPSHOT: _snapshot()}
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schemas[kind]},
    }
    names = {"kind": kind.name, "listKind": f"{kind.name}List", "plural": kind.plural, "singular": kind.name.lower()}
    metadata: dict[str, Any] = {"name": f"{kind.plural}.{group}"}
    if kind is SNAPSHOT:
        metadata["annotations"] = {"api-approved.kubernetes.io": "unapproved, of a test"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [served]},
    }


@dataclass
class Api:
    """One kube-apiserver; each site has a namespace of it."""

    work: Path
    programs: Path
    port: int
    etcd_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def kubeconfig(self) -> Path:
        """Of somebody who may do everything."""
        return self.work / "kubeconfig"

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs kubectl, which must succeed."""
        return kubectl([str(self.programs / "kubectl"), "--kubeconfig", str(self.kubeconfig)], *arguments, stdin=stdin)

    def start(self) -> None:
        """Starts the server and waits until it is ready."""
        command = apiserver_command(self.programs, self.work, self.etcd_port, self.port)
        with (self.work / "apiserver.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        ends = time.monotonic() + 110
        while time.monotonic() < ends:
            with contextlib.suppress(AssertionError):
                if self.kubectl("get", "--raw", "/readyz") == "ok":
                    return
            time.sleep(0.2)
        raise AssertionError("kube-apiserver is not ready")

    def stop(self) -> None:
        """Ends the server at once; etcd keeps what it had."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def install(self) -> None:
        """VolSync's kinds and the snapshot controller's, from now on."""
        kinds = [definition(kind) for kind in (SOURCE, DESTINATION, SNAPSHOT)]
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": kinds}))
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

    def add_site(self, site: str) -> None:
        """A namespace with the PVC that applications use there."""
        self.cluster("").create(Clusterwide("v1", "namespaces", "Namespace"), {"metadata": {"name": site}})
        claim = {
            "apiVersion": CLAIM.api,
            "kind": CLAIM.name,
            "metadata": {"name": CLAIM_NAME, "namespace": site},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        self.cluster(site).create(CLAIM, claim)

    def cluster(self, site: str) -> Cluster:
        """Of somebody who may do everything."""
        return Cluster(str(self.kubeconfig), site, 20)

    def get(self, kind: Kind, site: str) -> dict[str, Any] | None:
        """An object of a site."""
        return self.cluster(site).get(kind, CLAIM_NAME if kind is CLAIM else NAME)


@contextlib.contextmanager
def api_server(work: Path, programs: Path) -> Iterator[Api]:
    """An etcd and a kube-apiserver, ended with the context. VolSync's kinds are not there yet."""
    api = Api(work, programs, free_port(), free_port())
    key = ["openssl", "genrsa", "-traditional", "-out", str(work / "sa.key"), "2048"]
    subprocess.run(key, capture_output=True, check=True)
    (work / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\nno-one,nobody,nobody\n")
    for name, token in (("kubeconfig", TOKEN), ("powerless", "no-one")):
        (work / name).write_text(kubeconfig(work, api.port, token))
    with (work / "etcd.log").open("wb") as log:
        etcd = subprocess.Popen(etcd_command(programs, work, api.etcd_port, free_port()), stdout=log, stderr=log)
    try:
        api.start()
        yield api
    finally:
        api.stop()
        etcd.kill()
        etcd.wait()


def parameters(api: Api, site: str, **more: Any) -> dict[str, Any]:
    """Of a site whose objects are in the namespace of its name."""
    own = {
        "namespace": site,
        "source": CLAIM_NAME,
        "name": NAME,
        "schedule": "*/4 * * * *",
        "mover": {"keySecret": "files-key", "address": "198.51.100.7"},
        "destination": {"capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
        "kubeconfig": str(api.kubeconfig),
    }
    return {"mode": "volsync", "rpoSeconds": 900.0, "volsync": own | more}
