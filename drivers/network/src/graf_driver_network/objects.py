"""Modes ``metallb`` and ``cilium``: the cluster's own speakers announce, told by an object that this driver writes.

The object exists only for the active site. It needs the API server, so it is no way for a failover that must work
without one; and packets may come past this driver's node. So a site is fenced only when the gate here is shut *and* the
object is seen to be gone, unless ``fencing: gate`` says that every packet comes through this node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

from graf_driver_sdk.blocking import run_blocking

from graf_driver_network import object_bodies as bodies
from graf_driver_network.announcer import Announcer, Held, Outcome, RefusedError, Seen
from graf_driver_network.cluster import Cluster, ClusterError
from graf_driver_network.object_bodies import body_of, component_of, contains, epoch_of, kind_of
from graf_driver_network.observed import Observed
from graf_driver_network.parameters import Parameters
from graf_driver_network.parameters_objects import Objects

_RETRY_MS: Final = 200


class ObjectsAnnouncer(Announcer):
    """Invariant: an object is written or deleted only when it is this component's, and never over a higher epoch."""

    wait_s: ClassVar[float] = 3.0

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._observed: dict[str, Observed] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def check(self, held: Held, epoch: int) -> None:
        """MetalLB's local preference has fewer numbers than there are epochs."""
        parameters = _objects(held.parameters)
        if parameters.local_preference == -1 and epoch > bodies.MAX_LOCAL_PREFERENCE:
            raise RefusedError(f"epoch {epoch} is no local preference: {bodies.MAX_LOCAL_PREFERENCE} at most")

    def conflicts(self, parameters: Parameters, others: Sequence[Parameters]) -> list[str]:
        """An object belongs to one component."""
        mine = _objects(parameters)
        return [
            f"{mine.name} is the object of another component of this site"
            for other in others
            if (_objects(other).namespace, _objects(other).name) == (mine.namespace, mine.name)
        ]

    def proves_withdrawal(self, held: Held) -> bool:
        """Unless every packet comes through this node's gate."""
        return not _objects(held.parameters).fences_by_gate

    def take_address(self, held: Held, deadline_ns: int) -> None:
        """The cluster's own service proxy has the address."""

    def rest_address(self, held: Held) -> None:
        """The cluster's own service proxy has the address."""

    def needs_address(self, gate_open: bool) -> bool:
        """The cluster's own service proxy has the address."""
        return False

    async def announce(self, held: Held) -> Outcome:
        """Completed when the API server has the object for this epoch. The cluster's speakers follow."""
        async with self._lock(held):
            epoch = held.announced_epoch
            if epoch is None:
                return Outcome(False, "the gate has shut meanwhile", 50)
            try:
                outcome = await run_blocking(_write, held, epoch)
            except ClusterError as error:
                return Outcome(False, f"the gate is open, nothing is announced: {error}", _RETRY_MS)
            self._observe(held).forget()
            return outcome

    async def withdraw(self, held: Held, why: str) -> Outcome:
        """Deletes the object, and sees it gone."""
        async with self._lock(held):
            if held.announced_epoch is not None:
                return Outcome(False, "it is announced again meanwhile", _RETRY_MS)
            try:
                outcome = await run_blocking(_delete, held)
            except ClusterError as error:
                return Outcome(False, f"not withdrawn ({why}): {error}", _RETRY_MS)
            self._observe(held).forget()
            return outcome

    async def observe(self, held: Held) -> Seen:
        """What the API server has, at most about a second old."""
        return await self._observe(held).get()

    async def close(self) -> None:
        """Ends what is being asked; the objects stay."""
        for observed in self._observed.values():
            await observed.close()

    def _lock(self, held: Held) -> asyncio.Lock:
        return self._locks.setdefault(str(held.key), asyncio.Lock())

    def _observe(self, held: Held) -> Observed:
        name = f"{held.key} {held.parameters}"
        if name not in self._observed:
            self._observed[name] = Observed(lambda: run_blocking(_look, held), self._on_change)
        return self._observed[name]


def _write(held: Held, epoch: int) -> Outcome:
    parameters, mode = _objects(held.parameters), held.parameters.mode.value
    kind, cluster = kind_of(mode, parameters), _cluster(parameters)
    found = cluster.get(kind, parameters.namespace, parameters.name)
    if found is not None and component_of(found) != _component(held):
        whose = component_of(found) or "somebody who is no GRAF driver"
        return Outcome(False, f"the gate is open, but {kind.kind} {parameters.name} belongs to {whose}", 1000)
    if found is not None and epoch_of(found) > epoch:
        return Outcome(
            False, f"the gate is open, but {kind.kind} {parameters.name} is of epoch {epoch_of(found)}", 1000
        )
    body = body_of(mode, parameters, _component(held), epoch)
    if found is None or not contains(found, body):
        found = cluster.apply(kind, parameters.namespace, parameters.name, body)
    if not contains(found, body):
        return Outcome(False, f"{kind.kind} {parameters.name} is not as it was written: who changes it?", _RETRY_MS)
    return Outcome(True, f"{kind.kind} {parameters.name} is there for epoch {epoch}")


def _delete(held: Held) -> Outcome:
    parameters, mode = _objects(held.parameters), held.parameters.mode.value
    kind, cluster = kind_of(mode, parameters), _cluster(parameters)
    found = cluster.get(kind, parameters.namespace, parameters.name)
    if found is not None and component_of(found) != _component(held):
        return Outcome(True, f"{kind.kind} {parameters.name} is somebody else's and stays")
    if found is not None:
        cluster.delete(kind, parameters.namespace, parameters.name, str(found["metadata"]["uid"]))
        found = cluster.get(kind, parameters.namespace, parameters.name)
    if found is not None:
        return Outcome(False, f"{kind.kind} {parameters.name} is still there: has it a finalizer?", _RETRY_MS)
    return Outcome(True, f"there is no {kind.kind} {parameters.name}")


def _look(held: Held) -> Seen:
    parameters, mode = _objects(held.parameters), held.parameters.mode.value
    kind, cluster = kind_of(mode, parameters), _cluster(parameters)
    facts = {"object": f"{kind.kind} {parameters.name}"}
    try:
        found = cluster.get(kind, parameters.namespace, parameters.name)
    except ClusterError as error:
        return Seen(False, f"what is announced is not known: {error}", "not known", facts)
    if found is None:
        return Seen(False, detail=f"there is no {kind.kind} {parameters.name}", facts=facts | {"object_epoch": "0"})
    epoch = epoch_of(found)
    facts["object_epoch"] = str(epoch)
    if not contains(found, body_of(mode, parameters, _component(held), epoch)):
        return Seen(False, f"{kind.kind} {parameters.name} is not as this component wrote it", "changed", facts)
    facts |= _speakers(cluster, mode, parameters)
    return Seen(True, detail=f"{kind.kind} {parameters.name} is there for epoch {epoch}", facts=facts)


def _speakers(cluster: Cluster, mode: str, parameters: Objects) -> dict[str, str]:
    """What the cluster's own speakers say of themselves; nothing where they say nothing."""
    try:
        if mode == "cilium":
            nodes = cluster.list(bodies.CILIUM_NODES, "")
            peers = [peer for node in nodes for peer in _cilium_peers(node)]
            up = sum(peer.get("peeringState") == "established" for peer in peers)
            return {"speaker_sessions": f"{up} of {len(peers)} established"}
        kind = bodies.METALLB_L2_STATUS if parameters.l2 else bodies.METALLB_BGP_STATUS
        states = [item.get("status", {}) for item in cluster.list(kind, parameters.namespace)]
        return {"speaker_nodes": ",".join(sorted({str(state["node"]) for state in states if state.get("node")}))}
    except ClusterError as error:
        return {"speakers": str(error)}


def _cilium_peers(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    instances = node.get("status", {}).get("bgpInstances") or []
    return [peer for instance in instances for peer in instance.get("peers") or []]


def _cluster(parameters: Objects) -> Cluster:
    return Cluster(parameters.kubeconfig, parameters.timeout_ms)


def _objects(parameters: Parameters) -> Objects:
    assert isinstance(parameters.announcement, Objects)
    return parameters.announcement


def _component(held: Held) -> str:
    return f"{held.key.group}/{held.key.component}"
