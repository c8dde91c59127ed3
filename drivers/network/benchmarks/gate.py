"""Measures the gate and the announcement in real namespaces: the figures of ``docs/reference/drivers/network.md``.

Run as root: ``python drivers/network/benchmarks/gate.py [--count N]``. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address

from graf_driver_network.address import ensure_address
from graf_driver_network.connections import end_connections
from graf_driver_network.driver import NetworkDriver
from graf_driver_network.testing import (
    ADDRESSES,
    SERVICE,
    Echo,
    Edge,
    SiteLoop,
    World,
    ask,
    connect,
    missing,
    sh,
    wait_until,
)
from graf_driver_sdk.types import ComponentKey, EnsureRole, Role, Spec

_RTMGRP_IPV4_ROUTE = 0x40
_FOREIGN_CHAINS = 2000


def row(name: str, samples: list[float]) -> None:
    """One line of the table; samples in milliseconds."""
    ordered = sorted(samples)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    sys.stdout.write(
        f"| {name} | {len(ordered)} | {statistics.median(ordered):.2f} | {p99:.2f} | {ordered[-1]:.2f} |\n"
    )
    sys.stdout.flush()


def timed(call: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def in_ms(milliseconds: int) -> int:
    """A deadline that many milliseconds from now."""
    return time.monotonic_ns() + milliseconds * 1_000_000


class RouteWatch:
    """Hears the edge kernel's own messages about its routes, with their time."""

    def __init__(self, world: World) -> None:
        with world.inside("edge"):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
            self._socket.bind((0, _RTMGRP_IPV4_ROUTE))
        self._socket.settimeout(5)

    def drain(self) -> None:
        """Forgets what came before."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(8192)
        self._socket.settimeout(5)

    def next_change(self) -> float:
        """``perf_counter`` at the next message."""
        self._socket.recv(8192)
        return time.perf_counter()


def measure_gate(world: World, count: int) -> None:
    """The gate alone."""
    gate = world.gate("east")
    row("put an address behind the gate", [timed(lambda: gate.install(SERVICE)) for _ in range(min(count, 200))])
    row("open", [timed(lambda: gate.open(SERVICE, 7, in_ms(700))) for _ in range(count)])
    row("renew", [timed(lambda: gate.renew(SERVICE, 7, in_ms(700))) for _ in range(count)])
    row("read", [timed(lambda: gate.read(SERVICE)) for _ in range(count)])
    rules = ["add table ip foreign", "add map ip foreign services { type ipv4_addr : verdict; }"]
    for i in range(_FOREIGN_CHAINS):
        rules += [f"add chain ip foreign c{i}", f"add rule ip foreign c{i} ip daddr 198.18.1.{i % 250} counter accept"]
        rules.append(f"add element ip foreign services {{ 198.19.{100 + i // 250}.{i % 250} : jump c{i} }}")
    sh(*world.command("east", "nft", "-f", "-"), text="\n".join(rules) + "\n")
    gate.open(SERVICE, 7, in_ms(2000))
    samples = [timed(lambda: gate.renew(SERVICE, 7, in_ms(2000))) for _ in range(count)]
    row(f"renew beside a foreign table of {_FOREIGN_CHAINS} chains", samples)
    sh(*world.command("east", "nft", "delete", "table", "ip", "foreign"))
    early: list[float] = []
    for _ in range(20):
        deadline = in_ms(200)
        gate.open(SERVICE, 7, deadline)
        while gate.read(SERVICE).open:
            pass
        early.append((deadline - time.monotonic_ns()) / 1e6)
    row("shut by the kernel, before the deadline by", early)
    sys.stdout.write(f"| (the least of these) | | {min(early):.2f} | | |\n")


def measure_cut(world: World) -> None:
    """From the call of shut to the reset that a client gets which asks and waits all the time."""
    gate = world.gate("east")
    with world.inside("east"):
        ensure_address(IPv4Address(SERVICE), "lo")
    sh("ip", "-n", world.names["edge"], "route", "add", f"{SERVICE}/32", "via", ADDRESSES["east"])
    gate.install(SERVICE)
    server = Echo(world, "east")
    shuts, ends, cuts = [], [], []
    for _ in range(50):
        gate.open(SERVICE, 7, in_ms(5000))
        reset: list[float] = []
        with connect(world, "edge") as client:

            def send(client: socket.socket = client, reset: list[float] = reset) -> None:
                with contextlib.suppress(OSError):
                    while True:
                        ask(client)
                reset.append(time.perf_counter())

            sender = threading.Thread(target=send)
            sender.start()
            time.sleep(0.02)
            began = time.perf_counter()
            gate.shut(SERVICE)
            shuts.append((time.perf_counter() - began) * 1e3)
            with world.inside("east"):
                end_connections(IPv4Address(SERVICE))
            ends.append((time.perf_counter() - began) * 1e3)
            sender.join()
        cuts.append((reset[0] - began) * 1e3)
    server.close()
    row("shut, proved by reading back", shuts)
    row("shut and connections ended", ends)
    row("shut: from the call to the reset that a busy client gets", cuts)
    sh("ip", "-n", world.names["edge"], "route", "del", f"{SERVICE}/32")


def measure_routes(world: World) -> None:
    """From EnsureRole to the edge's kernel route."""
    edge = Edge(world)
    watch = RouteWatch(world)
    sites = {name: SiteLoop(world, name) for name in ("east", "west")}
    drivers = {name: NetworkDriver(loop.run_dir) for name, loop in sites.items()}
    epoch = 1

    def ensure(name: str, role: Role, lease_ms: int = 20000) -> bool:
        parameters = {
            "serviceAddress": f"{SERVICE}/32",
            "localAddress": ADDRESSES[name],
            "localAs": 65010.0,
            "neighbours": [{"address": ADDRESSES["edge"], "as": 65000.0}],
        }
        spec = Spec(ComponentKey("vcu-db", "route", name), parameters)
        deadline = in_ms(lease_ms) if role is Role.ACTIVE else 0
        request = EnsureRole(spec, role, epoch, lease_deadline_ns=deadline)
        return sites[name].do(drivers[name].ensure_role(request)).completed

    try:
        for name, loop in sites.items():
            loop.do(drivers[name].start())
            wait_until(f"{name} is active", lambda name=name: ensure(name, Role.ACTIVE))  # type: ignore[misc]
            ensure(name, Role.STANDBY)
        wait_until("no route", lambda: world.edge_next_hop() == "")
        calls, announced, fenced, withdrawn, moved = [], [], [], [], []
        for _ in range(50):
            epoch += 1
            watch.drain()
            began = time.perf_counter()
            ensure("east", Role.ACTIVE)
            calls.append((time.perf_counter() - began) * 1e3)
            announced.append((watch.next_change() - began) * 1e3)
            time.sleep(0.02)
            watch.drain()
            began = time.perf_counter()
            ensure("east", Role.FENCED)
            fenced.append((time.perf_counter() - began) * 1e3)
            withdrawn.append((watch.next_change() - began) * 1e3)
            time.sleep(0.02)
        row("EnsureRole(ACTIVE), session up before", calls)
        row("EnsureRole(ACTIVE): from the call to the edge's kernel route (upper bound)", announced)
        row("EnsureRole(FENCED)", fenced)
        row("EnsureRole(FENCED): from the call to the route gone at the edge (upper bound)", withdrawn)
        for _ in range(5):
            epoch += 1
            ensure("east", Role.ACTIVE)
            wait_until("east is preferred", lambda: world.edge_next_hop() == ADDRESSES["east"])
            silent = int((sites["east"].run_dir / "bird.pid").read_text())
            os.kill(silent, signal.SIGSTOP)
            epoch += 1
            watch.drain()
            began = time.perf_counter()
            ensure("west", Role.ACTIVE)
            moved.append((watch.next_change() - began) * 1e3)
            assert world.edge_next_hop() == ADDRESSES["west"]
            os.kill(silent, signal.SIGCONT)
            ensure("east", Role.STANDBY)
            ensure("west", Role.STANDBY)
            wait_until("no route", lambda: world.edge_next_hop() == "")
        row("newer epoch over a silent site's lingering route, to the edge's kernel route", moved)
        measure_recovery(world, sites["east"], lambda: ensure("east", Role.ACTIVE))
    finally:
        for name, loop in sites.items():
            loop.do(drivers[name].close())
            loop.close()
        edge.close()


def measure_recovery(world: World, east: SiteLoop, activate: Callable[[], bool]) -> None:
    """How long until the route is back after BIRD's death, and after a partition of 5 s."""
    here, gone = (lambda: world.edge_next_hop() == ADDRESSES["east"]), (lambda: world.edge_next_hop() == "")
    wait_until("active", activate)
    deaths, heals = [], []
    for _ in range(5):
        wait_until("east is preferred", here)
        os.kill(int((east.run_dir / "bird.pid").read_text()), signal.SIGKILL)
        wait_until("the route is gone", gone)
        deaths.append(wait_until("the route is back", here) * 1e3)
        activate()
    for _ in range(3):
        world.cut("east")
        time.sleep(5)
        world.heal()
        heals.append(wait_until("the route is back", here) * 1e3)
        activate()
    row("route back at the edge after BIRD was killed", deaths)
    row("route back at the edge after a partition of 5 s healed", heals)


def main() -> int:
    """Runs all measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=2000, help="samples of the quick ones")
    arguments = parser.parse_args()
    if lacks := missing():
        sys.stderr.write("missing: " + "; ".join(lacks) + "\n")
        return 2
    bird = subprocess.run(["bird", "--version"], capture_output=True, text=True, check=False)
    sys.stdout.write(f"Linux {os.uname().release}, {(bird.stderr or bird.stdout).strip()}, {os.cpu_count()} CPUs\n\n")
    sys.stdout.write("| what | samples | median ms | 99 % ms | worst ms |\n| --- | --- | --- | --- | --- |\n")
    with World() as world:
        measure_gate(world, arguments.count)
        world.clean()
        measure_cut(world)
        world.clean()
        measure_routes(world)
    return 0


if __name__ == "__main__":
    sys.exit(main())
