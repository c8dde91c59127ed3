"""The mysql driver: the calls of the contract for one MariaDB or MySQL. Thin: ``component.py`` and its sides do it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TypeVar

from graf_driver_sdk.driver import Driver
from graf_driver_sdk.errors import DriverError, InvalidParametersError, NotActiveError, PreconditionError
from graf_driver_sdk.ownership import OwnedFolder
from graf_driver_sdk.types import (
    Assessment,
    Capability,
    ComponentKey,
    EnsureRole,
    FieldProblem,
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

from graf_driver_mysql import status as render
from graf_driver_mysql import tls, tools
from graf_driver_mysql.backend import Mode
from graf_driver_mysql.component import Component
from graf_driver_mysql.copies import Copies
from graf_driver_mysql.engines import ENGINES, engine
from graf_driver_mysql.history import History
from graf_driver_mysql.methods import AUTO, Method
from graf_driver_mysql.observe import positions
from graf_driver_mysql.parameters import EXPIRY, Parameters, parse, password_problems, peer_conflicts, peer_endpoint
from graf_driver_mysql.programs import BootstrapError, MissingProgramError, program
from graf_driver_mysql.purge import Purge
from graf_driver_mysql.record import Record, RecordUnreadableError
from graf_driver_mysql.resync import Resync
from graf_driver_mysql.room import Room
from graf_driver_mysql.rotation import Rotation
from graf_driver_mysql.server import StartFailedError
from graf_driver_mysql.sql import SqlError
from graf_driver_mysql.watch import Watch

T = TypeVar("T")


class _Managed:
    """The one component of this process, with what belongs to it."""

    def __init__(self, driver: MysqlDriver, key: ComponentKey, parameters: Parameters, folder: OwnedFolder) -> None:
        self.key = key
        self.folder = folder
        self.component = Component(key.site, parameters, lambda: driver.notify(key))
        self.resync = Resync(self.component)
        self.watch = Watch(self.component, lambda: driver.notify(key))
        self.rotation = Rotation(self.component)
        self.copies = Copies(self.component.backend)
        self.purge = Purge(self.component, self.copies)
        self.room = Room(key.site, parameters.data_dir, lambda: driver.notify(key))
        self.component.backend.credentials.learned.append(driver.protect)
        self.watch.start()
        self.rotation.start()
        self.copies.start()
        self.purge.start()
        self.room.start()


class MysqlDriver(Driver):
    """Instance manager of one server: its parent process, and the only one that changes its role."""

    def __init__(self) -> None:
        super().__init__()
        self._managed: _Managed | None = None

    def info(self) -> Info:
        """Name, version, capabilities."""
        capabilities = frozenset({Capability.POSITION, Capability.RESYNC, Capability.SYNCHRONOUS})
        return Info("mysql.graf.dev", version("graf-driver-mysql"), capabilities)

    async def probe(self) -> Readiness:
        """Ready when the programs of one of the engines are here; Validate asks for those of the one that is chosen."""
        missing = [_missing(name) for name in ENGINES]
        return Readiness(True) if "" in missing else Readiness(False, "; or ".join(missing))

    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        """Every problem of the parameters."""
        problems: list[FieldProblem] = []
        for peer in peers:
            try:
                peer_endpoint(peer.site, peer.parameters)
            except InvalidParametersError as error:
                problems.extend(error.problems)
        try:
            own = parse(spec.parameters)
        except InvalidParametersError as error:
            return [*error.problems, *problems]
        if missing := _missing(own.engine):
            problems.append(FieldProblem("engine", missing, "use an image with it, or another engine"))
        if own.bootstrap in (Method.BACKUP, Method.DUMP):
            for serving in (False, True):  # either side of it may be this site's
                if why := tools.missing(own.engine, Method(own.bootstrap), serving=serving):
                    problems.append(FieldProblem("bootstrap", why, "use an image with it, or bootstrap: auto"))
                    break
        problems.extend(_expiry_problems(own, spec, peers))
        problems.extend(await asyncio.to_thread(password_problems, own))
        if own.tls is not None:
            problems.extend(await asyncio.to_thread(tls.problems, own.tls, own.replication_address))
        problems.extend(peer_conflicts(own, {peer.site: peer.parameters for peer in peers}))
        return problems

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Begins or continues giving the server its role."""
        managed = self._of(request.spec)
        if request.role is not Role.ACTIVE:
            await managed.copies.give_way(f"{managed.key.site} is to be {request.role.name}")
        return await _told(managed.component.ensure_role(request))

    async def quiesce(self, spec: Spec, epoch: int) -> Quiesced:
        """Stops accepting writes and gives the final position."""
        managed = self._of(spec)
        await managed.copies.give_way(f"{managed.key.site} is quiesced")
        position = await _told(managed.component.active.quiesce())
        return Quiesced(Progress.done(), position)

    async def unquiesce(self, spec: Spec, epoch: int) -> Progress:
        """Accepts writes again."""
        await _told(self._of(spec).component.active.unquiesce())
        return Progress.done()

    async def await_position(self, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
        """Waits until everything up to the position is applied here."""
        try:
            wanted = self._of(spec).component.backend.engine.history(position)
        except ValueError as error:
            problem = FieldProblem("position", str(error), "give a position that Quiesce returned")
            raise InvalidParametersError([problem], "the position") from error
        return await _told(_await_position(self._of(spec).component, wanted, timeout_ms))

    async def assess(self, spec: Spec, active: Peer) -> Assessment:
        """The verdict on this site's data."""
        return await _told(self._of(spec).resync.assess(peer_endpoint(active.site, active.parameters)))

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Archives what diverged and catches up."""
        endpoint = peer_endpoint(active.site, active.parameters)
        return await _told(self._of(spec).resync.resync(endpoint, strategy, epoch))

    async def status(self, spec: Spec) -> Status:
        """Observes the server now."""
        managed = self._of(spec)
        component = managed.component
        backend = component.backend
        try:
            record = await backend.record()
            seen = await backend.look()
        except (SqlError, RecordUnreadableError) as error:
            return Status.unknown(_and(str(error), managed.room.left.text))
        if seen is None or backend.mode in (Mode.DOWN, Mode.STARTING):
            reason = component.standby.reason
            if not await asyncio.to_thread(backend.server.layout.data.exists):
                record, reason = Record(epoch=record.epoch), "empty: its data directory is not there"
            message = _and(backend.message, managed.room.left.text)
            return render.down(backend.mode, component.wanted, record, reason, message)
        peers = [peer.site for peer in component.peers]
        now_s = asyncio.get_running_loop().time()
        scope = backend.parameters.scope
        told = {
            **component.seed.facts,
            **managed.rotation.facts,
            **managed.copies.facts,
            **managed.purge.facts,
            **component.active.facts(seen),
            "written_here": component.standby.written_here,
        }
        status = render.running(
            backend.engine,
            backend.mode,
            component.wanted,
            record,
            component.standby.steady(seen),
            held=component.standby.held,
            caught_up=component.standby.caught_up,
            reason=component.standby.reason,
            in_force=component.active.in_force,
            followers=component.active.followers(seen, peers, now_s),
            trouble=managed.watch.trouble or (managed.room.left.text if managed.room.left.full else ""),
            rate=managed.watch.rate,
            more={
                **(render.scope_facts(scope, component.guard.locked) if scope is not None else {}),
                **{name: text for name, text in told.items() if text},
            },
        )
        more = managed.room.left.text or told["written_here"] or managed.purge.message
        status = replace(status, message=status.message or more)
        if not backend.parameters.asynchronous or backend.mode is not Mode.STANDBY:
            return status
        component.standby.freshness.look(seen)
        return render.asynchronous(status, component.standby.freshness, seen, now_s, backend.parameters.rpo_s)

    async def close(self) -> None:
        """Ends the server with its driver."""
        if self._managed is not None:
            await self._managed.watch.stop()
            await self._managed.rotation.stop()
            await self._managed.purge.stop()
            await self._managed.room.stop()
            await self._managed.copies.stop()
            await self._managed.resync.close()
            await self._managed.component.close()
            self._managed.folder.release()

    def _of(self, spec: Spec) -> _Managed:
        managed = self._managed
        if managed is not None:
            # Parameters that changed while the server runs wait for the driver's restart: a role call, a fence
            # above all, must not fail because of them.
            if managed.key != spec.key:
                # Not only another name: fence, acknowledgement and recovery are those of a whole server.
                raise PreconditionError(
                    f"this driver manages {managed.key} and no other component, as one server has one group: "
                    f"give {spec.key} a server of its own: "
                    "a DriverClass with another instance, dataDir, socketDir and port"
                )
            return managed
        parameters = parse(spec.parameters)
        for path in parameters.password_files:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                self.protect(path.read_text(encoding="utf-8").strip())
        folder = OwnedFolder(parameters.data_dir, "dataDir")
        folder.take()
        self._managed = managed = _Managed(self, spec.key, parameters, folder)
        return managed


def _and(*texts: str) -> str:
    return "; ".join(text for text in texts if text)


def _expiry_problems(own: Parameters, spec: Spec, peers: Sequence[Peer]) -> list[FieldProblem]:
    """Where the log is asked to expire, every site must be able to get the data by another way."""
    only_log = [peer.site for peer in peers if peer.parameters.get("bootstrap", AUTO) == Method.LOG]
    why = tools.no_copy(own)
    if not why and only_log:
        why = f"{', '.join(only_log)} is bootstrapped by the log alone (bootstrap: log)"
    fix = "install what is missing, or set it to 0: the log stays whole"
    asked = [field for field in EXPIRY if spec.parameters.get(field)]
    return [FieldProblem(field, f"nothing would be purged: {why}", fix) for field in asked if why]


def _missing(name: str) -> str:
    """Which program of an engine is not here, "" where all are."""
    try:
        for one in engine(name).programs:
            program(*one)
    except MissingProgramError as error:
        return str(error)
    return ""


async def _await_position(component: Component, wanted: History, timeout_ms: int) -> PositionReached:
    backend = component.backend
    if backend.mode in (Mode.DOWN, Mode.STARTING):
        raise NotActiveError(f"the server does not run: {backend.message}", reason="not-running")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    session = await backend.side_session("await-position")
    try:
        while True:
            _, _, here = await positions(session)
            left = deadline - loop.time()
            if here.covers(wanted):
                return PositionReached(True, str(here))
            if left <= 0:
                missing = ", ".join(wanted.beyond(here))
                return PositionReached(False, str(here), f"{missing} not applied within {timeout_ms} ms")
            wait_s = min(left, 1.0)
            await session.run(backend.engine.wait_applied(wanted, wait_s), timeout_s=wait_s + 2)
    finally:
        session.close()


async def _told(call: Awaitable[T]) -> T:
    """Turns what this driver knows to go wrong into the contract's errors."""
    try:
        return await call
    except SqlError as error:
        raise DriverError(f"the server did not do it: {error}", reason="sql") from error
    except (StartFailedError, BootstrapError) as error:
        raise DriverError(f"the server could not be started: {error}", reason="start-failed") from error
    except MissingProgramError as error:
        raise DriverError(str(error), reason="missing-program") from error
    except RecordUnreadableError as error:
        raise PreconditionError(str(error), reason="record-unreadable") from error
