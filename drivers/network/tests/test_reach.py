"""What the driver adds to the predicted outage: the time until the last user reaches the site that took over."""

from __future__ import annotations

from typing import Any

import pytest
from graf_driver_network.announcer import Seen
from graf_driver_network.parameters import Parameters, parse
from graf_driver_network.reach import detection_ms, reach_ms

BGP: dict[str, Any] = {
    "serviceAddress": "198.19.255.1/32",
    "localAddress": "198.18.0.20",
    "localAs": 65010,
    "neighbours": [{"address": "198.18.0.40", "as": 65000}],
}
VIP: dict[str, Any] = {"mode": "vip", "serviceAddress": "198.18.0.200/32", "interface": "eth0"}
METALLB: dict[str, Any] = {
    "mode": "metallb",
    "serviceAddress": "198.19.255.1/32",
    "metallb": {"name": "db", "addressPools": ["graf"]},
}
DNS: dict[str, Any] = {
    "mode": "dns",
    "serviceAddress": "198.19.255.11/32",
    "dns": {
        "zone": "graf.test",
        "name": "db.graf.test",
        "servers": ["198.18.0.40"],
        "tsig": {"name": "key", "secretFile": "/run/secret"},
        "ttlSeconds": 7,
    },
}
WELL = Seen(False)


def read(raw: dict[str, Any], **more: Any) -> Parameters:
    found, problems = parse({**raw, **more})
    assert problems == []
    assert found is not None
    return found


def test_a_name_is_followed_when_the_longest_time_to_live_that_was_seen_is_over() -> None:
    assert reach_ms(read(DNS), WELL) == 7000
    assert reach_ms(read(DNS), Seen(False, lingers_ms=60_000)) == 60_000, "resolvers keep what the old holder wrote"


def test_a_newer_route_wins_at_once_and_without_a_session_nothing_can_be_told() -> None:
    assert 0 < reach_ms(read(BGP), WELL) <= 100
    assert reach_ms(read(BGP), Seen(False, "no BGP session is established")) < 0
    assert reach_ms(read(BGP, convergenceMs=4000), WELL) == 4000


def test_a_neighbour_notices_a_silent_site_by_its_hold_time_or_by_bfd() -> None:
    plain, with_bfd = read(BGP).bgp, read(BGP, bfd=True, bfdTimers={"intervalMs": 100, "multiplier": 5}).bgp
    assert plain is not None
    assert with_bfd is not None
    assert (detection_ms(plain), detection_ms(with_bfd)) == (3000, 500)


@pytest.mark.parametrize(
    ("own", "wanted"),
    [({}, 90_000), ({"localPreference": "epoch"}, 1000), ({"localPreference": "100"}, 90_000), ({"kind": "l2"}, 1000)],
)
def test_without_a_preference_by_epoch_the_old_route_has_to_end_first(own: dict[str, Any], wanted: int) -> None:
    parameters = read(METALLB, metallb={**METALLB["metallb"], **own})
    assert reach_ms(parameters, WELL) == wanted
    measured = read(METALLB, metallb={**METALLB["metallb"], **own}, convergenceMs=150)
    assert reach_ms(measured, WELL) == 150


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ({}, 1200),
        ({"announcements": 2, "intervalMs": 100}, 30_000),  # all of them may come while ARP is locked
        ({"announcements": 2, "intervalMs": 100, "refreshSeconds": 0}, -1),
    ],
)
def test_the_hosts_of_a_link_follow_an_announcement_after_the_lock_of_arp(own: dict[str, Any], wanted: int) -> None:
    assert reach_ms(read(VIP, vip=own), WELL) == wanted


def test_neighbour_discovery_knows_no_such_lock() -> None:
    assert reach_ms(read(VIP, serviceAddress="2001:db8::200/128"), WELL) == 200


def test_a_measured_convergence_is_no_parameter_of_a_name() -> None:
    for raw, field in (({**DNS, "convergenceMs": 1}, "convergenceMs"), ({**BGP, "convergenceMs": -1}, "convergenceMs")):
        _, problems = parse(raw)
        assert [problem.field for problem in problems] == [field]
