from __future__ import annotations

import ipaddress

import pytest

from graf.lab.errors import LabError
from graf.lab.topology import CLUSTERS, LOCATIONS, MAX_INDEX, Topology


def test_two_labs_share_no_wide_area_address() -> None:
    first = {Topology("a", 0).location(name).address for name in LOCATIONS}
    second = {Topology("b", 1).location(name).address for name in LOCATIONS}
    assert not first & second


def test_pod_and_service_ranges_of_the_clusters_do_not_overlap() -> None:
    ranges = [
        ipaddress.IPv4Network(cidr)
        for place in Topology("a", 0).clusters
        for cidr in (place.pod_cidr, place.service_cidr)
    ]
    assert len(ranges) == 2 * len(CLUSTERS)
    assert not any(a.overlaps(b) for i, a in enumerate(ranges) for b in ranges[i + 1 :])


def test_every_address_is_in_the_range_that_is_never_routed() -> None:
    reserved = ipaddress.IPv4Network("198.18.0.0/15")
    for index in (0, MAX_INDEX):
        for name in LOCATIONS:
            assert ipaddress.IPv4Address(Topology("a", index).location(name).address) in reserved


def test_host_link_name_fits_the_kernel() -> None:
    assert len(Topology("a", MAX_INDEX).host_link) <= 15


@pytest.mark.parametrize("name", ["", "Lab", "a b", "x" * 13, "../x", "1a"])
def test_a_name_that_cannot_be_a_namespace_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(LabError) as refusal:
        Topology(name, 0)
    assert "lower-case" in refusal.value.remedy


def test_an_unknown_location_is_refused_with_those_there_are() -> None:
    with pytest.raises(LabError) as refusal:
        Topology("a", 0).location("north")
    assert "mgmt, east, west, users" in str(refusal.value)


def test_the_api_server_of_a_cluster_is_the_first_address_of_its_services() -> None:
    assert Topology("a", 0).location("mgmt").kubernetes_service == "198.19.64.1"
