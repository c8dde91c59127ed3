"""The lab as an object: where things are, how to run something there, and the faults as verbs.

This is the interface that the drills use. It holds no state beside the lab's name and index: everything is read from
the state directory and the kernel, so any process can load a running lab.

    lab = Lab.load()
    lab.kill_site("east")
    lab.start_site("east")
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from graf.lab import faults, gitserver, process, site, users
from graf.lab.cgroups import CgroupTree
from graf.lab.errors import LabError
from graf.lab.faults import Direction
from graf.lab.state import LabState
from graf.lab.topology import CLUSTERS, DEFAULT_LAB, Topology


class Lab:
    """A running lab.

    Attributes:
        topology: Names, addresses and paths.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology

    @classmethod
    def load(cls, name: str = DEFAULT_LAB) -> Lab:
        """Attach to a lab that is up.

        Raises:
            LabError: There is no such lab, or this is not root.
        """
        if os.geteuid() != 0:
            raise LabError("the lab needs root", "it makes network namespaces, mounts and cgroups", "sudo graf ...")
        state = LabState.read(name)
        if state is None:
            raise LabError(f"there is no lab {name!r}", remedy=f"graf lab up --name {name}")
        return cls(state.topology)

    @property
    def name(self) -> str:
        return self.topology.name

    # -- where things are ------------------------------------------------------------------------------

    def kubeconfig(self, location: str) -> Path:
        """Administrator's kubeconfig of a cluster; works from the machine itself (address on the WAN)."""
        return self.topology.kubeconfig(location)

    def netns(self, location: str) -> str:
        """Name of the location's network namespace (`/run/netns/NAME`)."""
        return self.topology.netns(location)

    def log_dir(self, location: str) -> Path:
        """Logs of the location's daemons, one file each."""
        return self.topology.log_dir(location)

    def disk(self, location: str, path: str) -> Path:
        """Where a path like /var/lib/graf/mysql of a location's own disk is on this machine.

        Raises:
            LabError: The path is not one that locations have of their own.
        """
        return process.disk_path(self.topology, location, path)

    def cgroup(self, location: str, part: str = "") -> CgroupTree:
        """The location's cgroups; `part` may be `system` or `kubepods`."""
        return CgroupTree(self.topology.cgroup(location, part))

    def pids(self, location: str) -> list[int]:
        """Every process of the location, Pods included, as process ids of this machine."""
        return self.cgroup(location).pids()

    def find_pids(self, location: str, pattern: str) -> list[int]:
        """Processes of the location whose command line matches the regular expression."""
        return process.find_pids(self.pids(location), pattern)

    # -- running things --------------------------------------------------------------------------------

    def run_in(
        self,
        location: str,
        argv: Sequence[str],
        *,
        timeout_s: float = 30.0,
        check: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine in a location's network, with this machine's files.

        The process is no part of the location: killing or freezing the site leaves it alone.

        Raises:
            LabError: With `check`, the program failed; or it ran into `timeout_s`.
        """
        return process.run_in(self.topology, location, argv, timeout_s=timeout_s, check=check, env=env)

    def popen_in(
        self,
        location: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program as `run_in` does and hand back its handle (pid is the program's own).

        It runs in the lab's `clients` cgroup with a high weight: load generators and observers are part of the
        measurement and must not be starved by a cluster that starts.
        """
        return process.popen_in(self.topology, location, argv, env=env, stdin=stdin, stdout=stdout, stderr=stderr)

    def kubectl(self, location: str, *argv: str, timeout_s: float = 30.0) -> str:
        """Run kubectl against a cluster and return its standard output.

        Raises:
            LabError: kubectl failed; `why` is its own message.
        """
        return site.kubectl(self.topology, location, *argv, timeout_s=timeout_s)

    # -- faults ----------------------------------------------------------------------------------------

    def kill_site(self, location: str, *, silent: bool = False) -> int:
        """`kill -9` of everything at a location at one instant: Pods, control plane, runtime.

        The disks and the network namespace stay. The kernel closes the connections of the killed processes, as with
        kill -9 on a real machine; `silent` cuts the link first, as a power cut does, so peers see no reset.

        Returns:
            How many processes were killed.
        """
        return faults.kill_site(self.topology, location, silent=silent)

    def start_site(self, location: str, *, wait: bool = False) -> None:
        """Boot a killed location on its old disks; kubelet brings the Pods back. `wait`: until its node is ready."""
        site.start(self.topology, location, wait=wait)

    def freeze_site(self, location: str) -> int:
        """SIGSTOP all processes of a location at one instant. Returns how many."""
        return faults.freeze_site(self.topology, location)

    def thaw_site(self, location: str) -> int:
        """SIGCONT all processes of a location at one instant. Returns how many."""
        return faults.thaw_site(self.topology, location)

    def partition(
        self, location: str, direction: Direction | str = Direction.BOTH, *, peers: Sequence[str] = ()
    ) -> None:
        """Cut a location off the wide-area network, within milliseconds and without any reset.

        Args:
            location: Which location.
            direction: `both`; `out`: nothing leaves the location; `in`: nothing reaches it.
            peers: Only towards these locations (`host` is the machine itself); empty means from everybody.
        """
        faults.partition(self.topology, location, Direction(direction), tuple(peers))

    def heal(self, location: str | None = None) -> None:
        """Take all network faults (partition, loss) of a location back, or of all locations."""
        faults.heal(self.topology, location)

    def mend(self, location: str, direction: Direction | str = Direction.BOTH, peers: Sequence[str] = ()) -> None:
        """Take exactly the partition back that was made with these arguments; others stay."""
        faults.mend(self.topology, location, Direction(direction), tuple(peers))

    def loss(self, location: str, percent: int) -> None:
        """Drop this percentage of the frames to and from a location, at random, until `heal`."""
        faults.loss(self.topology, location, percent)

    def starve(self, location: str, share_of_core: float = 0.05) -> None:
        """Give all processes of a location together only this part of one core."""
        self.cgroup(location).set_quota(share_of_core)

    def unstarve(self, location: str) -> None:
        """Take `starve` back."""
        self.cgroup(location).set_quota(None)

    def kill_process(self, location: str, pattern: str, number: signal.Signals = signal.SIGKILL) -> list[int]:
        """Signal the location's processes whose command line matches the regular expression.

        Returns:
            The processes signalled, never empty.

        Raises:
            LabError: None matched.
        """
        return faults.kill_process(self.topology, location, pattern, number)

    def apiserver_down(self, location: str) -> None:
        """Kill the location's kube-apiserver; it stays down until `apiserver_up`."""
        faults.kill_daemon(self.topology, location, "kube-apiserver")

    def apiserver_up(self, location: str) -> None:
        """Start the location's kube-apiserver again and wait until it is ready."""
        site.start(self.topology, location, wait=True)

    def git_down(self) -> None:
        """Stop the Git server; connections to it are refused."""
        gitserver.stop(self.topology)

    def git_up(self) -> None:
        """Serve the Git repository again."""
        gitserver.start(self.topology)

    # -- waiting ---------------------------------------------------------------------------------------

    def wait_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until the nodes of all clusters are ready.

        Raises:
            LabError: A node is not ready; names which and why.
        """
        for location in CLUSTERS:
            site.wait_node_ready(self.topology, location, timeout_s=timeout_s)

    def pods_not_ready(self, location: str, namespace: str = "graf-system") -> dict[str, str]:
        """Pods that are not ready, each with the reason (waiting state, exit code, last log line)."""
        return site.pods_not_ready(self.topology, location, namespace)

    def birdc(self, *command: str) -> str:
        """Ask the users' edge router, for example `birdc("show", "route", "all")`."""
        return users.birdc(self.topology, *command)
