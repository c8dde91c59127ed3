"""The driver gives a real Redis its roles, and says honestly what asynchronous replication can and can not do."""

# ruff: noqa: ASYNC240 - small files on a local disk

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions
from graf_driver_redis.driver import RedisDriver
from graf_driver_sdk.client import Deadlines, DriverCallError, DriverClient
from graf_driver_sdk.testing import eventually, running, spec
from graf_driver_sdk.types import Capability, EnsureRole, Health, Peer, ResyncStrategy, Role, Spec, Verdict
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

PASSWORD = "not-to-be-logged"
PATIENT = Deadlines(5, 20, 30, 5, 30, 30, 60, 20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Site:
    """One site's driver, seen as the controller sees it, and the server, seen as a client does."""

    where: Spec
    driver: RedisDriver
    client: DriverClient
    folder: Path

    @property
    def port(self) -> int:
        return int(self.where.parameters["port"])

    def peer(self, role: Role = Role.ACTIVE) -> Peer:
        return Peer(self.where.key.site, role, self.where.parameters)

    async def take(self, role: Role, epoch: int, *peers: Peer) -> None:
        request = EnsureRole(self.where, role, epoch, peers)

        async def completed() -> bool:
            return (await self.client.ensure_role(request)).completed

        await eventually(f"{self.where.key.site} is {role.name}", completed, timeout_s=40)

    async def set(self, key: str, value: str = "x") -> None:
        async with self.user() as user:
            await user.set(key, value)

    async def get(self, key: str) -> str | None:
        """What is here, whatever the role: asked by the way that the driver has."""
        backend = self.driver._backends[self.where.key]
        value: str | None = await backend.server.local.get(key)
        return value

    @contextlib.asynccontextmanager
    async def user(self) -> AsyncIterator[Any]:
        user: Any = redis.asyncio.Redis(
            port=self.port, password=PASSWORD, decode_responses=True, socket_timeout=20, retry=Retry(NoBackoff(), 0)
        )
        try:
            yield user
        finally:
            await user.aclose()


def where(folder: Path, site: str) -> Spec:
    own = folder / site
    own.mkdir(exist_ok=True)
    (folder / "password").write_text(f"{PASSWORD}\n")
    return spec(site, address="127.0.0.1", port=free_port(), dataDir=str(own), passwordFile=str(folder / "password"))


@contextlib.asynccontextmanager
async def site(where: Spec, folder: Path) -> AsyncIterator[Site]:
    driver = RedisDriver()
    async with running(driver, state_dir=folder / "state", deadlines=PATIENT) as client:
        yield Site(where, driver, client, Path(where.parameters["dataDir"]))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a unix socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gr-") as directory:
        yield Path(directory)


@pytest.fixture
async def east(folder: Path) -> AsyncIterator[Site]:
    async with site(where(folder, "east"), folder / "e") as made:
        yield made


@pytest.fixture
async def west(folder: Path) -> AsyncIterator[Site]:
    async with site(where(folder, "west"), folder / "w") as made:
        yield made


async def refuses_clients(at: Site) -> bool:
    try:
        async with at.user() as user:
            await user.ping()
    except (redis.exceptions.ConnectionError, OSError):
        return True
    return False


async def pair(east: Site, west: Site) -> None:
    """East is active, west follows it."""
    await east.take(Role.ACTIVE, 1, west.peer(Role.STANDBY))
    await west.take(Role.STANDBY, 1, east.peer())


def server_pid(at: Site) -> int:
    process = at.driver._backends[at.where.key].server._process
    assert process is not None
    return process.pid


async def test_synchronous_is_not_declared_because_redis_cannot_honour_it(east: Site) -> None:
    assert (await east.client.info()).capabilities == {Capability.POSITION, Capability.RESYNC}


async def test_a_started_server_has_no_role_and_lets_nobody_in(east: Site) -> None:
    await east.take(Role.FENCED, 0)
    seen = await east.client.status(east.where)
    assert (seen.role, seen.health, seen.accepting) == (Role.FENCED, Health.HEALTHY, False)
    assert await refuses_clients(east)


async def test_fencing_cuts_connections_that_are_open(east: Site) -> None:
    await east.take(Role.ACTIVE, 1)
    async with east.user() as user:
        await user.set("a", "1")
        await east.take(Role.FENCED, 1)
        with pytest.raises((redis.exceptions.ConnectionError, OSError)):
            await user.set("a", "2")
    assert await east.get("a") == "1"
    assert await refuses_clients(east)


async def test_a_switchover_moves_every_write_and_back(east: Site, west: Site) -> None:
    await pair(east, west)
    for number in range(50):
        await east.set(f"key{number}")
    quiesced = await east.client.quiesce(east.where, 1)
    with pytest.raises(redis.exceptions.ResponseError, match="NOREPLICAS"):
        await east.set("late")
    assert (await east.client.quiesce(east.where, 1)).position == quiesced.position
    assert (await west.client.await_position(west.where, quiesced.position, 20_000)).reached
    await east.take(Role.FENCED, 1)
    await west.take(Role.ACTIVE, 2, east.peer(Role.FENCED))
    assert await west.get("key49") == "x"
    assert await west.get("late") is None
    await east.take(Role.STANDBY, 2, west.peer())
    await west.set("after", "failover")

    async def arrived() -> bool:
        return await east.get("after") == "failover"

    await eventually("the write reaches the old active", arrived, timeout_s=30)
    seen = await west.client.status(west.where)
    assert (seen.role, seen.accepting, seen.synchronous_set) == (Role.ACTIVE, True, frozenset())
    assert [(each.site, each.connected, each.acknowledging) for each in seen.followers] == [("east", True, False)]
    assert not list(east.folder.glob("archive-*"))


async def test_a_quiesce_can_be_taken_back(east: Site) -> None:
    await east.take(Role.ACTIVE, 1)
    await east.client.quiesce(east.where, 1)
    assert not (await east.client.status(east.where)).accepting
    assert (await east.client.unquiesce(east.where, 1)).completed
    await east.set("again")
    assert (await east.client.status(east.where)).accepting


async def test_a_standby_follows_and_serves_nobody(east: Site, west: Site) -> None:
    await pair(east, west)
    seen = await west.client.status(west.where)
    assert (seen.role, seen.accepting, seen.promotable, seen.facts["link"]) == (Role.STANDBY, False, True, "up")
    assert await refuses_clients(west)


async def test_writes_that_the_new_active_lacks_are_archived_before_they_go(east: Site, west: Site) -> None:
    await pair(east, west)
    await east.set("shared")
    shared = (await east.client.status(east.where)).position
    assert (await west.client.await_position(west.where, shared, 20_000)).reached
    await west.take(Role.FENCED, 1)  # the path between the sites is cut
    await east.set("only-east")
    await west.take(Role.ACTIVE, 2)
    await west.set("only-west")
    await east.take(Role.INVALIDATED, 2)
    assessed = await east.client.assess(east.where, west.peer())
    assert assessed.verdict is Verdict.DIVERGED
    assert assessed.divergent == assessed.local_position
    with pytest.raises(DriverCallError, match="call Resync") as refused:
        await east.client.ensure_role(_standby(east, west, 2))
    assert refused.value.reason == "needs-resync"
    with pytest.raises(DriverCallError, match="REBUILD"):
        await east.client.resync(east.where, west.peer(), ResyncStrategy.FOLLOW, 2)
    archive = await resynced(east, west, 2)
    assert b"only-east" in Path(archive).read_bytes()
    assert (await east.get("only-east"), await east.get("only-west")) == (None, "x")
    assert (await east.client.assess(east.where, west.peer())).verdict in (Verdict.CLEAN, Verdict.BEHIND)
    await east.take(Role.STANDBY, 2, west.peer())


def _standby(at: Site, active: Site, epoch: int) -> EnsureRole:
    return EnsureRole(at.where, Role.STANDBY, epoch, (active.peer(),))


async def resynced(at: Site, active: Site, epoch: int) -> str:
    archives: list[str] = []

    async def completed() -> bool:
        answer = await at.client.resync(at.where, active.peer(), ResyncStrategy.UNSPECIFIED, epoch)
        archives.append(answer.archive)
        return answer.progress.completed

    await eventually("the resync is complete", completed, timeout_s=40)
    return archives[-1]


async def test_a_server_that_died_while_active_is_never_believed_to_be_behind(east: Site, west: Site) -> None:
    await pair(east, west)
    await east.set("shared")
    os.kill(server_pid(east), signal.SIGKILL)

    async def dead() -> bool:
        return (await east.client.status(east.where)).health is Health.DEAD

    await eventually("its death is noticed", dead, timeout_s=30)
    await west.take(Role.ACTIVE, 2)
    await east.take(Role.INVALIDATED, 2)
    assessed = await east.client.assess(east.where, west.peer())
    assert assessed.verdict is Verdict.DIVERGED
    assert "acknowledged what nobody else has" in assessed.message
    assert b"shared" in Path(await resynced(east, west, 2)).read_bytes()


async def test_a_standby_that_died_follows_again_without_a_rebuild(east: Site, west: Site) -> None:
    await pair(east, west)
    await east.set("shared")
    os.kill(server_pid(west), signal.SIGKILL)

    async def dead() -> bool:
        return (await west.client.status(west.where)).health is Health.DEAD

    await eventually("its death is noticed", dead, timeout_s=30)
    await west.take(Role.FENCED, 1)
    assert (await west.client.assess(west.where, east.peer())).verdict in (Verdict.BEHIND, Verdict.EMPTY)
    await west.take(Role.STANDBY, 1, east.peer())
    assert await west.get("shared") == "x"


async def test_a_driver_that_comes_back_has_its_data_and_no_role(folder: Path, east: Site) -> None:
    await east.take(Role.ACTIVE, 3)
    await east.set("kept")
    await east.driver.close()
    async with site(east.where, folder / "e") as again:
        assert (await again.client.status(again.where)).epoch == 3
        await again.take(Role.FENCED, 3)
        assert await again.get("kept") == "x"
        seen = await again.client.status(again.where)
        assert (seen.role, seen.accepting) == (Role.FENCED, False)
        assert await refuses_clients(again)


async def test_an_active_that_cannot_be_reached_is_waited_for(east: Site, west: Site) -> None:
    progress = await west.client.ensure_role(_standby(west, east, 1))
    assert not progress.completed
    assert "cannot be asked" in progress.message
    assert (await west.client.assess(west.where, east.peer())).verdict is Verdict.UNKNOWN
    assert await refuses_clients(west)


async def test_a_record_that_cannot_be_read_is_never_taken_for_none(east: Site) -> None:
    (east.folder / "graf-data").write_text("?")
    with pytest.raises(DriverCallError, match="cannot be trusted") as refused:
        await east.client.ensure_role(_standby(east, east, 1))
    assert refused.value.reason == "record-unreadable"
