"""A cluster of the lab from outside: boot it, ask it, wait for it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from graf.lab import binaries, daemons, network, pki, process
from graf.lab.cgroups import CgroupTree
from graf.lab.errors import LabError
from graf.lab.topology import MANAGEMENT, USERS, Location, Topology

Tell = Callable[[str], None]
_API_TIMEOUT_S = 90.0
_NODE_TIMEOUT_S = 120.0


def start(topology: Topology, location: str, *, wait: bool = False, bin_dir: Path | None = None) -> list[str]:
    """Boot a location, or start those of its daemons that do not run.

    Args:
        topology: The lab.
        location: A cluster, or `users`.
        wait: Return only when the API server answers and the node is ready.
        bin_dir: Where the Kubernetes programs are; found when not given.

    Returns:
        What was started, for people; empty when all ran.
    """
    from graf.lab import users  # the users' side is no cluster: users.py builds on this module's helpers

    if location == USERS:
        return users.start(topology)
    place = topology.location(location)
    programs = bin_dir or binaries.located()
    _, booted = process.ensure_holder(topology, location)
    started = [f"{location}: mounts"] if booted else []
    if booted:
        # What a reboot of a node forgets: kubelet would look for 3 s at every empty cgroup of a former container.
        CgroupTree(topology.cgroup(location, "kubepods")).remove()
        network.reset_location(topology, location)
    pki.ensure_cluster(topology, place, programs / "kubeadm")
    daemons.write_configuration(topology, place, programs)
    wanted = [*daemons.control_plane(place, programs), *daemons.node(place, programs)]
    if location == MANAGEMENT:
        wanted.append(daemons.git_daemon(topology))
    for daemon in wanted:
        if process.start_daemon(topology, location, daemon):
            started.append(f"{location}: {daemon.name}")
    if wait:
        wait_api_ready(topology, location)
        wait_node_ready(topology, location)
    return started


def daemon_names(topology: Topology, location: Location) -> list[str]:
    """The daemons that a location is to run."""
    if location.name == USERS:
        return ["holder", "bird"]
    here = Path()
    names = [d.name for d in (*daemons.control_plane(location, here), *daemons.node(location, here))]
    if location.name == MANAGEMENT:
        names.append(daemons.git_daemon(topology).name)
    return ["holder", *names]


def missing_daemons(topology: Topology, location: str) -> list[str]:
    """Daemons of a location that do not run."""
    alive = CgroupTree(topology.cgroup(location)).pids()
    return [
        name
        for name in daemon_names(topology, topology.location(location))
        if process.daemon_pid(topology, location, name, alive) is None
    ]


def kubectl(topology: Topology, location: str, *argv: str, timeout_s: float = 30.0, stdin: str | None = None) -> str:
    """Run kubectl in a cluster's own network, so that it works while the location is cut off.

    Raises:
        LabError: It failed; `why` is kubectl's own message.
    """
    program = binaries.located() / "kubectl"
    command = [
        "nsenter",
        f"--net={process.netns_path(topology, location)}",
        "--",
        str(program),
        f"--kubeconfig={topology.kubeconfig(location)}",
        f"--request-timeout={max(1, int(timeout_s))}s",
        *argv,
    ]
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s + 5,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise LabError(f"the API server of {location} did not answer within {timeout_s:.0f} s") from problem
    if done.returncode != 0:
        raise LabError(f"kubectl {' '.join(argv[:3])} failed at {location}", done.stderr.strip()[-800:])
    return done.stdout


def _succeeds(topology: Topology, location: str, *argv: str) -> bool:
    try:
        kubectl(topology, location, *argv, timeout_s=5)
    except LabError:
        return False
    return True


def wait_api_ready(topology: Topology, location: str, timeout_s: float = _API_TIMEOUT_S) -> None:
    """Wait until the API server says it is ready.

    Raises:
        LabError: It does not within `timeout_s`; `why` is the end of its log.
    """
    log = topology.log_dir(location) / "kube-apiserver.log"
    process.wait_for(
        lambda: _succeeds(topology, location, "get", "--raw=/readyz"),
        f"the API server of {location}",
        timeout_s,
        why=lambda: process.tail(log, 5),
        interval_s=0.3,
    )


def node_ready(topology: Topology, location: str) -> bool:
    """Whether the node says it is ready; False when the API server does not answer."""
    try:
        text = kubectl(topology, location, "get", "node", location, "-o", "json", timeout_s=5)
    except LabError:
        return False
    conditions = json.loads(text).get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def wait_node_ready(topology: Topology, location: str, timeout_s: float = _NODE_TIMEOUT_S) -> None:
    """Wait until the location's node is ready.

    Raises:
        LabError: It is not within `timeout_s`; `why` is the end of kubelet's log.
    """
    log = topology.log_dir(location) / "kubelet.log"
    process.wait_for(
        lambda: node_ready(topology, location),
        f"node {location} to be ready",
        timeout_s,
        why=lambda: process.tail(log, 5),
        interval_s=0.5,
    )


def pods_not_ready(topology: Topology, location: str, namespace: str) -> dict[str, str]:
    """Pods that are not ready, each with the reason; see `Lab.pods_not_ready`."""
    pods = json.loads(kubectl(topology, location, "-n", namespace, "get", "pods", "-o", "json"))["items"]
    found: dict[str, str] = {}
    for pod in pods:
        name = pod["metadata"]["name"]
        status = pod.get("status", {})
        conditions = {item["type"]: item for item in status.get("conditions", [])}
        if conditions.get("Ready", {}).get("status") == "True" or status.get("phase") == "Succeeded":
            continue
        found[name] = _pod_reason(topology, location, namespace, pod, conditions)
    return found


def _pod_reason(
    topology: Topology, location: str, namespace: str, pod: dict[str, object], conditions: dict[str, dict[str, str]]
) -> str:
    """Say in one line why a Pod is not ready."""
    status = pod.get("status", {})
    assert isinstance(status, dict)
    metadata = pod["metadata"]
    assert isinstance(metadata, dict)
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        if container.get("ready"):
            continue
        reason = "is not ready"
        last = container.get("lastState", {}).get("terminated") or container["state"].get("terminated")
        if waiting := container["state"].get("waiting"):
            reason = f"{waiting.get('reason', 'waits')} {waiting.get('message', '')}".strip()
        if last:
            reason += f"; ended with {last.get('exitCode')}"
            log = _last_log(topology, location, namespace, metadata["name"], container["name"])
            if log:
                reason += f"; last log line: {log}"
        return f"container {container['name']}: {reason}"[:600]
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"not scheduled: {scheduled.get('message', '')}"
    return str(status.get("phase", "Pending"))


def _last_log(topology: Topology, location: str, namespace: str, pod: str, container: str) -> str:
    for previous in ([], ["--previous"]):
        try:
            text = kubectl(
                topology, location, "-n", namespace, "logs", pod, "-c", container, "--tail=3", *previous, timeout_s=5
            )
        except LabError:
            continue
        if lines := text.strip().splitlines():
            return lines[-1]
    return ""


def in_parallel(work: dict[str, Callable[[], object]]) -> None:
    """Do several things at once and raise the first error only when all have ended."""
    with ThreadPoolExecutor(max_workers=len(work) or 1) as pool:
        futures = {name: pool.submit(call) for name, call in work.items()}
    for future in futures.values():
        future.result()
