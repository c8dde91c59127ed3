"""The driver with real gates, real BIRDs and a real edge router: roles, read-back, deaths and the linger of BGP."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
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
    last_seen_open_ns,
    sh,
    wait_until,
)
from graf_driver_sdk.errors import InvalidParametersError, PreconditionError
from graf_driver_sdk.types import ComponentKey, EnsureRole, Health, Peer, Progress, RenewLease, Role, Spec, Status

pytestmark = pytest.mark.root


class Site:
    """A driver at a site, called as the SDK would call it."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.loop = SiteLoop(world, name)
        self.spec = self.spec_for("route", SERVICE)
        self.driver = NetworkDriver(self.loop.run_dir)
        self.loop.do(self.driver.start())

    def spec_for(self, component: str, address: str, **more: Any) -> Spec:
        parameters: dict[str, Any] = {
            "serviceAddress": f"{address}/32",
            "ports": [3306.0],
            "localAddress": ADDRESSES[self.name],
            "localAs": 65010.0,
            "neighbours": [{"address": ADDRESSES["edge"], "as": 65000.0}],
        }
        return Spec(ComponentKey("vcu-db", component, self.name), parameters | more)

    def ensure(self, role: Role, epoch: int, lease_ms: int = 5000, spec: Spec | None = None) -> Progress:
        deadline = time.monotonic_ns() + lease_ms * 1_000_000 if role is Role.ACTIVE else 0
        return self.loop.do(
            self.driver.ensure_role(EnsureRole(spec or self.spec, role, epoch, lease_deadline_ns=deadline))
        )

    def ensured(self, role: Role, epoch: int, lease_ms: int = 5000, spec: Spec | None = None) -> None:
        """Begins and continues until it is completed."""
        wait_until(f"{self.name} is {role.name}", lambda: self.ensure(role, epoch, lease_ms, spec).completed)

    def renew(self, epoch: int, lease_ms: int) -> bool:
        deadline = time.monotonic_ns() + lease_ms * 1_000_000
        return self.loop.do(self.driver.renew_lease(RenewLease(self.spec, epoch, deadline)))

    def status(self, spec: Spec | None = None) -> Status:
        return self.loop.do(self.driver.status(spec or self.spec))

    def session_up(self) -> bool:
        return "Established" in self.status().facts.values()

    def bird_pid(self) -> int:
        return int((self.loop.run_dir / "bird.pid").read_text())

    def restart(self) -> None:
        """The driver ends and another one starts; the kernel keeps what it has."""
        self.loop.do(self.driver.close())
        self.driver = NetworkDriver(self.loop.run_dir)
        self.loop.do(self.driver.start())

    def close(self) -> None:
        self.loop.do(self.driver.close())
        self.loop.close()


@pytest.fixture
def east(world: World, edge: Edge) -> Iterator[Site]:
    site = Site(world, "east")
    yield site
    site.close()


@pytest.fixture
def west(world: World, edge: Edge) -> Iterator[Site]:
    site = Site(world, "west")
    yield site
    site.close()


@pytest.fixture
def server(world: World) -> Iterator[Echo]:
    echo = Echo(world, "east")
    yield echo
    echo.close()


def hops(world: World, expected: str) -> Callable[[], bool]:
    return lambda: world.edge_next_hop() == ADDRESSES.get(expected, "")


def test_before_any_role_the_site_serves_nothing_and_changes_nothing(east: Site, world: World) -> None:
    status = east.status()
    assert (status.role, status.health, status.accepting) == (Role.FENCED, Health.INITIALISING, False)
    assert "graf_gate" not in sh(*world.command("east", "nft", "list", "tables"))


def test_active_is_completed_when_gate_and_route_are_seen_and_clients_get_through(
    east: Site, world: World, server: Echo
) -> None:
    east.ensured(Role.STANDBY, 6)
    wait_until("the standby's session is established", east.session_up)
    assert world.edge_next_hop() == ""
    progress = east.ensure(Role.ACTIVE, 7)
    assert progress.completed, progress.message
    wait_until("the edge has the route", hops(world, "east"))
    status = east.status()
    assert (status.role, status.health, status.accepting) == (Role.ACTIVE, Health.HEALTHY, True)
    assert status.facts["med"] == str(4294967295 - 7)
    assert status.facts["exported"] == "yes"
    with connect(world, "edge") as client:
        assert client.getpeername()[0] == SERVICE
        assert ask(client) == b"x"


def test_active_without_a_session_is_not_completed_but_the_gate_is_open(east: Site, edge: Edge) -> None:
    edge.close()
    progress = east.ensure(Role.ACTIVE, 7)
    assert not progress.completed
    assert "no neighbour hears the route yet" in progress.message
    status = east.status()
    assert status.accepting
    assert status.health is Health.UNHEALTHY


@pytest.mark.parametrize("role", [Role.STANDBY, Role.FENCED, Role.INVALIDATED])
def test_every_other_role_shuts_and_withdraws_at_once(east: Site, world: World, server: Echo, role: Role) -> None:
    east.ensured(Role.ACTIVE, 7)
    wait_until("the edge has the route", hops(world, "east"))
    with connect(world, "edge") as client:
        assert ask(client) == b"x"
        assert east.ensure(role, 8).completed
        with pytest.raises((ConnectionResetError, OSError)):
            ask(client)
    wait_until("the edge has no route", hops(world, "nowhere"))
    status = east.status()
    assert (status.role, status.accepting, status.facts["exported"]) == (role, False, "no")


def test_standing_down_frees_a_client_that_only_waits_for_its_answer(east: Site, world: World, server: Echo) -> None:
    east.ensured(Role.ACTIVE, 7)
    wait_until("the edge has the route", hops(world, "east"))
    with connect(world, "edge", timeout_s=10) as client:
        client.sendall(b"later")
        wait_until("the server has the request", lambda: server.received == 5)
        progress = east.ensure(Role.STANDBY, 8)
        assert "1 connections ended" in progress.message
        with pytest.raises(ConnectionResetError):
            client.recv(100)


def test_fencing_does_not_need_bird(east: Site, world: World) -> None:
    east.ensured(Role.ACTIVE, 7)
    os.kill(east.bird_pid(), signal.SIGSTOP)
    assert east.ensure(Role.FENCED, 8).completed
    assert not world.gate("east").read(SERVICE).open
    # A stopped BIRD is replaced, and the new one announces nothing.
    wait_until("a new BIRD answers", lambda: east.status().facts.get("exported") == "no" and east.session_up())
    wait_until("the edge has no route", hops(world, "nowhere"))


def test_a_route_that_cannot_be_withdrawn_goes_with_its_speaker(east: Site, world: World) -> None:
    east.ensured(Role.ACTIVE, 7)
    wait_until("the edge has the route", hops(world, "east"))
    obstacle = east.loop.run_dir / "bird.new"
    obstacle.mkdir()  # the draft of the next configuration cannot be written, as on a full volume
    assert east.ensure(Role.FENCED, 8).completed
    wait_until("the edge has no route", hops(world, "nowhere"))
    wait_until("the cause is told", lambda: "cannot be written" in east.status().message)
    obstacle.rmdir()
    wait_until("BIRD is back", east.session_up)
    assert world.edge_next_hop() == ""


def test_a_lease_that_nobody_renews_shuts_the_gate_and_takes_the_route_away(
    east: Site, world: World, server: Echo
) -> None:
    east.ensured(Role.STANDBY, 6)
    wait_until("the session is established", east.session_up)
    gate = world.gate("east")
    assert east.ensure(Role.ACTIVE, 7, lease_ms=400).completed
    given = time.monotonic()
    wait_until("the edge has the route", hops(world, "east"))
    assert last_seen_open_ns(gate) / 1e9 <= given + 0.4
    wait_until("the route is withdrawn", hops(world, "nowhere"))
    assert east.status().role is Role.FENCED
    assert not east.renew(7, 1000)
    assert not world.gate("east").read(SERVICE).open


def test_renewals_keep_gate_and_route(east: Site, world: World) -> None:
    east.ensured(Role.STANDBY, 6)
    wait_until("the session is established", east.session_up)
    east.ensure(Role.ACTIVE, 7, lease_ms=300)
    for _ in range(8):
        assert east.renew(7, 300)
        time.sleep(0.1)  # the renewal's own period, not a wait
    assert east.status().role is Role.ACTIVE
    assert world.edge_next_hop() == ADDRESSES["east"]


def test_a_higher_epoch_while_active_keeps_gate_route_and_clients(
    east: Site, world: World, edge: Edge, server: Echo
) -> None:
    """A change of the voters goes on to another epoch without a break, and a renewal of the old one may come late."""
    east.ensured(Role.STANDBY, 6)
    wait_until("the session is established", east.session_up)
    east.ensured(Role.ACTIVE, 7)
    wait_until("the edge has the route", hops(world, "east"))
    since = edge.ask("show protocols east").splitlines()[-1]
    with connect(world, "edge") as client:
        assert ask(client) == b"x"
        for epoch in (8, 9):
            assert east.ensure(Role.ACTIVE, epoch).completed
            assert not east.renew(epoch - 1, 5000)
            assert world.gate("east").read(SERVICE).epoch == epoch
            assert world.edge_next_hop() == ADDRESSES["east"]
            assert ask(client) == b"x"
            status = east.status()
            assert (status.role, status.accepting, status.facts["exported"]) == (Role.ACTIVE, True, "yes")
    assert edge.ask("show protocols east").splitlines()[-1] == since


def test_a_session_survives_activation_and_withdrawal(east: Site, edge: Edge) -> None:
    east.ensured(Role.STANDBY, 6)
    wait_until("the session is established", east.session_up)
    since = edge.ask("show protocols east").splitlines()[-1]
    for epoch in (7, 8):
        east.ensured(Role.ACTIVE, epoch)
        east.ensured(Role.STANDBY, epoch)
    assert edge.ask("show protocols east").splitlines()[-1] == since


def test_a_newer_epochs_route_wins_at_once_while_the_silent_sites_route_lingers(
    east: Site, west: Site, world: World, edge: Edge
) -> None:
    west.ensured(Role.STANDBY, 7)
    wait_until("west's session is established", west.session_up)
    east.ensured(Role.ACTIVE, 7)
    wait_until("the edge sends to east", hops(world, "east"))
    os.kill(east.bird_pid(), signal.SIGSTOP)
    try:
        progress = west.ensure(Role.ACTIVE, 8)
        wait_until("the edge sends to west", hops(world, "west"))
        assert progress.completed
        assert ADDRESSES["east"] in edge.ask("show route"), "east's route was to linger, or nothing is proved"
    finally:
        os.kill(east.bird_pid(), signal.SIGCONT)


def test_an_older_epochs_route_that_comes_back_loses(east: Site, west: Site, world: World, edge: Edge) -> None:
    west.ensured(Role.ACTIVE, 8, lease_ms=20000)
    wait_until("the edge sends to west", hops(world, "west"))
    east.ensured(Role.ACTIVE, 7)
    wait_until("the edge has east's route as well", lambda: ADDRESSES["east"] in edge.ask("show route"))
    assert world.edge_next_hop() == ADDRESSES["west"]


def test_the_death_of_bird_is_told_at_once_and_the_route_comes_back_only_while_the_gate_is_open(
    east: Site, world: World
) -> None:
    east.ensured(Role.ACTIVE, 7, lease_ms=20000)
    wait_until("the edge has the route", hops(world, "east"))
    told = threading.Event()

    async def listen() -> None:
        with east.driver.changed.subscribe(east.spec.key) as bell:
            listening.set()
            assert await bell.wait(2)
            told.set()

    listening = threading.Event()
    listener = threading.Thread(target=lambda: east.loop.do(listen()))
    listener.start()
    assert listening.wait(2)
    os.kill(east.bird_pid(), signal.SIGKILL)
    assert told.wait(0.5), "nobody was told that BIRD is dead"
    listener.join()
    wait_until("the edge has the route again", hops(world, "east"))
    os.kill(east.bird_pid(), signal.SIGKILL)
    world.gate("east").shut(SERVICE)
    wait_until("BIRD is back", east.session_up)
    assert east.status().facts["exported"] == "no"
    assert world.edge_next_hop() == ""


def test_a_restarted_driver_adopts_what_the_kernel_has(east: Site, world: World) -> None:
    east.ensured(Role.ACTIVE, 7, lease_ms=20000)
    wait_until("the edge has the route", hops(world, "east"))
    east.restart()
    assert world.gate("east").read(SERVICE).epoch == 7
    wait_until("the route is announced again", lambda: east.status().facts.get("exported") == "yes")
    status = east.status()
    assert (status.role, status.facts["gate_epoch"]) == (Role.ACTIVE, "7")
    assert east.renew(7, 20000)
    wait_until("the edge has the route again", hops(world, "east"))


def test_a_restarted_driver_does_not_open_a_shut_gate(east: Site, world: World) -> None:
    east.ensured(Role.ACTIVE, 7)
    east.ensured(Role.STANDBY, 8)
    east.restart()
    assert not east.renew(8, 1000)
    assert (east.status().role, east.status().accepting) == (Role.FENCED, False)


def test_bird_dies_with_the_driver(east: Site) -> None:
    east.ensured(Role.STANDBY, 6)
    status = (f"/proc/{east.bird_pid()}").join(["", "/status"])
    assert os.path.exists(status)  # noqa: PTH110
    east.loop.do(east.driver.close())
    assert not os.path.exists(status)  # noqa: PTH110
    east.driver = NetworkDriver(east.loop.run_dir)
    east.loop.do(east.driver.start())


def test_a_gate_that_somebody_flushed_is_put_back_shut(east: Site, world: World) -> None:
    east.ensured(Role.ACTIVE, 7, lease_ms=20000)
    sh(*world.command("east", "nft", "flush", "ruleset"))
    gate = world.gate("east")
    wait_until("the gate is back", lambda: gate.read(SERVICE).protected)
    assert not gate.read(SERVICE).open
    wait_until("the route is withdrawn", lambda: east.status().facts.get("exported") == "no")


def test_two_components_of_one_driver_do_not_disturb_each_other(east: Site, world: World) -> None:
    other = east.spec_for("other", "198.19.255.2")
    east.ensured(Role.ACTIVE, 7)
    east.ensured(Role.ACTIVE, 3, spec=other)
    east.ensured(Role.FENCED, 4, spec=other)
    assert east.status().accepting
    assert not east.status(other).accepting
    wait_until("the edge has the first route", hops(world, "east"))
    sh("ip", "-n", world.names["east"], "addr", "del", "198.19.255.2/32", "dev", "lo")


def test_a_second_component_with_the_same_address_cannot_shut_the_first_ones_gate(east: Site, world: World) -> None:
    east.ensured(Role.ACTIVE, 7)
    twin = east.spec_for("twin", SERVICE)
    with pytest.raises(PreconditionError, match="is open for vcu-db/route@east"):
        east.ensure(Role.FENCED, 1, spec=twin)
    assert east.status().accepting
    east.ensured(Role.FENCED, 8)
    assert east.ensure(Role.FENCED, 1, spec=twin).completed


def test_components_that_want_the_same_session_differently_are_refused(east: Site) -> None:
    east.ensured(Role.STANDBY, 6)
    other = east.spec_for("other", "198.19.255.2", localAs=65011.0)
    with pytest.raises(PreconditionError, match="by two components"):
        east.ensure(Role.ACTIVE, 7, spec=other)
    problems = east.loop.do(east.driver.validate(other, ()))
    assert [problem.field for problem in problems] == ["neighbours"]


def test_validation_names_what_two_sites_disagree_about(east: Site) -> None:
    theirs = dict(east.spec.parameters) | {"localAs": 65099.0, "serviceAddress": "198.19.255.9/32"}
    problems = east.loop.do(east.driver.validate(east.spec, [Peer("west", Role.STANDBY, theirs)]))
    assert {problem.field for problem in problems} == {"serviceAddress", "localAs", "localAddress", "routerId"}


def test_bad_parameters_are_refused_before_anything_is_touched(east: Site, world: World) -> None:
    bad = east.spec_for("route", SERVICE, localAs=0.0)
    with pytest.raises(InvalidParametersError, match="localAs"):
        east.ensure(Role.ACTIVE, 7, spec=bad)
    assert "graf_gate" not in sh(*world.command("east", "nft", "list", "tables"))


def test_the_session_is_back_after_a_partition_heals(east: Site, world: World) -> None:
    east.ensured(Role.ACTIVE, 7, lease_ms=30000)
    wait_until("the edge has the route", hops(world, "east"))
    world.cut("east")
    try:
        wait_until("the edge gives the silent route up", hops(world, "nowhere"))
    finally:
        world.heal()
    wait_until("the edge has the route again", hops(world, "east"))


def test_a_driver_whose_bird_cannot_start_says_so_and_still_fences(world: World) -> None:
    loop = SiteLoop(world, "east")
    driver = NetworkDriver(loop.run_dir, bird_program="no-such-bird")
    site = Site.__new__(Site)
    site.name, site.loop, site.driver = "east", loop, driver
    site.spec = site.spec_for("route", SERVICE)
    loop.do(driver.start())
    try:
        progress = site.ensure(Role.ACTIVE, 7)
        assert not progress.completed
        assert "no-such-bird" in progress.message or "127" in progress.message
        assert site.ensure(Role.FENCED, 8).completed
        assert not world.gate("east").read(SERVICE).open
        assert site.status().health is Health.UNHEALTHY
    finally:
        site.close()


def test_renewal_is_not_held_up_by_a_slow_activation(east: Site, world: World) -> None:
    east.ensured(Role.ACTIVE, 7, lease_ms=3000)
    os.kill(east.bird_pid(), signal.SIGSTOP)

    async def both() -> float:
        deadline = time.monotonic_ns() + 3_000_000_000
        slow = asyncio.create_task(
            east.driver.ensure_role(EnsureRole(east.spec, Role.ACTIVE, 7, lease_deadline_ns=deadline))
        )
        await asyncio.sleep(0)
        began = time.monotonic()
        assert await east.driver.renew_lease(RenewLease(east.spec, 7, deadline))
        took = time.monotonic() - began
        assert not slow.done()
        await slow
        return took

    assert east.loop.do(both()) < 0.05
