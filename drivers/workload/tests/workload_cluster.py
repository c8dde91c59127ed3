"""A real etcd, kube-apiserver and kube-controller-manager on loopback, and a stand-in for the kubelet."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from graf_driver_sdk.testing_kubernetes import apiserver_command, etcd_command
from graf_driver_workload.api import ConflictError, KubeApi
from graf_driver_workload.parameters import Kind

RBAC = Path(__file__).parents[1] / "deploy" / "rbac.yaml"
POD = Kind("v1", "Pod")
CONTROLLERS = (
    "deployment-controller", "replicaset-controller", "statefulset-controller", "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
)  # fmt: skip


def wait_for(what: str, check: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Polls until `check` gives something true; says what it waited for when it never does."""
    end = time.monotonic() + timeout_s
    last: Any = None
    while time.monotonic() < end:
        try:
            if last := check():
                return last
        except Exception as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}; last seen: {last!r}")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in sockets]


@contextlib.contextmanager
def process(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        started = subprocess.Popen(arguments, stdout=output, stderr=output)
        try:
            yield started
        finally:
            started.kill()
            started.wait(10)


@dataclass
class Kubelet:
    """Starts and ends pods as a kubelet would, unless a namespace is told otherwise: nothing is run."""

    api: KubeApi
    holds_starts: set[str] = field(default_factory=set)
    holds_ends: set[str] = field(default_factory=set)
    crashes: set[str] = field(default_factory=set)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stopped.wait(0.05):
            with contextlib.suppress(Exception):  # the API server is stopped by some tests
                for pod in self.api.items("/api/v1/pods"):
                    with contextlib.suppress(ConflictError):
                        self._tend(pod)

    def _tend(self, pod: dict[str, Any]) -> None:
        metadata, status = pod["metadata"], pod.get("status", {})
        namespace, name = metadata["namespace"], metadata["name"]
        path = self.api.resource(POD).path(namespace, name)
        if metadata.get("deletionTimestamp"):
            if namespace not in self.holds_ends:
                self.api._request("DELETE", path, {"gracePeriodSeconds": "0"})
        elif not pod["spec"].get("nodeName"):
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"name": "node"}}
            self.api._request("POST", f"{path}/binding", {}, {**binding, "target": {"kind": "Node", "name": "node"}})
        elif namespace in self.crashes:
            waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
            one = {"name": "main", "ready": False, "restartCount": 3, "image": "x", "imageID": "x", "state": waiting}
            self._tell(path, "Running", "False", [one])
        elif namespace not in self.holds_starts and status.get("phase") != "Running":
            self._tell(path, "Running", "True", [])

    def _tell(self, path: str, phase: str, ready: str, containers: list[Any]) -> None:
        conditions = [{"type": "Ready", "status": ready}, {"type": "PodScheduled", "status": "True"}]
        status = {"phase": phase, "conditions": conditions, "containerStatuses": containers}
        self.api.merge(f"{path}/status", {"status": status})


@dataclass
class Cluster:
    """The running cluster."""

    work: Path
    programs: Path
    api: KubeApi
    admin: Path
    driver: Path
    driver_api: KubeApi
    kubelet: Kubelet
    start_apiserver: Callable[[], None]
    stop_apiserver: Callable[[], None]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [str(self.programs / "kubectl"), "--kubeconfig", str(self.admin), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def create_namespace(self, name: str) -> None:
        """A namespace where the driver has the permissions of its roles, and only these."""
        self.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for role in ("graf-driver-workload", "graf-driver-workload-manifests"):
            binding = {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": role},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "driver"}],
            }
            self.post(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}/rolebindings", binding)
        pods, maps = (f"/api/v1/namespaces/{name}/{what}" for what in ("pods", "configmaps/none"))
        wait_for("the first role to be in force", lambda: self.driver_api.get(pods))
        wait_for("the second role to be in force", lambda: self.driver_api.get(maps) is None)

    def empty(self, namespace: str) -> None:
        """Ends what runs in a namespace."""
        for kind in ("deployments", "statefulsets"):
            self.api._request("DELETE", f"/apis/apps/v1/namespaces/{namespace}/{kind}", {})

    def post(self, path: str, body: dict[str, Any]) -> None:
        self.api._request("POST", path, {}, body, {"Content-Type": "application/json"})


def _kubeconfig(path: Path, port: int, certificate: Path, user: str) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "test",
                        "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(certificate)},
                    }
                ],
                "users": [{"name": user, "user": {"token": f"token-of-{user}"}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
                "current-context": "test",
            }
        )
    )
    return path


def kube_api(kubeconfig: Path) -> KubeApi:
    """The driver's own client, by a kubeconfig."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAF_WORKLOAD_KUBECONFIG", str(kubeconfig))
        return KubeApi()


@contextlib.contextmanager
def running_cluster(work: Path, programs: Path) -> Iterator[Cluster]:
    client, peer, secure = free_ports(3)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (work / "sa.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (work / "tokens.csv").write_text(
        "token-of-admin,admin,admin,system:masters\ntoken-of-driver,driver,driver,system:authenticated\n"
    )
    certificate = work / "pki" / "apiserver.crt"
    admin = _kubeconfig(work / "admin.yaml", secure, certificate, "admin")
    driver = _kubeconfig(work / "driver.yaml", secure, certificate, "driver")
    etcd = etcd_command(programs, work, client, peer)
    apiserver = apiserver_command(programs, work, client, secure, "198.19.241.0/24")
    manager = [
        str(programs / "kube-controller-manager"),
        f"--kubeconfig={admin}",
        f"--controllers={','.join(CONTROLLERS)}",
        "--leader-elect=false",
        "--horizontal-pod-autoscaler-sync-period=1s",
        "--secure-port=0",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(process(etcd, work / "etcd.log"))
        serving = contextlib.ExitStack()
        stack.callback(serving.close)

        def start() -> None:
            serving.enter_context(process(apiserver, work / "apiserver.log"))
            wait_for("kube-apiserver to be ready", lambda: cluster.kubectl("get", "--raw", "/readyz") == "ok")

        # The certificate is made by the API server's first start; the client reads it when it is made.
        cluster = Cluster(work, programs, None, admin, driver, None, None, start, serving.close)  # type: ignore[arg-type]
        start()
        cluster.api = kube_api(admin)
        cluster.driver_api = kube_api(driver)
        cluster.kubelet = Kubelet(kube_api(admin))
        stack.enter_context(process(manager, work / "manager.log"))
        cluster.kubectl("apply", "-f", str(RBAC))
        thread = threading.Thread(target=cluster.kubelet.run, name="kubelet")
        thread.start()
        stack.callback(thread.join)
        stack.callback(cluster.kubelet.stopped.set)
        yield cluster
