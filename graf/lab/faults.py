"""Faults as verbs. Each acts within milliseconds and at one instant on all it concerns.

Network faults are rules in a `table bridge` of the wide-area namespace, rendered as a whole from a small record, so
that several can be active together and any of them can be taken back alone.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from graf.lab import network, process
from graf.lab.cgroups import CgroupTree
from graf.lab.errors import LabError
from graf.lab.state import write_atomically
from graf.lab.topology import LOCATIONS, Topology

PORTS = (*LOCATIONS, network.HOST_PORT)


class Direction(enum.StrEnum):
    """Which frames a partition drops, seen from the location."""

    BOTH = "both"
    IN = "in"
    OUT = "out"


@dataclass(frozen=True)
class Cut:
    """One active network fault.

    Attributes:
        location: The location it concerns.
        direction: Which frames it drops.
        peers: Only towards these ports; empty means all.
        percent: How many of the frames, at random.
    """

    location: str
    direction: Direction = Direction.BOTH
    peers: tuple[str, ...] = ()
    percent: int = 100


def render(cuts: list[Cut]) -> str:
    """Write the nftables script that puts exactly these faults in force, as one transaction."""
    rules: list[str] = []
    for cut in cuts:
        chance = "" if cut.percent >= 100 else f"numgen random mod 100 < {cut.percent} "
        peers = "{ " + ", ".join(f'"{peer}"' for peer in cut.peers) + " } "
        if cut.direction is not Direction.IN:
            towards = f"oifname {peers}" if cut.peers else ""
            rules.append(f'iifname "{cut.location}" {towards}{chance}drop')
        if cut.direction is not Direction.OUT:
            source = f"iifname {peers}" if cut.peers else ""
            rules.append(f'oifname "{cut.location}" {source}{chance}drop')
    body = "".join(f"    {rule}\n" for rule in rules)
    return (
        "table bridge graf\n"
        "delete table bridge graf\n"
        "table bridge graf {\n"
        "  chain forward {\n"
        "    type filter hook forward priority 0; policy accept;\n"
        f"{body}"
        "  }\n"
        "}\n"
    )


def active(topology: Topology) -> list[Cut]:
    """The network faults in force."""
    try:
        data = json.loads(_record(topology).read_text())
    except FileNotFoundError:
        return []
    return [
        Cut(item["location"], Direction(item["direction"]), tuple(item["peers"]), int(item["percent"])) for item in data
    ]


def partition(topology: Topology, location: str, direction: Direction, peers: tuple[str, ...]) -> None:
    """Cut a location off; see `Lab.partition`."""
    _check_ports(location, *peers)
    _put(topology, [*active(topology), Cut(location, direction, peers)])


def loss(topology: Topology, location: str, percent: int) -> None:
    """Drop frames at random; see `Lab.loss`."""
    _check_ports(location)
    if not 1 <= percent <= 100:
        raise LabError(f"a loss of {percent} % is refused", remedy="give 1 to 100")
    _put(topology, [*active(topology), Cut(location, percent=percent)])


def heal(topology: Topology, location: str | None) -> None:
    """Take network faults back; see `Lab.heal`."""
    if location is not None:
        _check_ports(location)
    keep = [cut for cut in active(topology) if location is not None and cut.location != location]
    _put(topology, keep)


def mend(topology: Topology, location: str, direction: Direction, peers: tuple[str, ...]) -> None:
    """Take exactly one partition back; see `Lab.mend`."""
    _check_ports(location, *peers)
    _put(topology, [cut for cut in active(topology) if cut != Cut(location, direction, peers)])


def kill_site(topology: Topology, location: str, *, silent: bool) -> int:
    """Kill everything at a location; see `Lab.kill_site`."""
    group = _location_group(topology, location)
    if silent:
        partition(topology, location, Direction.BOTH, ())
    return group.kill()


def freeze_site(topology: Topology, location: str) -> int:
    """Stop everything at a location; see `Lab.freeze_site`."""
    return len(_location_group(topology, location).signal_all(signal.SIGSTOP))


def thaw_site(topology: Topology, location: str) -> int:
    """Continue everything at a location; see `Lab.thaw_site`."""
    return len(_location_group(topology, location).signal_all(signal.SIGCONT))


def kill_process(topology: Topology, location: str, pattern: str, number: signal.Signals) -> list[int]:
    """Signal matching processes; see `Lab.kill_process`."""
    pids = process.find_pids(_location_group(topology, location).pids(), pattern)
    if not pids:
        raise LabError(f"no process of {location} matches {pattern!r}", remedy="graf lab shell " + location)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return pids


def kill_daemon(topology: Topology, location: str, name: str) -> None:
    """Kill one of the location's daemons so that it stays down."""
    if not process.stop_daemon(topology, location, name):
        raise LabError(f"{name} does not run at {location}", "it was stopped before", "graf lab status")


def _location_group(topology: Topology, location: str) -> CgroupTree:
    topology.location(location)
    return CgroupTree(topology.cgroup(location))


def _check_ports(*names: str) -> None:
    for name in names:
        if name not in PORTS:
            raise LabError(f"there is no location {name!r}", remedy=f"use one of {', '.join(PORTS)}")


def _record(topology: Topology) -> Path:
    return topology.state_dir / "faults.json"


def _put(topology: Topology, cuts: list[Cut]) -> None:
    unique = list(dict.fromkeys(cuts))
    network.nft(render(unique), topology.wan_netns)
    write_atomically(_record(topology), json.dumps([asdict(cut) for cut in unique], indent=1))
