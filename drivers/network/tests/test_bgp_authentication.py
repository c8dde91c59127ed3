"""BGP sessions with a password (TCP MD5), over several hops, and with TTL security; real BIRDs are the neighbours."""

from __future__ import annotations

import contextlib
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from graf_driver_network.passwords import refused_segments
from graf_driver_network.testing import ADDRESSES, EDGE_CONFIG, SERVICE, Edge, World, sh, wait_until
from graf_driver_network.testing_site import Speaker, speaker
from graf_driver_sdk.types import Role

pytestmark = pytest.mark.root

FIRST, SECOND, OTHER = "the first one", "the second one", "of the other router"
TO_EDGE, TO_WEST = "edge_198_18_0_20_to_198_18_0_40", "edge_198_18_0_20_to_198_18_0_30"
FAR, FAR_LINK = "198.18.2.50", "198.18.1.50"
_TCP_MD5SIG = 14


def routers_text(password: str, address: str = ADDRESSES["edge"]) -> str:
    """The edge router of the reference page with a password for the site east, at any address."""
    lines = EDGE_CONFIG.replace(ADDRESSES["edge"], address).splitlines()
    text = "\n".join(line for line in lines if not line.startswith("protocol bgp west"))
    return text.replace("neighbor 198.18.0.20 as 65010;", f'neighbor 198.18.0.20 as 65010; password "{password}";')


@contextlib.contextmanager
def router(world: World, text: str, place: str = "edge") -> Iterator[Edge]:
    found = Edge(world, text=text, place=place)
    try:
        yield found
    finally:
        found.close()


@contextlib.contextmanager
def east(world: World, *neighbours: dict[str, Any], **more: Any) -> Iterator[Speaker]:
    parameters: dict[str, Any] = {
        "serviceAddress": f"{SERVICE}/32",
        "localAddress": ADDRESSES["east"],
        "localAs": 65010.0,
        "neighbours": [{"as": 65000.0} | neighbour for neighbour in neighbours],
    }
    with speaker(world, "east", parameters | more) as found:
        yield found


def established(site: Speaker, session: str = TO_EDGE) -> Callable[[], bool]:
    return lambda: site.status().facts.get(f"session_{session}") == "Established"


def refused(world: World, why: str) -> int:
    with world.inside("east"):
        return refused_segments()[why]


def since(edge: Edge) -> str:
    """The line of the session to east: its state, and when it came into it."""
    return edge.ask("show protocols east").splitlines()[-1]


def written(path: Path, text: str) -> Path:
    """As kubelet does it: the new file is there as a whole."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    return draft.replace(path)


def test_a_session_stays_down_with_a_wrong_password_says_so_and_comes_up_with_the_right_one(
    world: World, tmp_path: Path
) -> None:
    file = written(tmp_path / "edge", "a wrong one")
    with (
        router(world, routers_text(FIRST)),
        east(world, {"address": ADDRESSES["edge"], "passwordFile": str(file)}) as site,
    ):
        before = refused(world, "wrong_signature")
        progress = site.ensure(Role.ACTIVE, 7)
        assert not progress.completed
        assert "is the password the same at the router?" in progress.message
        wait_until("the kernel refuses the router", lambda: refused(world, "wrong_signature") > before, 10)
        status = site.status()
        assert "is the password the same at the router?" in status.message
        assert status.facts[f"session_{TO_EDGE}"] != "Established"
        assert int(status.facts["tcp_refused_wrong_signature"]) > before
        assert status.accepting, "the lease permits to serve, whoever hears of it"
        written(file, f"{FIRST}\n")
        wait_until("the session is up with the right password", established(site), 10)
        wait_until("the edge has the route", lambda: world.edge_next_hop() == ADDRESSES["east"], 10)
        status = site.status()
        assert (status.role, status.accepting, status.facts["gate_epoch"]) == (Role.ACTIVE, True, "7")
        assert status.facts[f"password_{TO_EDGE}"] == "used"
        assert FIRST not in f"{status}"
        config = site.loop.run_dir / "bird.conf"
        assert FIRST in config.read_text()
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        pid = int((site.loop.run_dir / "bird.pid").read_text())
        assert FIRST.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_new_password_waits_for_its_router_and_the_other_session_and_the_role_go_on(
    world: World, tmp_path: Path
) -> None:
    mine, other = written(tmp_path / "edge", FIRST), written(tmp_path / "west", OTHER)
    neighbours = (
        {"address": ADDRESSES["edge"], "passwordFile": str(mine)},
        {"address": ADDRESSES["west"], "passwordFile": str(other)},
    )
    with (
        router(world, routers_text(FIRST)) as edge,
        router(world, routers_text(OTHER, ADDRESSES["west"]), "west") as west,
        east(world, *neighbours) as site,
    ):
        site.ensured(Role.ACTIVE, 7)
        wait_until("the first session is up", established(site), 10)
        wait_until("the other session is up", established(site, TO_WEST), 10)
        edge_since, west_since = since(edge), since(west)
        written(mine, SECOND)
        wait_until(
            "the new password is seen",
            lambda: "waits until the session is down" in site.status().facts[f"password_{TO_EDGE}"],
        )
        # Every role writes the configuration anew: it must not take the password with it.
        site.ensured(Role.STANDBY, 8)
        site.ensured(Role.ACTIVE, 9)
        assert (since(edge), since(west)) == (edge_since, west_since)
        edge.configure(routers_text(SECOND))
        wait_until("the new password is used", lambda: site.status().facts[f"password_{TO_EDGE}"] == "used", 10)
        wait_until("the session is up again", established(site), 10)
        wait_until("the edge has the route again", lambda: world.edge_next_hop() == ADDRESSES["east"], 10)
        assert since(west) == west_since
        status = site.status()
        assert (status.role, status.accepting, status.facts["gate_epoch"]) == (Role.ACTIVE, True, "9")


def test_a_neighbour_without_a_usable_password_is_left_out_and_told_and_the_others_hear_the_route(
    world: World, tmp_path: Path
) -> None:
    file = tmp_path / "edge"
    neighbours = ({"address": ADDRESSES["edge"], "passwordFile": str(file)}, {"address": ADDRESSES["west"]})
    # The router would take a session without a password: it must not be offered one.
    with (
        router(world, routers_text(FIRST).replace(f'password "{FIRST}";', "")) as edge,
        router(world, routers_text(OTHER, ADDRESSES["west"]).replace(f'password "{OTHER}";', ""), "west"),
        east(world, *neighbours) as site,
    ):
        site.ensured(Role.ACTIVE, 7)
        status = site.status()
        assert "the file is not there" in status.facts[f"password_{TO_EDGE}"]
        assert "neighbours[0].passwordFile: missing: the file is not there" in status.message
        assert established(site, TO_WEST)()
        problem = site.loop.do(site.driver.validate(site.spec, ()))[0]
        assert (problem.field, problem.cause) == ("neighbours[0].passwordFile", "the file is not there")
        assert "mount the Secret" in problem.fix
        assert f"neighbor {ADDRESSES['edge']}" not in (site.loop.run_dir / "bird.conf").read_text()
        edge.configure(routers_text(FIRST))
        written(file, FIRST)
        wait_until("the session is up as soon as there is a password", established(site), 10)
        assert site.loop.do(site.driver.validate(site.spec, ())) == []
        # A Secret that goes takes no session with it: the last password is used on.
        file.unlink()
        wait_until("it is told", lambda: "the last one read is used" in site.status().facts[f"password_{TO_EDGE}"])
        up = since(edge)
        site.ensured(Role.STANDBY, 8)
        assert since(edge) == up


def test_the_kernel_signs_with_every_byte_of_the_file_as_it_stands(world: World, tmp_path: Path) -> None:
    """BIRD's text has no escapes. What is not BIRD computes the signature here."""
    password = "b\\n#'{};/* %s $x ~" + 62 * "x"
    assert len(password) == 80
    file = written(tmp_path / "edge", f"{password}\r\n")
    with east(world, {"address": ADDRESSES["edge"], "passwordFile": str(file)}) as site:
        site.ensure(Role.STANDBY, 6)
        with world.inside("edge"):
            client = socket.socket()
        with client:
            peer = struct.pack("=HH4s120x", socket.AF_INET, 0, socket.inet_aton(ADDRESSES["east"]))
            key = struct.pack("=BBHI80s", 0, 0, len(password), 0, password.encode())
            client.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG, peer + key)
            client.bind((ADDRESSES["edge"], 0))
            client.settimeout(10)
            client.connect((ADDRESSES["east"], 179))
            assert client.recv(16) == b"\xff" * 16, "BIRD greets a neighbour whose signature is right"


@pytest.fixture
def far(world: World) -> Iterator[str]:
    """A namespace behind the edge, which is a router here: two networks away from the site, its address on lo."""
    name = world.names["far"] = world.names["edge"].replace("edge", "far")
    sh("ip", "netns", "add", name)
    edge, site = world.names["edge"], world.names["east"]
    try:
        sh("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "far", "netns", edge)
        sh("ip", "-n", edge, "addr", "add", "198.18.1.40/24", "dev", "far")
        sh("ip", "-n", edge, "link", "set", "far", "up")
        sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", name, "addr", "add", f"{FAR}/32", "dev", "lo")
        sh("ip", "-n", name, "addr", "add", f"{FAR_LINK}/24", "dev", "eth0")
        sh("ip", "-n", name, "link", "set", "eth0", "up")
        sh("ip", "-n", name, "route", "add", "default", "via", "198.18.1.40")
        sh("ip", "-n", edge, "route", "add", f"{FAR}/32", "via", FAR_LINK)
        sh("ip", "-n", site, "route", "add", f"{FAR}/32", "via", ADDRESSES["edge"])
        world.run("edge", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        yield "far"
    finally:
        del world.names["far"]
        sh("ip", "netns", "del", name)
        for where in (edge, site):
            with contextlib.suppress(AssertionError):
                sh("ip", "-n", where, "route", "del", f"{FAR}/32")


def far_text(hops: str) -> str:
    own = f'neighbor 198.18.0.20 as 65010; password "{FIRST}"; {hops}'
    text = routers_text(FIRST, FAR).replace(f'neighbor 198.18.0.20 as 65010; password "{FIRST}";', own)
    return text + "protocol bfd { multihop { interval 50 ms; multiplier 3; }; }\n"


def test_a_router_two_networks_away_hears_the_route_by_multihop_with_bfd_and_a_password(
    world: World, far: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "far", FIRST)
    neighbour = {"address": FAR, "passwordFile": str(file), "multihop": 2.0}
    with router(world, far_text("multihop 2; bfd on;"), far) as edge, east(world, neighbour, bfd=True) as site:
        assert "announced with MED" in site.ensured(Role.ACTIVE, 7)
        wait_until("the far router has the route", lambda: SERVICE in edge.ask("show route"), 10)
        # Its own times would be slow ones: interval and time-out are what the driver says of itself in its facts.
        wait_until(
            "BFD is up and fast", lambda: {"Up", "0.050", "0.150"} <= set(edge.ask("show bfd sessions").split()), 10
        )
        assert site.status().facts["neighbours_notice_ms"] == "150"


def test_ttl_security_ignores_a_router_that_could_be_anywhere(world: World, far: str, tmp_path: Path) -> None:
    neighbour = {"address": FAR, "ttlSecurity": 2.0, "passwordFile": str(written(tmp_path / "far", FIRST))}
    with router(world, far_text("multihop 2; ttl security on;"), far) as edge, east(world, neighbour) as site:
        site.ensured(Role.ACTIVE, 7)
        wait_until("the far router has the route", lambda: SERVICE in edge.ask("show route"), 10)
        before = refused(world, "low_ttl")
        edge.configure(far_text("multihop 2;"))
        wait_until("the kernel refuses the router", lambda: refused(world, "low_ttl") > before, 10)
        wait_until("the cause is asked for", lambda: "does the router send with TTL 255?" in site.status().message, 10)
        status = site.status()
        assert int(status.facts["tcp_refused_low_ttl"]) > before
        assert (status.facts["exported"], status.accepting) == ("no", True)
