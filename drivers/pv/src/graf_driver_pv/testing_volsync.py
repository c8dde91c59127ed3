"""A real kube-apiserver on loopback with VolSync's kinds, and a stand-in for VolSync's own controller.

The definitions here are structural ones of just the fields that are used, written from VolSync's documented API: they
are not VolSync's own files. The stand-in writes the fields of `status` that the real controller writes; nothing is
copied. Not used by the driver itself.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from graf_driver_sdk.testing_kubernetes import apiserver_command, etcd_command, kubectl

from graf_driver_pv.testing import free_port
from graf_driver_pv.volsync_cluster import DESTINATION, GROUP, KINDS, SOURCE, VERSION, Cluster

TOKEN = "only-of-this-test"  # noqa: S105 - a test's own API server
NAME = "files"


def _text(**more: Any) -> dict[str, Any]:
    return {"type": "string", **more}


def _fields(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields}


def definition(plural: str) -> dict[str, Any]:
    """Of one kind, in short."""
    kind, flag = KINDS[plural], {"type": "boolean"}
    method = _text(enum=["Direct", "None", "Clone", "Snapshot"])
    own: dict[str, Any]
    if plural == SOURCE:
        port = {"type": "integer", "format": "int32"}
        own = {"sourcePVC": _text(), "rsyncTLS": _fields(keySecret=_text(), address=_text(), port=port)}
    else:
        modes, names = {"type": "array", "items": _text()}, ("storageClassName", "volumeSnapshotClassName")
        size = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
        mover = _fields(keySecret=_text(), capacity=size, accessModes=modes, serviceType=_text())
        mover["properties"] |= {name: _text() for name in (*names, "destinationPVC")}
        own = {"rsyncTLS": mover}
    own["rsyncTLS"]["properties"]["copyMethod"] = method
    condition = _fields(type=_text(), status=_text(), reason=_text(), message=_text())
    status = _fields(
        lastSyncTime=_text(format="date-time"),
        lastManualSync=_text(),
        latestImage=_fields(apiGroup=_text(), kind=_text(), name=_text()),
        latestMoverStatus=_fields(result=_text(), logs=_text()),
        conditions={"type": "array", "items": condition},
    )
    spec = _fields(paused=flag, trigger=_fields(schedule=_text(), manual=_text()), **own)
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": _fields(spec=spec, status=status)},
    }
    called = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "names": called, "scope": "Namespaced", "versions": [version]},
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
        """VolSync's kinds, from now on."""
        for plural in (SOURCE, DESTINATION):
            self.kubectl("apply", "-f", "-", stdin=json.dumps(definition(plural)))
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

    def get(self, plural: str, site: str) -> dict[str, Any] | None:
        """An object of a site."""
        return Cluster(str(self.kubeconfig), site, 20).get(plural, NAME)

    def say(self, plural: str, site: str, **status: Any) -> None:
        """What the real controller writes."""
        where = (f"{plural}.{GROUP}", NAME, "-n", site, "--subresource=status", "--type=merge")
        self.kubectl("patch", *where, "-p", json.dumps({"status": status}))

    def copy(self, source: str, target: str, end: datetime, late_s: float = 0.0) -> bool:
        """Stands in for a whole copy by both sites' VolSync; False when one of them may not."""
        ours, theirs = self.get(SOURCE, source), self.get(DESTINATION, target)
        if ours is None or theirs is None or ours["spec"].get("paused") or theirs["spec"].get("paused"):
            return False
        done = {"lastSyncTime": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
        manual = (ours["spec"].get("trigger") or {}).get("manual")
        self.say(SOURCE, source, **done, **({"lastManualSync": manual} if manual else {}))
        ended = end + timedelta(seconds=late_s)
        image = {
            "apiGroup": "snapshot.storage.k8s.io",
            "kind": "VolumeSnapshot",
            "name": f"image-{int(end.timestamp())}",
        }
        self.say(DESTINATION, target, lastSyncTime=f"{ended:%Y-%m-%dT%H:%M:%SZ}", latestImage=image)
        return True


@contextlib.contextmanager
def api_server(work: Path, programs: Path) -> Iterator[Api]:
    """An etcd and a kube-apiserver, ended with the context. VolSync's kinds are not there yet."""
    api = Api(work, programs, free_port(), free_port())
    key = ["openssl", "genrsa", "-traditional", "-out", str(work / "sa.key"), "2048"]
    subprocess.run(key, capture_output=True, check=True)
    (work / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\nno-one,nobody,nobody\n")
    for name, token in (("kubeconfig", TOKEN), ("powerless", "no-one")):
        (work / name).write_text(kubeconfig_of(api, token))
    with (work / "etcd.log").open("wb") as log:
        etcd = subprocess.Popen(etcd_command(programs, work, api.etcd_port, free_port()), stdout=log, stderr=log)
    try:
        api.start()
        yield api
    finally:
        api.stop()
        etcd.kill()
        etcd.wait()


def kubeconfig_of(api: Api, token: str) -> str:
    """For somebody with that token."""
    authority = str(api.work / "pki" / "apiserver.crt")
    cluster = {"server": f"https://127.0.0.1:{api.port}", "certificate-authority": authority}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
    return json.dumps(content)


def parameters(api: Api, site: str, **more: Any) -> dict[str, Any]:
    """Of a site whose objects are in the namespace of its name."""
    own = {
        "namespace": site,
        "source": "files-data",
        "name": NAME,
        "schedule": "*/5 * * * *",
        "mover": {"keySecret": "files-key", "address": "198.51.100.7"},
        "destination": {"capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
        "kubeconfig": str(api.kubeconfig),
    }
    return {"mode": "volsync", "rpoSeconds": 900.0, "volsync": own | more}
