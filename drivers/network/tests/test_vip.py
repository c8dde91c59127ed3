"""Mode vip: the address moves between two hosts of a real link, and a third one's neighbour table follows."""

from __future__ import annotations

import errno
import json
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from graf_driver_network.address import AddressError, Place, is_held, lend_address, own_place, places_of, remove_address
from graf_driver_network.link import Link, announcement, claimed_by
from graf_driver_network.testing import ADDRESSES, ADDRESSES6, PORT, World, wait_until
from graf_driver_network.testing_site import Speaker, speaker
from graf_driver_sdk.errors import PreconditionError
from graf_driver_sdk.types import Health, Role

VIP4, VIP6 = "198.18.0.200", "2001:db8:18::200"
MAC = bytes.fromhex("020000000001")
FAST = {"announcements": 20.0, "intervalMs": 100.0}


def parameters(address: str, **more: Any) -> dict[str, Any]:
    length = 128 if ":" in address else 32
    return {"mode": "vip", "serviceAddress": f"{address}/{length}", "interface": "eth0", "vip": FAST} | more


@pytest.mark.parametrize("address", [VIP4, VIP6])
def test_an_announcement_names_the_address_and_its_host(address: str) -> None:
    for frame in announcement(MAC, ip_address(address)):
        assert claimed_by(frame, ip_address(address)) == MAC
        assert claimed_by(frame, ip_address(address) + 1) == b""
        assert claimed_by(frame[:40], ip_address(address)) == b""


@pytest.fixture(params=[VIP4, VIP6])
def vip(request: pytest.FixtureRequest, world: World) -> Iterator[str]:
    address = str(request.param)
    yield address
    for name in ("east", "west"):
        with world.inside(name):
            remove_address(ip_address(address), "eth0")
    world.run("edge", "ip", "neighbour", "flush", "dev", "eth0")


def mac_of(world: World, name: str) -> str:
    return str(json.loads(world.run(name, "ip", "-j", "link", "show", "eth0"))[0]["address"])


def neighbour_of_edge(world: World, address: str) -> str:
    found = json.loads(world.run("edge", "ip", "-j", "neighbour", "show", address) or "[]")
    return str(found[0].get("lladdr", "")) if found else ""


def held(world: World, name: str, address: str) -> bool:
    with world.inside(name):
        return is_held(ip_address(address))


def connected(world: World, address: str) -> socket.socket:
    with world.inside("edge"):
        return socket.create_connection((address, PORT), 5)


class Answering:
    """A server on the port at both sites, from a thread of the test: it says where it is."""

    def __init__(self, world: World, name: str) -> None:
        with world.inside(name):
            self.socket = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)

    def serve_one(self) -> None:
        connection, _ = self.socket.accept()
        with connection:
            connection.sendall(connection.recv(10))


@pytest.mark.root
def test_clients_follow_the_address_from_one_host_to_the_other(world: World, vip: str) -> None:
    with speaker(world, "east", parameters(vip)) as east, speaker(world, "west", parameters(vip)) as west:
        west.ensured(Role.STANDBY, 6)
        east.ensured(Role.ACTIVE, 7)
        assert (held(world, "east", vip), held(world, "west", vip)) == (True, False)
        serve_a_client(world, "east", vip)
        assert neighbour_of_edge(world, vip) == mac_of(world, "east")
        status = east.status()
        assert (status.role, status.health, status.accepting) == (Role.ACTIVE, Health.HEALTHY, True), status
        assert west.status().health is Health.HEALTHY
        assert "removed" in east.ensured(Role.FENCED, 7)
        assert not held(world, "east", vip)
        west.ensured(Role.ACTIVE, 8)
        wait_until("the edge has west's hardware address", lambda: follows(world, "west", vip), 20)
        serve_a_client(world, "west", vip)
        assert east.status().role is Role.FENCED


def follows(world: World, name: str, vip: str) -> bool:
    return neighbour_of_edge(world, vip) == mac_of(world, name)


def serve_a_client(world: World, name: str, vip: str) -> None:
    server = Answering(world, name)
    with server.socket, connected(world, vip) as client:
        client.sendall(b"x")
        server.serve_one()
        assert client.recv(10) == b"x"


@pytest.mark.root
def test_the_kernel_takes_the_address_away_when_nobody_is_left_to_do_so(world: World, vip: str) -> None:
    east = Speaker(world, "east", parameters(vip))
    gate = world.gate("east")
    east.ensured(Role.ACTIVE, 7, lease_ms=1500)
    deadline = time.monotonic_ns() + 1_500_000_000
    east.close()
    assert held(world, "east", vip)
    wait_until("the address has gone", lambda: not held(world, "east", vip), 20)
    assert not gate.read(vip).open
    assert time.monotonic_ns() > deadline - 600_000_000, "it went with the lease, not before"


@pytest.mark.root
def test_renewals_prolong_the_address(world: World, vip: str) -> None:
    with speaker(world, "east", parameters(vip)) as east:
        east.ensured(Role.ACTIVE, 7, lease_ms=1200)
        for _ in range(5):
            assert east.renew(7, 1200)
            time.sleep(0.4)  # the renewal's own period, not a wait
        assert held(world, "east", vip)
        assert east.status().accepting
        wait_until("the lease ends and the address goes", lambda: not held(world, "east", vip), 20)
        assert east.status().role is Role.FENCED


@pytest.mark.root
def test_a_site_whose_address_cannot_be_removed_is_not_fenced(world: World, vip: str) -> None:
    with speaker(world, "east", parameters(vip)) as east:
        east.ensured(Role.ACTIVE, 7)
        with world.inside("east"):
            lend_address(ip_address(vip), "lo", 60)  # somebody has put it on another interface as well
        progress = east.ensure(Role.FENCED, 8)
        assert not progress.completed
        assert "still at this node, on lo with length" in progress.message
        assert not world.gate("east").read(vip).open, "no packet passes all the same"
        with world.inside("east"):
            remove_address(ip_address(vip), "lo")
        east.ensured(Role.FENCED, 8)


@pytest.mark.root
def test_another_host_that_claims_the_address_is_told(world: World, vip: str) -> None:
    with speaker(world, "east", parameters(vip)) as east:
        east.ensured(Role.ACTIVE, 7)
        with world.inside("west"):
            link = Link("eth0", ip_address(vip))
        link.announce()
        link.close()
        wait_until("it is told", lambda: "also claimed by" in east.status().message, 20)
        assert east.status().health is Health.UNHEALTHY
        assert mac_of(world, "west") in east.status().facts["vip_also_claimed_by"]


@pytest.mark.root
def test_an_interface_that_does_not_exist_is_told(world: World) -> None:
    with speaker(world, "east", parameters(VIP4, interface="eth9")) as east:
        progress = east.ensure(Role.ACTIVE, 7)
        assert not progress.completed
        assert "'eth9' does not exist" in progress.message
        assert east.ensure(Role.FENCED, 8).completed


@pytest.mark.root
def test_a_link_that_went_down_is_told_and_the_address_announced_anew_when_it_is_back(world: World) -> None:
    with speaker(world, "east", parameters(VIP4, vip={"announcements": 2.0, "intervalMs": 100.0})) as east:
        east.ensured(Role.ACTIVE, 7)
        wait_until("all announcements", lambda: east.status().facts["vip_announcements"] == "2", 20)
        world.run("east", "ip", "link", "set", "eth0", "down")
        try:
            wait_until("it is told", lambda: east.status().health is Health.UNHEALTHY, 20)
            assert "Network is down" in east.status().message
        finally:
            world.run("east", "ip", "link", "set", "eth0", "up")
            world.run("east", "ip", "address", "replace", f"{ADDRESSES6['east']}/64", "dev", "eth0", "nodad")
        wait_until("it is well again", lambda: east.status().health is Health.HEALTHY, 20)
        assert east.status().facts["vip_announcements"] == "3"
        east.ensured(Role.FENCED, 8)


@pytest.mark.root
@pytest.mark.parametrize("address", [ADDRESSES["east"], ADDRESSES6["east"]])
def test_the_nodes_own_address_is_never_put_behind_a_gate(world: World, address: str) -> None:
    """The gate of a site that is not active would shut the node itself: kubelet, SSH, this driver's own way out."""
    with speaker(world, "east", parameters(address)) as east:
        (problem,) = east.loop.do(east.driver.validate(east.spec, []))
        assert problem.field == "serviceAddress"
        assert "this node's own address (on eth0 with length" in problem.cause
        for role in (Role.FENCED, Role.STANDBY, Role.ACTIVE):
            with pytest.raises(PreconditionError, match="its gate would shut the node"):
                east.ensure(role, 7)
        assert not world.gate("east").read(address).protected
        status = east.status()
        assert (status.role, status.health, status.promotable) == (Role.UNSPECIFIED, Health.UNHEALTHY, False)
        assert "this node's own address" in status.message


@pytest.mark.root
def test_where_an_address_is_is_told_with_its_length(world: World) -> None:
    with world.inside("east"):
        assert own_place(ip_address("198.18.0.99")) is None
        assert own_place(ip_address(ADDRESSES["east"])) == Place("eth0", 24)
        lend_address(ip_address(VIP4), "eth0", 60)
        assert places_of(ip_address(VIP4)) == (Place("eth0", 32),)
        assert own_place(ip_address(VIP4)) is None
        remove_address(ip_address(VIP4), "eth0")
        assert places_of(ip_address(VIP4)) == ()


def test_an_error_of_rtnetlink_is_not_taken_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def recv(self, *_: int) -> bytes:
            return struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -errno.EBUSY) + bytes(16)

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(AddressError, match=r"does not say where 198\.18\.0\.99 is: Device or resource busy"):
        places_of(ip_address("198.18.0.99"))
