"""The gate in a real kernel: who passes, who does not, and that no pause of a process can keep it open."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from graf_driver_network.address import ensure_address, is_held, remove_address
from graf_driver_network.connections import end_connections
from graf_driver_network.elements import NftError
from graf_driver_network.gate import Gate
from graf_driver_network.testing import ADDRESSES, SERVICE, Echo, World, ask, connect, last_seen_open_ns, sh, wait_until

pytestmark = pytest.mark.root


def in_ms(milliseconds: int) -> int:
    return time.monotonic_ns() + milliseconds * 1_000_000


@pytest.fixture
def gate(world: World) -> Gate:
    gate = world.gate("east")
    gate.install(SERVICE)
    with world.inside("east"):
        ensure_address(IPv4Address(SERVICE), "lo")
    sh("ip", "-n", world.names["edge"], "route", "add", f"{SERVICE}/32", "via", ADDRESSES["east"])
    return gate


@pytest.fixture
def server(world: World) -> Iterator[Echo]:
    echo = Echo(world, "east")
    yield echo
    echo.close()


def test_a_shut_gate_resets_a_new_connection_at_once(gate: Gate, world: World, server: Echo) -> None:
    with pytest.raises(ConnectionRefusedError):  # a reset; a packet that is dropped would be a TimeoutError
        connect(world, "edge")


def test_an_open_gate_lets_clients_in_and_the_reply_comes_from_the_service_address(
    gate: Gate, world: World, server: Echo
) -> None:
    assert gate.open(SERVICE, 7, in_ms(2000))
    with connect(world, "edge") as client:
        assert client.getpeername()[0] == SERVICE
        assert ask(client, b"hello") == b"hello"


def test_the_kernel_shuts_the_gate_before_the_deadline_when_nobody_renews(
    gate: Gate, world: World, server: Echo
) -> None:
    deadline = in_ms(300)
    assert gate.open(SERVICE, 7, deadline)
    assert last_seen_open_ns(gate) <= deadline
    with pytest.raises(ConnectionRefusedError):
        connect(world, "edge")


def test_shutting_cuts_an_established_connection_by_a_reset(gate: Gate, world: World, server: Echo) -> None:
    gate.open(SERVICE, 7, in_ms(5000))
    with connect(world, "edge") as client:
        assert ask(client) == b"x"
        before = server.received
        gate.shut(SERVICE)
        with pytest.raises(ConnectionResetError):
            ask(client)
        assert server.received == before


def test_an_answer_that_is_ready_after_the_lease_reaches_nobody(gate: Gate, world: World, server: Echo) -> None:
    gate.open(SERVICE, 7, in_ms(5000))
    with connect(world, "edge", timeout_s=0.5) as client:
        client.sendall(b"later")
        wait_until("the server has the request", lambda: server.received == 5)
        gate.shut(SERVICE)
        with pytest.raises((TimeoutError, ConnectionResetError)):
            client.recv(100)


def test_a_client_that_waits_for_an_answer_that_the_gate_swallowed_is_freed_with_its_connection(
    gate: Gate, world: World, server: Echo
) -> None:
    gate.open(SERVICE, 7, in_ms(5000))
    with connect(world, "edge", timeout_s=5) as client, connect(world, "edge") as idle:
        client.sendall(b"later")
        wait_until("the server has the request", lambda: server.received == 5)
        time.sleep(0.1)  # the request is acknowledged by now: the client would not send it again
        gate.shut(SERVICE)
        time.sleep(0.15)  # the answer is written by now, and dropped
        with world.inside("east"):
            assert end_connections(IPv4Address(SERVICE)) == 2
        for waiting in (client, idle):
            with pytest.raises(ConnectionResetError):
                waiting.recv(100)


def test_the_gate_holds_for_local_clients_over_lo_too(gate: Gate, world: World, server: Echo) -> None:
    with pytest.raises(ConnectionRefusedError):  # a reset; a packet that is dropped would be a TimeoutError
        connect(world, "east")
    gate.open(SERVICE, 7, in_ms(2000))
    with connect(world, "east") as client:
        assert ask(client) == b"x"
        gate.shut(SERVICE)
        with pytest.raises(ConnectionResetError):
            ask(client)


def test_the_gate_holds_for_a_local_client_that_is_bound_to_the_sites_own_address(
    gate: Gate, world: World, server: Echo
) -> None:
    with world.inside("east"):
        client = socket.create_server((ADDRESSES["east"], 0))  # bound; only its address matters
        client.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((SERVICE, 3306), timeout=1, source_address=(ADDRESSES["east"], 0))


def test_what_is_not_tcp_is_dropped_by_a_shut_gate(gate: Gate, world: World) -> None:
    with world.inside("east"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 5353))
        server.settimeout(0.2)
        with world.inside("edge"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"a", (SERVICE, 5353))
            with pytest.raises(TimeoutError):
                server.recv(10)
            gate.open(SERVICE, 7, in_ms(1000))
            client.sendto(b"b", (SERVICE, 5353))
            assert server.recv(10) == b"b"


def test_the_sites_other_addresses_are_not_behind_the_gate(gate: Gate, world: World, server: Echo) -> None:
    with world.inside("edge"):
        client = socket.create_connection((ADDRESSES["east"], 3306), timeout=5)
    with client:
        assert ask(client) == b"x"


def test_traffic_never_notices_a_renewal(gate: Gate, world: World, server: Echo) -> None:
    gate.open(SERVICE, 7, in_ms(1000))
    with connect(world, "edge") as client:
        for _ in range(1500):
            assert gate.renew(SERVICE, 7, in_ms(1000))
            assert ask(client) == b"x"


def test_a_gate_that_has_shut_is_not_opened_by_a_renewal(gate: Gate) -> None:
    gate.open(SERVICE, 7, in_ms(1000))
    gate.shut(SERVICE)
    assert not gate.renew(SERVICE, 7, in_ms(1000))
    assert not gate.read(SERVICE).open


def test_a_renewal_of_another_epoch_does_not_prolong_the_gate(gate: Gate) -> None:
    gate.open(SERVICE, 7, in_ms(300))
    assert not gate.renew(SERVICE, 8, in_ms(5000))
    assert gate.read(SERVICE).open_for_ms <= 300


def test_a_renewal_whose_deadline_has_passed_changes_nothing(gate: Gate) -> None:
    gate.open(SERVICE, 7, in_ms(300))
    assert gate.renew(SERVICE, 7, in_ms(-10))
    assert gate.read(SERVICE).open_for_ms <= 300
    gate.shut(SERVICE)
    assert not gate.open(SERVICE, 7, in_ms(5))


def test_installing_again_neither_opens_nor_shuts_and_undoes_tampering(gate: Gate, world: World, server: Echo) -> None:
    gate.open(SERVICE, 7, in_ms(2000))
    another = world.gate("east")
    sh(*world.command("east", "nft", "flush", "chain", "inet", "graf_gate", "request"))
    another.install(SERVICE)
    state = another.read(SERVICE)
    assert (state.open, state.epoch) == (True, 7)
    with connect(world, "edge") as client:
        assert ask(client) == b"x"
    gate.shut(SERVICE)
    another.install(SERVICE)
    assert not another.read(SERVICE).open
    with pytest.raises(ConnectionRefusedError):
        connect(world, "edge")


def test_one_gate_does_not_disturb_another_nor_anybody_elses_table(gate: Gate, world: World) -> None:
    sh(*world.command("east", "nft", "add", "table", "inet", "others"))
    gate.open(SERVICE, 7, in_ms(2000))
    gate.install("198.19.255.2")
    gate.shut("198.19.255.2")
    assert gate.read(SERVICE).open
    assert not gate.read("198.19.255.2").open
    gate.shut(SERVICE)
    assert "others" in sh(*world.command("east", "nft", "list", "tables"))
    sh(*world.command("east", "nft", "delete", "table", "inet", "others"))


def test_an_address_without_its_gate_is_told_as_such_and_shutting_protects_it(gate: Gate, world: World) -> None:
    gate.open(SERVICE, 7, in_ms(2000))
    sh(*world.command("east", "nft", "flush", "ruleset"))
    assert not gate.read(SERVICE).protected
    assert not gate.renew(SERVICE, 7, in_ms(2000))
    state = gate.read(SERVICE)
    assert (state.protected, state.open) == (True, False)


def test_a_refusal_says_why(gate: Gate) -> None:
    with pytest.raises(NftError, match=r"syntax error|unexpected"):
        gate.install("not an address { }")


@pytest.mark.parametrize("listen", [("", socket.AF_INET), ("::", socket.AF_INET6)])
def test_connections_of_the_service_address_are_ended_and_no_others(
    gate: Gate, world: World, listen: tuple[str, int]
) -> None:
    gate.open(SERVICE, 7, in_ms(5000))
    address, family = listen
    with world.inside("east"):
        listener = socket.create_server((address, 3307), family=family, dualstack_ipv6=family == socket.AF_INET6)
    with world.inside("edge"):
        ours = socket.create_connection((SERVICE, 3307), timeout=5)
        others = socket.create_connection((ADDRESSES["east"], 3307), timeout=5)
    with listener, ours, others, listener.accept()[0], listener.accept()[0] as served:
        with world.inside("east"):
            assert end_connections(IPv4Address(SERVICE)) == 1
            assert end_connections(IPv4Address(SERVICE)) == 0
        with pytest.raises(ConnectionResetError):
            ours.recv(10)
        served.sendall(b"y")
        assert others.recv(10) == b"y"


def test_holding_an_address_is_idempotent_and_names_a_missing_interface(world: World) -> None:
    address = IPv4Address(SERVICE)
    with world.inside("east"):
        assert not is_held(address)
        for _ in range(2):
            ensure_address(address, "lo")
        assert is_held(address)
        for _ in range(2):
            remove_address(address, "lo")
        assert not is_held(address)
        with pytest.raises(Exception, match="interface 'nosuch' does not exist"):
            ensure_address(address, "nosuch")


def open_after_deadline(world: World, variant: str, what: str, open_ms: int, renew_ms: int, pause_ms: int) -> bool:
    """Runs a holder that stops itself for ``pause_ms``, and watches the gate until well after its deadline."""
    world.clean()
    watcher = world.gate("east")
    script = Path(__file__).with_name("holder.py")
    holder = world.start(
        "east", sys.executable, str(script), variant, what, str(open_ms), str(renew_ms), stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    deadline = int(holder.stdout.readline())
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
    resume_at = time.monotonic_ns() + pause_ms * 1_000_000
    resumed = False
    violated = False
    while time.monotonic_ns() < max(deadline, resume_at) + 300_000_000:
        if not resumed and time.monotonic_ns() >= resume_at:
            holder.send_signal(signal.SIGCONT)
            resumed = True
        asked_at = time.monotonic_ns()
        state = watcher.read(SERVICE)
        violated |= state.open_for_ms > 0 and asked_at > deadline
    holder.stdout.read()
    holder.stdout.close()
    assert holder.wait(5) == 0
    return violated


PAUSES = [
    pytest.param("renew", 250, 350, 600, id="renewal, stopped past both ends"),
    pytest.param("renew", 300, 400, 150, id="renewal, stopped while still open"),
    pytest.param("open", 300, 0, 150, id="opening, stopped shortly"),
    pytest.param("open", 300, 0, 500, id="opening, stopped past the end"),
]


@pytest.mark.parametrize(("what", "open_ms", "renew_ms", "pause_ms"), PAUSES)
def test_a_process_stopped_at_the_worst_place_never_leaves_the_gate_open_after_the_deadline(
    world: World, what: str, open_ms: int, renew_ms: int, pause_ms: int
) -> None:
    assert not open_after_deadline(world, "gate", what, open_ms, renew_ms, pause_ms)


@pytest.mark.parametrize(
    ("variant", "what", "open_ms", "renew_ms", "pause_ms"),
    [
        ("add_delete_add", "renew", 250, 350, 600),
        ("without_ticket", "renew", 300, 400, 150),
        ("without_ticket", "open", 300, 0, 500),
    ],
)
def test_the_watcher_catches_each_planted_bug(
    world: World, variant: str, what: str, open_ms: int, renew_ms: int, pause_ms: int
) -> None:
    assert open_after_deadline(world, variant, what, open_ms, renew_ms, pause_ms)
