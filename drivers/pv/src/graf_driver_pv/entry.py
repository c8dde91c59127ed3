"""The driver's entry: components of mode ``volsync`` go to ``volsync.py``, all others to ``driver.py``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.errors import InvalidParametersError, PreconditionError
from graf_driver_sdk.types import (
    Assessment,
    ComponentKey,
    EnsureRole,
    FieldProblem,
    Peer,
    PositionReached,
    Progress,
    Quiesced,
    Resynced,
    ResyncStrategy,
    Spec,
    Status,
)

from graf_driver_pv import volsync_parameters
from graf_driver_pv.driver import PvDriver

if TYPE_CHECKING:
    from graf_driver_pv.volsync import VolSyncComponent

_TICK_S: Final = 2.0


class Entry(PvDriver):
    """Serves volumes of every mode."""

    def __init__(self) -> None:
        super().__init__()
        self._volsync: dict[ComponentKey, VolSyncComponent] = {}
        self._volsync_ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """As the other modes; the lag of a standby changes by itself."""
        await super().start()
        if await run_blocking(_has_been_here, self.state_dir):
            await run_blocking(_component_type)  # not at the first call, which others wait for
        self._volsync_ticker = asyncio.create_task(self._volsync_tick(), name="pv-volsync-ticker")

    async def close(self) -> None:
        """VolSync's objects stay as they are."""
        if self._volsync_ticker is not None:
            self._volsync_ticker.cancel()
            await asyncio.gather(self._volsync_ticker, return_exceptions=True)
        await super().close()

    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        """Each mode's own; all sites must have the same one."""
        if not volsync_parameters.is_volsync(spec.parameters):
            return await super().validate(spec, peers)
        parameters, problems = volsync_parameters.read(spec.parameters)
        if parameters is not None and await run_blocking(_lacks, parameters.kubeconfig):
            cause = f"{parameters.kubeconfig} is not there"
            problems.append(FieldProblem("volsync.kubeconfig", cause, "mount the Secret that holds it"))
        if len(peers) > 1:
            problems.append(FieldProblem("volsync", "has one address to copy to", "a group of two sites"))
        for peer in peers:
            theirs = volsync_parameters.read(peer.parameters)[1]
            problems += [FieldProblem(f"peers.{peer.site}.{p.field}", p.cause, p.fix) for p in theirs]
        return problems

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Begins or continues giving the volume its role."""
        mine = self._volsync_of(request.spec)
        return await (mine.ensure_role(request) if mine is not None else super().ensure_role(request))

    async def quiesce(self, spec: Spec, epoch: int) -> Quiesced:
        """The last copy."""
        mine = self._volsync_of(spec)
        return await (mine.quiesce(epoch) if mine is not None else super().quiesce(spec, epoch))

    async def unquiesce(self, spec: Spec, epoch: int) -> Progress:
        """As before."""
        mine = self._volsync_of(spec)
        return await (mine.unquiesce(epoch) if mine is not None else super().unquiesce(spec, epoch))

    async def await_position(self, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
        """Waits for a copy."""
        mine = self._volsync_of(spec)
        if mine is None:
            return await super().await_position(spec, position, timeout_ms)
        try:
            return await mine.await_position(position, timeout_ms)
        except ValueError as error:
            problem = FieldProblem("position", str(error), "give a position that Quiesce returned")
            raise InvalidParametersError([problem], "the position") from error

    async def assess(self, spec: Spec, active: Peer) -> Assessment:
        """The verdict on this site's data."""
        mine = self._volsync_of(spec)
        return await (mine.assess() if mine is not None else super().assess(spec, active))

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Catches up."""
        mine = self._volsync_of(spec)
        return await (mine.resync(strategy, epoch) if mine else super().resync(spec, active, strategy, epoch))

    async def status(self, spec: Spec) -> Status:
        """Looks now."""
        mine = self._volsync_of(spec)
        if mine is None:
            return await super().status(spec)
        try:
            return await mine.status()
        except PreconditionError as error:
            return Status.unknown(str(error))

    def _volsync_of(self, spec: Spec) -> VolSyncComponent | None:
        if not volsync_parameters.is_volsync(spec.parameters):
            return None
        mine = self._volsync.get(spec.key)
        if mine is None:
            parameters, problems = volsync_parameters.read(spec.parameters)
            if parameters is None:
                raise InvalidParametersError(problems, f"parameters of {spec.key}")
            for key, other in self._volsync.items():
                theirs = other.parameters
                if (theirs.namespace, theirs.name) == (parameters.namespace, parameters.name):
                    raise PreconditionError(f"volsync.name {theirs.name} is of {key}: give {spec.key} its own")
            mine = _component_type()(spec.key, parameters, self.state_dir, lambda: self.notify(spec.key))
            self._volsync[spec.key] = mine
        return mine

    async def _volsync_tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for key in list(self._volsync):
                self.notify(key)


def _has_been_here(state_dir: Path | None) -> bool:
    return state_dir is not None and any(state_dir.glob("*.volsync.json"))


def _component_type() -> type[VolSyncComponent]:
    """Only when it is needed: the Kubernetes client takes longer to be imported than all the rest of the driver."""
    from graf_driver_pv.volsync import VolSyncComponent

    return VolSyncComponent


def _lacks(file: str) -> bool:
    return file != "" and not Path(file).is_file()
