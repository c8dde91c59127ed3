"""The pv driver: the contract's calls for volumes. Thin: what is done is in ``component.py`` and its sides."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.driver import Driver
from graf_driver_sdk.errors import DriverError, InvalidParametersError, PreconditionError
from graf_driver_sdk.logs import event
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
    Spec,
    Status,
)

from graf_driver_pv import status as render
from graf_driver_pv.component import Component
from graf_driver_pv.durable import sync_folder
from graf_driver_pv.layout import Layout
from graf_driver_pv.owner import owner_of
from graf_driver_pv.parameters import Parameters, parse
from graf_driver_pv.position import Position
from graf_driver_pv.problems import told
from graf_driver_pv.record import Mark, RecordFile, RecordUnreadableError
from graf_driver_pv.resync import Returning
from graf_driver_pv.store import StoreError
from graf_driver_pv.tls import TlsError, server_context

_LOG = logging.getLogger("graf_driver_pv.driver")
T = TypeVar("T")
PROGRAMS: Final = (("rsync", "rsync"), ("openssl", "openssl"), ("cp", "coreutils"))
_TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class _Managed:
    component: Component
    returning: Returning


class PvDriver(Driver):
    """Serves every volume of its DriverClass."""

    def __init__(self) -> None:
        super().__init__()
        self._managed: dict[ComponentKey, _Managed] = {}
        self._ticker: asyncio.Task[None] | None = None

    def info(self) -> Info:
        """Constant. Not SYNCHRONOUS: what is written is at the other site later, within the RPO."""
        return Info("pv.graf.dev", version("graf-driver-pv"), frozenset({Capability.POSITION, Capability.RESYNC}))

    async def start(self) -> None:
        """Shuts what a crash has left open, before anybody can call; then tells the lag, which changes by itself."""
        await run_blocking(self._shut_leftovers)
        self._ticker = asyncio.create_task(self._tick(), name="pv-ticker")

    async def close(self) -> None:
        """Ends what copies; volumes stay as they are."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for managed in self._managed.values():
            await managed.component.close()

    def _shut_leftovers(self) -> None:
        """A link outlives the machine. Applications wait for the driver's socket, so they never find a stale one."""
        for volume, served_by in Mark.volumes(self.state_dir):
            try:
                _shut_leftover(Layout(volume), served_by)
            except OSError as error:
                # One disk that does not answer must not keep the driver from fencing the others.
                cause = told(error, volume)
                event(_LOG, "what a crash may have left open cannot be shut", logging.ERROR, cause=cause)

    async def probe(self) -> Readiness:
        """Ready when the programs are here that copy."""
        missing = [f"{name} (Debian package {package})" for name, package in PROGRAMS if shutil.which(name) is None]
        return Readiness(not missing, f"not installed: {', '.join(missing)}" if missing else "")

    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        """Checks the parameters, this site's files, and what the sites must agree on."""
        parameters, problems = parse(spec.parameters)
        problems = list(problems)
        if parameters is not None:
            problems += await run_blocking(_here, parameters)
        for peer in peers:
            other, theirs = parse(peer.parameters)
            problems += [FieldProblem(f"peers.{peer.site}.{p.field}", p.cause, p.fix) for p in theirs]
            if parameters is not None and other is not None:
                problems += _between(parameters, peer.site, other)
        return problems

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Begins or continues giving the volume its role."""
        managed = await self._of(request.spec)
        return await _told(managed.component.ensure_role(request))

    async def quiesce(self, spec: Spec, epoch: int) -> Quiesced:
        """Closes the volume and makes the last generation: its name is the position."""
        managed = await self._of(spec)
        final = await _told(managed.component.quiesce())
        if final is None:
            return Quiesced(Progress.pending("making the last generation", 50))
        return Quiesced(Progress.done("closed"), str(final.position))

    async def unquiesce(self, spec: Spec, epoch: int) -> Progress:
        """Opens the volume again."""
        managed = await self._of(spec)
        await _told(managed.component.unquiesce())
        return Progress.done("open")

    async def await_position(self, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
        """Waits until the generation, or one made after it, is complete here."""
        try:
            wanted = Position.parse(position)
        except ValueError as error:
            problem = FieldProblem("position", str(error), "give a position that Quiesce returned")
            raise InvalidParametersError([problem], "the position") from error
        component = (await self._of(spec)).component
        follower = component.follower
        if follower is not None:
            await follower.wait_for(
                lambda: follower.newest is not None and follower.newest.descends_from(wanted), timeout_ms / 1000
            )
        local = await _told(run_blocking(component.store.newest))
        local = local or await _told(run_blocking(component.store.base))
        here = str(local.position) if local else ""
        if local is not None and local.descends_from(wanted):
            return PositionReached(True, here)
        why = follower.problem if follower is not None else "nobody is followed"
        return PositionReached(False, here, f"{wanted} is not complete here after {timeout_ms} ms: {why or 'copying'}")

    async def assess(self, spec: Spec, active: Peer) -> Assessment:
        """The verdict on this site's data."""
        return await _told((await self._of(spec)).returning.assess(active))

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Archives what diverged and catches up."""
        return await _told((await self._of(spec)).returning.resync(active, strategy, epoch))

    async def status(self, spec: Spec) -> Status:
        """Looks at the volume now."""
        try:
            managed = await self._of(spec)
            return await run_blocking(render.observe, managed.component)
        except (DriverError, StoreError, OSError) as error:
            if isinstance(error, InvalidParametersError):
                raise
            return Status.unknown(str(error))

    async def _of(self, spec: Spec) -> _Managed:
        managed = self._managed.get(spec.key)
        if managed is None:
            parameters, problems = parse(spec.parameters)
            if parameters is None:
                raise InvalidParametersError(problems, f"parameters of {spec.key}")
            for key, other in self._managed.items():
                if other.component.parameters.directory == parameters.directory:
                    raise PreconditionError(f"{parameters.directory} is the volume of {key}: give {spec.key} its own")
            component = Component(spec.key, parameters, lambda: self.notify(spec.key), self.state_dir)
            managed = self._managed[spec.key] = _Managed(component, Returning(component))
        await _told(managed.component.open())
        return managed

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for key in list(self._managed):
                self.notify(key)


def _shut_leftover(layout: Layout, served_by: str) -> None:
    """Of one volume; raises OSError."""
    try:
        now = owner_of(layout.owner)
    except OSError as error:
        # Unknown is no other's: shut, it can be opened again; open, two sites may serve it.
        event(_LOG, "whose volume it is cannot be read", logging.ERROR, cause=told(error, layout.root))
        now = ""
    if now and Mark.name_of(*now.partition("/")[::2]) != served_by:
        return  # given to another component since
    try:
        open_in_order = RecordFile(layout.record).load().stays_open
    except RecordUnreadableError:
        open_in_order = False
    if open_in_order:
        return
    try:
        layout.current.unlink()
    except FileNotFoundError:
        return
    sync_folder(layout.root)
    event(_LOG, "shut what a crash had left open", volume=str(layout.root))


async def _told(call: Awaitable[T]) -> T:
    """Turns what this driver knows to go wrong into the contract's errors."""
    try:
        return await call
    except StoreError as error:
        raise DriverError(str(error), reason="volume-unusable") from error
    except RecordUnreadableError as error:
        raise PreconditionError(str(error), reason="record-unreadable") from error
    except OSError as error:
        raise DriverError(
            f"the volume's files cannot be used: {told(error, 'the volume')}; "
            f"see that its disk is mounted, writable and not full, then call again",
            reason="volume-unusable",
        ) from error


def _between(parameters: Parameters, site: str, other: Parameters) -> list[FieldProblem]:
    """What two sites must agree on."""
    if (parameters.repository is None) != (other.repository is None):
        how = "through a repository" if other.repository is not None else "from site to site"
        return [FieldProblem("repository", f"{site} copies {how}", "the same way at every site")]
    problems = []
    if parameters.repository is None and other.tls.name == parameters.tls.name:
        problems.append(FieldProblem("tls.name", f"{site} has the same name {other.tls.name}", "each site's own name"))
    if parameters.repository is None and (other.host, other.port) == (parameters.host, parameters.port):
        problems.append(FieldProblem("endpoint", f"{site} has the same", "each site's own address"))
    return problems


def _here(parameters: Parameters) -> list[FieldProblem]:
    problems = []
    for field, path in _files(parameters):
        if not path.is_file():
            problems.append(FieldProblem(field, f"{path} is not there", "mount the Secret that holds it"))
    if parameters.repository is None and not problems:
        try:
            server_context(parameters.tls)
        except TlsError as error:
            problems.append(FieldProblem("tls", str(error), "files that belong together"))
    repository = parameters.repository
    if repository is not None and repository.environment is not None and not repository.environment.is_dir():
        cause = f"{repository.environment} is not there"
        problems.append(
            FieldProblem("repository.environment", cause, "mount the Secret with the credentials as a folder")
        )
    if repository is not None and shutil.which("restic") is None:
        problems.append(FieldProblem("repository", "restic is not installed", "install the Debian package restic"))
    parent = parameters.directory
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        problems.append(FieldProblem("directory", f"{parent} is no folder", "the volume's folder"))
    for field, command in (("hooks.freeze", parameters.hooks.freeze), ("hooks.thaw", parameters.hooks.thaw)):
        if command and shutil.which(command[0]) is None:
            problems.append(FieldProblem(field, f"{command[0]} is no program here", "a program of the driver's image"))
    return problems


def _files(parameters: Parameters) -> list[tuple[str, Path]]:
    """What must be mounted, by field."""
    repository, tls = parameters.repository, parameters.tls
    if repository is None:
        return [("tls.caFile", tls.ca_file), ("tls.certFile", tls.cert_file), ("tls.keyFile", tls.key_file)]
    files = [("repository.passwordFile", repository.password_file)]
    files += [("repository.caFile", repository.ca_file)] if repository.ca_file is not None else []
    certificate = repository.client_cert_file
    return files + ([("repository.clientCertFile", certificate)] if certificate is not None else [])
