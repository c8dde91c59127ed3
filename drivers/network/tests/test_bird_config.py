"""BIRD's configuration as text, and what is read from BIRD's answers."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from graf_driver_network.bird import BirdConfigError, BirdError, check_configured, parse_protocols, parse_routes
from graf_driver_network.bird_config import MAX_MED, Route, Session, conflicts, med_of, render
from graf_driver_network.parameters_bgp import Bfd, Neighbour
from graf_driver_network.testing import EDGE_CONFIG

EAST, SERVICE = IPv4Address("198.18.0.20"), IPv4Address("198.19.255.1")
FIRST = Session(EAST, 65010, Neighbour(IPv4Address("198.18.0.40"), 65000), bfd=None)
HOPS = Session(EAST, 65010, Neighbour(IPv4Address("198.18.2.50"), 65000, "/etc/graf/bgp/far", multihop=2), bfd=Bfd())
NEAR = Session(EAST, 65010, Neighbour(IPv4Address("198.18.0.42"), 65010, ttl_security=1), bfd=Bfd())
AWAY = Session(EAST, 65010, Neighbour(IPv4Address("198.18.2.51"), 65000, ttl_security=3), bfd=None)
SECOND = Session(EAST, 65010, Neighbour(IPv4Address("198.18.0.41"), 65001), bfd=Bfd())
DOC = Path(__file__).parents[3] / "docs" / "reference" / "drivers" / "network.md"


def test_a_newer_epoch_has_the_lower_med() -> None:
    assert med_of(1) == MAX_MED - 1 > med_of(2)


@pytest.mark.parametrize("epoch", [-1, MAX_MED + 1])
def test_an_epoch_without_a_med_of_its_own_is_refused(epoch: int) -> None:
    with pytest.raises(ValueError, match="no MED of its own"):
        med_of(epoch)


def test_only_the_static_protocol_differs_between_active_and_standby() -> None:
    active = render(EAST, [FIRST], [Route(SERVICE, 7)]).splitlines()
    standby = render(EAST, [FIRST], []).splitlines()
    assert [line for line in active if line not in standby] == [
        "  route 198.19.255.1/32 blackhole { bgp_med = 4294967288; };"
    ]


def test_the_text_does_not_depend_on_the_order_of_its_parts() -> None:
    assert render(EAST, [FIRST, SECOND, FIRST], []) == render(EAST, [SECOND, FIRST], [])


def test_two_components_may_share_a_session_but_not_disagree_about_it() -> None:
    assert conflicts([FIRST, FIRST, SECOND]) == []
    other = Session(EAST, 65011, FIRST.neighbour, bfd=None)
    assert "AS 65010" in conflicts([FIRST, other])[0]


def test_two_components_that_share_a_session_have_one_password_file_and_one_way_to_the_router() -> None:
    for change in ({"password_file": "/etc/graf/bgp/other"}, {"multihop": 3}, {"password_file": None}):
        other = replace(HOPS, neighbour=replace(HOPS.neighbour, **change))
        assert "by two components of this site" in conflicts([HOPS, other])[0]
    assert conflicts([HOPS, replace(HOPS, neighbour=replace(HOPS.neighbour, index=1))]) == []


def test_a_session_that_wants_a_password_is_not_written_without_one() -> None:
    assert HOPS.name not in render(EAST, [FIRST, HOPS], [])
    text = render(EAST, [FIRST, HOPS], [], {HOPS.name: "a password"})
    assert [line for line in text.splitlines() if "password" in line] == ['  password "a password";']


def test_each_way_to_a_router_has_its_words() -> None:
    def words(session: Session) -> set[str]:
        text = render(EAST, [session], [], {session.name: "x"})
        return {word for word in ("multihop 2;", "multihop 3;", "direct;", "ttl security on;") if f"\n  {word}" in text}

    assert words(FIRST) == set()
    assert words(HOPS) == {"multihop 2;"}
    assert words(NEAR) == {"direct;", "ttl security on;"}
    assert words(AWAY) == {"multihop 3;", "ttl security on;"}


def test_a_configuration_that_waits_for_a_session_to_end_is_no_refused_one() -> None:
    reading = "0002-Reading configuration from bird.conf"
    check_configured([reading, "0003 Reconfigured"])
    check_configured([reading, "0004 Reconfiguration in progress"])
    with pytest.raises(BirdError, match="queued") as waits:
        check_configured([reading, "0005 Reconfiguration already in progress, queueing new config"])
    assert not isinstance(waits.value, BirdConfigError), "BIRD would be killed for it, with every session"
    with pytest.raises(BirdConfigError, match="syntax error"):
        check_configured([reading, "8002 bird.conf:3:1 syntax error"])


@pytest.mark.parametrize("routes", [[], [Route(SERVICE, 7), Route(IPv4Address("198.19.255.2"), 0)]])
def test_bird_accepts_what_is_rendered(tmp_path: Path, routes: list[Route]) -> None:
    if shutil.which("bird") is None:
        pytest.fail("bird is not installed: apt-get install bird2")
    file = tmp_path / "bird.conf"
    file.write_text(render(EAST, [FIRST, SECOND, HOPS, NEAR, AWAY], routes, {HOPS.name: "#'{;}\\"}))
    done = subprocess.run(["bird", "-p", "-c", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_reference_page_shows_the_edge_router_that_the_tests_run() -> None:
    shown = DOC.read_text()
    for line in EDGE_CONFIG.strip().splitlines():
        if not line.startswith("log "):
            assert line in shown, f"{DOC.name} lacks {line!r}"


def test_session_states_are_read_from_show_protocols() -> None:
    answer = [
        "2002-Name       Proto      Table      State  Since         Info",
        "1002-device1    Device     ---        up     03:36:57.051  ",
        " edge_a     BGP        ---        up     2026-11-24 03:36:57  Established   ",
        " edge_b     BGP        ---        start  03:36:57.961  Active        Socket: Connection refused",
        " edge_c     BGP        ---        down   03:36:57.961  ",
        "0000 ",
    ]
    assert parse_protocols(answer) == {
        "edge_a": ("Established", ""),
        "edge_b": ("Active", "Socket: Connection refused"),
        "edge_c": ("down", ""),
    }


def test_exported_routes_are_read_with_their_med() -> None:
    answer = [
        "1007-Table master4:",
        " 198.19.255.1/32      blackhole [service 03:36:57.051] * (200)",
        "1008-\tType: static univ",
        "1012-\tBGP.med: 4294967294",
        "1007-198.19.255.2/32      blackhole [service 03:36:57.051] * (200)",
        "0000 ",
    ]
    assert parse_routes(answer) == {"198.19.255.1/32": 4294967294, "198.19.255.2/32": 0}
