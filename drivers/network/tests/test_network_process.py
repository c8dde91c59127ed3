"""The whole driver as its own process, called over its socket, and killed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from graf_driver_network.testing import ADDRESSES, SERVICE, Edge, World, last_seen_open_ns, wait_until
from graf_driver_sdk.client import DriverCallError, DriverClient
from graf_driver_sdk.types import Capability, ComponentKey, EnsureRole, RenewLease, Role, Spec

pytestmark = pytest.mark.root

SPEC = Spec(
    ComponentKey("vcu-db", "route", "east"),
    {
        "serviceAddress": f"{SERVICE}/32",
        "localAddress": ADDRESSES["east"],
        "localAs": 65010,
        "neighbours": [{"address": ADDRESSES["edge"], "as": 65000}],
    },
)


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="gnt-"))
    yield path
    shutil.rmtree(path)


def start(world: World, directory: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "GRAF_DRIVER_SOCKET": str(directory / "driver.sock"),
        "GRAF_DRIVER_STATE_DIR": str(directory / "state"),
        "GRAF_NETWORK_RUN_DIR": str(directory / "run"),
    }
    process = world.start("east", sys.executable, "-m", "graf_driver_network.main", env=environment)
    wait_until("the driver serves", lambda: serves(directory / "driver.sock"), 60)
    return process


def serves(path: Path) -> bool:
    """The socket's file outlives a killed driver: only a connection tells."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


async def completed(client: DriverClient, role: Role, epoch: int, deadline_ns: int = 0) -> None:
    give_up = time.monotonic() + 8
    while True:
        progress = await client.ensure_role(EnsureRole(SPEC, role, epoch, lease_deadline_ns=deadline_ns))
        if progress.completed:
            return
        assert time.monotonic() < give_up, f"{role.name}: {progress.message}"


async def test_a_killed_driver_leaves_no_bird_and_a_gate_that_the_kernel_shuts(
    world: World, edge: Edge, directory: Path
) -> None:
    process = start(world, directory)
    gate = world.gate("east")
    client = DriverClient(str(directory / "driver.sock"))
    try:
        info = await client.info()
        assert (info.name, info.capabilities) == ("network.graf.dev", frozenset({Capability.GATE}))
        await completed(client, Role.STANDBY, 6)
        deadline = time.monotonic_ns() + 4_000_000_000
        await completed(client, Role.ACTIVE, 7, deadline)
        wait_until("the edge has the route", lambda: world.edge_next_hop() == ADDRESSES["east"])
        deadline = time.monotonic_ns() + 1_000_000_000
        assert await client.renew_lease(RenewLease(SPEC, 7, deadline))
        with pytest.raises(DriverCallError, match="epoch"):
            await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 6))
        process.kill()
        process.wait()
        wait_until("the route went with BIRD", lambda: world.edge_next_hop() == "")
        assert last_seen_open_ns(gate) <= deadline
    finally:
        await client.close()
    # The next one finds the gate shut, does not open it, and serves again only when it is told to.
    process = start(world, directory)
    client = DriverClient(str(directory / "driver.sock"))
    try:
        with pytest.raises(DriverCallError, match="epoch"):
            await client.ensure_role(EnsureRole(SPEC, Role.STANDBY, 6))
        assert not await client.renew_lease(RenewLease(SPEC, 7, time.monotonic_ns() + 1_000_000_000))
        await completed(client, Role.ACTIVE, 8, time.monotonic_ns() + 8_000_000_000)
        status = await client.status(SPEC)
        assert (status.role, status.epoch, status.accepting) == (Role.ACTIVE, 8, True)
    finally:
        await client.close()
        process.terminate()
        assert process.wait(5) == 0
    assert gate.read(SERVICE).open, "a driver that ends does not give up the lease"
