"""The Redis driver behind the SDK: what the contract asks, in the backend's words, and what it observed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from graf_driver_sdk.driver import Driver
from graf_driver_sdk.errors import DriverError, InvalidParametersError, PreconditionError
from graf_driver_sdk.types import (
    Assessment,
    Capability,
    ComponentKey,
    EnsureRole,
    FieldProblem,
    Follower,
    Health,
    Info,
    Peer,
    PositionReached,
    Progress,
    Quiesced,
    Readiness,
    Resynced,
    ResyncStrategy,
    Role,
    Spec,
    Status,
)

from graf_driver_redis.backend import Backend
from graf_driver_redis.history import Position
from graf_driver_redis.parameters import parse
from graf_driver_redis.record import Data
from graf_driver_redis.server import NOWHERE

_POLL_S: Final = 0.02
# Not SYNCHRONOUS: WAIT tells its client of a missing acknowledgement after the write has happened, and
# min-replicas-to-write looks at how long ago a replica was heard. Neither names the sites that must have a write.
CAPABILITIES: Final = frozenset({Capability.POSITION, Capability.RESYNC})


class RedisDriver(Driver):
    """Instance manager of one Redis server: its parent process, and the only one that changes its role."""

    def __init__(self) -> None:
        super().__init__()
        self._backends: dict[ComponentKey, Backend] = {}

    def info(self) -> Info:
        """Constant."""
        return Info("redis.graf.dev", version("graf-driver-redis"), CAPABILITIES)

    async def probe(self) -> Readiness:
        """Ready when Redis is installed here."""
        found = shutil.which("redis-server")
        return Readiness(
            found is not None, "" if found else "redis-server is missing; install the package redis-server"
        )

    async def close(self) -> None:
        """Ends the servers with their driver: nothing serves that nobody can fence."""
        for backend in self._backends.values():
            await backend.server.kill()

    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        """Every problem of the parameters."""
        return parse(spec.parameters)[1]

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Begins or continues."""
        backend = self._backend(request.spec)
        backend.know(request.peers)
        match request.role:
            case Role.ACTIVE:
                return await backend.activate()
            case Role.STANDBY:
                return await backend.stand_by(request.active_peer)
            case role:
                return await backend.fence(role)

    async def quiesce(self, spec: Spec, epoch: int) -> Quiesced:
        """Refuses writes and gives the final position."""
        return Quiesced(Progress.done("accepts no writes"), str(await self._backend(spec).quiesce()))

    async def unquiesce(self, spec: Spec, epoch: int) -> Progress:
        """Takes writes again."""
        await self._backend(spec).unquiesce()
        return Progress.done("accepts writes")

    async def await_position(self, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
        """Waits until this server's history has the position."""
        wanted = Position.parse(position)
        if wanted is None:
            problem = FieldProblem("position", f"{position!r} is no position", "one that Quiesce returned")
            raise InvalidParametersError([problem], "the arguments")
        backend = self._backend(spec)
        await backend.ready()
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_ms / 1000
        while True:
            here = await backend.histories()
            if here.has(wanted):
                return PositionReached(True, str(here.now))
            if loop.time() >= ends:
                return PositionReached(False, str(here.now), f"{wanted} is not here after {timeout_ms} ms")
            await asyncio.sleep(_POLL_S)

    async def assess(self, spec: Spec, active: Peer) -> Assessment:
        """The verdict on this site's data."""
        return await self._backend(spec).assess(active)

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Archives what the active may lack and follows it."""
        return await self._backend(spec).resync(active, strategy, epoch)

    async def status(self, spec: Spec) -> Status:
        """What the server says now."""
        backend = self._backend(spec)
        if not backend.server.alive:
            health = Health.DEAD if backend.started else Health.INITIALISING
            message = "redis-server has ended" if backend.started else "redis-server is started with its first role"
            return Status(Role.FENCED, health, message=message, promotable_reason=message)
        try:
            replication, here = await backend.replication(), await backend.histories()
            serves, accepts = await backend.serves(), await backend.accepts()
        except DriverError as error:
            return Status.unknown(str(error))
        follows = replication["role"] == "slave" and replication["master_port"] != NOWHERE[1]
        up = follows and replication["master_link_status"] == "up"
        copying = bool(int(replication.get("master_sync_in_progress", 0)))
        reason = _reason(backend, follows, copying)
        role = Role.ACTIVE if serves else Role.STANDBY if follows else backend.resting
        return Status(
            role,
            Health.HEALTHY,
            accepting=accepts,
            position=str(here.now),
            lag_seconds=float(replication["master_last_io_seconds_ago"]) if up else -1.0,
            promotable=not serves and not reason,
            promotable_reason="" if serves else reason,
            followers=_followers(backend, replication) if serves else (),
            facts={
                "data": backend.record.data.value,
                "link": str(replication.get("master_link_status", "")) if follows else "none",
                "replication": "asynchronous",
            },
        )

    def _backend(self, spec: Spec) -> Backend:
        backend = self._backends.get(spec.key)
        if backend is not None:
            # Parameters that changed wait for the driver's restart: a fence above all must not fail because of them.
            return backend
        parameters, problems = parse(spec.parameters)
        if parameters is None:
            raise InvalidParametersError(problems)
        if self._backends:
            managed = next(iter(self._backends))
            raise PreconditionError(
                f"this driver manages {managed} and no other component: give {spec.key} a DriverClass of its own",
                reason="one-component",
            )
        self._backends[spec.key] = backend = Backend(parameters, lambda: self.notify(spec.key))
        return backend


def _reason(backend: Backend, follows: bool, copying: bool) -> str:
    """Why this site's data is no complete copy of the active's at some time; "" when it is."""
    if copying:
        return "its data is being copied from the active"
    if not follows:
        return "it follows nobody"
    return "" if backend.record.data is Data.COPY else "it has not caught up with the active yet"


def _followers(backend: Backend, replication: Mapping[str, Any]) -> tuple[Follower, ...]:
    """Replicas by site. None acknowledges in the contract's sense: no write waits for it."""
    found = []
    for number in range(int(replication.get("connected_slaves", 0))):
        replica = replication.get(f"slave{number}")
        if isinstance(replica, Mapping):
            where = str(replica["ip"]), int(replica["port"])
            site = backend.peers.get(where, f"{where[0]}:{where[1]}")
            found.append(Follower(site, replica["state"] == "online", acknowledging=False))
    return tuple(found)
