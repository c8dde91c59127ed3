"""Processes of a location: its mount namespace, its daemons, and programs run in its network from outside.

A location has a network namespace that stays as long as the lab, and a mount namespace that lives as long as its
*holder* process. The holder's mounts put the location's own disks over the usual paths (/var/lib/kubelet, ...), so
that manifests and configuration are those of a production node. Killing the location ends the holder too: the next
boot starts with fresh mounts on the same disks, as a real node does.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from graf.lab import liveness
from graf.lab.cgroups import CgroupTree
from graf.lab.errors import LabError
from graf.lab.topology import Topology

# Paths that every location has of its own, kept over a reboot of the location.
DISKS = (
    "/etc/cni",
    "/etc/kubernetes",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/graf",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
# Paths that every location has of its own and loses when it stops, as /run of a real node.
VOLATILE = ("/run/containerd", "/run/graf", "/run/graf-cni", "/run/netns")

SYSTEM_SHARES = 64
CLIENT_SHARES = 8192
_RESTART_DELAY_S = 1


@dataclass(frozen=True)
class Daemon:
    """A program that a location keeps running.

    Attributes:
        name: Short name; also names its log and pid file.
        argv: Program and arguments.
        env: Added to the environment.
        nice: Niceness; the daemons of a booting cluster yield to what serves.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    nice: int = 10


def system_cgroup(topology: Topology, location: str) -> CgroupTree:
    """Where the Kubernetes daemons of a location run."""
    return CgroupTree(topology.cgroup(location, "system"), cpu_path=f"{topology.cgroup()}/daemons/{location}")


def clients_cgroup(topology: Topology) -> CgroupTree:
    """Where load generators and observers run; no part of any location."""
    return CgroupTree(topology.cgroup("clients"))


def disk_path(topology: Topology, location: str, path: str) -> Path:
    """Translate a path of a location's own disk into one of this machine.

    Raises:
        LabError: The path is not on such a disk.
    """
    for mounted in DISKS:
        if path == mounted or path.startswith(mounted + "/"):
            return topology.location_dir(location) / "disk" / path.lstrip("/")
    raise LabError(f"{path} is not on a location's own disk", f"own disks are {', '.join(DISKS)}")


def netns_path(topology: Topology, location: str) -> Path:
    return Path("/run/netns") / topology.netns(location)


# -- the holder --------------------------------------------------------------------------------------------


def _pid_file(topology: Topology, location: str, name: str) -> Path:
    return topology.location_dir(location) / "pid" / name


def _recorded_pid(topology: Topology, location: str, name: str) -> int | None:
    try:
        return int(_pid_file(topology, location, name).read_text())
    except (FileNotFoundError, ValueError):
        return None


def daemon_pid(topology: Topology, location: str, name: str, alive: Sequence[int] | None = None) -> int | None:
    """Process id of a running daemon's supervisor, None when it does not run.

    A recorded number counts only while that process lives in the location's cgroup: numbers are used again.
    """
    pid = _recorded_pid(topology, location, name)
    pids = alive if alive is not None else CgroupTree(topology.cgroup(location)).pids()
    return pid if pid in pids else None


def holder_script(topology: Topology, location: str) -> str:
    """Shell text that makes the location's mounts and then only waits."""
    lines = ["set -e", "mount --make-rprivate /"]
    for path in DISKS:
        source = shlex.quote(str(disk_path(topology, location, path)))
        lines.append(f"mkdir -p {source} {path}; mount --bind {source} {path}")
    for path in VOLATILE:
        lines.append(f"mkdir -p {path}; mount -t tmpfs -o mode=755 tmpfs {path}")
    # Containers receive later mounts of the node (volumes) only from shared mounts.
    lines.append("mount --make-rshared /")
    lines.append("echo mounted; exec 1>&-; exec sleep infinity")
    return "\n".join(lines)


def ensure_holder(topology: Topology, location: str) -> tuple[int, bool]:
    """Make sure that the location's mount namespace exists.

    Returns:
        The holder's process id, and whether it was started now (a boot).
    """
    pid = daemon_pid(topology, location, "holder")
    if pid is not None:
        return pid, False
    for part in ("pid", "log", "disk"):
        (topology.location_dir(location) / part).mkdir(parents=True, exist_ok=True)
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", holder_script(topology, location)]
    log = topology.log_dir(location) / "holder.log"
    log.unlink(missing_ok=True)
    enter = ["nsenter", f"--net={netns_path(topology, location)}", "--"]
    _spawn(topology, location, "holder", argv, log=log, wrapper=enter)
    wait_for(
        lambda: "mounted" in log.read_text(),
        f"the mounts of {location}",
        20,
        why=lambda: tail(log, 3),
    )
    pid = daemon_pid(topology, location, "holder")
    if pid is None:
        raise LabError(f"the mounts of {location} could not be made", tail(log, 3), f"see {log}")
    return pid, True


def location_prefix(topology: Topology, location: str) -> list[str]:
    """Command prefix that enters a location's network and mounts.

    Raises:
        LabError: The location does not run.
    """
    pid = daemon_pid(topology, location, "holder")
    if pid is None:
        raise LabError(f"location {location} does not run", "it was killed or never started", "graf lab up")
    # Not `ip netns exec`: that mounts /sys anew and hides the cgroups.
    return ["nsenter", f"--net={netns_path(topology, location)}", f"--mount=/proc/{pid}/ns/mnt", "--"]


# -- daemons -----------------------------------------------------------------------------------------------


def start_daemon(topology: Topology, location: str, daemon: Daemon) -> bool:
    """Start a daemon under a supervisor that restarts it, unless it runs.

    Returns:
        Whether it was started now.
    """
    if daemon_pid(topology, location, daemon.name) is not None:
        return False
    _end_unsupervised(topology, location, daemon.name)
    command = shlex.join(daemon.argv)
    supervise = (
        f"while :; do {command}; "
        f'echo "lab: {daemon.name} ended with $?, starting again" >&2; sleep {_RESTART_DELAY_S}; done'
    )
    env = [f"{key}={value}" for key, value in daemon.env.items()]
    argv = ["env", *env, "nice", "-n", str(daemon.nice), "sh", "-c", supervise]
    log = topology.log_dir(location) / f"{daemon.name}.log"
    _spawn(topology, location, daemon.name, argv, log=log, wrapper=location_prefix(topology, location))
    return True


def stop_daemon(topology: Topology, location: str, name: str, number: signal.Signals = signal.SIGKILL) -> bool:
    """Signal a daemon and its supervisor together, so that it stays down. Returns whether it ran."""
    pid = daemon_pid(topology, location, name)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)  # the supervisor leads the process group of its daemon
    wait_for(
        lambda: not liveness.members(pid),
        f"the end of {name} at {location}",
        15,
        why=lambda: f"still there: {', '.join(map(str, liveness.members(pid)))}",
    )
    return True


def _end_unsupervised(topology: Topology, location: str, name: str) -> None:
    """End a daemon that outlived its supervisor: it would keep the ports and locks from its successor."""
    group = _recorded_pid(topology, location, name)
    if group is None:
        return
    of_location = set(CgroupTree(topology.cgroup(location)).pids())
    orphans = [stat for stat in liveness.members(group) if stat.pid in of_location]
    for stat in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stat.pid, signal.SIGKILL)
    wait_for(
        lambda: not liveness.still_alive(orphans),
        f"the end of a former {name} at {location}",
        15,
        why=lambda: f"still there: {', '.join(map(str, liveness.still_alive(orphans)))}",
    )


def _spawn(
    topology: Topology, location: str, name: str, argv: Sequence[str], *, log: Path, wrapper: Sequence[str]
) -> None:
    """Start a process of a location detached from this one: own session, own cgroup, output to a log."""
    group = system_cgroup(topology, location)
    if not group.exists():
        group.create(cpu_shares=SYSTEM_SHARES)
    pid_file = _pid_file(topology, location, name)
    pid_file.unlink(missing_ok=True)
    joins = "".join(f"echo $$ > {shlex.quote(str(d / 'cgroup.procs'))}; " for d in group.directories())
    # The number is recorded by the process itself, after it joined: a recorded one can always be found and ended.
    script = f"{joins}echo $$ > {shlex.quote(str(pid_file))}; exec {shlex.join([*wrapper, *argv])}"
    with log.open("ab") as stream:
        subprocess.run(
            ["setsid", "--fork", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            check=True,
            cwd="/",
        )
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip() != "", f"the start of {name}", 10)


# -- programs from outside -----------------------------------------------------------------------------------


def popen_in(
    topology: Topology,
    location: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program of this machine in a location's network; see `Lab.popen_in`."""
    if not netns_path(topology, location).exists():
        raise LabError(f"location {location} has no network", "the lab is not up", "graf lab up")
    group = clients_cgroup(topology)
    if not group.exists():
        group.create(cpu_shares=CLIENT_SHARES)
    joins = "".join(f"echo $$ > {shlex.quote(str(d / 'cgroup.procs'))}; " for d in group.directories())
    enter = ["nsenter", f"--net={netns_path(topology, location)}", "--", *argv]
    return subprocess.Popen(
        ["sh", "-c", f"{joins}exec {shlex.join(enter)}"],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **(env or {})},
    )


def run_in(
    topology: Topology,
    location: str,
    argv: Sequence[str],
    *,
    timeout_s: float = 30.0,
    check: bool = False,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program of this machine in a location's network; see `Lab.run_in`."""
    with popen_in(topology, location, argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            out, err = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as problem:
            child.kill()
            raise LabError(f"{argv[0]} at {location} did not end within {timeout_s:.0f} s") from problem
    done = subprocess.CompletedProcess(list(argv), child.returncode, out.decode(), err.decode())
    if check and done.returncode != 0:
        raise LabError(f"{shlex.join(argv)} failed at {location}", done.stderr.strip()[-500:])
    return done


def run_inside(
    topology: Topology, location: str, argv: Sequence[str], *, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a program with a location's network and its disks, as somebody logged in to the node.

    Raises:
        LabError: It failed or did not end in time.
    """
    try:
        done = subprocess.run(
            [*location_prefix(topology, location), *argv],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise LabError(f"{argv[0]} at {location} did not end within {timeout_s:.0f} s") from problem
    if done.returncode != 0:
        raise LabError(f"{Path(argv[0]).name} failed at {location}", done.stderr.strip()[-600:])
    return done


def command(*argv: str) -> str:
    """Run a program of this machine and return its output.

    Raises:
        LabError: It failed.
    """
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{shlex.join(argv)} failed", done.stderr.strip()[-400:])
    return done.stdout


def find_pids(pids: Sequence[int], pattern: str) -> list[int]:
    """Those of `pids` whose command line matches the regular expression."""
    expression = re.compile(pattern)
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if expression.search(command):
                found.append(pid)
    return found


# -- waiting -------------------------------------------------------------------------------------------------


def wait_for(
    condition: Callable[[], bool],
    what: str,
    timeout_s: float,
    *,
    why: Callable[[], str] | None = None,
    interval_s: float = 0.02,
) -> None:
    """Poll until a condition holds.

    Raises:
        LabError: It does not hold after `timeout_s`; says what was waited for and, by `why`, what is there instead.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout_s:.0f} s for {what}", why() if why else "")
        time.sleep(interval_s)


def tail(path: Path, lines: int) -> str:
    """Last lines of a log, empty when there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
