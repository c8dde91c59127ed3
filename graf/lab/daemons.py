"""Command lines and configuration of the programs that make a location a Kubernetes cluster of one node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from graf.lab import process
from graf.lab.process import Daemon
from graf.lab.state import write_if_changed
from graf.lab.topology import MANAGEMENT, Location, Topology

PAUSE_IMAGE = "localhost/graf-pause:dev"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_PKI = "/etc/kubernetes/pki"
# Controllers that nothing in a cluster of one node without cloud or persistent volumes uses.
_UNUSED_CONTROLLERS = (
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "certificatesigningrequest-signing-controller",
    "cronjob-controller",
    "device-taint-eviction-controller",
    "ephemeral-volume-controller",
    "horizontal-pod-autoscaler-controller",
    "node-ipam-controller",
    "node-route-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-expander-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "replicationcontroller-controller",
    "resourcequota-controller",
    "ttl-after-finished-controller",
    "volumeattributesclass-protection-controller",
)


def control_plane(location: Location, bin_dir: Path) -> list[Daemon]:
    """etcd, API server, controller manager and scheduler."""
    go = {"GOMAXPROCS": "2"}
    etcd = Daemon(
        "etcd",
        (
            str(bin_dir / "etcd"),
            f"--name={location.name}",
            "--data-dir=/var/lib/etcd/data",
            "--listen-client-urls=https://127.0.0.1:2379",
            "--advertise-client-urls=https://127.0.0.1:2379",
            "--listen-peer-urls=https://127.0.0.1:2380",
            "--initial-advertise-peer-urls=https://127.0.0.1:2380",
            f"--initial-cluster={location.name}=https://127.0.0.1:2380",
            f"--cert-file={_PKI}/etcd/server.crt",
            f"--key-file={_PKI}/etcd/server.key",
            f"--trusted-ca-file={_PKI}/etcd/ca.crt",
            "--client-cert-auth=true",
            f"--peer-cert-file={_PKI}/etcd/peer.crt",
            f"--peer-key-file={_PKI}/etcd/peer.key",
            f"--peer-trusted-ca-file={_PKI}/etcd/ca.crt",
            "--peer-client-cert-auth=true",
            "--snapshot-count=10000",
            "--auto-compaction-retention=10m",
            # Three control planes share one disk with the databases under test. The lab's faults kill processes,
            # never the kernel, so what etcd has written survives them without its own fsync.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
        go,
        nice=10,
    )
    apiserver = Daemon(
        "kube-apiserver",
        (
            str(bin_dir / "kube-apiserver"),
            f"--advertise-address={location.address}",
            "--secure-port=6443",
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--client-ca-file={_PKI}/ca.crt",
            "--etcd-servers=https://127.0.0.1:2379",
            f"--etcd-cafile={_PKI}/etcd/ca.crt",
            f"--etcd-certfile={_PKI}/apiserver-etcd-client.crt",
            f"--etcd-keyfile={_PKI}/apiserver-etcd-client.key",
            f"--kubelet-client-certificate={_PKI}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={_PKI}/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--proxy-client-cert-file={_PKI}/front-proxy-client.crt",
            f"--proxy-client-key-file={_PKI}/front-proxy-client.key",
            f"--requestheader-client-ca-file={_PKI}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={_PKI}/sa.pub",
            f"--service-account-signing-key-file={_PKI}/sa.key",
            f"--service-cluster-ip-range={location.service_cidr}",
            f"--tls-cert-file={_PKI}/apiserver.crt",
            f"--tls-private-key-file={_PKI}/apiserver.key",
            "--endpoint-reconciler-type=lease",
            "--shutdown-delay-duration=0s",
            "--profiling=false",
        ),
        {**go, "GOGC": "60"},
        nice=12,
    )
    manager = Daemon(
        "kube-controller-manager",
        (
            str(bin_dir / "kube-controller-manager"),
            "--kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--authentication-kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--authorization-kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--bind-address=127.0.0.1",
            f"--client-ca-file={_PKI}/ca.crt",
            f"--requestheader-client-ca-file={_PKI}/front-proxy-ca.crt",
            f"--root-ca-file={_PKI}/ca.crt",
            f"--service-account-private-key-file={_PKI}/sa.key",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--controllers=*," + ",".join(f"-{name}" for name in _UNUSED_CONTROLLERS),
            "--profiling=false",
        ),
        go,
        nice=15,
    )
    scheduler = Daemon(
        "kube-scheduler",
        (
            str(bin_dir / "kube-scheduler"),
            "--kubeconfig=/etc/kubernetes/scheduler.conf",
            "--authentication-kubeconfig=/etc/kubernetes/scheduler.conf",
            "--authorization-kubeconfig=/etc/kubernetes/scheduler.conf",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--profiling=false",
        ),
        go,
        nice=15,
    )
    return [etcd, apiserver, manager, scheduler]


def node(location: Location, bin_dir: Path) -> list[Daemon]:
    """Container runtime, kubelet and service proxy."""
    path = {"PATH": f"{bin_dir}:/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS": "2"}
    containerd = Daemon(
        "containerd",
        (str(bin_dir / "containerd"), "--config=/etc/kubernetes/containerd.toml", "--log-level=warn"),
        path,
        nice=0,  # containers inherit it
    )
    kubelet = Daemon(
        "kubelet",
        (
            str(bin_dir / "kubelet"),
            "--config=/etc/kubernetes/kubelet.yaml",
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            f"--hostname-override={location.name}",
            f"--node-ip={location.address}",
            "--root-dir=/var/lib/kubelet",
            "--cert-dir=/var/lib/kubelet/pki",
            "--housekeeping-interval=30s",
        ),
        path,
        nice=5,
    )
    proxy = Daemon(
        "kube-proxy", (str(bin_dir / "kube-proxy"), "--config=/etc/kubernetes/kube-proxy.yaml"), path, nice=10
    )
    return [containerd, kubelet, proxy]


def git_daemon(topology: Topology) -> Daemon:
    """The Git server of the management location."""
    base = topology.git_repository.parent
    return Daemon(
        "git-daemon",
        (
            "git",
            "-c",
            "safe.directory=*",
            "daemon",
            "--reuseaddr",
            "--export-all",
            "--enable=receive-pack",
            f"--base-path={base}",
            f"--listen={topology.location(MANAGEMENT).address}",
            "--log-destination=stderr",
            str(base),
        ),
        nice=5,
    )


def write_configuration(topology: Topology, location: Location, bin_dir: Path) -> None:
    """Write the configuration files of a location's daemons to its /etc/kubernetes and /etc/cni."""
    etc = process.disk_path(topology, location.name, "/etc/kubernetes")
    etc.mkdir(parents=True, exist_ok=True)
    write_if_changed(etc / "containerd.toml", containerd_config(bin_dir))
    write_if_changed(etc / "kubelet.yaml", yaml.safe_dump(kubelet_config(topology, location)))
    write_if_changed(etc / "kube-proxy.yaml", yaml.safe_dump(proxy_config(location)))
    # Nothing in the lab is looked up by name outside the cluster.
    write_if_changed(etc / "resolv.conf", "options timeout:1 attempts:1\n")
    cni = process.disk_path(topology, location.name, "/etc/cni") / "net.d"
    cni.mkdir(parents=True, exist_ok=True)
    write_if_changed(cni / "10-graf.conflist", json.dumps(cni_config(location), indent=1))


def containerd_config(
    bin_dir: Path,
    root: str = "/var/lib/containerd",
    state: str = "/run/containerd",
    socket: str = CONTAINERD_SOCKET,
) -> str:
    return f"""version = 3
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{socket}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  # Root without CAP_SYS_RESOURCE may not lower oom_score_adj.
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{bin_dir}"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{bin_dir}/runc"
        SystemdCgroup = false
"""


def kubelet_config(topology: Topology, location: Location) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",  # noqa: S104 - inside the location's own network namespace
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{_PKI}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": "/" + topology.cgroup(location.name),
        "containerRuntimeEndpoint": "unix://" + CONTAINERD_SOCKET,
        "enforceNodeAllocatable": [],
        "evictionHard": {
            "imagefs.available": "0%",
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
        },
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "localStorageCapacityIsolation": False,
        "maxPods": 32,
        "resolvConf": "/etc/kubernetes/resolv.conf",
        "rotateCertificates": False,
        "serializeImagePulls": False,
    }


def proxy_config(location: Location) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": "0.0.0.0",  # noqa: S104 - inside the location's own network namespace
        "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.conf"},
        "clusterCIDR": location.pod_cidr,
        "conntrack": {"maxPerCore": 0, "min": 0},
        "healthzBindAddress": "127.0.0.1:10256",
        "hostnameOverride": location.name,
        "metricsBindAddress": "127.0.0.1:10249",
        "mode": "nftables",
    }


def cni_config(location: Location) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "graf-lab",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/graf-cni",
                    "ranges": [[{"subnet": location.pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
