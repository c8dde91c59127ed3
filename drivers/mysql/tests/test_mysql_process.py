"""The driver as a process of its own, over its socket, as the controller meets it."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from graf_driver_sdk.types import Role
from graf_driver_sdk.v1 import driver_pb2 as pb
from graf_driver_sdk.v1 import driver_pb2_grpc

pytestmark = pytest.mark.mariadb


def running(pid: int) -> bool:
    """Whether a process lives; a zombie that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.asynccontextmanager
async def process(site: Any) -> AsyncIterator[tuple[int, Any, pb.ComponentSpec]]:
    """One `graf-driver-mysql` process with a stub to it."""
    endpoint = site.socket.parent / "driver.sock"
    endpoint.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "GRAF_DRIVER_SOCKET": str(endpoint),
        "GRAF_DRIVER_STATE_DIR": str(site.root / "epochs"),
    }
    log = site.root.joinpath("driver.log").open("ab")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from graf_driver_mysql.main import main; main()", env=environment, stdout=log, stderr=log
    )
    parameters = struct_pb2.Struct()
    parameters.update(site.parameters)
    spec = pb.ComponentSpec(group="vcu-db", component="db", site=site.name, parameters=parameters)
    try:
        async with grpc.aio.insecure_channel(f"unix:{endpoint}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
            yield child.pid, driver_pb2_grpc.ComponentStub(channel), spec
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        log.close()


async def ensure_active(stub: Any, spec: pb.ComponentSpec, epoch: int, site: str) -> None:
    request = pb.EnsureRoleRequest(spec=spec, role=pb.ROLE_ACTIVE, epoch=epoch, synchronous_set=[site])
    answer = await stub.EnsureRole(request, timeout=30)
    assert answer.progress.completed, answer


def server_pid(site: Any) -> int:
    return int(site.root.joinpath("server.pid").read_text())


async def test_no_server_outlives_its_driver(lab: Any) -> None:
    async with process(lab.east) as (pid, stub, spec):
        await ensure_active(stub, spec, 1, "east")
        await lab.until("the server's pid file", lambda: lab.east.root.joinpath("server.pid").exists())
        server = server_pid(lab.east)
        assert running(server)
        os.kill(pid, signal.SIGKILL)
        await lab.until("the server is dead", lambda: not running(server))


async def test_a_restarted_driver_refuses_a_stale_epoch_and_serves_again_in_a_newer_one(lab: Any) -> None:
    async with process(lab.east) as (_, stub, spec):
        await ensure_active(stub, spec, 5, "east")
        with lab.east.client() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (n BIGINT PRIMARY KEY)")
            cursor.execute("INSERT INTO t VALUES (1)")
    async with process(lab.east) as (_, stub, spec):
        status = await stub.GetStatus(pb.GetStatusRequest(spec=spec), timeout=5)
        assert (status.health, status.accepting, status.epoch) == (pb.HEALTH_DEAD, False, 5)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ensure_active(stub, spec, 4, "east")
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        await ensure_active(stub, spec, 5, "east")
        assert lab.east.numbers() == {1}


async def test_a_watcher_hears_of_the_servers_death_within_milliseconds(lab: Any, measured: Any) -> None:
    async with process(lab.east) as (_, stub, spec):
        await ensure_active(stub, spec, 1, "east")
        watch = stub.WatchStatus(pb.WatchStatusRequest(spec=spec))
        first = await asyncio.wait_for(watch.read(), 5)
        assert first.health == pb.HEALTH_HEALTHY
        await lab.until("the server's pid file", lambda: lab.east.root.joinpath("server.pid").exists())
        start = time.monotonic()
        os.kill(server_pid(lab.east), signal.SIGKILL)
        while True:
            status = await asyncio.wait_for(watch.read(), 30)
            if status.health == pb.HEALTH_DEAD:
                break
        took_ms = (time.monotonic() - start) * 1000
        measured(f"death told to a watcher after {took_ms:.1f} ms")
        watch.cancel()


async def test_a_server_that_a_killed_driver_left_behind_has_ended_before_the_next_one_starts(lab: Any) -> None:
    """Known by its files, not by its number alone: the number may be somebody else's by now."""
    sleeper = (sys.executable, "-c", "import time; time.sleep(60)")
    left = await asyncio.create_subprocess_exec(*sleeper, f"--defaults-file={lab.west.root / 'server.cnf'}")
    stranger = await asyncio.create_subprocess_exec(*sleeper)
    try:
        (lab.west.root / "server.pid").write_text(f"{left.pid}\n")
        (lab.east.root / "server.pid").write_text(f"{stranger.pid}\n")
        starting = asyncio.create_task(lab.west.ensure(Role.FENCED, 1))
        await lab.east.ensure(Role.ACTIVE, 1, "east")
        assert stranger.returncode is None
        assert not lab.west.component.backend.server.alive
        left.kill()
        await starting
        await lab.up()
    finally:
        for process in (left, stranger):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
