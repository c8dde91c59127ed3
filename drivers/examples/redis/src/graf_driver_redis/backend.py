"""One Redis server in a role. What is asked for is done over its unix socket; clients and replicas come over TCP.

Serving nothing is made of three things that do not depend on each other: the TCP port is shut, no write is accepted
(`min-replicas-to-write` that can not be met), and the server is a replica (read-only) of the active or of nobody. Redis
executes one command at a time, so what comes after the answer to a command has not been acknowledged before it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from graf_driver_sdk.errors import DriverError, NeedsResyncError, NotActiveError
from graf_driver_sdk.types import Assessment, Peer, Progress, Resynced, ResyncStrategy, Role, Verdict
from redis.exceptions import RedisError

from graf_driver_redis.history import Histories, Position, histories, verdict
from graf_driver_redis.parameters import Parameters, parse
from graf_driver_redis.record import Data, Record
from graf_driver_redis.server import NO_WRITES, NOWHERE, Server

_SAVE_S: Final = 600.0
UNREACHABLE: Final = (RedisError, OSError)


class Backend:
    """One component at this site.

    Invariants: `record` says OWN before a client can write; the server starts without a role.
    """

    def __init__(self, parameters: Parameters, on_change: Callable[[], None]) -> None:
        self.parameters = parameters
        self.server = Server(parameters, on_change)
        self.record = Record(parameters.data_dir)
        self.resting = Role.FENCED
        self.quiesced: Position | None = None
        self.peers: dict[tuple[str, int], str] = {}
        self.started = False
        self._counts = False
        self._own_before_start = False
        self._copy_before_start = False
        self._rebuilt: dict[int, str] = {}  # epoch -> archive

    async def ready(self) -> None:
        """The server runs and answers; started without a role if it did not."""
        if not self.server.alive:
            self.quiesced, self._counts = None, False
            self._own_before_start = self.record.data is Data.OWN
            self._copy_before_start = self.record.data is Data.COPY
        await self.server.start()
        self.started = True
        if not self._counts:
            await self._do("REPLICAOF", "NO", "ONE")
            await self.server.count()
            await self._do("REPLICAOF", *NOWHERE)
            self._counts = True

    def know(self, peers: Sequence[Peer]) -> None:
        """Remembers whose addresses are whose, for the list of followers."""
        for peer in peers:
            theirs, _ = parse(peer.parameters)
            if theirs is not None:
                self.peers[theirs.address, theirs.port] = peer.site

    async def activate(self) -> Progress:
        """Begins or continues to serve clients."""
        await self.ready()
        replication = await self.replication()
        if replication["role"] == "slave":
            if self.record.data is Data.OWN and _source(replication) != NOWHERE:
                raise NeedsResyncError("the data of this site is being replaced by another site's: call Resync again")
            await self._do("REPLICAOF", "NO", "ONE")
        self.record.write(Data.OWN)
        await self._do("CONFIG", "SET", "min-replicas-to-write", 0)
        await self._do("CONFIG", "SET", "port", self.parameters.port)
        self.quiesced = None
        if not await self.serves():
            return Progress.pending(f"the port {self.parameters.port} is not open yet")
        return Progress.done("serves; acknowledges a write before other sites have it (asynchronous replication)")

    async def close(self) -> None:
        """Nothing is served any more when this returns: no port, no connection, no write."""
        await self._do("CONFIG", "SET", "min-replicas-to-write", NO_WRITES)
        await self._do("CONFIG", "SET", "port", 0)
        own = self.parameters
        address = f"[{own.address}]" if ":" in own.address else own.address
        await self._do("CLIENT", "KILL", "LADDR", f"{address}:{own.port}")  # clients and replicas, all that came by TCP
        self.quiesced = None

    async def fence(self, role: Role) -> Progress:
        """Serves nothing and follows nobody."""
        await self.ready()
        await self.close()
        await self._follow(*NOWHERE)
        self.resting = role
        return Progress.done(role.name)

    async def stand_by(self, active: Peer | None) -> Progress:
        """Serves nothing and follows the active, when it is known."""
        await self.ready()
        await self.close()
        self.resting = Role.STANDBY
        if active is None:
            if (await self.replication())["role"] != "slave":
                await self._follow(*NOWHERE)
            return Progress.done("STANDBY; no active is known to follow")
        theirs = _parameters(active)
        if _source(await self.replication()) != (theirs.address, theirs.port):
            assessment = await self.assess(active)
            if assessment.verdict is Verdict.UNKNOWN:
                return Progress.pending(assessment.message, 500)
            if assessment.verdict is Verdict.DIVERGED:
                raise NeedsResyncError(f"this site cannot follow {active.site}: {assessment.message}; call Resync")
            await self._follow(theirs.address, theirs.port)
        return await self._followed(active.site)

    async def quiesce(self) -> Position:
        """Refuses writes from now on; the position does not change when asked for again."""
        await self._must_be_active("Quiesce")
        await self._do("CONFIG", "SET", "min-replicas-to-write", NO_WRITES)
        if self.quiesced is None:
            self.quiesced = (await self.histories()).now
        return self.quiesced

    async def unquiesce(self) -> None:
        """Takes writes again."""
        await self._must_be_active("Unquiesce")
        await self._do("CONFIG", "SET", "min-replicas-to-write", 0)
        self.quiesced = None

    async def assess(self, active: Peer) -> Assessment:
        """This site's data against the active's."""
        await self.ready()
        local = await self.histories()
        try:
            theirs = await self._histories_of(active)
        except UNREACHABLE as error:
            message = f"the Redis of {active.site} cannot be asked: {type(error).__name__}: {error}"
            return Assessment(Verdict.UNKNOWN, str(local.now), message=message)
        data = self.record.data
        if self._copy_before_start and data is Data.COPY and not local.empty:
            # A restarted server has a new history id; its data never was anything but a part of an active's.
            found, message = Verdict.BEHIND, "a copy that was interrupted"
        else:
            lost = self._own_before_start and data is Data.OWN
            found, message = verdict(local, theirs, lost), ""
            if lost:
                message = "its server ended while it was the active, so it may have acknowledged what nobody else has"
            elif found is Verdict.DIVERGED:
                message = f"its history {local.now} is no part of the active's {theirs.now}"
        divergent = str(local.now) if found is Verdict.DIVERGED else ""
        return Assessment(found, str(local.now), str(theirs.now), divergent, message)

    async def resync(self, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Follows the active; archives first whatever it may lack."""
        await self.ready()
        if await self.serves():
            raise NotActiveError("this site is the active and has nothing to resync from; fence it first")
        theirs = _parameters(active)
        archive = self._rebuilt.get(epoch, "")
        if _source(await self.replication()) == (theirs.address, theirs.port) and (
            epoch in self._rebuilt or strategy is not ResyncStrategy.REBUILD
        ):
            return Resynced(await self._caught_up(active), archive)
        found = await self.assess(active)
        if found.verdict is Verdict.UNKNOWN:
            return Resynced(Progress.pending(found.message, 500))
        if found.verdict is Verdict.DIVERGED and strategy is ResyncStrategy.FOLLOW:
            raise NeedsResyncError(f"this site cannot follow {active.site}: {found.message}; call Resync with REBUILD")
        if found.verdict is Verdict.DIVERGED or strategy is ResyncStrategy.REBUILD:
            if int((await self._ask("info", "persistence"))["rdb_bgsave_in_progress"]):
                return Resynced(Progress.pending("waiting for a save that is under way", 100))
            if epoch not in self._rebuilt:
                archive = self._rebuilt[epoch] = await self._archive(epoch)
            await self._follow(*NOWHERE)
        await self._follow(theirs.address, theirs.port)
        return Resynced(await self._caught_up(active), archive)

    async def serves(self) -> bool:
        """Whether a client is let in: a master with its port open."""
        if not self.server.alive:
            return False
        open_port = int((await self._ask("info", "server"))["tcp_port"]) == self.parameters.port
        return open_port and (await self.replication())["role"] == "master"

    async def accepts(self) -> bool:
        """Whether a client's write would be acknowledged."""
        setting = await self._ask("config_get", "min-replicas-to-write")
        return int(setting["min-replicas-to-write"]) == 0 and await self.serves()

    async def replication(self) -> Mapping[str, Any]:
        """`INFO replication`, now."""
        return dict(await self._ask("info", "replication"))

    async def histories(self) -> Histories:
        """Where this server is."""
        return histories(await self.replication(), int(await self._ask("dbsize")))

    async def _followed(self, site: str) -> Progress:
        replication = await self.replication()
        if replication.get("master_link_status") != "up" or int(replication.get("master_sync_in_progress", 0)):
            return Progress.pending(f"connecting to {site}, or copying its data", 200)
        self.record.write(Data.COPY)
        self._copy_before_start = self._own_before_start = False
        return Progress.done(f"follows {site}")

    async def _caught_up(self, active: Peer) -> Progress:
        """Completed when everything is here that the active has now."""
        try:
            wanted = (await self._histories_of(active)).now
        except UNREACHABLE as error:
            return Progress.pending(f"the Redis of {active.site} cannot be asked: {error}", 500)
        progress = await self._followed(active.site)
        if progress.completed and not (await self.histories()).has(wanted):
            return Progress.pending(f"copying what {active.site} has", 50)
        return progress

    async def _follow(self, host: str, port: int) -> None:
        if _source(await self.replication()) != (host, port):
            await self._do("REPLICAOF", host, port)

    async def _histories_of(self, peer: Peer) -> Histories:
        theirs = _parameters(peer)
        client = self.server.client(host=theirs.address, port=theirs.port)
        try:
            return histories(await client.info("replication"), int(await client.dbsize()))
        finally:
            await client.aclose()

    async def _archive(self, epoch: int) -> str:
        """A copy of everything that is here, on disk; its path, or nothing when nothing is here."""
        if int(await self._ask("dbsize")) == 0:
            return ""
        client = self.server.client(unix_socket_path=str(self.server.socket), patience_s=_SAVE_S)
        try:
            await client.execute_command("SAVE")
        except UNREACHABLE as error:
            raise DriverError(f"the data cannot be archived, so nothing was replaced: {error}") from error
        finally:
            await client.aclose()
        folder = self.parameters.data_dir
        target = folder / f"archive-epoch-{epoch}-{time.time_ns()}.rdb"
        (folder / "dump.rdb").replace(target)
        for path in (target, Path(folder)):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return str(target)

    async def _must_be_active(self, call: str) -> None:
        if not await self.serves():
            raise NotActiveError(f"{call} is refused: this site is not the active")

    async def _do(self, *command: Any) -> None:
        await _told(self.server.local.execute_command(*command))

    async def _ask(self, name: str, *arguments: Any) -> Any:
        return await _told(getattr(self.server.local, name)(*arguments))


async def _told(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except UNREACHABLE as error:
        raise DriverError(f"Redis did not do it: {type(error).__name__}: {error}", reason="redis") from error


def _source(replication: Mapping[str, Any]) -> tuple[str, int] | None:
    """Whom it is a replica of; None for a master."""
    if replication["role"] != "slave":
        return None
    return str(replication["master_host"]), int(replication["master_port"])


def _parameters(peer: Peer) -> Parameters:
    theirs, problems = parse(peer.parameters)
    if theirs is None:
        listed = "; ".join(f"{problem.field}: {problem.cause}" for problem in problems)
        raise NeedsResyncError(f"the parameters of {peer.site} cannot be used: {listed}", reason="peer-parameters")
    return theirs
