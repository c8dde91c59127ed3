"""Cgroups of the lab: one tree per location, so that a whole site is killed, frozen or starved at once.

Both cgroup versions work. With version 1 every controller is a hierarchy of its own and a location has a group in
each of them; with version 2 there is one tree. The callers see one path, `graf/<lab>/<location>/<part>`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graf.lab.errors import LabError
from graf.lab.liveness import Stat, stats_of, still_alive

NEEDED_V1 = ("cpu", "cpuacct", "cpuset", "memory", "freezer", "pids", "devices")
NEEDED_V2 = ("cpu", "cpuset", "memory", "pids")
_DEFAULT_SHARES = 1024


@dataclass(frozen=True)
class Hierarchies:
    """Where the cgroup controllers of this machine are mounted.

    Attributes:
        version: 1 or 2.
        roots: Every hierarchy a process has to join; a single one with version 2.
        freezer: Hierarchy with the freezer.
        cpu: Hierarchy with the cpu controller.
        memory: Hierarchy with the memory controller.
        cpuacct: Hierarchy that counts cpu time.
        others: Mounted beside them without controllers; container runtimes make groups there too.
    """

    version: int
    roots: tuple[Path, ...]
    freezer: Path
    cpu: Path
    memory: Path
    cpuacct: Path
    others: tuple[Path, ...] = ()


def parse_mounts(mounts: str) -> Hierarchies:
    """Find the hierarchies in the text of /proc/self/mounts.

    Raises:
        LabError: The machine mounts no usable set of controllers.
    """
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        if fields[2] == "cgroup2":
            v2 = Path(fields[1])
        elif fields[2] == "cgroup":
            for option in fields[3].split(","):
                v1.setdefault(option, Path(fields[1]))
    if not v1:
        if v2 is None:
            raise LabError(
                "no cgroup hierarchy is mounted",
                "each location lives in cgroups of its own",
                "mount -t cgroup2 none /sys/fs/cgroup",
            )
        return Hierarchies(2, (v2,), v2, v2, v2, v2)
    missing = [name for name in NEEDED_V1 if name not in v1]
    if missing:
        raise LabError(
            f"cgroup controllers are not mounted: {', '.join(missing)}",
            "kubelet and the lab's faults need them",
            "; ".join(
                f"mkdir -p /sys/fs/cgroup/{name} && mount -t cgroup -o {name} none /sys/fs/cgroup/{name}"
                for name in missing
            ),
        )
    roots: list[Path] = []
    for name in (*NEEDED_V1, "blkio", "hugetlb", "name=systemd"):
        if name in v1 and v1[name] not in roots:
            roots.append(v1[name])
    others = () if v2 is None else (v2,)
    return Hierarchies(1, tuple(roots), v1["freezer"], v1["cpu"], v1["memory"], v1["cpuacct"], others)


def hierarchies() -> Hierarchies:
    """The hierarchies of this machine."""
    found = parse_mounts(Path("/proc/self/mounts").read_text())
    if found.version == 2:
        present = (found.roots[0] / "cgroup.controllers").read_text().split()
        missing = [name for name in NEEDED_V2 if name not in present]
        if missing:
            raise LabError(
                f"cgroup v2 controllers are not available: {', '.join(missing)}",
                "the kernel or the surrounding container does not hand them on",
                "run on the machine itself, or start the container privileged with its own cgroup namespace",
            )
    return found


class CgroupTree:
    """One cgroup path in every hierarchy.

    Kill and freeze act on the whole subtree, including what kubelet and the container runtime made below it.

    With version 1 the cpu hierarchy may have a path of its own (`cpu_path`): the Kubernetes daemons of all locations
    then share one small weight, so that a site that boots cannot starve the Pods of the site that serves. With
    version 2 there is one tree, and the weight counts only inside the location.
    """

    def __init__(self, path: str, found: Hierarchies | None = None, *, cpu_path: str = "") -> None:
        self.path = path
        self._h = found or hierarchies()
        self.cpu_path = cpu_path if cpu_path and self._h.version == 1 else path

    def _below(self, root: Path) -> Path:
        return root / (self.cpu_path if root in (self._h.cpu, self._h.cpuacct) else self.path)

    def directories(self) -> tuple[Path, ...]:
        return tuple(self._below(root) for root in self._h.roots)

    def exists(self) -> bool:
        return (self._h.freezer / self.path).is_dir()

    def create(self, *, cpu_shares: int = _DEFAULT_SHARES) -> None:
        """Make the group everywhere; `cpu_shares` is its weight against its siblings (1024 is normal)."""
        for root in self._h.roots:
            self._create_in(root)
        self.set_shares(cpu_shares)

    def _create_in(self, root: Path) -> None:
        current = root
        for piece in self._below(root).relative_to(root).parts:
            if self._h.version == 2:
                # A group hands controllers on to its children only when told so.
                wanted = " ".join(f"+{name}" for name in NEEDED_V2)
                (current / "cgroup.subtree_control").write_text(wanted)
            parent, current = current, current / piece
            current.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                # A cpuset of version 1 starts empty and takes no process until it is filled.
                own = current / name
                if self._h.version == 1 and own.exists() and not own.read_text().strip():
                    own.write_text((parent / name).read_text())

    def set_shares(self, shares: int) -> None:
        """Set the weight of the group; version 2 weights are scaled so that 1024 is 100."""
        if self._h.version == 1:
            (self._h.cpu / self.cpu_path / "cpu.shares").write_text(str(max(2, shares)))
        else:
            (self._h.cpu / self.cpu_path / "cpu.weight").write_text(
                str(max(1, min(10000, shares * 100 // _DEFAULT_SHARES)))
            )

    def set_quota(self, share_of_core: float | None) -> None:
        """Limit the group to this part of one core, or lift the limit with None."""
        period_us = 100_000
        quota = None if share_of_core is None else max(1000, int(period_us * share_of_core))
        if self._h.version == 1:
            base = self._h.cpu / self.cpu_path
            (base / "cpu.cfs_period_us").write_text(str(period_us))
            (base / "cpu.cfs_quota_us").write_text("-1" if quota is None else str(quota))
        else:
            text = "max" if quota is None else str(quota)
            (self._h.cpu / self.cpu_path / "cpu.max").write_text(f"{text} {period_us}")

    def join(self, pid: int) -> None:
        """Move a process into the group, in every hierarchy."""
        for directory in self.directories():
            (directory / "cgroup.procs").write_text(str(pid))

    def pids(self) -> list[int]:
        """Every living process in the subtree, ascending."""
        return [stat.pid for stat in self._living()]

    def _living(self) -> list[Stat]:
        found: set[int] = set()
        for directory in self._subtree(self._h.freezer):
            with contextlib.suppress(FileNotFoundError, OSError):
                found.update(int(pid) for pid in (directory / "cgroup.procs").read_text().split())
        return stats_of(sorted(found))

    def memory_bytes(self) -> int:
        """Resident memory of all processes of the subtree (page cache of files is not counted)."""
        total = 0
        page = os.sysconf("SC_PAGE_SIZE")
        for pid in self.pids():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = Path(f"/proc/{pid}/statm").read_text().split()
                total += (int(fields[1]) - int(fields[2])) * page
        return total

    def cpu_ns(self) -> int:
        """Processor time used by the subtree so far."""
        if self._h.version == 1:
            return int((self._h.cpuacct / self.cpu_path / "cpuacct.usage").read_text())
        for line in (self._h.cpu / self.cpu_path / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec "):
                return int(line.split()[1]) * 1000
        return 0

    def freeze(self, timeout_s: float = 10.0) -> None:
        """Stop every process of the subtree at once; returns when all of them stand."""
        self._set_frozen(frozen=True, timeout_s=timeout_s)

    def thaw(self, timeout_s: float = 10.0) -> None:
        """Let the subtree go on."""
        self._set_frozen(frozen=False, timeout_s=timeout_s)

    def signal_all(self, number: signal.Signals) -> list[int]:
        """Send a signal to all processes of the subtree at one instant; nobody can fork away meanwhile.

        Returns:
            The processes that were signalled.
        """
        return [stat.pid for stat in self._signal_all(number)]

    def _signal_all(self, number: signal.Signals) -> list[Stat]:
        self.freeze()
        try:
            standing = self._living()
            for stat in standing:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stat.pid, number)
        finally:
            self.thaw()
        return standing

    def kill(self, timeout_s: float = 20.0) -> int:
        """SIGKILL everything in the subtree at one instant and wait until all of it has really ended.

        A process leaves the group's list when it begins to end; it still holds memory, files and mounts for a while.
        What is awaited is that it is gone, or a zombie that its parent has not reaped.

        Returns:
            How many processes were killed.

        Raises:
            LabError: Processes are still there after `timeout_s`; names them.
        """
        if not self.exists():
            return 0
        killed: dict[int, Stat] = {}
        deadline = time.monotonic() + timeout_s
        while True:
            if self.pids():
                killed.update({stat.pid: stat for stat in self._signal_all(signal.SIGKILL)})
            for _ in range(20):
                left = still_alive(killed.values())
                if not left and not self.pids():
                    return len(killed)
                time.sleep(0.05)  # not sooner: what is measured meanwhile shares the machine
            if time.monotonic() > deadline:
                raise LabError(
                    f"processes of cgroup {self.path} do not end",
                    f"still there after {timeout_s:.0f} s: {', '.join(map(str, left or self._living()))[:400]}",
                    "look at /proc/PID/stack and /proc/PID/wchan of them",
                )

    def remove(self) -> None:
        """Remove the (empty) subtree from every hierarchy."""
        for root in (*self._h.roots, *self._h.others):
            for directory in sorted(self._subtree(root), key=lambda d: len(d.parts), reverse=True):
                with contextlib.suppress(OSError):
                    directory.rmdir()

    def _subtree(self, root: Path) -> Iterator[Path]:
        top = self._below(root)
        if top.is_dir():
            for current, _, _ in os.walk(top):
                yield Path(current)

    def _set_frozen(self, *, frozen: bool, timeout_s: float) -> None:
        base = self._h.freezer / self.path
        if not base.is_dir():
            raise LabError(f"cgroup {self.path} does not exist", "the location is not up", "graf lab up")
        if self._h.version == 1:
            control, word = base / "freezer.state", "FROZEN" if frozen else "THAWED"
        else:
            control, word = base / "cgroup.freeze", "1" if frozen else "0"
        deadline = time.monotonic() + timeout_s
        while True:
            control.write_text(word)
            if self._is_frozen(base) is frozen:
                return
            if time.monotonic() > deadline:
                raise LabError(f"cgroup {self.path} is not {word} after {timeout_s:.0f} s")
            time.sleep(0.002)

    def is_frozen(self) -> bool:
        return self.exists() and self._is_frozen(self._h.freezer / self.path)

    def _is_frozen(self, base: Path) -> bool:
        if self._h.version == 1:
            return (base / "freezer.state").read_text().strip() == "FROZEN"
        return "frozen 1" in (base / "cgroup.events").read_text()
