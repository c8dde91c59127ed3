"""Up and down of a whole lab. Both can be run at any time, in any state, and say what they did."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from graf.lab import (
    binaries,
    checks,
    deploy,
    faults,
    gitserver,
    images,
    imagestore,
    imports,
    liveness,
    made_with,
    network,
    process,
    site,
)
from graf.lab.cgroups import CgroupTree, hierarchies
from graf.lab.errors import LabError
from graf.lab.images import Image, ImageSpec
from graf.lab.made_with import Extra
from graf.lab.state import LabState, all_labs, choose_index, current_boot_id, exclusive
from graf.lab.topology import CLUSTERS, LOCATIONS, MANAGEMENT, USERS, Topology, state_root

Tell = Callable[[str], None]
T = TypeVar("T")

# Weight of all labs against what else runs on the machine: a drill measures milliseconds.
_LABS_SHARES = 4096
# Weight of all Kubernetes daemons together: while the lab boots, and while it serves (one Pod tree has 1024).
_BOOTING_SHARES = 4096
_SERVING_SHARES = 128
POD_TIMEOUT_S = 120.0


@dataclass
class UpResult:
    """What `up` did.

    Attributes:
        topology: The lab.
        changes: What was made, started or repaired; empty when the lab was up already.
        seconds: How long each step took.
    """

    topology: Topology
    changes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def up(
    name: str,
    *,
    index: int | None,
    tell: Tell,
    pods: bool = True,
    pod_timeout_s: float = POD_TIMEOUT_S,
    extras: Sequence[Extra] = (),
) -> UpResult:
    """Bring a lab up, or complete and repair one that is.

    Args:
        name: Name of the lab.
        index: Index of a new lab; None takes the lowest that is free.
        tell: Told each step, for a progress display.
        pods: Wait until GRAF's Pods are ready; False: only until the nodes are.
        pod_timeout_s: How long to wait for the Pods.
        extras: What a new lab has beyond the plain example; a lab keeps what it was made with.

    Raises:
        LabError: Something is missing or does not come up.
    """
    checks.machine()
    with exclusive(name):
        state = _state_of(name, index, extras, tell)
        result = UpResult(state.topology, checks.raise_limits())
        _Up(state.topology, result, tell).run(pods, pod_timeout_s)
        return result


def _state_of(name: str, index: int | None, extras: Sequence[Extra], tell: Tell) -> LabState:
    """Find the lab's record, clear the leftovers of a dead one, or write a new one."""
    state = LabState.read(name)
    if state is not None and not state.survived_boot:
        tell("clearing what a former boot of the machine left")
        _end(state.topology, tell)
        state = None
    if state is not None:
        if index is not None and index != state.topology.index:
            raise LabError(
                f"lab {name!r} is up with index {state.topology.index}, not {index}",
                "an index is for the whole life of a lab",
                f"graf lab down --name {name}",
            )
        for extra in extras:
            made_with.require(state.topology, extra)
        return state
    used = {other.topology.index: other.topology.name for other in all_labs()}
    ours = [other.topology.host_link for other in all_labs()]
    chosen = choose_index(name, used, network.taken_subnets(ours), index)
    state = LabState(Topology(name, chosen), current_boot_id())
    if _leftovers(state.topology):
        tell("clearing leftovers of a dead lab of this name")
        _end(state.topology, tell)
    state.write()
    for extra in extras:
        made_with.remember(state.topology, extra)
    return state


def _leftovers(topology: Topology) -> bool:
    """Things in the kernel under the lab's name although it has no record."""
    mine = any(name.startswith(f"graf-{topology.name}-") for name in network.namespaces())
    return mine or CgroupTree(topology.cgroup()).exists()


class _Up:
    """The steps of one `up`."""

    def __init__(self, topology: Topology, result: UpResult, tell: Tell) -> None:
        self.topology = topology
        self.result = result
        self.tell = tell

    def run(self, pods: bool, pod_timeout_s: float) -> None:
        bin_dir: Path = self._step("programs", lambda: binaries.ensure(self.tell))
        built: list[Image] = self._step("images", lambda: images.ensure(self._specs(), self.tell))
        template: Path = self._step("image store", lambda: imagestore.ensure(built))
        self._step("network", self._network)
        self._step("certificates and Git", self._files)
        self._set_daemon_weight(_BOOTING_SHARES)
        try:
            self._step("clusters", lambda: self._boot(bin_dir, template))
            self._step("images into the clusters", lambda: self._import(built))
            self._step("nodes", self._nodes)
            self._step("GRAF", lambda: self._deploy(built))
            if pods:
                self._step("Pods", lambda: self._pods(pod_timeout_s))
        finally:
            self._set_daemon_weight(_SERVING_SHARES)

    def _specs(self) -> tuple[ImageSpec, ...]:
        specs: tuple[ImageSpec, ...] = images.SPECS
        if made_with.has(self.topology, Extra.VOLUME):
            specs += (images.PV,)
        if made_with.has(self.topology, Extra.WORKLOAD):
            specs += images.APPLICATION
        return specs

    def _step(self, name: str, work: Callable[[], T]) -> T:
        self.tell(name)
        begin = time.monotonic()
        try:
            return work()
        finally:
            self.result.seconds[name] = round(time.monotonic() - begin, 1)

    def _network(self) -> None:
        self.result.changes += network.ensure(self.topology)
        if cuts := faults.active(self.topology):
            faults.heal(self.topology, None)
            self.result.changes += [f"{cut.location}: network healed" for cut in cuts]
        CgroupTree("graf").create(cpu_shares=_LABS_SHARES)
        CgroupTree(self.topology.cgroup()).create()
        process.clients_cgroup(self.topology).create(cpu_shares=process.CLIENT_SHARES)
        for name in LOCATIONS:
            group = CgroupTree(self.topology.cgroup(name))
            if _stands_still(group):
                group.thaw()
                group.signal_all(signal.SIGCONT)
                self.result.changes.append(f"{name}: goes on")
            group.create()
            group.set_quota(None)
            process.system_cgroup(self.topology, name).create(cpu_shares=process.SYSTEM_SHARES)

    def _set_daemon_weight(self, shares: int) -> None:
        """With cgroup v1 the daemons of all locations share one weight; with v2 it is fixed for each location."""
        if hierarchies().version == 1:
            CgroupTree(self.topology.cgroup("daemons")).create(cpu_shares=shares)

    def _files(self) -> None:
        # Before the clusters, which are brought up side by side: one certificate is made once.
        deploy.ensure_identities(self.topology)
        deploy.database_passwords(self.topology)
        if gitserver.ensure_repository(self.topology):
            self.result.changes.append("Git repository")

    def _boot(self, bin_dir: Path, template: Path) -> None:
        started: dict[str, list[str]] = {}

        def boot(location: str) -> None:
            if location != USERS:
                imagestore.seed(self.topology, location, template)
            started[location] = site.start(self.topology, location, bin_dir=bin_dir)

        site.in_parallel({name: (lambda name=name: boot(name)) for name in LOCATIONS})  # type: ignore[misc]
        for name in LOCATIONS:
            self.result.changes += started[name]

    def _import(self, built: list[Image]) -> None:
        def load(location: str) -> None:
            wanted = [i for i in built if location != MANAGEMENT or i.spec.name in images.AT_MANAGEMENT]
            for name in imports.ensure(self.topology, location, wanted):
                self.result.changes.append(f"{location}: image {name}")

        site.in_parallel({name: (lambda name=name: load(name)) for name in CLUSTERS})  # type: ignore[misc]

    def _nodes(self) -> None:
        for name in CLUSTERS:
            site.wait_api_ready(self.topology, name)
        for name in CLUSTERS:
            site.wait_node_ready(self.topology, name)

    def _deploy(self, built: list[Image]) -> None:
        def bring(location: str) -> None:
            if deploy.apply(self.topology, location, built):
                self.result.changes.append(f"{location}: GRAF deployed")

        site.in_parallel({name: (lambda name=name: bring(name)) for name in CLUSTERS})  # type: ignore[misc]

    def _pods(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for name in CLUSTERS:
            deploy.wait_pods(self.topology, name, max(1.0, deadline - time.monotonic()))


def down(name: str, *, tell: Tell, force: bool = False) -> list[str]:
    """End everything of a lab, whatever state it is in.

    Args:
        name: Name of the lab.
        tell: Told each step.
        force: Also when the lab's record cannot be read.

    Returns:
        What was ended; empty when there was nothing.

    Raises:
        LabError: Something cannot be ended.
    """
    checks.require_root()
    with exclusive(name):
        try:
            state = LabState.read(name)
        except LabError:
            if not force:
                raise
            state = None
        topology = state.topology if state is not None else Topology(name, 0)
        return _end(topology, tell)


def _end(topology: Topology, tell: Tell) -> list[str]:
    """End processes first: namespaces and mounts live as long as somebody is in them."""
    ended: list[str] = []
    tell("ending processes")
    tree = CgroupTree(topology.cgroup())
    killed = tree.kill(timeout_s=60)
    if killed:
        ended.append(f"{killed} processes")
    tell("removing namespaces")
    ended += network.remove(topology)
    tell("removing mounts and cgroups")
    ended += _unmount_below(topology.state_dir)
    if tree.exists():
        tree.remove()
        ended.append("cgroup " + tree.path)
    if not all_labs_but(topology.name):
        CgroupTree("graf").remove()
    tell("removing the lab's files")
    if topology.state_dir.is_dir():
        shutil.rmtree(topology.state_dir)
        ended.append(str(topology.state_dir))
    (state_root() / f".{topology.name}.lock").unlink(missing_ok=True)
    return ended


def all_labs_but(name: str) -> list[LabState]:
    """The other labs of this machine."""
    return [state for state in all_labs() if state.topology.name != name]


def _unmount_below(directory: Path) -> list[str]:
    """Take away mounts below a folder, deepest first; the lab itself mounts only in its own namespaces."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    below = sorted((m for m in mounts if m.startswith(f"{directory}/")), key=len, reverse=True)
    for mount in below:
        with contextlib.suppress(LabError):
            process.command("umount", "--lazy", mount)
    return [f"mount {mount}" for mount in below]


def status(topology: Topology) -> list[dict[str, object]]:
    """One row for each location: what runs, memory, Pods; works while parts are dead."""
    rows: list[dict[str, object]] = []
    for name in LOCATIONS:
        group = CgroupTree(topology.cgroup(name))
        missing = site.missing_daemons(topology, name) if group.exists() else ["everything"]
        row: dict[str, object] = {
            "location": name,
            "address": topology.location(name).address,
            "missing": missing,
            "frozen": _stands_still(group),
            "memory_mb": round(group.memory_bytes() / 1e6) if group.exists() else 0,
            "processes": len(group.pids()) if group.exists() else 0,
        }
        if name != USERS:
            row["node_ready"] = not missing and not row["frozen"] and site.node_ready(topology, name)
        rows.append(row)
    return rows


def _stands_still(group: CgroupTree) -> bool:
    """Whether the location is frozen, or SIGSTOP stands on it: its first process, the holder, is stopped."""
    if group.is_frozen():
        return True
    return any(stat.state == "T" for stat in liveness.stats_of(group.pids()[:1]))
