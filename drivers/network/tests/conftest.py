"""Fixtures: one world of namespaces for the whole run, cleaned before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from graf_driver_network.testing import Edge, World, missing


@pytest.fixture(scope="session")
def whole_world() -> Iterator[World]:
    if lacks := missing():
        pytest.fail("these tests use real network namespaces, nftables and BIRD; missing: " + "; ".join(lacks))
    with World() as world:
        yield world


@pytest.fixture
def world(whole_world: World) -> World:
    whole_world.clean()
    return whole_world


@pytest.fixture
def edge(world: World) -> Iterator[Edge]:
    router = Edge(world)
    yield router
    router.close()
