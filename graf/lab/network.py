"""The simulated wide-area network: a bridge in a namespace of its own, and one leg for every location.

The bridge `wan0` is in namespace `graf-<lab>-wan`. Its ports are named after the locations, and `host` for the
machine's own leg, so that the rules of a fault read like the fault. A location's end of its link is `eth0`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import subprocess
from collections.abc import Sequence

from graf.lab.errors import LabError
from graf.lab.topology import LOCATIONS, MAX_INDEX, Topology

BRIDGE = "wan0"
HOST_PORT = "host"


def ip(*argv: str, netns: str = "") -> str:
    """Run the ip command, inside a network namespace when one is named.

    Raises:
        LabError: It failed.
    """
    prefix = ["ip", "-n", netns] if netns else ["ip"]
    done = subprocess.run([*prefix, *argv], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(argv)} failed", done.stderr.strip(), "the kernel may lack the feature")
    return done.stdout


def namespaces() -> set[str]:
    """Names of the network namespaces of this machine."""
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    return {line.split()[0] for line in done.stdout.splitlines() if line}


def taken_subnets(own_links: Sequence[str] = ()) -> set[int]:
    """Lab indexes whose subnet this machine already uses on a link that no lab made."""
    addresses = json.loads(ip("-json", "-4", "address") or "[]")
    routes = json.loads(ip("-json", "-4", "route", "show", "table", "all") or "[]")
    used: list[tuple[str, ipaddress.IPv4Network]] = []
    for link in addresses:
        for info in link.get("addr_info", []):
            network = ipaddress.IPv4Network(f"{info['local']}/{info['prefixlen']}", strict=False)
            used.append((link["ifname"], network))
    for route in routes:
        with contextlib.suppress(ValueError):
            used.append((route.get("dev", ""), ipaddress.IPv4Network(route.get("dst", ""), strict=False)))
    wide = ipaddress.IPv4Network("0.0.0.0/0")
    return {
        index
        for index in range(MAX_INDEX + 1)
        for device, network in used
        if device not in own_links
        and network != wide
        and network.overlaps(ipaddress.IPv4Network(f"198.18.{index}.0/24"))
    }


def ensure(topology: Topology) -> list[str]:
    """Make what is missing of the network.

    Returns:
        What was made, for people.
    """
    made: list[str] = []
    present = namespaces()
    if topology.wan_netns not in present:
        ip("netns", "add", topology.wan_netns)
        made.append("network namespace " + topology.wan_netns)
    if not _has_link(BRIDGE, topology.wan_netns):
        wan = topology.wan_netns
        _quiet(wan)
        ip("link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "mcast_snooping", "0", netns=wan)
        ip("link", "set", BRIDGE, "up", netns=wan)
        ip("link", "set", "lo", "up", netns=wan)
    for name in LOCATIONS:
        namespace = topology.netns(name)
        if namespace not in present:
            ip("netns", "add", namespace)
            made.append("network namespace " + namespace)
        if not _has_link("eth0", namespace):
            _quiet(namespace)
            _connect(topology, name, "eth0", namespace)
            location = topology.location(name)
            ip("link", "set", "lo", "up", netns=namespace)
            ip("address", "add", f"{location.address}/24", "dev", "eth0", netns=namespace)
            if location.is_cluster:
                _sysctl(namespace, "net.ipv4.ip_forward", "1")
        if topology.location(name).is_cluster:
            # Service addresses are translated after the routing decision, so some route must take them.
            ip("route", "replace", "default", "via", topology.void_gateway, netns=namespace)
    if not _has_link(topology.host_link, ""):
        _connect(topology, HOST_PORT, topology.host_link, "")
        ip("address", "add", f"{topology.host_address}/24", "dev", topology.host_link)
        made.append("link " + topology.host_link)
    return made


def remove(topology: Topology) -> list[str]:
    """Remove the namespaces and the machine's leg; what is not there is no error. Returns what was removed."""
    removed: list[str] = []
    if _has_link(topology.host_link, "") and topology.wan_netns in namespaces():
        ip("link", "delete", topology.host_link)
        removed.append("link " + topology.host_link)
    for name in sorted(namespaces()):
        if name.startswith(f"graf-{topology.name}-"):
            ip("netns", "delete", name)
            removed.append("network namespace " + name)
    return removed


def reset_location(topology: Topology, location: str) -> None:
    """Forget what a killed location left in its kernel state, as a reboot does.

    The namespace stays, so service addresses, packet filters and Pod links of the former life would stay with it.
    """
    namespace = topology.netns(location)
    nft("flush ruleset", namespace)
    for link in json.loads(ip("-json", "link", netns=namespace) or "[]"):
        if link["ifname"] not in ("lo", "eth0"):
            with contextlib.suppress(LabError):
                ip("link", "delete", link["ifname"], netns=namespace)
    for link in json.loads(ip("-json", "-4", "address", "show", "dev", "lo", netns=namespace) or "[]"):
        for info in link.get("addr_info", []):
            if info["local"] != "127.0.0.1":
                ip("address", "delete", f"{info['local']}/{info['prefixlen']}", "dev", "lo", netns=namespace)
    for route in json.loads(ip("-json", "-4", "route", netns=namespace) or "[]"):
        if route.get("protocol") not in ("kernel", "boot", None) and route.get("dst") != "default":
            with contextlib.suppress(LabError):
                ip("route", "delete", route["dst"], netns=namespace)


def nft(script: str, namespace: str) -> None:
    """Load an nftables script in a network namespace, as one transaction.

    Raises:
        LabError: The kernel or nft refused it.
    """
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", "--", "nft", "-f", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(
            "nftables refused the rules",
            done.stderr.strip()[:400],
            "the kernel needs nf_tables with the bridge and inet families",
        )


def _has_link(link: str, namespace: str) -> bool:
    prefix = ["ip", "-n", namespace] if namespace else ["ip"]
    return subprocess.run([*prefix, "link", "show", link], capture_output=True, check=False).returncode == 0


def _connect(topology: Topology, port: str, link: str, namespace: str) -> None:
    """Join a namespace (or the machine itself) to the bridge by a pair of virtual links."""
    wan = topology.wan_netns
    if _has_link(port, wan):
        ip("link", "delete", port, netns=wan)
    inner = ["netns", namespace] if namespace else ["netns", str(os.getpid())]
    ip("link", "add", port, "netns", wan, "type", "veth", "peer", "name", link, *inner)
    ip("link", "set", port, "master", BRIDGE, "up", netns=wan)
    ip("link", "set", link, "up", netns=namespace)


def _quiet(namespace: str) -> None:
    """No IPv6 in the lab: its neighbour discovery would only be noise in the faults."""
    with contextlib.suppress(LabError):
        _sysctl(namespace, "net.ipv6.conf.all.disable_ipv6", "1")
        _sysctl(namespace, "net.ipv6.conf.default.disable_ipv6", "1")


def _sysctl(namespace: str, key: str, value: str) -> None:
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", "--", "sysctl", "-q", "-w", f"{key}={value}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"sysctl {key}={value} failed in {namespace}", done.stderr.strip())
