"""Mode dns with a real authoritative server and a secondary: updates, who may write, read-back, outages."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest
from graf_driver_network.dns_zone import Holder, LostRaceError, ZoneClient
from graf_driver_network.parameters import parse
from graf_driver_network.parameters_dns import Dns, Server
from graf_driver_network.testing import SiteLoop, World, wait_until
from graf_driver_network.testing_dns import NAME, PRIMARY, SECONDARY_PORT, SECRET, ZONE, DnsServer, dns_parameters
from graf_driver_network.testing_site import Speaker, speaker
from graf_driver_sdk.types import ComponentKey, Health, Peer, Role, Spec

pytestmark = pytest.mark.root

EAST, WEST = "198.19.255.11", "198.19.255.12"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    return file


@pytest.fixture
def server(world: World) -> Iterator[DnsServer]:
    if shutil.which("knotd") is None:
        pytest.fail("these tests use a real DNS server: apt-get install knot")
    found = DnsServer(world, 53, master=True)
    yield found
    found.close()
    for name, address in (("east", EAST), ("west", WEST)):
        world.run(name, "ip", "addr", "flush", "dev", "lo", "to", f"{address}/32")


@pytest.fixture
def east(world: World, server: DnsServer, secret_file: Path) -> Iterator[Speaker]:
    with speaker(world, "east", dns_parameters(secret_file, f"{EAST}/32")) as found:
        yield found


@pytest.fixture
def west(world: World, server: DnsServer, secret_file: Path) -> Iterator[Speaker]:
    with speaker(world, "west", dns_parameters(secret_file, f"{WEST}/32")) as found:
        yield found


def asked(world: World, name: str, kind: str, port: int = 53) -> list[str]:
    """What users get."""
    with world.inside("edge"):
        answer = dns.query.udp(dns.message.make_query(name, kind), PRIMARY, timeout=5, port=port)
    return sorted(item.to_text() for found in answer.answer for item in found)


def test_the_name_points_to_the_active_site_and_then_to_the_next(world: World, east: Speaker, west: Speaker) -> None:
    west.ensured(Role.STANDBY, 6)
    assert "written at" in east.ensured(Role.ACTIVE, 7)
    assert asked(world, NAME, "A") == [EAST]
    status = east.status()
    assert (status.role, status.health, status.accepting) == (Role.ACTIVE, Health.HEALTHY, True), status
    assert status.predicted_reach_ms == 5000
    assert status.facts[f"dns_server_{PRIMARY}:53"] == "east epoch 7"
    east.ensured(Role.FENCED, 7)
    assert asked(world, NAME, "A") == [EAST], "a name without an answer would be cached as such"
    assert not world.gate("east").read(EAST).open
    west.ensured(Role.ACTIVE, 8)
    assert asked(world, NAME, "A") == [WEST]
    assert asked(world, f"_graf-epoch.{NAME}", "TXT") == ['"graf component=vcu-db/route epoch=8 site=west"']
    wait_until("east sees who has it", lambda: east.status().facts.get("dns_epoch") == "8", 20)
    assert east.status().role is Role.FENCED


def test_a_lower_epoch_and_a_stranger_do_not_overwrite_the_name(world: World, east: Speaker, west: Speaker) -> None:
    west.ensured(Role.ACTIVE, 8)
    progress = east.ensure(Role.ACTIVE, 7)
    assert not progress.completed
    assert "held by west for epoch 8" in progress.message
    assert asked(world, NAME, "A") == [WEST]
    other = {**east.spec.parameters, "serviceAddress": "198.19.255.13/32"}
    east.ensured(Role.FENCED, 8)
    with speaker(world, "edge", other) as stranger:
        stranger.spec = Spec(ComponentKey("other-group", "route", "edge"), other)
        progress = stranger.ensure(Role.ACTIVE, 9)
        assert not progress.completed
        assert "belongs to vcu-db/route" in progress.message
    assert asked(world, NAME, "A") == [WEST]


def test_a_second_update_from_the_same_sight_is_refused_by_the_server(
    world: World, server: DnsServer, secret_file: Path
) -> None:
    """Two sites have read the same state: the server takes the first one's update only."""

    parameters, _ = parse(dns_parameters(secret_file, f"{EAST}/32"))
    assert parameters is not None
    assert isinstance(parameters.announcement, Dns)
    client = ZoneClient(parameters.announcement, lambda _: None)
    primary: Server = parameters.announcement.servers[0]
    loop = SiteLoop(world, "east")
    try:
        first, late = Holder("vcu-db/route", 9, "west"), Holder("vcu-db/route", 8, "east")
        assert loop.do(client.read(primary)).holder is None
        loop.do(client.replace(primary, None, first))
        with pytest.raises(LostRaceError):
            loop.do(client.replace(primary, None, late))
        assert loop.do(client.read(primary)).holder == first
    finally:
        loop.close()


def test_services_and_naming_pointers_move_with_the_name(world: World, server: DnsServer, secret_file: Path) -> None:
    records = [
        {"name": f"_db._tcp.{ZONE}", "type": "SRV", "data": f"10 10 3306 {NAME}."},
        {"name": f"amf.{ZONE}", "type": "NAPTR", "data": f'10 10 "a" "x-3gpp-amf:x-n2" "" {NAME}.'},
        {"name": NAME, "type": "AAAA", "data": "2001:DB8:0::1"},
    ]
    with speaker(world, "east", dns_parameters(secret_file, f"{EAST}/32", records=records)) as east:
        east.ensured(Role.ACTIVE, 7)
        assert asked(world, f"_db._tcp.{ZONE}", "SRV") == [f"10 10 3306 {NAME}."]
        assert asked(world, f"amf.{ZONE}", "NAPTR") == [f'10 10 "a" "x-3gpp-amf:x-n2" "" {NAME}.']
        assert asked(world, NAME, "AAAA") == ["2001:db8::1"]
        assert east.ensure(Role.ACTIVE, 7).completed, "nothing is written again"
    with speaker(world, "west", dns_parameters(secret_file, f"{WEST}/32")) as west:
        west.ensured(Role.ACTIVE, 8)
        assert asked(world, NAME, "AAAA") == [], "the other site's address of the other family"


def test_an_outage_of_the_server_opens_the_gate_all_the_same_and_heals(
    world: World, server: DnsServer, east: Speaker
) -> None:
    server.stop()
    progress = east.ensure(Role.ACTIVE, 7)
    assert not progress.completed
    assert "cannot be reached" in progress.message
    assert world.gate("east").read(EAST).open
    wait_until("the outage is told", lambda: "no DNS server answers" in east.status().message, 20)
    assert east.ensure(Role.FENCED, 8).completed, "fencing does not need the server"
    assert not world.gate("east").read(EAST).open
    server.start()
    east.ensured(Role.ACTIVE, 9)
    assert asked(world, NAME, "A") == [EAST]


def test_a_secondary_is_read_back_as_well(world: World, server: DnsServer, secret_file: Path) -> None:
    secondary = DnsServer(world, SECONDARY_PORT, master=False)
    read_back = [f"{PRIMARY}:{SECONDARY_PORT}"]
    try:
        with speaker(world, "east", dns_parameters(secret_file, f"{EAST}/32", readBack=read_back)) as east:
            east.ensured(Role.ACTIVE, 7)
            wait_until("both servers have it", lambda: "at 2 of 2 servers" in east.status().message, 30)
            secondary.stop()
            wait_until("one is missing", lambda: "at 1 of 2 servers" in east.status().message, 20)
            assert east.status().health is Health.HEALTHY
    finally:
        secondary.close()


def test_a_rotated_secret_is_used_at_once_and_is_never_told(
    east: Speaker, secret_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret_file.write_text("d3Jvbmctc2VjcmV0LXdyb25nLXNlY3JldA==")
    progress = east.ensure(Role.ACTIVE, 7)
    assert not progress.completed
    assert "does not accept the key graf" in progress.message
    secret_file.write_text("not base 64!")
    assert "is not base64" in east.ensure(Role.ACTIVE, 7).message
    secret_file.unlink()
    assert "is the Secret mounted?" in east.ensure(Role.ACTIVE, 7).message
    secret_file.write_text(SECRET)
    east.ensured(Role.ACTIVE, 7)
    assert east.driver.redactor.clean(f"a log line with {SECRET}").count(SECRET) == 0
    assert SECRET not in caplog.text


def test_two_sites_that_disagree_about_the_name_are_told(east: Speaker) -> None:

    theirs: dict[str, Any] = {**east.spec.parameters}
    theirs["dns"] = {**theirs["dns"], "name": f"elsewhere.{ZONE}"}
    problems = east.loop.do(east.driver.validate(east.spec, [Peer("west", Role.STANDBY, theirs)]))
    assert {problem.field for problem in problems} == {"serviceAddress", "dns.name"}


def test_data_that_no_server_takes_is_told_by_validate_and_keeps_no_site_from_being_fenced(
    world: World, secret_file: Path
) -> None:
    """It was permitted before it was checked: a running group must stay renewable and fenceable."""
    records = [{"name": f"_sip._tcp.{ZONE}", "type": "SRV", "data": "0 5 5060 sip"}]
    with speaker(world, "east", dns_parameters(secret_file, f"{EAST}/32", records=records)) as east:
        (problem,) = east.loop.do(east.driver.validate(east.spec, []))
        assert problem.field == "dns.records[0].data"
        assert "sip has no dot at its end" in problem.cause
        assert not east.ensure(Role.ACTIVE, 7).completed
        assert world.gate("east").read(EAST).open
        assert east.renew(7, 5000)
        assert east.status().role is Role.ACTIVE
        east.ensured(Role.FENCED, 8)
        assert not world.gate("east").read(EAST).open


@pytest.mark.parametrize("interface", ["eth0", "lo"])
def test_a_service_address_beside_the_nodes_own_is_fenced_whatever_its_length(
    world: World, secret_file: Path, interface: str
) -> None:
    """As netplan and keepalived put it there, and as it is after a reboot: without a gate."""
    service = "198.18.0.77"
    world.run("east", "ip", "address", "add", f"{service}/24", "dev", interface)
    try:
        with speaker(world, "east", dns_parameters(secret_file, f"{service}/32")) as east:
            assert east.loop.do(east.driver.validate(east.spec, [])) == []
            east.ensured(Role.FENCED, 7)
            state = world.gate("east").read(service)
            assert (state.protected, state.open) == (True, False)
    finally:
        world.run("east", "ip", "address", "delete", f"{service}/24", "dev", interface)
