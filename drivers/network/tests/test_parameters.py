"""Parameters: what is good is read, and every problem is named with field, cause and fix."""

from __future__ import annotations

import math
from ipaddress import IPv4Address
from typing import Any

import pytest
from graf_driver_network.parameters import Mode, parse
from graf_driver_network.parameters_bgp import Bfd, Neighbour
from graf_driver_network.parameters_dns import Dns, data_problems

EDGE: dict[str, Any] = {"address": "198.18.0.40", "as": 65000.0}
GOOD: dict[str, Any] = {
    "serviceAddress": "198.19.255.1/32",
    "ports": [3306.0],
    "localAddress": "198.18.0.20",
    "localAs": 65010.0,
    "neighbours": [{"address": "198.18.0.40", "as": 65000.0}],
}


def test_good_parameters_are_read_with_numbers_as_a_struct_gives_them() -> None:
    parameters, problems = parse(GOOD)
    assert problems == []
    assert parameters is not None
    assert parameters.service_address == IPv4Address("198.19.255.1")
    assert parameters.ports == (3306,)
    assert (parameters.mode, parameters.interface) == (Mode.BGP, "lo")
    assert parameters.bgp is not None
    assert parameters.bgp.neighbours == (Neighbour(IPv4Address("198.18.0.40"), 65000),)
    assert (parameters.bgp.router_id, parameters.bgp.bfd) == (IPv4Address("198.18.0.20"), None)


@pytest.mark.parametrize(
    ("change", "field", "cause"),
    [
        ({"serviceAddress": "2001:db8::1/128"}, "localAddress", "the service address is IPv6"),
        ({"serviceAddress": "198.19.255.0/24"}, "serviceAddress", "not one address"),
        ({"serviceAddress": "198.19.255.1/24"}, "serviceAddress", "host bits"),
        ({"serviceAddress": "198.19.255.1"}, "serviceAddress", "written with its length"),
        ({"serviceAddress": "nonsense"}, "serviceAddress", "does not appear to be"),
        ({"serviceAddress": "127.0.0.1/32"}, "serviceAddress", "a loopback address"),
        ({"serviceAddress": "224.0.0.5/32"}, "serviceAddress", "a multicast address"),
        ({"serviceAddress": None}, "serviceAddress", "is missing"),
        ({"serviceAddress": 5.0}, "serviceAddress", "no text"),
        ({"serviceAddress": "198.18.0.20/32"}, "localAddress", "the service address itself"),
        ({"localAddress": "fe80::1"}, "localAddress", "a link-local IPv6 address"),
        ({"localAddress": "300.1.1.1"}, "localAddress", "not permitted"),
        ({"localAddress": 1.0}, "localAddress", "no text"),
        ({"localAs": 0.0}, "localAs", "outside 1 to"),
        ({"localAs": 4294967295.0}, "localAs", "outside 1 to"),
        ({"localAs": 1.5}, "localAs", "no whole number"),
        ({"localAs": True}, "localAs", "no whole number"),
        ({"localAs": None}, "localAs", "is missing"),
        ({"ports": [0.0]}, "ports[0]", "outside 1 to 65535"),
        ({"ports": "3306"}, "ports", "no list"),
        ({"neighbours": []}, "neighbours", "missing or empty"),
        ({"neighbours": "198.18.0.40"}, "neighbours", "no list"),
        ({"neighbours": ["198.18.0.40"]}, "neighbours[0]", "lacks address and as"),
        ({"neighbours": [{"address": "198.18.0.40"}]}, "neighbours[0].as", "is missing"),
        ({"neighbours": [{"address": "198.18.0.40", "as": float("inf")}]}, "neighbours[0].as", "is no whole number"),
        ({"neighbours": [{"address": "198.18.0.40", "as": 65010.0}]}, "neighbours[0].as", "iBGP"),
        ({"neighbours": [{"address": "198.18.0.20", "as": 65000.0}]}, "neighbours[0].address", "localAddress itself"),
        ({"neighbours": GOOD["neighbours"] * 2}, "neighbours[1].address", "named twice"),
        (
            {"neighbours": [{"address": "198.18.0.40", "as": 65000.0, "password": "x"}]},
            "neighbours[0].password",
            "no such parameter",
        ),
        ({"neighbours": [EDGE | {"passwordFile": "s3cret"}]}, "neighbours[0].passwordFile", "no path from the root"),
        ({"neighbours": [EDGE | {"passwordFile": ""}]}, "neighbours[0].passwordFile", "no path from the root"),
        ({"neighbours": [EDGE | {"passwordFile": None}]}, "neighbours[0].passwordFile", "no path from the root"),
        ({"neighbours": [EDGE | {"multihop": 0.0}]}, "neighbours[0].multihop", "outside 1 to 255"),
        ({"neighbours": [EDGE | {"multihop": 256.0}]}, "neighbours[0].multihop", "outside 1 to 255"),
        ({"neighbours": [EDGE | {"ttlSecurity": True}]}, "neighbours[0].ttlSecurity", "no whole number"),
        ({"neighbours": [EDGE | {"ttlSecurity": 255.0}]}, "neighbours[0].ttlSecurity", "outside 1 to 254"),
        (
            {"neighbours": [EDGE | {"multihop": 2.0, "ttlSecurity": 2.0}]},
            "neighbours[0].ttlSecurity",
            "exclude each other",
        ),
        ({"neighbours": [EDGE | {"address": "198.19.255.1"}]}, "neighbours[0].address", "is the service address"),
        ({"routerId": "0.0.0.0"}, "routerId", "no BGP identifier"),
        ({"interface": "a name too long for it"}, "interface", "no interface name"),
        ({"bfd": "yes"}, "bfd", "neither true nor false"),
        ({"mtu": 9000.0}, "mtu", "no such parameter"),
        ({"mode": "carrier pigeon"}, "mode", "is no mode"),
        ({"vip": {}}, "vip", "no such parameter"),
        ({"bfdTimers": {"intervalMs": 300.0}}, "bfdTimers", "BFD is not on"),
        ({"bfd": True, "bfdTimers": {"intervalMs": 1.0}}, "bfdTimers.intervalMs", "outside 10 to 10000"),
        ({"communities": ["65010:70000"]}, "communities[0]", "does not fit"),
        ({"communities": ["no-export"]}, "communities[0]", "cannot be used"),
        ({"localPreference": "epoch"}, "localPreference", "not sent to a neighbour in another AS"),
        ({"drain": {"prepend": 99.0}}, "drain.prepend", "outside 0 to 10"),
        ({"drain": 5.0}, "drain", "no object"),
        ({"serviceAddress": "fe80::1/128"}, "serviceAddress", "a link-local IPv6 address"),
        ({"serviceAddress": "::ffff:198.19.255.1/128"}, "serviceAddress", "an IPv4 address written as IPv6"),
    ],
)
def test_each_bad_parameter_is_named_with_cause_and_fix(change: dict[str, Any], field: str, cause: str) -> None:
    parameters, problems = parse(GOOD | change)
    assert parameters is None
    named = {problem.field: problem for problem in problems}
    assert field in named, problems
    assert cause in named[field].cause
    assert named[field].fix


def test_the_way_to_a_router_and_the_file_of_its_password_are_read() -> None:
    near = EDGE | {"ttlSecurity": 1.0, "passwordFile": "/etc/graf/bgp/edge"}
    parameters, problems = parse(
        GOOD | {"bfd": True, "neighbours": [EDGE | {"address": "198.18.2.50", "multihop": 2.0}, near]}
    )
    assert problems == []
    assert parameters is not None
    assert parameters.bgp is not None
    assert parameters.bgp.neighbours == (
        Neighbour(IPv4Address("198.18.0.40"), 65000, "/etc/graf/bgp/edge", ttl_security=1),
        Neighbour(IPv4Address("198.18.2.50"), 65000, multihop=2),
    )
    assert [neighbour.index for neighbour in parameters.bgp.neighbours] == [1, 0], "as the operator counts them"


@pytest.mark.parametrize(
    "neighbour", [EDGE | {"passwordFile": "s3cret"}, EDGE | {"password": "s3cret"}, "198.18.0.40 password s3cret"]
)
def test_a_password_in_the_wrong_place_is_not_shown(neighbour: object) -> None:
    _, problems = parse(GOOD | {"neighbours": [neighbour]})
    assert problems
    assert "s3cret" not in str(problems)


def test_every_problem_is_reported_at_once() -> None:
    _, problems = parse({})
    assert {problem.field for problem in problems} == {"serviceAddress", "localAddress", "localAs", "neighbours"}


def test_ipv6_needs_an_address_and_a_router_id_of_its_own() -> None:
    six = GOOD | {"serviceAddress": "2001:db8:19::1/128", "localAddress": "2001:db8:18::20"}
    six["neighbours"] = [{"address": "2001:db8:18::40", "as": 65000.0}]
    assert {problem.field for problem in parse(six)[1]} == {"routerId"}
    parameters, problems = parse(six | {"routerId": "198.18.0.20", "bfd": True, "bfdTimers": {"intervalMs": 300.0}})
    assert problems == []
    assert parameters is not None
    assert parameters.bgp is not None
    assert parameters.bgp.bfd == Bfd(300, 3)


VIP: dict[str, Any] = {"mode": "vip", "serviceAddress": "198.18.0.200/32", "interface": "eth0"}


@pytest.mark.parametrize(
    ("change", "field", "cause"),
    [
        ({"interface": None}, "interface", "is missing"),
        ({"interface": "lo"}, "interface", "nobody asks for addresses on lo"),
        ({"localAs": 65010.0}, "localAs", "no such parameter"),
        ({"vip": {"announcements": 0.0}}, "vip.announcements", "outside 1 to 100"),
        ({"vip": {"often": True}}, "vip.often", "no such parameter"),
    ],
)
def test_mode_vip_names_what_it_cannot_use(change: dict[str, Any], field: str, cause: str) -> None:
    assert parse(VIP)[1] == []
    found = {problem.field: problem.cause for problem in parse(VIP | change)[1]}
    assert cause in found[field]


DNS: dict[str, Any] = {
    "zone": "example.test",
    "name": "db.example.test",
    "servers": ["198.18.0.40:5353", "2001:db8::1", "[2001:db8::2]:54"],
    "tsig": {"name": "graf", "secretFile": "/etc/graf/tsig/secret"},
}


def test_mode_dns_reads_servers_records_and_key() -> None:
    records = [{"name": "_db._tcp.example.test", "type": "SRV", "data": "10 10 3306 db.example.test."}]
    raw = {"mode": "dns", "serviceAddress": "198.19.255.1/32", "dns": DNS | {"records": records}}
    parameters, problems = parse(raw)
    assert problems == []
    assert parameters is not None
    dns = parameters.announcement
    assert isinstance(dns, Dns)
    assert [str(server) for server in dns.servers] == ["198.18.0.40:5353", "[2001:db8::1]:53", "[2001:db8::2]:54"]
    assert [(r.name, r.kind) for r in dns.records] == [("_db._tcp.example.test.", "SRV"), ("db.example.test.", "A")]
    assert (dns.ttl_s, dns.epoch_name) == (5, "_graf-epoch.db.example.test.")


def record(kind: str, data: str) -> dict[str, Any]:
    return {"records": [{"name": "one.example.test", "type": kind, "data": data}]}


@pytest.mark.parametrize(
    ("change", "field", "cause"),
    [
        ({"name": "db.example.org"}, "dns.name", "is not in example.test."),
        ({"name": "no spaces"}, "dns.name", "cannot be used"),
        ({"servers": []}, "dns.servers", "missing or empty"),
        ({"servers": ["ns.example.test"]}, "dns.servers[0]", "Expected 4 octets"),
        ({"servers": ["198.18.0.40:99999"]}, "dns.servers[0]", "outside 1 to 65535"),
        ({"tsig": None}, "dns.tsig", "is missing"),
        ({"tsig": {"name": "graf", "secret": "c2VjcmV0"}}, "dns.tsig.secret", "no such parameter"),
        ({"tsig": {"name": "graf", "secretFile": "relative"}}, "dns.tsig.secretFile", "cannot be used"),
        (
            {"tsig": {"name": "graf", "secretFile": "/s", "algorithm": "hmac-md5"}},
            "dns.tsig.algorithm",
            "is not offered",
        ),
        (
            {"records": [{"name": "example.test", "type": "MX", "data": "10 a."}]},
            "dns.records[0].type",
            "not written by this driver",
        ),
        ({"ttlSeconds": -1.0}, "dns.ttlSeconds", "outside 0 to"),
        ({"ttlSeconds": math.inf}, "dns.ttlSeconds", "no whole number"),
        ({"ttlSeconds": math.nan}, "dns.ttlSeconds", "no whole number"),
    ],
)
def test_mode_dns_names_what_it_cannot_use(change: dict[str, Any], field: str, cause: str) -> None:
    raw = {"mode": "dns", "serviceAddress": "198.19.255.1/32", "dns": DNS | change}
    found = {problem.field: problem.cause for problem in parse(raw)[1]}
    assert cause in found[field], found


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (record("SRV", "10 10 3306 db"), "db has no dot at its end"),
        (record("SRV", "10 10 99999 db.example.test."), "not an unsigned 16-bit integer"),
        (record("NAPTR", '10 10 "a" "x" "" db.example.test'), "has no dot at its end"),
        (record("NAPTR", '10 10 "a" "x'), "is no data of a record of type NAPTR"),
        (record("A", "1.2.3"), "is no data of a record of type A"),
        (record("AAAA", "1.2.3.4"), "is no data of a record of type AAAA"),
    ],
)
def test_data_that_no_server_takes_is_named_and_can_be_read_all_the_same(change: dict[str, Any], cause: str) -> None:
    raw = {"mode": "dns", "serviceAddress": "198.19.255.1/32", "dns": DNS | change}
    assert parse(raw)[1] == []
    (problem,) = data_problems(raw)
    assert problem.field == "dns.records[0].data"
    assert cause in problem.cause


METALLB: dict[str, Any] = {"name": "vcu-db", "addressPools": ["graf"]}
CILIUM: dict[str, Any] = {"name": "vcu-db", "serviceSelector": {"app": "db"}}


@pytest.mark.parametrize(
    ("mode", "change", "field", "cause"),
    [
        ("metallb", {"addressPools": []}, "metallb.addressPools", "missing or empty"),
        ("metallb", {"name": "Not_A_Name"}, "metallb.name", "cannot be used"),
        ("metallb", {"kind": "l3"}, "metallb.kind", "neither bgp nor l2"),
        ("metallb", {"kind": "l2", "peers": ["edge"]}, "metallb.kind", "l2 has no peers"),
        ("metallb", {"fencing": "hope"}, "metallb.fencing", "neither objects nor gate"),
        ("cilium", {"serviceSelector": {}}, "cilium.serviceSelector", "missing or empty"),
        ("cilium", {"addressPools": ["graf"]}, "cilium.addressPools", "no such parameter"),
        ("cilium", {"localPreference": "high"}, "cilium.localPreference", "cannot be used"),
    ],
)
def test_modes_of_objects_name_what_they_cannot_use(mode: str, change: dict[str, Any], field: str, cause: str) -> None:
    good = METALLB if mode == "metallb" else CILIUM
    raw = {"mode": mode, "serviceAddress": "198.19.255.1/32", mode: good}
    assert parse(raw)[1] == []
    found = {problem.field: problem.cause for problem in parse(raw | {mode: good | change})[1]}
    assert cause in found[field], found
