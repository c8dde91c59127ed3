"""Mode bgp beyond IPv4: IPv6, BFD, communities, iBGP's local preference, and a drained route; with real BIRDs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from graf_driver_network.testing import (
    ADDRESSES,
    ADDRESSES6,
    EDGE6_CONFIG,
    PORT,
    SERVICE,
    SERVICE6,
    Edge,
    World,
    wait_until,
)
from graf_driver_network.testing_site import Speaker, speaker
from graf_driver_sdk.types import Health, Role

pytestmark = pytest.mark.root

IBGP = """
protocol bgp inside { local 198.18.0.40 as 65010; neighbor 198.18.0.20 as 65010; strict bind yes; hold time 3;
  connect delay time 0; connect retry time 1; error wait time 1, 1; ipv4 { import all; export none; }; }
"""
PLAIN: dict[str, Any] = {
    "serviceAddress": f"{SERVICE}/32",
    "localAs": 65010.0,
    "neighbours": [{"address": ADDRESSES["edge"], "as": 65000.0}],
}
IPV6: dict[str, Any] = {
    "serviceAddress": f"{SERVICE6}/128",
    "localAs": 65010.0,
    "neighbours": [{"address": ADDRESSES6["edge"], "as": 65000.0}],
    "bfd": True,
    "communities": ["65010:100", "65010:1:2"],
}


@contextlib.contextmanager
def site(world: World, name: str, parameters: dict[str, Any], **more: Any) -> Iterator[Speaker]:
    local = (ADDRESSES6 if ":" in parameters["serviceAddress"] else ADDRESSES)[name]
    with speaker(world, name, {"localAddress": local, "routerId": ADDRESSES[name]} | parameters | more) as found:
        yield found


@pytest.fixture
def edge6(world: World) -> Iterator[Edge]:
    router = Edge(world, EDGE6_CONFIG)
    yield router
    router.close()


def best(edge: Edge, prefix: str) -> str:
    """What the router has chosen for a prefix, in BIRD's words; empty when it has none."""
    try:
        return edge.ask(f"show route {prefix} primary all")
    except AssertionError:
        return ""


def chosen(edge: Edge, prefix: str, *words: str) -> bool:
    text = best(edge, prefix)
    return all(word in text for word in words)


def test_an_ipv6_address_is_announced_with_its_communities_and_gated(world: World, edge6: Edge) -> None:
    prefix = f"{SERVICE6}/128"
    with site(world, "east", IPV6) as east:
        assert "announced with MED" in east.ensured(Role.ACTIVE, 7)
        wait_until("the edge has the route", lambda: chosen(edge6, prefix, "east6", str(4294967295 - 7)), 10)
        assert chosen(edge6, prefix, "(65010,100)", "(65010, 1, 2)"), best(edge6, prefix)
        status = east.status()
        assert (status.role, status.accepting) == (Role.ACTIVE, True)
        gate = world.gate("east")
        assert (gate.read(SERVICE6).open, gate.read(SERVICE6).epoch) == (True, 7)
        with world.inside("east"), socket.create_server(("::", PORT), family=socket.AF_INET6) as server:
            with world.inside("edge"):
                client = socket.socket(socket.AF_INET6)
            with client:
                client.settimeout(5)
                # The edge's BIRD does not write IPv6 routes into its kernel in this test.
                world.run("edge", "ip", "-6", "route", "replace", prefix, "via", ADDRESSES6["east"])
                client.connect((SERVICE6, PORT))
                accepted, _ = server.accept()
                with accepted:
                    client.sendall(b"x")
                    assert accepted.recv(1) == b"x"
                    assert "1 connections ended" in east.ensured(Role.FENCED, 8)
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)
            with world.inside("edge"):
                late = socket.socket(socket.AF_INET6)
            with late:
                late.settimeout(5)
                with pytest.raises(ConnectionRefusedError):
                    late.connect((SERVICE6, PORT))
        wait_until("the edge has no route", lambda: best(edge6, prefix) == "", 10)
        world.run("edge", "ip", "-6", "route", "del", prefix)


def test_bfd_finds_a_silent_site_before_the_hold_time_ends(world: World, edge6: Edge) -> None:
    with site(world, "east", IPV6) as east:
        east.ensured(Role.ACTIVE, 7)
        wait_until("BFD is up", lambda: "Up" in edge6.ask("show bfd sessions"), 20)
        pid = int((east.loop.run_dir / "bird.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until("BFD says down", lambda: "BFD" in edge6.ask("show protocols all east6"), 20)
            wait_until("the route is gone", lambda: best(edge6, f"{SERVICE6}/128") == "", 20)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_drained_route_lingers_as_the_last_choice_until_the_new_one_has_come(world: World, edge: Edge) -> None:
    """Make before break: at no time between the two sites is the edge without a route."""
    prefix, drain = f"{SERVICE}/32", {"lingerMs": 60000.0, "prepend": 2.0}
    with site(world, "east", PLAIN, drain=drain) as east, site(world, "west", PLAIN, drain=drain) as west:
        west.ensured(Role.STANDBY, 6)
        east.ensured(Role.ACTIVE, 7)
        wait_until("the edge has east's route", lambda: chosen(edge, prefix, "[east", "65010\n"), 10)
        assert "as the last choice" in east.ensured(Role.FENCED, 7)
        wait_until(
            "the route is drained",
            lambda: chosen(edge, prefix, "[east", "65010 65010 65010", "4294967294", "(65535,0)"),
            10,
        )
        status = east.status()
        assert (status.role, status.accepting, status.facts["draining"]) == (Role.FENCED, False, "yes")
        west.ensured(Role.ACTIVE, 8)
        wait_until("the edge prefers west", lambda: chosen(edge, prefix, "[west"), 10)
        assert "[east" in edge.ask(f"show route {prefix} all")
        east.ensured(Role.INVALIDATED, 9)
        wait_until("the drained route is gone", lambda: "[east" not in edge.ask(f"show route {prefix} all"), 10)


def test_a_drained_route_ends_by_itself(world: World, edge: Edge) -> None:
    with site(world, "east", PLAIN, drain={"lingerMs": 300.0}) as east:
        east.ensured(Role.ACTIVE, 7)
        wait_until("the edge has the route", lambda: chosen(edge, f"{SERVICE}/32", "[east"), 10)
        east.ensured(Role.STANDBY, 8)
        wait_until("the route is gone", lambda: best(edge, f"{SERVICE}/32") == "", 10)
        assert east.status().facts["exported"] == "no"


def test_local_preference_by_epoch_is_told_to_an_ibgp_neighbour(world: World) -> None:
    edge = Edge(world, IBGP)
    neighbours = [{"address": ADDRESSES["edge"], "as": 65010.0}]
    try:
        with site(world, "east", PLAIN, neighbours=neighbours, localPreference="epoch") as east:
            east.ensured(Role.ACTIVE, 7)
            wait_until("the preference", lambda: chosen(edge, f"{SERVICE}/32", "inside", "BGP.local_pref: 7"), 10)
    finally:
        edge.close()


@pytest.mark.parametrize(
    "wrong", [{"neighbours": [{"address": ADDRESSES["edge"], "as": 65001.0}]}, {"localAs": 65011.0}], ids=["its", "own"]
)
def test_an_as_number_that_the_other_side_does_not_expect_is_told(
    world: World, edge: Edge, wrong: dict[str, Any]
) -> None:
    with site(world, "east", PLAIN, **wrong) as east:
        east.ensure(Role.ACTIVE, 7)
        wait_until("the reason", lambda: "Bad peer AS" in east.status().message, 20)
        assert "no BGP session is established" in east.status().message
        east.ensured(Role.FENCED, 8)


def test_a_router_that_falls_silent_is_told_and_heard_again(world: World, edge: Edge) -> None:
    with site(world, "east", PLAIN) as east:
        east.ensured(Role.ACTIVE, 7)
        edge.process.send_signal(signal.SIGSTOP)
        try:
            wait_until("the reason", lambda: "Hold timer expired" in east.status().message, 20)
            assert east.status().health is Health.UNHEALTHY
            assert east.status().accepting, "the lease permits to serve; who has the route goes on"
        finally:
            edge.process.send_signal(signal.SIGCONT)
        wait_until("the session is back", lambda: east.status().health is Health.HEALTHY, 30)
        east.ensured(Role.FENCED, 8)
