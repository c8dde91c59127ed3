"""The objects driver behind the SDK: what the contract asks, in the component's words, and what it observed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.driver import Driver
from graf_driver_sdk.errors import DriverError, InvalidParametersError
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
    Resynced,
    ResyncStrategy,
    Role,
    Spec,
    Status,
)

from graf_driver_objects.applying import listed
from graf_driver_objects.backend import Component
from graf_driver_objects.cluster import Cluster, ClusterError, NoSuchKindError
from graf_driver_objects.exchange import Endpoints
from graf_driver_objects.ledger import LedgerError
from graf_driver_objects.model import Position, Ref
from graf_driver_objects.parameters import Parameters, Selection, parse

_POLL_S: Final = 0.05
_VERBS: Final = ("get", "list", "watch", "create", "patch", "update", "delete")


class ObjectsDriver(Driver):
    """Serves components that are sets of Kubernetes objects. It holds no data that is served: no SYNCHRONOUS."""

    def __init__(self) -> None:
        super().__init__()
        self._components: dict[ComponentKey, Component] = {}
        self._endpoints = Endpoints()

    def info(self) -> Info:
        """Constant."""
        capabilities = frozenset({Capability.POSITION, Capability.RESYNC})
        return Info("objects.graf.dev", version("graf-driver-objects"), capabilities)

    async def close(self) -> None:
        """Stops following and offering; the objects stay as they are."""
        for component in self._components.values():
            await run_blocking(component.close)
        await run_blocking(self._endpoints.close)

    def component(self, spec: Spec) -> tuple[Component, Parameters]:
        """The component, made at its first call, and its parameters.

        Raises:
            InvalidParametersError: see each problem.
        """
        parameters, problems = parse(spec.parameters)
        if parameters is None:
            raise InvalidParametersError(problems)
        key = spec.key
        if key not in self._components:
            self._components[key] = Component(key, self._endpoints, lambda: self.notify(key))
        return self._components[key], parameters

    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        """Checks the parameters, the certificates, the kinds that are served here and the permissions."""
        parameters, problems = parse(spec.parameters)
        if parameters is None:
            return problems
        for name in ("ca.crt", "tls.crt", "tls.key"):
            path = parameters.tls_directory / name
            if not path.is_file():
                fix = f"mount the certificate of {parameters.identity_at(spec.key.site)} there"
                problems.append(FieldProblem("tlsDirectory", f"{path} is no file", fix))
        identities = {parameters.identity_at(spec.key.site): spec.key.site}
        for peer in peers:
            theirs, wrong = parse(peer.parameters)
            if theirs is None and peer.parameters:
                cause = f"the parameters of {peer.site} cannot be used: {wrong[0].field} {wrong[0].cause}"
                problems.append(FieldProblem("peers", cause, wrong[0].fix))
            elif theirs is not None:
                other = identities.setdefault(theirs.identity_at(peer.site), peer.site)
                if other != peer.site:
                    cause = f"{other} and {peer.site} have one identity"
                    problems.append(FieldProblem("identity", cause, "a certificate of its own for each site"))
        return problems + await run_blocking(_check_cluster, parameters)

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Begins or continues."""
        component, parameters = self.component(request.spec)
        return await run_blocking(component.ensure, request, parameters)

    async def quiesce(self, spec: Spec, epoch: int) -> Quiesced:
        """The last generation of this epoch."""
        component, _ = self.component(spec)
        return await run_blocking(component.quiesce)

    async def unquiesce(self, spec: Spec, epoch: int) -> Progress:
        """Offers further generations again."""
        component, _ = self.component(spec)
        return await run_blocking(component.unquiesce)

    async def await_position(self, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
        """Looks at the ledger until the generation is applied whole."""
        component, _ = self.component(spec)
        wanted = Position.parse(position)
        if wanted is None:
            problem = FieldProblem("position", f"{position!r} is no position", "what Quiesce gave: EPOCH.NUMBER.DIGEST")
            raise InvalidParametersError([problem], "the arguments")
        ends = time.monotonic() + timeout_ms / 1000
        while True:
            reached = component.reached(wanted)
            if reached.reached or time.monotonic() >= ends:
                return reached
            await asyncio.sleep(_POLL_S)

    async def assess(self, spec: Spec, active: Peer) -> Assessment:
        """Compares with the active's generation, object by object."""
        component, parameters = self.component(spec)
        return await run_blocking(component.assess, parameters, active)

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Archives what diverged, and applies the active's generation."""
        component, parameters = self.component(spec)
        return await run_blocking(component.resync, parameters, active, strategy, epoch)

    async def status(self, spec: Spec) -> Status:
        """What the threads observed; asks nobody."""
        component, parameters = self.component(spec)
        try:
            ledger = component.store.ledger
        except LedgerError as error:
            return Status.unknown(str(error))
        facts = {
            "floor": str(ledger.floor),
            "shared": str(len(ledger.base)),
            "tombstones": str(len(ledger.tombstones)),
            "archive": str(component.store.directory / "archive"),
        }
        if ledger.waiting:
            facts["waiting"] = listed((ref, "") for ref in ledger.waiting)
        if ledger.left:
            facts["left"] = listed((ref, "archived by a rebuild, still here") for ref in ledger.left)
        if component.role is Role.ACTIVE:
            return _active(component, ledger.position, facts)
        if component.role is Role.STANDBY:
            return _standby(component, ledger.position, facts, parameters.rpo_s)
        return Status(
            component.role,
            Health.HEALTHY,
            position=str(ledger.position),
            promotable_reason=f"it is {component.role.name} and follows nobody",
            message=component.message,
            facts=facts,
        )


def _active(component: Component, position: Position, facts: dict[str, str]) -> Status:
    source = component.source
    if source is None:
        return Status.unknown("the role is changing")
    stale_s, trouble = source.stale_s, "; ".join(filter(None, [component.message, source.trouble]))
    generation = source.generation
    facts |= {"objects": str(len(generation.objects)) if generation else "0", "watch_stale_s": f"{stale_s:.1f}"}
    health = Health.HEALTHY if not stale_s else Health.UNKNOWN if generation else Health.INITIALISING
    followers = tuple(
        Follower(
            seen.site,
            source.connected(seen),
            source.connected(seen) and generation is not None and seen.applied == generation.position,
            int((time.monotonic() - seen.behind_since) * 1000) if seen.behind_since else 0,
        )
        for seen in source.followers.values()
    )
    return Status(
        Role.ACTIVE,
        health,
        accepting=not source.frozen,
        position=str(position),
        followers=followers,
        message=trouble,
        facts=facts | {"quiesced": str(source.frozen).lower()},
    )


def _standby(component: Component, position: Position, facts: dict[str, str], rpo_s: float) -> Status:
    follower = component.follower
    if follower is None:
        reason = component.message or "it follows no active"
        return Status(
            Role.STANDBY,
            Health.HEALTHY,
            position=str(position),
            promotable_reason=reason,
            message=reason,
            facts=facts,
        )
    if follower.diverged:  # it has ended; the controller is told by the role, asks again, and hears why
        reason = f"diverged from {follower.site}: {follower.diverged}"
        return Status(
            Role.FENCED,
            Health.HEALTHY,
            position=str(position),
            promotable_reason=reason,
            message=reason,
            facts=facts,
        )
    lag_s, behind, conflicts = follower.lag_s, follower.behind, follower.conflicts
    facts |= {
        "active": follower.site,
        "active_position": str(follower.known),
        "active_watch_stale_s": f"{follower.source_stale_s:.1f}",
        "conflicts": conflicts,
    }
    promotable = lag_s >= 0 and (lag_s <= rpo_s if rpo_s else follower.answered)
    reason = "" if promotable else follower.problem or conflicts
    if not promotable and lag_s < 0:
        reason = reason or "no generation was applied whole since it follows"
    elif not promotable:
        limit = f", more than rpoSeconds {rpo_s:g}" if rpo_s else ""
        reason = f"it may lack what was written in the last {lag_s:.0f} s{limit}" + (f": {reason}" if reason else "")
    return Status(
        Role.STANDBY,
        Health.HEALTHY,
        position=str(position),
        lag_seconds=lag_s,
        lag_transactions=behind,
        promotable=promotable,
        promotable_reason=reason,
        message=follower.problem or (f"conflicts: {conflicts}" if conflicts else ""),
        facts=facts,
    )


def _check_cluster(parameters: Parameters) -> list[FieldProblem]:
    """Blocking."""
    if parameters.kubeconfig is not None and not parameters.kubeconfig.is_file():
        cause = f"{parameters.kubeconfig} is no file"
        return [FieldProblem("kubeconfig", cause, "mount it, or leave it out to use the Pod's service account")]
    try:
        cluster = Cluster(parameters.kubeconfig, "graf-objects")
    except ClusterError as error:
        return [FieldProblem("kubeconfig", str(error), "a kubeconfig of this site, or the Pod's service account")]
    problems = []
    moved = parameters.transform.namespaces
    try:
        for selection in parameters.selections:
            try:
                kind = cluster.kind(selection.api_version, selection.kind)
                if kind.namespaced and not selection.namespace:
                    problems.append(FieldProblem("objects", f"{selection} names no namespace", "name one namespace"))
                    continue
                where = moved.get(selection.namespace, selection.namespace)
                denied = cluster.denied(selection, _VERBS, where)
                if "create" in denied and _is_there(cluster, selection, where):
                    denied.remove("create")  # an administrator has made it; it is filled, and never made anew
            except NoSuchKindError as error:
                fix = f"install the CRD of {selection.kind} at this site, or leave it out"
                problems.append(FieldProblem("objects", error.reason, fix))
                continue
            if denied:
                fix = "bind the Role of the driver's reference page to its service account"
                if denied == ["create"] and selection.name:
                    fix = f"make {selection.kind} {where}/{selection.name} at this site, empty, or allow create"
                problems.append(FieldProblem("objects", f"{selection}: {', '.join(denied)} is not allowed", fix))
    except ClusterError as error:
        raise DriverError(f"the parameters cannot be checked now: {error}; validate again") from error
    finally:
        cluster.close()
    return problems


def _is_there(cluster: Cluster, selection: Selection, namespace: str) -> bool:
    """Whether the one object that is selected exists; false where it may not be read."""
    if not selection.name:
        return False
    try:
        return cluster.get(Ref(selection.api_version, selection.kind, namespace, selection.name)) is not None
    except ClusterError as error:
        if error.unreachable:
            raise
        return False
